//! Movers and servers that end between two steps that belong together, held there by barriers and not by chance.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wakala_db::{MoveEvent, MoveObserver, Mover, TenantId};

use crate::barrier::{Barrier, FILL_THINGS, INSERT, LATE, THINGS, copied, patient};
use crate::rig::{Rig, shard};
use crate::site::TABLES;

/// A mover of which changes flow in a task of its own.
fn following(mut mover: Mover) -> (JoinHandle<wakala_core::Result<()>>, CancellationToken) {
    let stop = CancellationToken::new();
    let inner = stop.clone();
    (tokio::spawn(async move { mover.follow(&inner).await }), stop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_confirmed_is_durable_on_the_other_side() {
    // The mover lets the server know how far it is once in so long at least.
    let rig =
        Rig::start(crate::rig::TABLES, |builder| builder.with_setting("wal_sender_timeout", "1s")).await;
    rig.fill(3, 20).await;
    let mover = copied(&rig, "durable").await;
    let holds = rig.servers[1].connect("shop", "postgres").await.unwrap();
    holds.batch_execute("BEGIN; SELECT FROM wakala_shard.move FOR UPDATE").await.unwrap();
    rig.app(1).await.batch_execute(INSERT).await.unwrap();
    let end = rig.value(1, "SELECT pg_current_wal_insert_lsn()").await;
    let (moving, _stop) = following(mover);
    rig.wait(2, &waiting("durable"), "t").await;
    // The change came, and cannot be written. Whatever is said of it is said within two intervals.
    for _ in 0..2 {
        let told = rig.value(1, "SELECT max(reply_time) FROM pg_stat_replication").await;
        let later = format!("SELECT max(reply_time) > '{told}' FROM pg_stat_replication");
        rig.wait(1, &later, "t").await;
    }
    let confirmed = format!("SELECT confirmed_flush_lsn < '{end}' FROM pg_replication_slots");
    assert_eq!(rig.value(1, &confirmed).await, "t", "confirmed before it was durable");
    rig.servers[1].kill().await.unwrap();
    moving.await.unwrap().unwrap_err();
    rig.servers[1].start().await.unwrap();
    let mut mover = rig.mover("durable", &[2]).await.with_options(patient());
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    mover.finish().await.unwrap();
    assert_eq!(rig.value(2, LATE).await, "1");
    rig.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_that_came_in_part_is_not_applied_in_part() {
    let rig = Rig::new(3, 20).await;
    drop(copied(&rig, "part").await);
    let link = rig.servers[0].link().unwrap();
    let mut mover = rig.mover_through(&link, "part", &[2]).await.with_options(patient());
    mover.prepare().await.unwrap();
    let (moving, _stop) = following(mover);
    link.hold_reply_at("comes later");
    let app = rig.app(1).await;
    let account = "INSERT INTO account (tenant_id, owner) VALUES (2,";
    let sql = format!(
        "BEGIN; {account} 'before'); {account} 'comes later');
         DELETE FROM entry WHERE tenant_id = 2 AND amount = 1; COMMIT"
    );
    app.batch_execute(&sql).await.unwrap();
    link.reply_held().await.unwrap();
    let part = "SELECT count(*) FROM account WHERE owner = 'before'";
    for _ in 0..60 {
        assert_eq!(rig.value(2, part).await, "0", "a part of a transaction was made durable");
    }
    link.cut().await.unwrap();
    moving.await.unwrap().unwrap_err();
    let mut mover = rig.mover("part", &[2]).await.with_options(patient());
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    assert!(mover.verify().await.unwrap().is_equal());
    mover.finish().await.unwrap();
    assert_eq!(rig.value(2, part).await, "1");
    rig.assert_clean().await;
}

const UNSEEN: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Commits what nobody sees, though the log has it: it waits for a standby that there is not. Others do not, with
/// `synchronous_commit` as a setting of the server.
async fn unseen_commit(rig: &Rig, sql: &'static str) -> JoinHandle<Result<(), tokio_postgres::Error>> {
    let server = &rig.servers[0];
    server.execute("shop", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    server.execute("shop", "SELECT pg_reload_conf()").await.unwrap();
    rig.wait(1, "SHOW synchronous_standby_names", "nobody").await;
    let app = rig.app(1).await;
    app.batch_execute("SET synchronous_commit = on").await.unwrap();
    let written = tokio::spawn(async move { app.batch_execute(sql).await });
    rig.wait(1, UNSEEN, "1").await;
    written
}

/// Everybody sees it.
async fn see(rig: &Rig) {
    rig.servers[0].execute("shop", "ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    rig.servers[0].execute("shop", "SELECT pg_reload_conf()").await.unwrap();
}

/// Whether a mover waits for a lock.
fn waiting(name: &str) -> String {
    format!(
        "SELECT count(*) > 0 FROM pg_stat_activity
         WHERE application_name = 'wakala move {name}' AND wait_event_type = 'Lock'"
    )
}

/// Whether a mover looks what can be seen, again and again.
fn looking(name: &str) -> String {
    format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'wakala move {name}'
             AND query = 'SELECT pg_current_snapshot()::text' AND state = 'idle'"
    )
}

/// A commit is in the log before anybody sees it, and for as long as it waits for a synchronous standby. A slot that is
/// made meanwhile may begin behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_in_the_log_before_the_slot_and_not_yet_seen_is_copied() {
    let rig =
        Rig::start(crate::rig::TABLES, |builder| builder.with_setting("synchronous_commit", "local")).await;
    rig.fill(3, 20).await;
    copied(&rig, "first").await.abort().await.unwrap();
    let open = async || {
        let app = rig.app(1).await;
        app.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
        app
    };
    let awaited = |of: &str| {
        format!(
            "SELECT count(*) > 0 FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
             WHERE a.application_name = 'wakala move unseen' AND l.locktype = 'transactionid' AND NOT l.granted
                 AND l.transactionid = '{of}'::xid"
        )
    };
    let number = async |app: &tokio_postgres::Client| {
        let row = app.query_one("SELECT pg_current_xact_id()::xid::text", &[]).await.unwrap();
        row.get::<_, String>(0)
    };
    // Making a slot waits for whoever is open, and then for whoever is open by then; who comes later and is committed
    // before the end of that is not in its stream.
    let first = open().await;
    let mut mover = rig.mover("unseen", &[2]).await.with_options(patient());
    let moving = tokio::spawn(async move {
        mover.copy(&CancellationToken::new()).await.unwrap();
        mover
    });
    rig.wait(1, &awaited(&number(&first).await), "t").await;
    let second = open().await;
    first.batch_execute("COMMIT").await.unwrap();
    rig.wait(1, &awaited(&number(&second).await), "t").await;
    let written = unseen_commit(&rig, INSERT).await;
    let looking = looking("unseen");
    second.batch_execute("COMMIT").await.unwrap();
    // It waits until the transaction can be seen; or it goes on without, and copies.
    tokio::select! {
        () = rig.wait(1, &looking, "t") => {}
        () = async { while !moving.is_finished() { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    assert_eq!(rig.value(1, UNSEEN).await, "1");
    assert!(!moving.is_finished(), "copied without a transaction that the stream does not have");
    see(&rig).await;
    written.await.unwrap().unwrap();
    let mut mover = moving.await.unwrap();
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    assert_eq!(rig.value(2, LATE).await, "1", "lost between the copy and the stream");
    mover.finish().await.unwrap();
    rig.assert_clean().await;
}

/// A token for which a chunk must be copied first, read by a mover that only follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_waits_for_the_chunks_of_its_tenant_whoever_reads_it() {
    let rig = Rig::with(TABLES).await;
    rig.directory.register(&TenantId::from(2), shard(1)).await.unwrap();
    rig.servers[0].execute("shop", FILL_THINGS).await.unwrap();
    let mut options = patient();
    options.chunk_bytes = 1 << 16;
    let first = Barrier::at(|event| matches!(event, MoveEvent::Copied(_)));
    let mut mover = rig.mover("token", &[2]).await.with_options(options.clone());
    mover = mover.with_observer(Arc::clone(&first) as Arc<dyn MoveObserver>);
    let moving = tokio::spawn(async move { mover.copy(&CancellationToken::new()).await });
    first.reached().await;
    // From where nothing is copied yet to where it is: the stream lacks the long values, so that is copied once more.
    let moves = "UPDATE thing SET id = id - 10000, revision = -2 WHERE id BETWEEN 341 AND 400";
    rig.app(1).await.batch_execute(moves).await.unwrap();
    first.again();
    first.reached().await;
    moving.abort();
    first.go_on();
    moving.await.unwrap_err();
    let missing =
        "SELECT count(*) > 0 FROM wakala_shard.move_chunk WHERE snapshot IS NULL AND row_count IS NOT NULL";
    assert_eq!(rig.value(2, missing).await, "t", "no chunk is to be copied again");
    // Something more to write down, and the fence of a mover that died then. It had copied before; that is left out, so
    // that this is the worst case.
    let app = rig.app(1).await;
    app.batch_execute("UPDATE thing SET revision = -3 WHERE id BETWEEN 50 AND 60").await.unwrap();
    let fence =
        "SELECT wakala_shard.give_up('token', (SELECT lease FROM wakala_shard.move), '2', 1, 2, '{}')";
    rig.servers[0].execute("shop", fence).await.unwrap();
    // One that dies after it has read the token, and before it can copy.
    let holds = rig.servers[1].connect("shop", "postgres").await.unwrap();
    holds.batch_execute("BEGIN; SELECT FROM wakala_shard.move_chunk FOR UPDATE").await.unwrap();
    let mover = rig.mover("token", &[2]).await.with_options(options.clone());
    let (dies, _stop) = following(mover);
    rig.wait(2, &waiting("token"), "t").await;
    dies.abort();
    dies.await.unwrap_err();
    holds.batch_execute("COMMIT").await.unwrap();
    let mover = rig.mover("token", &[2]).await.with_options(options.clone());
    let (following, stop) = following(mover);
    rig.wait(2, "SELECT state FROM wakala_shard.owner WHERE tenant_id = '2'", "owned").await;
    stop.cancel();
    following.await.unwrap().unwrap();
    let mut mover = rig.mover("token", &[2]).await.with_options(options);
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    assert!(mover.verify().await.unwrap().is_equal());
    assert_eq!(rig.value(2, THINGS).await, rig.value(1, THINGS).await);
    mover.finish().await.unwrap();
    assert_eq!(rig.directory.find(&TenantId::from(2)).await.unwrap().unwrap().shard, shard(2));
    rig.assert_clean().await;
}

/// A change is left out, since its chunk is still to be copied; it is in the log and not yet seen, and all before it is
/// written down as dealt with. Another mover makes the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_left_out_is_in_the_copy_that_another_mover_makes() {
    let rig = Rig::start(TABLES, |builder| builder.with_setting("synchronous_commit", "local")).await;
    rig.directory.register(&TenantId::from(2), shard(1)).await.unwrap();
    rig.servers[0].execute("shop", FILL_THINGS).await.unwrap();
    let mut options = patient();
    options.chunk_bytes = 1 << 16;
    let barrier = Barrier::at(|event| matches!(event, MoveEvent::Copied(_)));
    let mut mover = rig.mover("left", &[2]).await.with_options(options.clone());
    mover = mover.with_observer(Arc::clone(&barrier) as Arc<dyn MoveObserver>);
    let moving = tokio::spawn(async move { mover.copy(&CancellationToken::new()).await });
    barrier.reached().await;
    let looking = looking("left");
    let written = unseen_commit(&rig, "UPDATE thing SET revision = -1 WHERE id = 399").await;
    rig.app(1).await.batch_execute("UPDATE thing SET revision = -2 WHERE id = 1").await.unwrap();
    barrier.again();
    tokio::select! {
        () = rig.wait(1, &looking, "t") => {}
        () = barrier.reached() => {}
    }
    moving.abort();
    barrier.go_on();
    moving.await.unwrap_err();
    let mut mover = rig.mover("left", &[2]).await.with_options(options);
    let moving = tokio::spawn(async move {
        mover.copy(&CancellationToken::new()).await.unwrap();
        mover
    });
    tokio::select! {
        () = rig.wait(1, &looking, "t") => {}
        () = async { while !moving.is_finished() { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    assert_eq!(rig.value(1, UNSEEN).await, "1");
    see(&rig).await;
    written.await.unwrap().unwrap();
    let mut mover = moving.await.unwrap();
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    assert_eq!(rig.value(2, "SELECT revision FROM thing WHERE id = 399").await, "-1", "lost");
    assert_eq!(rig.value(2, THINGS).await, rig.value(1, THINGS).await);
    mover.finish().await.unwrap();
    rig.assert_clean().await;
}
