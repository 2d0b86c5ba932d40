//! One server for all tests of the binary, a database for each.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OnceCell;
use tokio_postgres::Client;
use wakala_testbed::PostgresServer;

use super::super::{Catalog, Finding, Scope, discover};

pub(super) const SUPERUSER: &str = "postgres";
/// Has no rights but to log in.
pub(super) const NOBODY: &str = "nobody";

pub(super) async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(start).await
}

/// A server of a test's own.
pub(super) async fn start() -> PostgresServer {
    let server = PostgresServer::builder()
        .with_setting("wal_level", "logical")
        .with_setting("max_prepared_transactions", 10)
        .with_role(NOBODY, "secret")
        .with_max_connections(200);
    server.start().await.unwrap()
}

/// An empty database.
pub(super) async fn database(server: &PostgresServer) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("d{}", COUNT.fetch_add(1, Ordering::Relaxed));
    server.execute("postgres", &format!("CREATE DATABASE {name}")).await.unwrap();
    name
}

/// A database that is emptied between cases: faster than one for each.
pub(super) struct Bench(pub(super) Client);

impl Bench {
    pub(super) async fn new() -> Self {
        Self(with("").await)
    }

    /// Nothing but what the statements make.
    pub(super) async fn make(&self, ddl: &str) {
        let empty = "DISCARD ALL; DO $$ DECLARE one text; BEGIN
            FOR one IN SELECT evtname FROM pg_event_trigger LOOP EXECUTE format('DROP EVENT TRIGGER %I', one); END LOOP;
            FOR one IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
                EXECUTE format('DROP SCHEMA %I CASCADE', one);
            END LOOP;
            FOR one IN SELECT fdwname FROM pg_foreign_data_wrapper LOOP
                EXECUTE format('DROP FOREIGN DATA WRAPPER %I CASCADE', one);
            END LOOP;
            PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
        END $$; CREATE SCHEMA public";
        let (first, rest) = empty.split_once(';').unwrap();
        for sql in [first, rest, ddl] {
            self.0.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    pub(super) async fn catalog(&self, ddl: &str, scope: &Scope) -> Catalog {
        self.make(ddl).await;
        discover(&self.0, scope).await.unwrap()
    }
}

/// Runs the SQL of a remedy, statement by statement.
pub(super) async fn heed(client: &Client, remedy: &str) {
    for statement in remedy.split("; ") {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// A connection to a database made by the statements.
pub(super) async fn with(ddl: &str) -> Client {
    let server = server().await;
    let database = database(server).await;
    server.execute(&database, ddl).await.unwrap();
    server.connect(&database, SUPERUSER).await.unwrap()
}

pub(super) async fn catalog(ddl: &str) -> Catalog {
    discover(&with(ddl).await, &Scope::new("tenant_id")).await.unwrap()
}

/// Whether one of them has all the words.
pub(super) fn says(findings: &[Finding], words: &[&str]) -> bool {
    findings.iter().any(|finding| {
        let line = finding.to_string();
        words.iter().all(|word| line.contains(word))
    })
}

pub(super) fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}
