//! How fast it is, next to a native subscription: prints it, and compares the contents. Debug builds say little; set
//! `WAKALA_APPLY_TRANSACTIONS=50000` and use a release build.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_postgres::types::PgLsn;
use wakala_testbed::{PostgresServer, wait_until};

use super::rig::{Rig, TestTable, column, table};
use crate::mover::apply::Applier;
use crate::mover::change::{Op, Value};
use crate::mover::table::Format;

const ACCOUNTS: i64 = 10_000;
const BATCH_BYTES: usize = 4 << 20;
const NOTE: &str = "fifty bytes of text, as a short note may have them";

fn tables() -> Vec<TestTable> {
    let account = [
        column("tenant", "integer", ""),
        column("id", "bigint", ""),
        column("balance", "bigint", ""),
        column("note", "text", ""),
    ];
    let mut payment = account.to_vec();
    payment[2].name = "account";
    vec![
        table("accounts", &account, &[0, 1], "", Format::Binary),
        table("payments", &payment, &[0, 1], "", Format::Binary),
    ]
}

fn row(id: i64, third: i64) -> Vec<Value> {
    let value = |bytes: &[u8]| Value::Binary(Bytes::copy_from_slice(bytes));
    vec![
        value(&7_i32.to_be_bytes()),
        value(&id.to_be_bytes()),
        value(&third.to_be_bytes()),
        value(NOTE.as_bytes()),
    ]
}

/// What the procedure `work` does in its transaction `n`.
fn push(applier: &mut Applier, n: i64) {
    let account = n * 7919 % ACCOUNTS;
    applier.push(0, Op::Update { old: None, new: row(account, n) });
    applier.push(1, Op::Insert(row(n, account)));
}

fn lsn(n: i64) -> PgLsn {
    PgLsn::from(u64::try_from(n).unwrap())
}

#[tokio::test]
async fn next_to_a_native_subscription() {
    let set = std::env::var("WAKALA_APPLY_TRANSACTIONS").ok();
    let transactions: i64 = set.map_or(1_000, |text| text.parse().unwrap());
    let server = PostgresServer::builder()
        .with_setting("wal_level", "logical")
        .with_setting("shared_buffers", "256MB")
        .with_fsync(true)
        .start()
        .await
        .unwrap();
    let (rig, native) = (Rig::on(&server, tables()).await, Rig::on(&server, tables()).await);
    let filled = format!(
        "INSERT INTO shop.accounts SELECT 7, i, 0, '{NOTE}' FROM generate_series(0, {}) AS i; ANALYZE",
        ACCOUNTS - 1
    );
    for client in [&rig.source, &rig.destination, &native.destination] {
        client.batch_execute(&filled).await.unwrap();
    }
    rig.source
        .batch_execute("CREATE PUBLICATION all_of_it FOR TABLE shop.accounts, shop.payments")
        .await
        .unwrap();
    rig.source.execute("SELECT pg_create_logical_replication_slot('native', 'pgoutput')", &[]).await.unwrap();
    let work = format!(
        "CREATE PROCEDURE work(most bigint) LANGUAGE plpgsql AS $$ BEGIN
             FOR n IN 1..most LOOP
                 UPDATE shop.accounts SET balance = n WHERE tenant = 7 AND id = n * 7919 % {ACCOUNTS};
                 INSERT INTO shop.payments VALUES (7, n, n * 7919 % {ACCOUNTS}, '{NOTE}');
                 COMMIT;
             END LOOP;
         END $$"
    );
    rig.source.batch_execute(&work).await.unwrap();
    rig.source.batch_execute("SET synchronous_commit = off").await.unwrap();
    rig.source.batch_execute(&format!("CALL work({transactions})")).await.unwrap();

    let from = server.config(&rig.source_name, "postgres").unwrap();
    let password = String::from_utf8(from.get_password().unwrap().to_vec()).unwrap();
    let subscription = format!(
        "CREATE SUBSCRIPTION native CONNECTION \
         'host=127.0.0.1 port={} dbname={} user=postgres password={password}' PUBLICATION all_of_it \
         WITH (create_slot = false, slot_name = native, copy_data = false, binary = true)",
        server.port(),
        rig.source_name,
    );
    let started = Instant::now();
    native.destination.batch_execute(&subscription).await.unwrap();
    wait_until("the subscription", Duration::from_secs(300), || async {
        let last = format!("SELECT 'there' FROM shop.payments WHERE id = {transactions}");
        server.value(&native.destination_name, &last).await.map_err(Into::into)
    })
    .await
    .unwrap();
    let by_subscription = started.elapsed();

    let mut applier = rig.applier().await;
    let started = Instant::now();
    for n in 1..=transactions {
        push(&mut applier, n);
        if applier.buffered_bytes() >= BATCH_BYTES {
            applier.commit(lsn(n), &[]).await.unwrap();
        }
    }
    applier.commit(lsn(transactions), &[]).await.unwrap();
    let by_applier = started.elapsed();

    let per_second = |elapsed: Duration| transactions as f64 / elapsed.as_secs_f64();
    println!(
        "{transactions} transactions of an update and an insert: native {:.0}/s, applier {:.0}/s",
        per_second(by_subscription),
        per_second(by_applier)
    );
    for table in &rig.tables {
        let source = Rig::content(&rig.source, &table.table).await;
        assert_eq!(source, Rig::content(&rig.destination, &table.table).await, "applied here");
        assert_eq!(source, Rig::content(&native.destination, &table.table).await, "by the subscription");
    }
    native.destination.batch_execute("DROP SUBSCRIPTION native").await.unwrap();

    let mut n = transactions;
    for size in [1, 5, 50] {
        let mut took = Vec::new();
        for _ in 0..100 {
            for _ in 0..size {
                n += 1;
                push(&mut applier, n);
            }
            let started = Instant::now();
            applier.commit(lsn(n), &[]).await.unwrap();
            took.push(started.elapsed());
        }
        took.sort();
        println!("{size} such transactions a commit: median {:?}, worst of 100 {:?}", took[50], took[99]);
    }
    let mut bare = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        rig.destination
            .execute("UPDATE shop.accounts SET balance = 0 WHERE tenant = 7 AND id = 1", &[])
            .await
            .unwrap();
        bare.push(started.elapsed());
    }
    bare.sort();
    println!("one bare update: median {:?}, worst of 100 {:?}", bare[50], bare[99]);
}
