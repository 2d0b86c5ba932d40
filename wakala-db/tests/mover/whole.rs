//! A whole move, from the preparation to the end.

use tokio_util::sync::CancellationToken;
use wakala_db::TenantId;

use crate::rig::{Rig, shard};

#[tokio::test]
async fn a_tenant_goes_there_and_back_and_there_again() {
    let rig = Rig::new(3, 200).await;
    let mut mover = rig.mover("first", &[2]).await;
    mover.prepare().await.unwrap();
    mover.copy(&CancellationToken::new()).await.unwrap();
    let found = mover.verify().await.unwrap();
    assert!(found.is_equal(), "{found:?}");
    assert_eq!(found.rows(), 800);

    let tenant = TenantId::from(2);
    let app = rig.app(1).await;
    app.batch_execute("UPDATE account SET balance = 7 WHERE tenant_id = 2").await.unwrap();
    let there = mover.hand_over(&tenant).await.unwrap();
    assert_eq!((there.shard, there.epoch.get()), (shard(2), 2));
    assert_eq!(rig.directory.find(&tenant).await.unwrap().unwrap().shard, shard(2));
    let refused = app.batch_execute("UPDATE account SET balance = 8 WHERE tenant_id = 2").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "WK001");
    assert_eq!(refused.as_db_error().unwrap().detail(), Some("shard=2 epoch=2"));
    app.batch_execute("UPDATE account SET balance = 8 WHERE tenant_id = 1").await.unwrap();

    let there_app = rig.app(2).await;
    assert_eq!(rig.value(2, "SELECT sum(balance) FROM account WHERE tenant_id = 2").await, "1400");
    there_app.batch_execute("INSERT INTO account (tenant_id, owner) VALUES (2, 'new')").await.unwrap();
    there_app.batch_execute("UPDATE account SET balance = 9 WHERE tenant_id = 2").await.unwrap();
    let found = mover.verify().await.unwrap();
    assert!(found.is_equal(), "{found:?}");
    assert_eq!(found.rows(), 801);

    let back = mover.take_back(&tenant).await.unwrap();
    assert_eq!((back.shard, back.epoch.get()), (shard(1), 3));
    assert_eq!(rig.value(1, "SELECT sum(balance) FROM account WHERE tenant_id = 2").await, "1809");
    app.batch_execute("UPDATE account SET balance = 10 WHERE tenant_id = 2").await.unwrap();

    // Another process goes on.
    drop(mover);
    let mut mover = rig.mover("first", &[2]).await;
    mover.hand_over(&tenant).await.unwrap();
    let found = mover.verify().await.unwrap();
    assert!(found.is_equal(), "{found:?}");
    let finished = mover.finish().await.unwrap();
    assert_eq!(finished.rows_deleted, 801);
    assert_eq!(rig.value(1, "SELECT count(*) FROM account WHERE tenant_id = 2").await, "0");
    assert_eq!(rig.value(2, "SELECT sum(balance) FROM account WHERE tenant_id = 2").await, "2010");
    assert_eq!(rig.value(1, "SELECT count(*) FROM account").await, "400");
    rig.assert_clean().await;
}

#[tokio::test]
async fn a_move_that_is_aborted_leaves_nothing() {
    let rig = Rig::new(2, 50).await;
    let mut mover = rig.mover("second", &[1, 2]).await;
    mover.copy(&CancellationToken::new()).await.unwrap();
    assert_eq!(rig.value(2, "SELECT count(*) FROM entry").await, "300");
    let finished = mover.abort().await.unwrap();
    assert_eq!(finished.rows_deleted, 400);
    assert_eq!(rig.value(2, "SELECT count(*) FROM entry").await, "0");
    rig.assert_clean().await;
    rig.app(1).await.batch_execute("UPDATE account SET balance = 10").await.unwrap();
    let refused =
        rig.app(2).await.batch_execute("INSERT INTO account (tenant_id, owner) VALUES (1, 'x')").await;
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "WK001");
}

#[tokio::test]
async fn rows_of_somebody_else_outlive_a_move_that_was_refused_for_them() {
    let rig = Rig::new(1, 10).await;
    let foreign = "INSERT INTO account (tenant_id, owner) VALUES (1, 'not copied')";
    rig.servers[1].execute("shop", foreign).await.unwrap();
    let refused = rig.mover("third", &[1]).await.prepare().await.unwrap_err();
    assert!(refused.to_string().contains("account"), "{refused}");
    let finished = rig.mover("third", &[1]).await.abort().await.unwrap();
    assert_eq!(finished.rows_deleted, 0);
    assert_eq!(rig.value(2, "SELECT count(*) FROM account").await, "1");
    assert_eq!(rig.value(2, "SELECT to_regnamespace('wakala_shard') IS NULL").await, "t");
}
