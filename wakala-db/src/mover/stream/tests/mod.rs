//! Against real servers: one for all tests but those that break theirs, and a database for each test.

mod backlog;
mod changes;
mod decoder;
mod encryption;
mod keeping;
mod loss;
mod slots;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Config};
use wakala_core::Result;
use wakala_testbed::{PostgresAccess, PostgresServer};

use super::*;
use crate::mover::change::{Event, Op, Row, Value};
use crate::mover::table::{Column, Format, Table};
use crate::mover::tenant::{TenantType, Tenants};

const ROLE: &str = "postgres";
const PATIENCE: Duration = Duration::from_secs(30);

fn settings() -> wakala_testbed::PostgresBuilder {
    PostgresServer::builder()
        .with_setting("wal_level", "logical")
        .with_setting("max_replication_slots", 50)
        .with_setting("max_wal_senders", 50)
        .with_setting("max_prepared_transactions", 5)
        .with_max_connections(200)
}

/// A database of a test's own.
struct Place {
    access: PostgresAccess,
    database: String,
    client: Client,
}

impl Place {
    async fn fresh() -> Self {
        static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
        let server = SERVER.get_or_init(|| async { settings().start().await.unwrap() }).await;
        Self::on(server).await
    }

    async fn on(server: &PostgresServer) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let database = format!("stream_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.execute("postgres", &format!("CREATE DATABASE {database}")).await.unwrap();
        let access = (*server).clone();
        let client = access.connect(&database, ROLE).await.unwrap();
        Self { access, database, client }
    }

    fn config(&self) -> Config {
        self.access.config(&self.database, ROLE).unwrap()
    }

    async fn run(&self, sql: &str) {
        self.client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {:?}", error.as_db_error()));
    }

    async fn value(&self, sql: &str) -> String {
        let rows = self.client.simple_query(sql).await.unwrap();
        rows.iter()
            .find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap()
    }

    /// Slots have one name space for all databases of a server.
    fn slot(&self) -> String {
        format!("{}_slot", self.database)
    }

    /// A table as it is, with the column `tenant`.
    async fn table(&self, schema: &str, name: &str) -> Table {
        let rows = self
            .client
            .query(
                "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attidentity = 'a' FROM pg_attribute a \
                 WHERE a.attrelid = format('%I.%I', $1::text, $2::text)::regclass AND a.attnum > 0 \
                   AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
                &[&schema, &name],
            )
            .await
            .unwrap();
        let columns: Vec<Column> = rows
            .iter()
            .map(|row| Column {
                name: row.get(0),
                type_name: row.get(1),
                identity_always: row.get(2),
                hash_as_text: false,
            })
            .collect();
        let tenant = columns.iter().position(|column| column.name.eq_ignore_ascii_case("tenant")).unwrap();
        Table {
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns,
            tenant,
            key: vec![tenant],
            chunk_by: None,
            format: Format::Binary,
        }
    }

    /// The tables `public.t…`, published for tenant 1, with a slot.
    async fn published(&self, tables: &[Table]) -> PgLsn {
        assert!(create_publication(&self.client, "Wakala p", tables, &tenants(&["1"])).await.unwrap());
        self.create_slot().await.unwrap()
    }

    async fn create_slot(&self) -> Result<PgLsn> {
        create_slot(&self.config(), None, &self.client, &self.slot()).await
    }

    async fn open(&self, tables: &[Table], from: PgLsn) -> Result<ChangeStream> {
        self.open_with(tables, from, Options::default()).await
    }

    async fn open_with(&self, tables: &[Table], from: PgLsn, options: Options) -> Result<ChangeStream> {
        ChangeStream::open(&self.config(), None, &self.slot(), "Wakala p", tables, from, options).await
    }

    async fn facts(&self) -> super::slot::SlotFacts {
        slot_facts(&self.client, &self.slot()).await.unwrap().unwrap()
    }

    async fn end(self) {
        drop_slot(&self.client, &self.slot()).await.unwrap();
    }
}

fn tenants(ids: &[&str]) -> Tenants {
    let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    Tenants::new(TenantType::Integer, &ids).unwrap()
}

async fn until<F: Future<Output = bool> + Send>(condition: impl Fn() -> F + Send + Sync) {
    timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it came about");
}

async fn next(stream: &mut ChangeStream) -> Event {
    timeout(PATIENCE, stream.next()).await.expect("an event").unwrap()
}

/// The error that ends the stream.
async fn failure(stream: &mut ChangeStream) -> Error {
    timeout(PATIENCE, async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    })
    .await
    .expect("an error")
}

#[derive(Debug)]
struct Transaction {
    xid: u32,
    events: Vec<Event>,
    end: PgLsn,
}

impl Transaction {
    fn ops(self) -> Vec<Op> {
        let op = |event| match event {
            Event::Change { op, .. } => op,
            other => panic!("{other:?}"),
        };
        self.events.into_iter().map(op).collect()
    }
}

/// The next transaction, whole. Those of which nothing is published are left out: old servers send their ends.
async fn transaction(stream: &mut ChangeStream) -> Transaction {
    loop {
        let (xid, position) = match next(stream).await {
            Event::Idle { .. } => continue,
            Event::Begin { xid, commit } => (xid, commit),
            other => panic!("{other:?} outside of a transaction"),
        };
        let mut events = Vec::new();
        let end = loop {
            match next(stream).await {
                Event::Commit { commit, end } => {
                    assert!(commit == position && end > commit);
                    break end;
                }
                event @ (Event::Change { .. } | Event::Message { .. }) => events.push(event),
                other => panic!("{other:?} in a transaction"),
            }
        };
        if !events.is_empty() {
            return Transaction { xid, events, end };
        }
    }
}

fn text(text: &'static str) -> Value {
    Value::Text(Bytes::from_static(text.as_bytes()))
}

/// As text; what is NULL and what is unchanged under these names.
fn plain(row: &Row) -> Vec<String> {
    row.iter()
        .map(|value| match value {
            Value::Null => "NULL".to_owned(),
            Value::Unchanged => "unchanged".to_owned(),
            Value::Text(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Value::Binary(bytes) => format!("{:02x?}", &bytes[..]),
        })
        .collect()
}
