//! What must not be applied is not, and says why; what is not known to be committed is found out.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::types::PgLsn;
use wakala_core::{Error, ErrorKind, Retry};
use wakala_testbed::{PostgresServer, wait_until};

use super::rig::{Rig, Spec, TestTable, column, holder, table};
use crate::mover::apply::Applier;
use crate::mover::change::{Op, Value};
use crate::mover::table::Format;

const COLUMNS: [Spec; 3] =
    [column("tenant", "integer", ""), column("id", "bigint", ""), column("word", "text", "")];

fn tables() -> Vec<TestTable> {
    vec![
        table("notes", &COLUMNS, &[0, 1], ", UNIQUE (tenant, word)", Format::Binary),
        table("other", &COLUMNS, &[0, 1], "", Format::Binary),
    ]
}

fn key(id: i64) -> Vec<Value> {
    let bytes = |bytes: &[u8]| Value::Binary(Bytes::copy_from_slice(bytes));
    vec![bytes(&7_i32.to_be_bytes()), bytes(&id.to_be_bytes()), Value::Null]
}

fn row(id: i64, word: &str) -> Vec<Value> {
    let mut row = key(id);
    row[2] = Value::Binary(Bytes::copy_from_slice(word.as_bytes()));
    row
}

fn insert(id: i64, word: &str) -> Op {
    Op::Insert(row(id, word))
}

fn update(id: i64, word: &str) -> Op {
    Op::Update { old: None, new: row(id, word) }
}

async fn commit(applier: &mut Applier, ops: Vec<Op>, lsn: u64) -> Result<(), Error> {
    for op in ops {
        applier.push(0, op);
    }
    applier.commit(PgLsn::from(lsn), &[]).await
}

async fn words(rig: &Rig) -> String {
    rig.value("SELECT string_agg(id || word, ' ' ORDER BY id) FROM shop.notes").await.unwrap_or_default()
}

/// Fails unless it says that the shards have diverged, and where.
fn assert_conflict(error: &Error, id: i64, why: &str) {
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("shop.notes (tenant=7, id={id})")) && text.contains(why), "{text}");
}

#[tokio::test]
async fn a_change_that_does_not_hit_its_row_stops_everything() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    commit(&mut applier, (0..5).map(|id| insert(id, &format!("w{id}"))).collect(), 5).await.unwrap();
    let before = words(&rig).await;
    let many = |op: fn(i64) -> Op| (0..6).map(op).collect::<Vec<_>>();
    let cases = [
        (vec![insert(9, "a"), update(77, "b")], 77, "the row is not there"),
        (vec![insert(9, "a"), Op::Delete(key(77))], 77, "the row is not there"),
        (vec![insert(9, "a"), insert(3, "b")], 3, "notes_pkey is in the way"),
        (vec![insert(9, "a"), insert(8, "w1")], 8, "notes_tenant_word_key is in the way"),
        (vec![insert(9, "a"), insert(9, "b")], 9, "notes_pkey is in the way"),
        (vec![Op::Delete(key(1)), update(1, "b")], 1, "the row is not there"),
        (vec![Op::Delete(key(1)), Op::Delete(key(1))], 1, "the row is not there"),
        (vec![Op::Update { old: Some(key(66)), new: row(67, "x") }], 66, "the row is not there"),
        (vec![Op::Update { old: Some(key(1)), new: row(2, "x") }], 1, "notes_pkey is in the way"),
        (many(|id| update(id, &format!("x{id}"))), 5, "the row is not there"),
        (many(|id| Op::Delete(key(id))), 5, "the row is not there"),
        ((4..300).map(|id| insert(id, &format!("x{id}"))).collect(), 4, "notes_pkey is in the way"),
    ];
    for (ops, id, why) in cases {
        for flushed in [false, true] {
            if flushed {
                applier.push(1, insert(1, "elsewhere"));
                applier.flush().await.unwrap();
            }
            let error = commit(&mut applier, ops.clone(), 9).await.unwrap_err();
            assert_conflict(&error, id, why);
            assert_eq!(words(&rig).await, before, "{ops:?}");
            let refused = commit(&mut applier, vec![update(1, "y")], 9).await.unwrap_err();
            assert!(refused.to_string().contains("roll back"), "{refused}");
            applier.rollback().await.unwrap();
        }
    }
    commit(&mut applier, vec![update(1, "fine")], 6).await.unwrap();
    assert_eq!(words(&rig).await, "0w0 1fine 2w2 3w3 4w4");
    assert_eq!(rig.value("SELECT count(*) FROM shop.other").await.unwrap(), "0");
    assert_eq!(rig.value("SELECT applied FROM wakala_shard.move").await.unwrap(), "0/6");
}

