//! Moves that cannot be done: a clear error, and nothing is made.

use wakala_core::{Error, ErrorKind};
use wakala_db::{MoveId, MoveSpec, Mover, ShardAccess, TenantId};

use crate::rig::{Rig, TABLES, shard};

async fn refused(rig: &Rig, tenants: &[i64]) -> Error {
    match rig.try_mover("refused", tenants).await {
        Ok(mut mover) => mover.prepare().await.expect_err("it is not refused"),
        Err(error) => error,
    }
}

fn assert_says(error: &Error, kind: ErrorKind, words: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in: {error}");
    }
}

/// Neither schema nor slot, publication, trigger.
async fn assert_nothing(rig: &Rig) {
    for number in [1, 2] {
        let made =
            "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)
            + (SELECT count(*) FROM pg_namespace WHERE nspname = 'wakala_shard')
            + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE '00_wakala%')";
        assert_eq!(rig.value(number, made).await, "0", "shard {number}");
    }
}

#[tokio::test]
async fn tenants_that_are_not_there_are_refused() {
    let rig = Rig::new(2, 5).await;
    rig.directory.register(&TenantId::from(9), shard(2)).await.unwrap();
    assert_says(&refused(&rig, &[2, 77]).await, ErrorKind::NotFound, &["tenant 77", "directory"]);
    assert_nothing(&rig).await;
    assert_says(&refused(&rig, &[1, 9]).await, ErrorKind::Conflict, &["tenant 9", "shard 2"]);
    assert_nothing(&rig).await;
    // What is no number is no tenant of these tables.
    let id: MoveId = "refused".parse().unwrap();
    let odd: TenantId = "1) OR (true".parse().unwrap();
    let spec = MoveSpec::new(id, shard(1), shard(2), vec![odd]).unwrap();
    let odd = Mover::open(spec, rig.access(1), rig.access(2), rig.directory.clone()).await.unwrap_err();
    assert_says(&odd, ErrorKind::InvalidConfig, &["1) OR (true"]);
    for name in ["a; DROP TABLE account", "A", "a\"b", "a'b", ""] {
        assert_says(&name.parse::<MoveId>().unwrap_err(), ErrorKind::InvalidConfig, &["1 to 40"]);
    }
    let spec =
        MoveSpec::new("refused".parse().unwrap(), shard(1), shard(2), vec![TenantId::from(1)]).unwrap();
    let spec = spec.with_tenant_column("tenant_id\" = 1; DROP TABLE entry; --");
    match Mover::open(spec, rig.access(1), rig.access(2), rig.directory.clone()).await {
        Ok(mut mover) => drop(mover.prepare().await.unwrap_err()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}"),
    }
    // Rows that are there already are somebody's.
    rig.servers[1]
        .execute("shop", "INSERT INTO account (tenant_id, id, owner) VALUES (1, 1, 'x')")
        .await
        .unwrap();
    let stranger = refused(&rig, &[1]).await;
    assert_says(&stranger, ErrorKind::Conflict, &["tenant 1", "account"]);
    assert_eq!(rig.value(1, "SELECT count(*) FROM entry").await, "30");
    rig.mover("refused", &[1]).await.abort().await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn tables_that_do_not_fit_are_refused() {
    let rig = Rig::new(1, 5).await;
    for (on, sql, back, words) in [
        (
            1,
            "ALTER TABLE account ADD COLUMN more integer",
            "ALTER TABLE account DROP COLUMN more",
            &["account", "more"][..],
        ),
        (
            0,
            "ALTER TABLE entry REPLICA IDENTITY NOTHING",
            "ALTER TABLE entry REPLICA IDENTITY DEFAULT",
            &["entry", "replica identity"],
        ),
        (
            0,
            "CREATE TABLE plain (tenant_id bigint NOT NULL, n int)",
            "DROP TABLE plain",
            &["plain", "primary key"],
        ),
        (
            1,
            "ALTER TABLE account RENAME COLUMN owner TO other",
            "ALTER TABLE account RENAME COLUMN other TO owner",
            &["owner"],
        ),
    ] {
        rig.servers[on].execute("shop", sql).await.unwrap();
        assert_says(&refused(&rig, &[1]).await, ErrorKind::InvalidConfig, words);
        assert_nothing(&rig).await;
        rig.servers[on].execute("shop", back).await.unwrap();
    }
    // Whoever has not the privileges.
    let access = |number: usize| ShardAccess::without_tls(rig.servers[number].config("shop", "app").unwrap());
    let spec =
        MoveSpec::new("refused".parse().unwrap(), shard(1), shard(2), vec![TenantId::from(1)]).unwrap();
    match Mover::open(spec, access(0), access(1), rig.directory.clone()).await {
        Ok(mut mover) => {
            let error = mover.prepare().await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::InvalidConfig), "{error}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Denied, "{error}"),
    }
    assert_nothing(&rig).await;
    // And with all in order it is not refused.
    let mut mover = rig.mover("refused", &[1]).await;
    mover.prepare().await.unwrap();
    mover.abort().await.unwrap();
    rig.assert_clean().await;
}

#[tokio::test]
async fn servers_that_cannot_keep_changes_are_refused() {
    for (setting, value, word) in
        [("max_replication_slots", "1", "max_replication_slots"), ("max_wal_senders", "1", "max_wal_senders")]
    {
        let rig = Rig::start(TABLES, |builder| builder.with_setting(setting, value)).await;
        rig.directory.register(&TenantId::from(1), shard(1)).await.unwrap();
        // Somebody else has the one that there is.
        rig.servers[0].execute("shop", "SELECT pg_create_physical_replication_slot('others')").await.unwrap();
        let error = refused(&rig, &[1]).await;
        if setting == "max_replication_slots" {
            assert_says(&error, ErrorKind::InvalidConfig, &[word]);
        } else {
            assert!(error.to_string().contains(word), "{error}");
        }
        rig.servers[0].execute("shop", "SELECT pg_drop_replication_slot('others')").await.unwrap();
        assert_nothing(&rig).await;
    }
}
