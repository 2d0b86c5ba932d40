//! What must be so at one instant, made so by barriers and not by chance; and movers broken on purpose, in which it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use wakala_core::ErrorKind;
use wakala_db::{MoveEvent, MoveObserver, MoveOptions, TenantId};

use crate::barrier::{Barrier, FILL_THINGS, INSERT, LATE, THINGS, copied, patient};
use crate::rig::{Rig, shard};
use crate::site::TABLES;

fn impatient() -> MoveOptions {
    let mut options = MoveOptions::default();
    options.fence_patience = Duration::from_millis(100);
    options.fence_attempts = 2;
    options.lag_budget = Duration::from_secs(5);
    options
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

/// What a superuser changes about a function of the mover.
async fn mutate(rig: &Rig, function: &str, from: &str, to: &str) {
    for server in &rig.servers {
        let sql = format!(
            "DO $do$ DECLARE made text := pg_get_functiondef('wakala_shard.{function}'::regproc); BEGIN
                 ASSERT position('{from}' IN made) > 0, 'the function is another one by now';
                 EXECUTE replace(made, '{from}', '{to}');
             END $do$"
        );
        server.execute("shop", &sql).await.unwrap();
    }
}

/// A transaction that writes before the fence and is committed after it was asked for.
async fn open_across_the_fence(rig: &Rig, prepared: bool) -> Result<(), String> {
    let mut mover = copied(rig, "open").await.with_options(impatient());
    let tenant = TenantId::from(2);
    let app = rig.app(1).await;
    app.batch_execute("BEGIN").await.unwrap();
    app.batch_execute(INSERT).await.unwrap();
    if prepared {
        app.batch_execute("PREPARE TRANSACTION 'late'").await.unwrap();
    }
    let early = mover.hand_over(&tenant).await;
    app.batch_execute(if prepared { "COMMIT PREPARED 'late'" } else { "COMMIT" }).await.unwrap();
    if let Err(error) = &early {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("did not end within"), "{error}");
        // The source served it all the time.
        app.batch_execute("UPDATE account SET balance = balance WHERE tenant_id = 2").await.unwrap();
        mover.hand_over(&tenant).await.unwrap();
    }
    mover.finish().await.unwrap();
    let (late, left) = (rig.value(2, LATE).await, rig.value(1, LATE).await);
    if early.is_ok() || late != "1" || left != "0" {
        return Err(format!("{early:?}, {late} rows there, {left} here"));
    }
    Ok(())
}