#[tokio::test]
async fn a_row_that_is_there_twice_is_not_changed() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    rig.destination
        .batch_execute(
            "ALTER TABLE shop.notes DROP CONSTRAINT notes_pkey, DROP CONSTRAINT notes_tenant_word_key;
             INSERT INTO shop.notes VALUES (7, 1, 'a'), (7, 1, 'b'), (7, 2, 'c'), (7, 3, 'd')",
        )
        .await
        .unwrap();
    let before = words(&rig).await;
    for ops in [
        vec![update(1, "x")],
        vec![update(2, "x"), update(1, "y")],
        vec![Op::Delete(key(1))],
        vec![Op::Delete(key(1)), Op::Delete(key(2)), Op::Delete(key(3))],
    ] {
        assert_conflict(&commit(&mut applier, ops, 1).await.unwrap_err(), 1, "there are 2 such rows");
        applier.rollback().await.unwrap();
        assert_eq!(words(&rig).await, before);
    }
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    commit(&mut applier, vec![insert(1, "a")], 1).await.unwrap();
    rig.destination.execute("UPDATE wakala_shard.move SET lease = 2", &[]).await.unwrap();
    for _ in 0..2 {
        let error = commit(&mut applier, vec![insert(2, "b"), update(1, "c")], 2).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Never, "{error}");
        assert!(error.to_string().contains("driven by another process"), "{error}");
        applier.rollback().await.unwrap();
        assert!(applier.flush().await.is_err());
        applier.rollback().await.unwrap();
    }
    assert_eq!(words(&rig).await, "1a");
    assert_eq!(rig.value("SELECT applied FROM wakala_shard.move").await.unwrap(), "0/1");
}

#[tokio::test]
async fn the_lease_cannot_be_taken_over_in_the_midst() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    applier.push(0, insert(1, "a"));
    applier.flush().await.unwrap();
    rig.destination.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    let taken = rig.destination.execute("UPDATE wakala_shard.move SET lease = 2", &[]).await.unwrap_err();
    assert_eq!(taken.code().unwrap().code(), "55P03");
    applier.commit(PgLsn::from(1), &[]).await.unwrap();
    rig.destination.execute("UPDATE wakala_shard.move SET lease = 2", &[]).await.unwrap();
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_to_be_observed() {
    // No such standby ever answers: what is committed waits, but for those who do not want it to.
    let server = PostgresServer::builder()
        .with_setting("synchronous_standby_names", "nobody")
        .with_setting("synchronous_commit", "local")
        .start()
        .await
        .unwrap();
    let rig = Rig::on(&server, tables()).await;
    let link = server.link().unwrap();
    let observe = (ErrorKind::Unavailable, Retry::ObserveFirst);
    for (flushed, lsn) in [(false, 10), (true, 11)] {
        let mut applier = rig.applier_at(&rig.access.at_port(link.port())).await;
        applier.push(0, insert(lsn, &format!("w{lsn}")));
        if flushed {
            applier.flush().await.unwrap();
        }
        let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let commit = applier.commit(PgLsn::from(u64::try_from(lsn).unwrap()), &[]);
        let (error, pid) = tokio::join!(commit, async {
            let pid = wait_until("the wait", Duration::from_secs(10), || async {
                server.value("postgres", waits).await.map_err(Into::into)
            });
            let pid = pid.await.unwrap();
            link.cut().await.unwrap();
            pid
        });
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.retry()), observe, "{error}");
        server.value("postgres", &format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
        let applied = format!("0/{lsn:X}");
        wait_until("the commit", Duration::from_secs(10), || async {
            let seen = rig.value("SELECT applied FROM wakala_shard.move").await.unwrap_or_default();
            if seen == applied { Ok(()) } else { Err(seen.into()) }
        })
        .await
        .unwrap();
        link.restore().await.unwrap();
    }
    assert_eq!(words(&rig).await, "10w10 11w11");
}

#[tokio::test]
async fn a_connection_that_breaks_at_the_commit_leaves_all_or_nothing() {
    let rig = Rig::new(tables()).await;
    let link = super::rig::server().await.link().unwrap();
    for lsn in 1..20_i64 {
        let mut applier = rig.applier_at(&rig.access.at_port(link.port())).await;
        applier.push(0, insert(lsn, &format!("w{lsn}")));
        link.lose_reply_to("COMMIT");
        let error = applier.commit(PgLsn::from(u64::try_from(lsn).unwrap()), &[]).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst), "{error}");
        // Waits for the server to have noticed.
        rig.destination.execute("UPDATE wakala_shard.move SET lease = lease", &[]).await.unwrap();
        let agree = format!(
            "SELECT coalesce(m.applied = '0/{lsn:X}', false) = EXISTS (SELECT FROM shop.notes WHERE id = {lsn}) \
             FROM wakala_shard.move AS m"
        );
        assert_eq!(rig.value(&agree).await.unwrap(), "true");
    }
}

