//! How fast, against the raw pipe of two `psql`. `cargo test --release … measured -- --ignored --nocapture`.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wakala_testbed::PostgresServer;

use super::rig::{Counter, DESTINATION, SOURCE, Shard, describe, holder, shard, tenants};
use crate::mover::copy::{Copier, Scope, plan, save, wipe};
use crate::mover::table::{Format, Table};

const SCHEMA: &str = "
    CREATE TABLE account (tenant_id integer NOT NULL, id bigint NOT NULL, name text NOT NULL, email text,
        balance numeric(14, 2) NOT NULL, created timestamptz NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE message (tenant_id integer NOT NULL, id bigint NOT NULL, account_id bigint NOT NULL,
        body text NOT NULL, created timestamptz NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE INDEX ON message (tenant_id, account_id);
    CREATE TABLE payment (tenant_id integer NOT NULL, id bigint NOT NULL, account_id bigint NOT NULL,
        amount numeric(14, 2) NOT NULL, state text NOT NULL, note jsonb, PRIMARY KEY (tenant_id, id));
    CREATE INDEX ON payment (tenant_id, account_id);";

/// Rows of 20 tenants, one after the other; tenant 1 has about a third.
const ROWS: &str = "
    CREATE FUNCTION tenant_of(i bigint) RETURNS integer LANGUAGE sql AS
        $$SELECT CASE WHEN i % 3 = 0 THEN 1 ELSE 2 + (i % 19)::integer END$$;
    INSERT INTO account SELECT tenant_of(i), i, 'name ' || i, 'user' || i || '@example.org', i % 1000, now()
        FROM generate_series(1, 60000) i;
    INSERT INTO message SELECT tenant_of(i), i, i % 60000, repeat(md5(i::text), 5), now()
        FROM generate_series(1, 600000) i;
    INSERT INTO payment SELECT tenant_of(i), i, i % 60000, i % 1000, 'settled',
            jsonb_build_object('reference', md5(i::text), 'step', i)
        FROM generate_series(1, 150000) i;";

async fn tables(source: &Shard) -> Vec<Table> {
    let mut tables = Vec::new();
    for name in ["account", "message", "payment"] {
        tables.push(describe(source, name, Format::Binary).await);
    }
    tables
}

async fn big(role: &str) -> (PostgresServer, Shard) {
    let server = PostgresServer::builder()
        .with_fsync(true)
        .with_setting("wal_level", "logical")
        .with_setting("shared_buffers", "1GB")
        .with_setting("max_wal_size", "8GB")
        .with_setting("checkpoint_timeout", "1h")
        .start()
        .await
        .unwrap();
    let shard = shard(&server, role, SCHEMA).await;
    (server, shard)
}

/// `psql -c COPY … | psql -c COPY …`, table by table.
async fn raw(source: &Shard, destination: &Shard, tables: &[Table], part: Option<i64>) -> Duration {
    let begun = Instant::now();
    for table in tables {
        let (name, columns) = (table.quoted(), table.column_list());
        let part = part.map(|part| format!(" AND id % 2 = {part}")).unwrap_or_default();
        let read = format!(
            "COPY (SELECT {columns} FROM {name} WHERE tenant_id = 1{part}) TO STDOUT (FORMAT binary)"
        );
        let write = format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)");
        let url = |shard: &Shard| shard.access.url(&shard.database, "postgres").unwrap();
        let mut reader = tokio::process::Command::new("psql")
            .args(["-qXAt", "-c", &read, &url(source)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input: Stdio = reader.stdout.take().unwrap().try_into().unwrap();
        let mut writer = tokio::process::Command::new("psql")
            .args(["-qXAt", "-c", &write, &url(destination)])
            .env("PGOPTIONS", "-c session_replication_role=replica")
            .stdin(input)
            .spawn()
            .unwrap();
        assert!(writer.wait().await.unwrap().success());
        assert!(reader.wait().await.unwrap().success());
    }
    begun.elapsed()
}

/// So many transactions a second, of one insert and one update to other rows of the tenant's.
async fn write(
    source: &Shard,
    rate: u64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut writers = Vec::new();
    for worker in 0..4_u64 {
        let client = source.client().await;
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        writers.push(tokio::spawn(async move {
            let insert =
                client.prepare("INSERT INTO payment VALUES (1, $1, 1, 1, 'new', NULL)").await.unwrap();
            let update = client
                .prepare("UPDATE account SET balance = balance + 1 WHERE tenant_id = 1 AND id = $1")
                .await
                .unwrap();
            let mut tick = tokio::time::interval(Duration::from_micros(4_000_000 / rate));
            let mut number = 10_000_000 + done.load(Ordering::Relaxed).cast_signed() * 8 + (worker as i64);
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                client.batch_execute("BEGIN").await.unwrap();
                client.execute(&insert, &[&number]).await.unwrap();
                client.execute(&update, &[&(3 * (number % 19_000))]).await.unwrap();
                client.batch_execute("COMMIT").await.unwrap();
                number += 4;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    writers
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; to be run in release"]
async fn against_the_raw_pipe() {
    let (_first, source) = big(SOURCE).await;
    let (_second, destination) = big(DESTINATION).await;
    source.execute(ROWS).await;
    source.execute("VACUUM ANALYZE").await;
    source.execute("CHECKPOINT").await;
    let (tables, tenants, holder) = (tables(&source).await, tenants(&["1"]), holder());
    let scope = Scope { tables: &tables, tenants: &tenants };
    let reader = source.reader().await;
    let begun = Instant::now();
    let chunks = plan(&reader, scope, 8 << 20).await.unwrap();
    eprintln!("planned {} chunks in {:?}", chunks.len(), begun.elapsed());

    let (sources, destinations) = (
        vec![source.reader().await, source.reader().await],
        vec![destination.writer().await, destination.writer().await],
    );
    let streams: Vec<_> = sources.iter().zip(&destinations).collect();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let rate: u64 = std::env::var("RATE").ok().and_then(|rate| rate.parse().ok()).unwrap_or(0);
    let writers =
        if rate > 0 { write(&source, rate, Arc::clone(&stop), Arc::clone(&done)).await } else { Vec::new() };
    let clear = "TRUNCATE account, message, payment; DELETE FROM wakala_shard.move_chunk; CHECKPOINT";
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..3 {
        for kind in 0..4 {
            destination.execute(clear).await;
            let before = (done.load(Ordering::Relaxed), Instant::now());
            let spent = match kind {
                0 => raw(&source, &destination, &tables, None).await,
                1 => {
                    let halves = [Some(0), Some(1)].map(|part| raw(&source, &destination, &tables, part));
                    let begun = Instant::now();
                    futures::future::join_all(halves).await;
                    begun.elapsed()
                }
                _ => {
                    save(&destinations[0], &holder, scope, &chunks).await.unwrap();
                    let counter = Counter::default();
                    let begun = Instant::now();
                    let copier = Copier { holder: &holder, scope };
                    copier.copy(&streams[..kind - 1], &chunks, &counter).await.unwrap();
                    let spent = begun.elapsed();
                    if round == 0 {
                        let bytes = counter.bytes.load(Ordering::Relaxed);
                        eprintln!("{bytes} bytes, {:?}", bytes as f64 / spent.as_secs_f64() / 1e6);
                    }
                    spent
                }
            };
            let rate = (done.load(Ordering::Relaxed) - before.0) as f64 / before.1.elapsed().as_secs_f64();
            eprintln!(
                "round {round} {}: {spent:?}, {rate:.0} tx/s",
                ["raw 1", "raw 2", "copy 1", "copy 2"][kind]
            );
            times[kind].push(spent.as_secs_f64());
        }
    }
    for table in 0..tables.len() {
        let begun = Instant::now();
        let digest = crate::mover::verify::digests(&reader, scope, table, &[0]).await.unwrap();
        let rate = digest[0].rows as f64 / begun.elapsed().as_secs_f64();
        eprintln!("digest of {}: {} rows, {rate:.0} a second", tables[table], digest[0].rows);
    }
    let begun = Instant::now();
    let gone = wipe(&destinations[0], &holder, scope, &|_, _, _| {}).await.unwrap();
    eprintln!("wiped {gone} rows, {:.0} a second", gone as f64 / begun.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    eprintln!(
        "medians {medians:.3?}; of the raw pipe: 1 stream {:.2}, 2 streams {:.2}; two raw pipes {:.2}",
        medians[0] / medians[2],
        medians[0] / medians[3],
        medians[0] / medians[1],
    );
}
