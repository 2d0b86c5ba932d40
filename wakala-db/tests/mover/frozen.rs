//! Servers without a stream of changes: the tenant stands still.

use wakala_db::{MoveMethod, MoveOptions, Mover, TenantId};

use crate::rig::{Rig, shard};

async fn frozen(rig: &Rig, name: &str, tenants: &[i64]) -> Mover {
    let mut options = MoveOptions::default();
    options.method = MoveMethod::Frozen;
    rig.mover(name, tenants).await.with_options(options)
}

#[tokio::test]
async fn a_tenant_is_copied_while_it_stands_still() {
    let rig = Rig::with_log("replica", 2, 100).await;
    let refused = rig.mover("online", &[1]).await.prepare().await.unwrap_err();
    assert!(refused.to_string().contains("wal_level: it is replica"), "{refused}");
    let preview = frozen(&rig, "still", &[1]).await.preview().await.unwrap();
    assert_eq!((preview.refusals.as_slice(), preview.rows()), ([].as_slice(), 400));
    assert_eq!(rig.value(1, "SELECT to_regnamespace('wakala_shard') IS NULL").await, "t", "nothing is made");

    let tenant = TenantId::from(1);
    let mut mover = frozen(&rig, "still", &[1]).await;
    let there = mover.hand_over(&tenant).await.unwrap();
    assert_eq!((there.shard, there.epoch.get()), (shard(2), 2));
    assert!(there.pause.is_some());
    let refused = rig.app(1).await.batch_execute("DELETE FROM entry WHERE tenant_id = 1").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "WK001");
    let app = rig.app(2).await;
    app.batch_execute("INSERT INTO account (tenant_id, owner) VALUES (1, 'new')").await.unwrap();
    assert_eq!(rig.value(2, "SELECT count(*) FROM account WHERE tenant_id = 1").await, "101");
    let back = mover.take_back(&tenant).await.unwrap_err();
    assert!(back.to_string().contains("leaves no way back"), "{back}");
    mover.finish().await.unwrap();
    assert_eq!(rig.value(1, "SELECT count(*) FROM entry").await, "300");
    rig.assert_clean().await;
}

#[tokio::test]
async fn a_copy_that_was_interrupted_is_given_back() {
    let rig = Rig::with_log("replica", 1, 50).await;
    // What makes the copy fail after the fence.
    rig.servers[1].execute("shop", "ALTER TABLE entry ADD CHECK (amount < 3)").await.unwrap();
    let tenant = TenantId::from(1);
    let mut mover = frozen(&rig, "still", &[1]).await;
    mover.hand_over(&tenant).await.unwrap_err();
    let write = "UPDATE account SET balance = 1 WHERE tenant_id = 1";
    assert!(rig.app(1).await.batch_execute(write).await.is_err(), "it is fenced");

    let mut mover = frozen(&rig, "still", &[1]).await;
    let back = mover.take_back(&tenant).await.unwrap();
    assert_eq!((back.shard, back.epoch.get()), (shard(1), 3));
    assert_eq!(mover.take_back(&tenant).await.unwrap(), back);
    rig.app(1).await.batch_execute(write).await.unwrap();
    assert_eq!(rig.directory.find(&tenant).await.unwrap().unwrap().epoch.get(), 3);
    mover.abort().await.unwrap();
    assert_eq!(rig.value(2, "SELECT count(*) FROM account").await, "0");
    rig.assert_clean().await;
}