#[tokio::test]
async fn without_a_commit_a_lost_connection_leaves_nothing() {
    let rig = Rig::new(tables()).await;
    let link = super::rig::server().await.link().unwrap();
    let mut applier = rig.applier_at(&rig.access.at_port(link.port())).await;
    applier.push(0, insert(1, "a"));
    applier.flush().await.unwrap();
    link.cut().await.unwrap();
    applier.push(0, insert(2, "b"));
    let error = applier.flush().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error}"
    );
    assert_eq!(applier.rollback().await.unwrap_err().kind(), ErrorKind::Unavailable);
    link.restore().await.unwrap();
    // The lease is free once the server has noticed.
    rig.destination.execute("UPDATE wakala_shard.move SET lease = lease", &[]).await.unwrap();
    assert_eq!(words(&rig).await, "");
}

#[tokio::test]
async fn a_deadlock_leaves_nothing_and_may_be_repeated() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    commit(&mut applier, vec![insert(1, "a"), insert(2, "b")], 1).await.unwrap();
    // The one to look for a deadlock, and so to end, is the applier.
    rig.destination.batch_execute("SET deadlock_timeout = '1h'; BEGIN").await.unwrap();
    rig.destination.execute("SELECT FROM shop.notes WHERE id = 2 FOR UPDATE", &[]).await.unwrap();
    applier.push(0, update(1, "x"));
    applier.flush().await.unwrap();
    let reader = rig.destination.execute("SELECT FROM shop.notes WHERE id = 1 FOR UPDATE", &[]);
    let (read, error) = tokio::join!(reader, async {
        let error = commit(&mut applier, vec![update(2, "y")], 2).await.unwrap_err();
        applier.rollback().await.unwrap();
        error
    });
    read.unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }), "{error}");
    rig.destination.batch_execute("COMMIT").await.unwrap();
    assert_eq!(words(&rig).await, "1a 2b");
    commit(&mut applier, vec![update(1, "x"), update(2, "y")], 2).await.unwrap();
    assert_eq!(words(&rig).await, "1x 2y");
}

#[tokio::test]
async fn what_goes_along_is_committed_too_or_nothing_is() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    applier.push(0, insert(1, "a"));
    let odd = ["SELECT wakala_shard.receive('8', 5)".to_owned()];
    let error = applier.commit(PgLsn::from(1), &odd).await.unwrap_err();
    assert!(error.to_string().contains("not due on this shard"), "{error}");
    applier.rollback().await.unwrap();
    assert_eq!(words(&rig).await, "");
    applier.push(0, insert(1, "a"));
    let token = ["SELECT wakala_shard.receive('7', 5)".to_owned()];
    applier.commit(PgLsn::from(1), &token).await.unwrap();
    assert_eq!(words(&rig).await, "1a");
    let owner = rig.value("SELECT format('%s %s %s', epoch, shard, state) FROM wakala_shard.owner").await;
    assert_eq!(owner.unwrap(), "5 2 owned");
}

#[tokio::test]
async fn only_where_the_order_matters_is_it_one_by_one() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    commit(&mut applier, (0..200).map(|id| insert(id, &format!("w{id}"))).collect(), 1).await.unwrap();
    let again = (0..200)
        .flat_map(|id| [Op::Delete(key(id)), insert(id, &format!("x{id}")), update(id, &format!("y{id}"))]);
    commit(&mut applier, again.collect(), 2).await.unwrap();
    // To other keys, with the words that the former rows leave.
    let moved = (0..200).map(|id| Op::Update { old: Some(key(id)), new: row(id + 1000, &format!("y{id}")) });
    commit(&mut applier, moved.collect(), 3).await.unwrap();
    assert_eq!(applier.replays, 0);
    let exchanged = vec![update(1001, "-"), update(1002, "y1"), update(1001, "y2")];
    commit(&mut applier, exchanged, 4).await.unwrap();
    assert_eq!(applier.replays, 1);
    let words = "SELECT string_agg(word, ' ' ORDER BY id) FROM shop.notes WHERE id IN (1000, 1001, 1002)";
    assert_eq!(rig.value(words).await.unwrap(), "y0 y2 y1");
}

