//! Writers at work while chunks are copied and a real stream is judged: nothing is lost, nothing is there twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Client;

use super::rig::{DESTINATION, SOURCE, Shard, chunks, describe, holder, rows, shard, start, tenants};
use crate::mover::change::{Op, Row, Value};
use crate::mover::copy::{Action, Chunk, Chunks, Copied, Copier, Scope, Watch, forget, load, save};
use crate::mover::snapshot::Snapshot;
use crate::mover::table::{Format, Table};

const ITEMS: &str = "CREATE TABLE item (tenant_id integer NOT NULL, id bigint NOT NULL, v bigint,
    PRIMARY KEY (tenant_id, id))";

async fn write(source: &Shard, seed: u64, stop: Arc<AtomicBool>) {
    let client = source.client().await;
    if seed.is_multiple_of(2) {
        client.batch_execute("SET synchronous_commit = off").await.unwrap();
    }
    let mut state = seed;
    let mut below = move |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    while !stop.load(Ordering::Relaxed) {
        // What meets another row is rolled back.
        let mut sql = String::new();
        for _ in 0..=below(3) {
            let (tenant, id, to) = (1 + below(3), below(300), below(300));
            let row = format!("tenant_id = {tenant} AND id = {id}");
            sql += &match below(5) {
                0 | 1 => format!("INSERT INTO item VALUES ({tenant}, {id}, {to}); "),
                2 => format!("UPDATE item SET v = v + 1 WHERE {row}; "),
                3 => format!("UPDATE item SET id = {to} WHERE {row}; "),
                _ => format!("DELETE FROM item WHERE {row}; "),
            };
        }
        let _ = client.batch_execute(&sql).await;
    }
}

/// `table public.item: UPDATE: old-key: tenant_id[integer]:1 id[bigint]:5 new-tuple: tenant_id[integer]:1 …`
fn parse(line: &str) -> Option<Op> {
    let rest = line.strip_prefix("table public.item: ")?;
    let (kind, rest) = rest.split_once(": ")?;
    let row = |text: &str| -> Row {
        let value = |name: &str| {
            let found = text.split(' ').find_map(|word| word.strip_prefix(name)?.split_once("]:"));
            found.map_or(Value::Null, |(_, value)| Value::Text(Bytes::from(value.to_owned())))
        };
        vec![value("tenant_id["), value("id["), value("v[")]
    };
    Some(match kind {
        "INSERT" => Op::Insert(row(rest)),
        "DELETE" => Op::Delete(row(rest)),
        _ => match rest.strip_prefix("old-key: ").and_then(|rest| rest.split_once(" new-tuple: ")) {
            Some((old, new)) => Op::Update { old: Some(row(old)), new: row(new) },
            None => Op::Update { old: None, new: row(rest) },
        },
    })
}

fn text(value: &Value) -> &str {
    match value {
        Value::Text(bytes) => std::str::from_utf8(bytes).unwrap(),
        _ => "NULL",
    }
}

/// Exactly one row.
async fn apply(client: &Client, op: &Op) {
    let is = |row: &Row| format!("tenant_id = {} AND id = {}", text(&row[0]), text(&row[1]));
    let sql = match op {
        Op::Insert(row) => {
            format!("INSERT INTO item VALUES ({}, {}, {})", text(&row[0]), text(&row[1]), text(&row[2]))
        }
        Op::Delete(old) => format!("DELETE FROM item WHERE {}", is(old)),
        Op::Update { old, new } => format!(
            "UPDATE item SET (tenant_id, id, v) = ({}, {}, {}) WHERE {}",
            text(&new[0]),
            text(&new[1]),
            text(&new[2]),
            is(old.as_ref().unwrap_or(new))
        ),
    };
    assert_eq!(client.execute_typed(&sql, &[]).await.unwrap(), 1, "{sql}");
}

struct Judge<'a>(&'a Chunks);

impl Watch for Judge<'_> {
    fn acceptable(&self, snapshot: &Snapshot) -> bool {
        self.0.acceptable(snapshot)
    }

    fn moved(&self, _: u64) -> Option<Duration> {
        Some(Duration::from_millis(3))
    }

    fn copied(&self, _: &Chunk, _: &Copied) {}
}

