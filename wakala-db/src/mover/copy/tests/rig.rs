//! Two shards, a move between them, and tables as the discovery finds them.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::Client;
use wakala_testbed::{PostgresAccess, PostgresServer};

use crate::mover::copy::{Chunk, Copied, Scope, Watch, for_reading, for_writing};
use crate::mover::holder::Holder;
use crate::mover::snapshot::Snapshot;
use crate::mover::table::{ChunkType, Column, Format, Table};
use crate::mover::tenant::{TenantType, Tenants};

pub(in crate::mover) const MINUTE: Duration = Duration::from_secs(60);
pub(in crate::mover) const SOURCE: &str = "source";
pub(in crate::mover) const DESTINATION: &str = "destination";

/// A server with both shards as databases, for a test of its own.
pub(in crate::mover) async fn start() -> PostgresServer {
    PostgresServer::builder()
        .with_setting("wal_level", "logical")
        .with_setting("deadlock_timeout", "5s")
        .start()
        .await
        .unwrap()
}

/// The one for all tests that do not break it; each has databases of its own there.
pub(in crate::mover) async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(start).await
}

pub(in crate::mover) fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A shard with these tables, at which a move is registered.
#[derive(Debug)]
pub(in crate::mover) struct Shard {
    pub(in crate::mover) access: PostgresAccess,
    pub(in crate::mover) database: String,
}

pub(in crate::mover) async fn shard(server: &PostgresServer, role: &str, sql: &str) -> Shard {
    let database = unique(role);
    server.execute("postgres", &format!("CREATE DATABASE {database}")).await.unwrap();
    server.execute(&database, include_str!("../../migrations/0001_shard.sql")).await.unwrap();
    let register = format!(
        "INSERT INTO wakala_shard.move (move_id, lease, role, other, tenants) VALUES ('m', 1, '{role}', 2, '{{}}')"
    );
    server.execute(&database, &register).await.unwrap();
    server.execute(&database, sql).await.unwrap();
    Shard { access: (**server).clone(), database }
}

impl Shard {
    pub(in crate::mover) async fn client(&self) -> Client {
        self.at(&self.access).await
    }

    pub(in crate::mover) async fn at(&self, access: &PostgresAccess) -> Client {
        access.connect(&self.database, "postgres").await.unwrap()
    }

    pub(in crate::mover) async fn reader(&self) -> Client {
        let client = self.client().await;
        for_reading(&client).await.unwrap();
        client
    }

    pub(in crate::mover) async fn writer(&self) -> Client {
        let client = self.client().await;
        for_writing(&client).await.unwrap();
        client
    }

    pub(in crate::mover) async fn execute(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// The first value as text.
    pub(in crate::mover) async fn value(&self, sql: &str) -> String {
        let client = self.client().await;
        for_reading(&client).await.unwrap();
        let answer = client.simple_query(sql).await.unwrap();
        answer
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
                _ => None,
            })
            .unwrap()
    }
}

/// A table of a database as the mover knows it: chunked by `id` where that is a number or a uuid.
pub(in crate::mover) async fn describe(shard: &Shard, name: &str, format: Format) -> Table {
    let client = shard.client().await;
    let rows = client
        .query(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attidentity = 'a',
                NOT EXISTS (SELECT FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'hash'
                            WHERE c.opcintype = a.atttypid AND c.opcdefault)
                    AND t.typtype NOT IN ('r', 'm') AND t.typname NOT IN ('varchar')
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
             ORDER BY a.attnum",
            &[&name],
        )
        .await
        .unwrap();
    let columns: Vec<Column> = rows
        .iter()
        .map(|row| Column {
            name: row.get(0),
            type_name: row.get(1),
            identity_always: row.get(2),
            hash_as_text: row.get(3),
        })
        .collect();
    let find = |name: &str| columns.iter().position(|column| column.name == name);
    let tenant = find("tenant_id").unwrap();
    let id = find("id").unwrap();
    let chunk_by = match columns[id].type_name.as_str() {
        "smallint" | "integer" | "bigint" => Some((id, ChunkType::Integer)),
        "uuid" => Some((id, ChunkType::Uuid)),
        _ => None,
    };
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    Table {
        schema: schema.to_owned(),
        name: name.to_owned(),
        key: vec![tenant, id],
        columns,
        tenant,
        chunk_by,
        format,
    }
}

pub(in crate::mover) fn tenants(ids: &[&str]) -> Tenants {
    let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    Tenants::new(TenantType::Integer, &ids).unwrap()
}

pub(in crate::mover) fn holder() -> Holder {
    Holder { move_id: "m".to_owned(), lease: 1 }
}

/// One chunk for each table and tenant, or several with these bounds.
pub(in crate::mover) fn chunks(scope: Scope<'_>, bounds: &[i64]) -> Vec<Chunk> {
    use crate::mover::copy::ChunkKey::Integer;
    let mut chunks = Vec::new();
    for table in 0..scope.tables.len() {
        for tenant in 0..scope.tenants.ids().len() {
            let mut lower = None;
            let uppers = bounds.iter().map(|bound| Some(Integer(*bound))).chain([None]);
            for upper in uppers.filter(|upper| upper.is_none() || scope.tables[table].chunk_by.is_some()) {
                let id = i32::try_from(chunks.len()).unwrap();
                chunks.push(Chunk { id, table, tenant, lower, upper, estimate: 1000, copied: None });
                lower = upper;
            }
        }
    }
    chunks
}

/// Counts, and says yes.
#[derive(Debug, Default)]
pub(in crate::mover) struct Counter {
    pub(in crate::mover) copies: Mutex<Vec<(i32, Copied)>>,
    pub(in crate::mover) bytes: std::sync::atomic::AtomicU64,
    pub(in crate::mover) pause: Option<Duration>,
}

impl Watch for Counter {
    fn acceptable(&self, _: &Snapshot) -> bool {
        true
    }

    fn moved(&self, bytes: u64) -> Option<Duration> {
        self.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        self.pause
    }

    fn copied(&self, chunk: &Chunk, copied: &Copied) {
        self.copies.lock().unwrap().push((chunk.id, copied.clone()));
    }
}

/// All rows of a tenant, one a line.
pub(in crate::mover) async fn rows(shard: &Shard, table: &str, tenant: &str) -> String {
    shard
        .value(&format!(
            "SELECT coalesce(string_agg(whole::text, E'\\n' ORDER BY whole::text COLLATE \"C\"), '')
             FROM public.{table} AS whole WHERE tenant_id = {tenant}"
        ))
        .await
}
