//! How far copies are behind.

use wakala_testbed::{RedisServer, wait_until};

use crate::rig::{LIMIT, ask, covered, metrics, of, until, value};

async fn pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::builder().start().await.unwrap();
    let replica = RedisServer::builder()
        .with_setting("replicaof", format!("127.0.0.1 {}", master.port()))
        .start()
        .await
        .unwrap();
    wait_until("a replica with a copy", LIMIT, || async {
        match replica.info("replication").await?["master_link_status"].as_str() {
            "up" => Ok(()),
            other => Err(other.into()),
        }
    })
    .await
    .unwrap();
    (master, replica)
}

#[tokio::test]
async fn a_replica_that_stands_still_falls_behind() {
    let (master, replica) = pair().await;
    let source = metrics(&master);
    assert_eq!(covered(&source, "redis.replicas").await, (1.0, 1, 1));
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 1, 1))).await;
    replica.freeze().await.unwrap();
    master.command(&["SET", "a", &"x".repeat(5000)]).await.unwrap();
    let lag = value(&source, "redis.replication_lag_bytes").await.unwrap();
    assert!(lag > 5000.0, "{lag}");
    until(&source, "redis.replication_lag_seconds", |seen| seen.is_some_and(|(seconds, ..)| seconds >= 2.0))
        .await;
    replica.thaw().await.unwrap();
    until(&source, "redis.replication_lag_bytes", |seen| seen.is_some_and(|(bytes, ..)| bytes < 5000.0))
        .await;
    until(&source, "redis.replication_lag_seconds", |seen| seen.is_some_and(|(seconds, ..)| seconds <= 1.0))
        .await;

    replica.kill().await.unwrap();
    until(&source, "redis.replicas", |seen| seen == Some((0.0, 1, 1))).await;
    assert_eq!(value(&source, "redis.replication_lag_bytes").await, None, "there is nothing to be behind");
}

#[tokio::test]
async fn a_replica_that_is_asked_knows_how_long_it_has_heard_nothing() {
    let (master, replica) = pair().await;
    let source = metrics(&replica);
    until(&source, "redis.replication_lag_seconds", |seen| seen.is_some_and(|(seconds, ..)| seconds <= 2.0))
        .await;
    assert_eq!(covered(&source, of("redis.nodes", "role", "replica")).await, (1.0, 1, 1));
    assert_eq!(value(&source, "redis.replication_lag_bytes").await, None, "it cannot know that");
    assert!(
        ask(&source, "redis.keys").await.unwrap().is_some(),
        "the only server counts whatever its role is"
    );
    master.kill().await.unwrap();
    until(&source, "redis.replication_lag_seconds", |seen| seen.is_some_and(|(seconds, ..)| seconds >= 3.0))
        .await;
}