struct Stream<'a> {
    source: &'a Client,
    destination: &'a Client,
    table: &'a Table,
    xid: u32,
    judged: [usize; 3],
}

impl Stream<'_> {
    /// Takes what there is, and applies it in one transaction.
    async fn consume(&mut self, chunks: &mut Chunks) {
        self.destination.batch_execute("BEGIN").await.unwrap();
        let changes = "SELECT data FROM pg_logical_slot_get_changes('s', NULL, NULL)";
        for row in self.source.query(changes, &[]).await.unwrap() {
            let line: &str = row.get(0);
            if let Some(xid) = line.strip_prefix("BEGIN ") {
                self.xid = xid.parse().unwrap();
            }
            let Some(op) = parse(line) else { continue };
            match chunks.judge(self.table, 0, op, self.xid).unwrap() {
                Action::Apply(op) => {
                    apply(self.destination, &op).await;
                    self.judged[0] += 1;
                }
                Action::Drop => self.judged[1] += 1,
                Action::Recopy(chunk) => {
                    self.destination.batch_execute(&forget(&holder(), chunk)).await.unwrap();
                    self.judged[2] += 1;
                }
            }
        }
        while !chunks.is_settled() {
            let now: String =
                self.source.query_one("SELECT pg_current_snapshot()::text", &[]).await.unwrap().get(0);
            chunks.settled(&now.parse().unwrap());
        }
        self.destination.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_under_writers() {
    let server = start().await;
    let source = shard(&server, SOURCE, ITEMS).await;
    let destination = shard(&server, DESTINATION, ITEMS).await;
    source.execute("INSERT INTO item SELECT 1 + n % 3, n, 0 FROM generate_series(0, 299) n").await;
    source.execute("SELECT pg_create_logical_replication_slot('s', 'test_decoding')").await;
    let (table, tenants) = (describe(&source, "item", Format::Binary).await, tenants(&["1", "2"]));
    let tables = [table];
    let scope = Scope { tables: &tables, tenants: &tenants };
    let bounds: Vec<i64> = (1..15).map(|n| n * 20).collect();
    let mut planned = chunks(scope, &bounds);
    planned.iter_mut().for_each(|chunk| chunk.estimate = 3 << 20);
    let (reader, writer) = (source.reader().await, destination.writer().await);
    save(&writer, &holder(), scope, &planned).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let writing = async {
        futures::future::join_all((0..4).map(|seed| write(&source, seed, Arc::clone(&stop)))).await;
    };
    let (changes, applier, holder) = (source.client().await, destination.writer().await, holder());
    let copying = async {
        let mut stream =
            Stream { source: &changes, destination: &applier, table: &tables[0], xid: 0, judged: [0; 3] };
        let mut chunks = Chunks::new(tenants.clone(), planned.clone()).unwrap();
        loop {
            stream.consume(&mut chunks).await;
            let missing: Vec<Chunk> = chunks.missing().take(5).cloned().collect();
            if missing.is_empty() {
                break;
            }
            let copier = Copier { holder: &holder, scope };
            let copies = copier.copy(&[(&reader, &writer)], &missing, &Judge(&chunks)).await.unwrap();
            copies.into_iter().for_each(|(id, copied)| chunks.set_copied(id, copied).unwrap());
            // As one would who begins anew.
            chunks = Chunks::new(tenants.clone(), load(&applier, "m", scope).await.unwrap()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        (stream, chunks)
    };
    let ((mut stream, mut chunks), ()) = tokio::join!(copying, writing);
    // The stream has what is on the disk, and some writers did not wait for it.
    source.execute("SET synchronous_commit = on; SELECT pg_logical_emit_message(true, '', '')").await;
    stream.consume(&mut chunks).await;
    for tenant in ["1", "2"] {
        assert_eq!(rows(&destination, "item", tenant).await, rows(&source, "item", tenant).await);
    }
    assert_eq!(rows(&destination, "item", "3").await, "");
    assert!(stream.judged[0] > 100 && stream.judged[1] > 100, "{:?}", stream.judged);
}