/// A transaction that sees what was before the fence, and writes after it.
async fn old_snapshot(rig: &Rig, level: &str, before_all: bool) -> Result<(), String> {
    let app = rig.app(1).await;
    let begin = async || {
        let sql = format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM account WHERE tenant_id = 2");
        app.batch_execute(&sql).await.unwrap();
    };
    if before_all {
        begin().await;
    }
    let mut mover = copied(rig, "old").await;
    if !before_all {
        begin().await;
    }
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    let written = match app.batch_execute(INSERT).await {
        Ok(()) => app.batch_execute("COMMIT").await,
        Err(error) => Err(error),
    };
    mover.take_back(&TenantId::from(2)).await.unwrap();
    mover.abort().await.unwrap();
    match written {
        Ok(()) => Err("it was written after the fence".to_owned()),
        Err(error) if ["40001", "WK001"].contains(&code(&error).as_str()) => {
            app.batch_execute("ROLLBACK").await.unwrap();
            Ok(())
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A writer that does not know that its tenant is elsewhere.
async fn stale_writer(rig: &Rig, before: &str) -> Result<(), String> {
    let mut mover = copied(rig, "stale").await;
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    rig.servers[0].execute("shop", before).await.unwrap();
    let written = rig.app(1).await.batch_execute(INSERT).await;
    mover.take_back(&TenantId::from(2)).await.unwrap();
    mover.abort().await.unwrap();
    match written {
        Ok(()) => Err("it was written where nobody looks".to_owned()),
        Err(error) => {
            assert_eq!(code(&error), "WK001", "{error:?}");
            Ok(())
        }
    }
}

#[tokio::test]
async fn the_fence_lets_open_transactions_pass() {
    let rig = Rig::new(3, 20).await;
    open_across_the_fence(&rig, false).await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn the_fence_lets_prepared_transactions_pass() {
    let rig = Rig::new(3, 20).await;
    open_across_the_fence(&rig, true).await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn a_snapshot_from_before_the_fence_writes_nothing_after_it() {
    let rig = Rig::new(3, 20).await;
    // First the one that is older than everything that a move makes.
    for (level, before_all) in [
        ("REPEATABLE READ", true),
        ("REPEATABLE READ", false),
        ("SERIALIZABLE", true),
        ("SERIALIZABLE", false),
    ] {
        old_snapshot(&rig, level, before_all).await.unwrap();
        rig.assert_clean().await;
    }
    stale_writer(&rig, "SELECT 1").await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn a_fence_without_the_lock_is_caught() {
    let rig = Rig::new(3, 20).await;
    copied(&rig, "first").await.abort().await.unwrap();
    mutate(&rig, "give_up", "PERFORM pg_advisory_xact_lock(wakala_shard.tenant_lock(tenant));", "").await;
    let caught = open_across_the_fence(&rig, false).await.unwrap_err();
    assert!(caught.contains("0 rows there"), "{caught}");
}

#[tokio::test]
async fn guards_that_look_into_the_past_or_are_gone_are_caught() {
    let rig = Rig::new(3, 20).await;
    stale_writer(&rig, "DROP TRIGGER \"00_wakala_guard_insert\" ON entry").await.unwrap_err();
    mutate(&rig, "check_owner", "tenant_id = tenant FOR SHARE", "tenant_id = tenant").await;
    let caught = old_snapshot(&rig, "REPEATABLE READ", false).await.unwrap_err();
    assert!(caught.contains("after the fence"), "{caught}");
}

#[tokio::test]
async fn rows_stay_with_their_tenant_and_tables_with_their_rows() {
    let rig = Rig::new(3, 20).await;
    let mover = copied(&rig, "stays").await;
    let app = rig.app(1).await;
    for sql in [
        "UPDATE account SET tenant_id = 3, id = id + 1000 WHERE tenant_id = 2 AND id = (SELECT max(id) FROM account WHERE tenant_id = 2)",
        "UPDATE entry SET tenant_id = 2, account = (SELECT min(id) FROM account WHERE tenant_id = 2) WHERE tenant_id = 1",
        "TRUNCATE entry",
    ] {
        let refused = app.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&refused), "WK005", "{sql}: {refused:?}");
    }
    // Of others, all is as ever.
    app.batch_execute(
        "UPDATE entry SET tenant_id = 3, account = (SELECT min(id) FROM account WHERE tenant_id = 3)
         WHERE tenant_id = 1 AND amount = 3",
    )
    .await
    .unwrap();
    mover.abort().await.unwrap();
    app.batch_execute(
        "UPDATE entry SET tenant_id = 2, account = (SELECT min(id) FROM account WHERE tenant_id = 2)
         WHERE tenant_id = 1",
    )
    .await
    .unwrap();
    rig.assert_clean().await;
}

async fn new_accounts(app: &Client, number: u32) {
    for _ in 0..number {
        app.batch_execute("INSERT INTO account (tenant_id, owner) VALUES (2, 'late')").await.unwrap();
    }
}

#[tokio::test]
async fn numbers_of_sequences_are_given_out_once() {
    let rig = Rig::new(3, 20).await;
    let (here, there) = (rig.app(1).await, rig.app(2).await);
    let mut mover = copied(&rig, "numbers").await;
    let tenant = TenantId::from(2);
    new_accounts(&here, 5).await;
    mover.hand_over(&tenant).await.unwrap();
    new_accounts(&there, 7).await;
    mover.take_back(&tenant).await.unwrap();
    new_accounts(&here, 5).await;
    mover.hand_over(&tenant).await.unwrap();
    new_accounts(&there, 5).await;
    assert_eq!(rig.value(2, "SELECT count(DISTINCT id) FROM account WHERE tenant_id = 2").await, "42");
    mover.finish().await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn the_later_of_two_movers_drives() {
    let rig = Rig::new(3, 20).await;
    let tenant = TenantId::from(2);
    let mut first = copied(&rig, "both").await;
    let mut second = rig.mover("both", &[2]).await.with_options(patient());
    second.prepare().await.unwrap();
    let refused = first.hand_over(&tenant).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Conflict | ErrorKind::Unavailable), "{refused}");
    assert_eq!(rig.directory.find(&tenant).await.unwrap().unwrap().shard, shard(1));
    // And one that has another name is refused.
    let mut stranger = rig.mover("another", &[3, 2]).await;
    let refused = stranger.prepare().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert!(refused.to_string().contains("both"), "{refused}");
    second.hand_over(&tenant).await.unwrap();
    second.finish().await.unwrap();
    // Whoever comes late makes nothing again.
    first.prepare().await.ok();
    first.hand_over(&tenant).await.unwrap_err();
    rig.assert_clean().await;
}

#[tokio::test]
async fn a_slot_that_was_made_anew_is_not_gone_on_with() {
    let rig = Rig::new(3, 20).await;
    drop(copied(&rig, "anew").await);
    let slot = "wakala_anew";
    let gone = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active");
    while rig.value(1, &gone).await != "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let app = rig.app(1).await;
    rig.servers[0].execute("shop", &format!("SELECT pg_drop_replication_slot('{slot}')")).await.unwrap();
    app.batch_execute(INSERT).await.unwrap();
    let sql = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    rig.servers[0].execute("shop", &sql).await.unwrap();
    let mut mover = rig.mover("anew", &[2]).await.with_options(patient());
    match mover.hand_over(&TenantId::from(2)).await {
        Ok(_) => assert_eq!(rig.value(2, LATE).await, "1", "it went on, and lost a row"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_ends_leaves_no_directory_behind_the_shards() {
    let rig = Rig::new(3, 20).await;
    let barrier = Barrier::at(|event| matches!(event, MoveEvent::Opened { .. }));
    let mut mover = copied(&rig, "behind").await.with_observer(Arc::clone(&barrier) as Arc<dyn MoveObserver>);
    let moving = tokio::spawn(async move { mover.hand_over(&TenantId::from(2)).await });
    barrier.reached().await;
    // Between the opening and the directory.
    moving.abort();
    barrier.go_on();
    moving.await.unwrap_err();
    assert_eq!(rig.directory.find(&TenantId::from(2)).await.unwrap().unwrap().shard, shard(1));
    rig.mover("behind", &[2]).await.finish().await.unwrap();
    let found = rig.directory.find(&TenantId::from(2)).await.unwrap().unwrap();
    assert_eq!((found.shard, found.epoch.get()), (shard(2), 2));
    rig.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_that_change_while_they_are_copied_keep_their_long_values() {
    let rig = Rig::with(TABLES).await;
    rig.directory.register(&TenantId::from(2), shard(1)).await.unwrap();
    rig.servers[0].execute("shop", FILL_THINGS).await.unwrap();
    let barrier = Barrier::at(|event| matches!(event, MoveEvent::Copied(_)));
    let mut options = patient();
    options.chunk_bytes = 1 << 16;
    let mut mover = rig
        .mover("keys", &[2])
        .await
        .with_options(options)
        .with_observer(Arc::clone(&barrier) as Arc<dyn MoveObserver>);
    let moving = tokio::spawn(async move {
        mover.copy(&CancellationToken::new()).await.unwrap();
        mover
    });
    barrier.reached().await;
    // Some are copied: from there to where nothing is yet, and back.
    let app = rig.app(1).await;
    app.batch_execute("UPDATE thing SET id = id + 10000, revision = -1 WHERE id <= 60").await.unwrap();
    app.batch_execute("UPDATE thing SET id = id - 10000, revision = -2 WHERE id BETWEEN 341 AND 400")
        .await
        .unwrap();
    barrier.go_on();
    let mut mover = moving.await.unwrap();
    let (copied, total) = barrier.progress();
    assert!(copied < total, "{copied} of {total} chunks were copied when the keys changed");
    // And at the fence, where all is copied.
    app.batch_execute("UPDATE thing SET id = id + 20000, revision = -3 WHERE id BETWEEN 100 AND 200")
        .await
        .unwrap();
    mover.hand_over(&TenantId::from(2)).await.unwrap();
    let found = mover.verify().await.unwrap();
    assert!(found.is_equal() && found.rows() == 400, "{found:?}");
    assert_eq!(rig.value(2, THINGS).await, rig.value(1, THINGS).await);
    mover.finish().await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn a_fence_of_which_nobody_was_told_is_gone_on_with() {
    let rig = Rig::new(3, 20).await;
    drop(copied(&rig, "untold").await);
    let link = rig.servers[0].link().unwrap();
    let tenant = TenantId::from(2);
    let mut mover = rig.mover_through(&link, "untold", &[2]).await.with_options(patient());
    mover.prepare().await.unwrap();
    // Only the fence says which sequences there are.
    link.lose_reply_to("account_id_seq");
    let told = mover.hand_over(&tenant).await;
    assert_eq!(link.replies_lost(), 1);
    told.unwrap_err();
    drop(mover);
    let refused = rig.app(1).await.batch_execute(INSERT).await.unwrap_err();
    assert_eq!(code(&refused), "WK001");
    let mut mover = rig.mover("untold", &[2]).await;
    let there = mover.hand_over(&tenant).await.unwrap();
    assert_eq!((there.shard, there.epoch.get()), (shard(2), 2));
    rig.app(2).await.batch_execute(INSERT).await.unwrap();
    mover.finish().await.unwrap();
    assert_eq!(rig.value(2, LATE).await, "1");
    rig.assert_clean().await;
}