#[tokio::test]
async fn every_combination_of_unchanged_columns_is_applied() {
    const LETTERS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut columns = COLUMNS[..2].to_vec();
    columns.extend(LETTERS.map(|letter| column(letter, "text", "")));
    let rig = Rig::new(vec![table("wide", &columns, &[0, 1], "", Format::Binary)]).await;
    let mut applier = rig.applier().await;
    let text = |text: &str| Value::Binary(Bytes::copy_from_slice(text.as_bytes()));
    let wide = |id: i64, value: &dyn Fn(usize) -> Value| {
        let mut row = key(id);
        row.truncate(2);
        row.extend((0..LETTERS.len()).map(value));
        row
    };
    for id in 0..512 {
        applier.push(0, Op::Insert(wide(id, &|_| text("old"))));
    }
    applier.commit(PgLsn::from(1), &[]).await.unwrap();
    for id in 0..512 {
        let value = |at| if id >> at & 1 == 1 { text("new") } else { Value::Unchanged };
        applier.push(0, Op::Update { old: None, new: wide(id, &value) });
        // Some with a few, one with more than are kept.
        if id < 256 && id % 40 == 0 {
            applier.flush().await.unwrap();
        }
    }
    applier.commit(PgLsn::from(2), &[]).await.unwrap();
    let expected = LETTERS
        .iter()
        .enumerate()
        .map(|(at, letter)| format!("{letter} = CASE WHEN id >> {at} & 1 = 1 THEN 'new' ELSE 'old' END"));
    let right = expected.collect::<Vec<_>>().join(" AND ");
    let right = format!("SELECT count(*) FROM shop.wide WHERE {right}");
    assert_eq!(rig.value(&right).await.unwrap(), "512");
}

#[tokio::test]
async fn progress_does_not_go_back() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    commit(&mut applier, vec![insert(1, "a")], 5).await.unwrap();
    commit(&mut applier, vec![], 5).await.unwrap();
    assert!(commit(&mut applier, vec![insert(2, "b")], 4).await.is_err());
    applier.rollback().await.unwrap();
    assert_eq!(words(&rig).await, "1a");
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_only_the_way_back() {
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    rig.destination.batch_execute("BEGIN; LOCK TABLE shop.notes").await.unwrap();
    applier.push(0, insert(1, "a"));
    assert!(tokio::time::timeout(Duration::from_millis(50), applier.flush()).await.is_err());
    rig.destination.batch_execute("COMMIT").await.unwrap();
    let error = applier.commit(PgLsn::from(1), &[]).await.unwrap_err();
    assert!(error.to_string().contains("roll back"), "{error}");
    applier.rollback().await.unwrap();
    assert_eq!(words(&rig).await, "");
    commit(&mut applier, vec![insert(1, "a")], 1).await.unwrap();
}

#[tokio::test]
async fn a_table_that_is_missing_is_named() {
    let rig = Rig::new(tables()).await;
    let client = rig.access.connect(&rig.destination_name, "postgres").await.unwrap();
    let missing = table("nowhere", &COLUMNS, &[0, 1], "", Format::Binary).table;
    let error = Applier::open(client, holder(1), [missing].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("column tenant of shop.nowhere"), "{error}");
}

#[tokio::test]
async fn a_large_transaction_is_one_and_takes_little_memory() {
    const ROWS: i64 = 100_000;
    const FLUSH_BYTES: usize = 4 << 20;
    let rig = Rig::new(tables()).await;
    let mut applier = rig.applier().await;
    let filler = "x".repeat(1000);
    let before = resident_kib();
    let mut most = 0;
    for id in 0..ROWS {
        applier.push(0, insert(id, &format!("{id} {filler}")));
        if id % 2 == 0 {
            applier.push(0, update(id, &format!("{id} even {filler}")));
        }
        if applier.buffered_bytes() >= FLUSH_BYTES {
            applier.flush().await.unwrap();
            most = most.max(resident_kib());
        }
    }
    assert_eq!(rig.value("SELECT count(*) FROM shop.notes").await.unwrap(), "0");
    applier.commit(PgLsn::from(1), &[]).await.unwrap();
    assert_eq!(rig.value("SELECT count(*) FROM shop.notes").await.unwrap(), ROWS.to_string());
    let even = rig.value("SELECT count(*) FROM shop.notes WHERE word LIKE '% even %'").await.unwrap();
    assert_eq!(even, (ROWS / 2).to_string());
    // 150 MB went through; other tests of this process take their share.
    let grown = most.saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more than before");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
