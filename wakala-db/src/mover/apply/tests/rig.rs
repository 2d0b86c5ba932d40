//! One server for all tests of this module, with two databases for each rig: where changes are made, and where they are
//! applied.

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, Type};
use wakala_testbed::{PostgresAccess, PostgresServer};

use crate::mover::apply::Applier;
use crate::mover::change::{Row, Value};
use crate::mover::holder::Holder;
use crate::mover::table::{Column, Format, Table};

const MIGRATION: &str = include_str!("../../migrations/0001_shard.sql");

pub(super) async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(|| async { PostgresServer::builder().start().await.unwrap() }).await
}

/// A column of a test's table: its name and type, what to write there at random, and what else to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) random: &'static str,
    pub(super) identity_always: bool,
    pub(super) out_of_line: bool,
}

pub(super) const fn column(name: &'static str, kind: &'static str, random: &'static str) -> Spec {
    Spec { name, kind, random, identity_always: false, out_of_line: false }
}

#[derive(Clone, Debug)]
pub(super) struct TestTable {
    pub(super) table: Table,
    pub(super) columns: Vec<Spec>,
    /// What follows the columns in CREATE TABLE.
    pub(super) more: &'static str,
}

pub(super) fn table(
    name: &str,
    columns: &[Spec],
    key: &[usize],
    more: &'static str,
    format: Format,
) -> TestTable {
    let of = |spec: &Spec| Column {
        name: spec.name.to_owned(),
        type_name: spec.kind.to_owned(),
        identity_always: spec.identity_always,
        hash_as_text: false,
    };
    TestTable {
        table: Table {
            schema: "shop".to_owned(),
            name: name.to_owned(),
            columns: columns.iter().map(of).collect(),
            tenant: 0,
            key: key.to_vec(),
            chunk_by: None,
            format,
        },
        columns: columns.to_vec(),
        more,
    }
}

impl TestTable {
    fn create(&self) -> String {
        let columns = self.columns.iter().map(|spec| {
            let identity = if spec.identity_always { " GENERATED ALWAYS AS IDENTITY" } else { "" };
            let storage = if spec.out_of_line {
                format!(
                    "; ALTER TABLE {} ALTER {} SET STORAGE EXTERNAL",
                    self.table.quoted(),
                    quoted(spec.name)
                )
            } else {
                String::new()
            };
            (format!("{} {}{identity}", quoted(spec.name), spec.kind), storage)
        });
        let (columns, storage): (Vec<String>, Vec<String>) = columns.unzip();
        let key =
            self.table.key.iter().map(|at| quoted(self.columns[*at].name)).collect::<Vec<_>>().join(", ");
        format!(
            "CREATE TABLE {} ({}, PRIMARY KEY ({key}){}){}",
            self.table.quoted(),
            columns.join(", "),
            self.more,
            storage.concat()
        )
    }

