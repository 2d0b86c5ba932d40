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