    /// The columns of a row as the stream would have them.
    pub(super) fn list(&self) -> String {
        let column = |spec: &Spec| {
            let name = quoted(spec.name);
            match self.table.format {
                Format::Binary => name,
                Format::Text => format!("CASE WHEN num_nulls({name}) = 0 THEN format('%s', {name}) END"),
            }
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// Reads such a row.
    pub(super) fn row(&self, row: &tokio_postgres::Row, from: usize) -> Row {
        (0..self.columns.len())
            .map(|at| match row.get::<_, Raw>(from + at).0 {
                None => Value::Null,
                Some(bytes) if self.table.format == Format::Text => Value::Text(bytes),
                Some(bytes) => Value::Binary(bytes),
            })
            .collect()
    }
}

pub(super) fn quoted(name: &str) -> String {
    crate::config::quoted(name)
}

/// The bytes of a value.
pub(super) struct Raw(pub(super) Option<Bytes>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(Some(Bytes::copy_from_slice(raw))))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

pub(super) struct Rig {
    pub(super) access: PostgresAccess,
    pub(super) source: Client,
    pub(super) destination: Client,
    pub(super) source_name: String,
    pub(super) destination_name: String,
    pub(super) tables: Vec<TestTable>,
}

pub(super) fn holder(lease: i64) -> Holder {
    Holder { move_id: "m1".to_owned(), lease }
}

impl Rig {
    pub(super) async fn new(tables: Vec<TestTable>) -> Self {
        Self::on(server().await, tables).await
    }

    pub(super) async fn on(server: &PostgresServer, tables: Vec<TestTable>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut clients = Vec::new();
        for (place, side) in ["source", "destination"].into_iter().enumerate() {
            let name = format!("{side}_{number}");
            server.execute("postgres", &format!("CREATE DATABASE {name}")).await.unwrap();
            let client = server.connect(&name, "postgres").await.unwrap();
            client.batch_execute(MIGRATION).await.unwrap();
            client.batch_execute("CREATE SCHEMA shop; SET search_path = shop, public").await.unwrap();
            // The numbers of the types differ from side to side.
            for _ in 0..place {
                client.batch_execute("CREATE TYPE shop.one_more AS ENUM ('x')").await.unwrap();
            }
            client
                .batch_execute(
                    "CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'ha ''\"{},\\ppy');
                     CREATE TYPE shop.pair AS (a integer, b text);
                     CREATE DOMAIN shop.percent AS integer CHECK (VALUE BETWEEN 0 AND 100);
                     CREATE EXTENSION citext SCHEMA public",
                )
                .await
                .unwrap();
            for table in &tables {
                client.batch_execute(&table.create()).await.unwrap();
            }
            clients.push(client);
        }
        let destination = clients.pop().unwrap();
        let source = clients.pop().unwrap();
        destination
            .batch_execute(
                "INSERT INTO wakala_shard.shard (id) VALUES (2);
                 INSERT INTO wakala_shard.owner VALUES ('7', 4, 1, 'incoming');
                 INSERT INTO wakala_shard.move (move_id, lease, role, other, tenants)
                     VALUES ('m1', 1, 'destination', 1, '{7}')",
            )
            .await
            .unwrap();
        let access = PostgresAccess::clone(server);
        let (source_name, destination_name) = (format!("source_{number}"), format!("destination_{number}"));
        Self { access, source, destination, source_name, destination_name, tables }
    }

    pub(super) async fn applier(&self) -> Applier {
        self.applier_at(&self.access).await
    }

    pub(super) async fn applier_at(&self, access: &PostgresAccess) -> Applier {
        let client = access.connect(&self.destination_name, "postgres").await.unwrap();
        let tables: Arc<[Table]> = self.tables.iter().map(|table| table.table.clone()).collect();
        Applier::open(client, holder(1), tables).await.unwrap()
    }

    /// Executes a statement that returns the row as it is then, and says so as the stream would; `None` where a
    /// constraint refused it. `old` is the row before.
    pub(super) async fn change(&self, table: usize, sql: &str) -> Option<Row> {
        let of = &self.tables[table];
        let sql = format!("{sql} RETURNING {}", of.list());
        match self.source.query(&sql, &[]).await {
            Ok(rows) => rows.first().map(|row| of.row(row, 0)),
            Err(error) if error.code().is_some_and(|code| code.code() == "23505") => None,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    pub(super) async fn content(client: &Client, table: &Table) -> Vec<String> {
        let sql =
            format!("SELECT whole::text FROM {} AS whole ORDER BY whole::text COLLATE \"C\"", table.quoted());
        client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Fails where the two databases differ.
    pub(super) async fn compare(&self, when: &str) {
        for table in &self.tables {
            let source = Self::content(&self.source, &table.table).await;
            let destination = Self::content(&self.destination, &table.table).await;
            if source != destination {
                let short = |row: &&String| row.chars().take(300).collect::<String>();
                let lost: Vec<_> = source
                    .iter()
                    .filter(|row| !destination.contains(row))
                    .take(3)
                    .map(|row| short(&row))
                    .collect();
                let extra: Vec<_> = destination
                    .iter()
                    .filter(|row| !source.contains(row))
                    .take(3)
                    .map(|row| short(&row))
                    .collect();
                panic!("{when}: {} differs\nlacks {lost:#?}\nhas {extra:#?}", table.table);
            }
        }
    }

    pub(super) async fn value(&self, sql: &str) -> Option<String> {
        self.destination.query_one(&format!("SELECT ({sql})::text"), &[]).await.unwrap().get(0)
    }
}

/// Numbers that look random, the same for each seed.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub(super) fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }
}
