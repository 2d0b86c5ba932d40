//! The master behind Sentinels is the right one.

use std::time::Duration;

use wakala_cache::{RedisAccess, RedisMetrics, RedisQueue};
use wakala_core::{ErrorKind, Retry};
use wakala_testbed::RedisSentinels;

use crate::rig::{SAFE, ask, at, covered, is, of, quick, until, value};

fn source(site: &RedisSentinels, master: &str) -> RedisMetrics {
    let sentinels = site.sentinels().iter().map(|sentinel| at(sentinel.port()));
    quick(RedisMetrics::sentinel("orders", master, sentinels, RedisAccess::new().with_password("word")))
        .with_sentinel_access(RedisAccess::new().with_password("watch"))
        .with_queue(RedisQueue::list("jobs"))
}

async fn site() -> RedisSentinels {
    RedisSentinels::builder("orders")
        .with_replicas(2)
        .with_sentinel_password("watch")
        .with_nodes(|node| node.with_password("word"))
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn the_master_is_found_and_followed() {
    let site = site().await;
    let source = source(&site, "orders");
    let old = site.master_port().await.unwrap();
    site.server_at(old).unwrap().command(&["RPUSH", "jobs", "1", "2"]).await.unwrap();
    assert_eq!(covered(&source, "redis.nodes").await, (1.0, 1, 1));
    assert_eq!(covered(&source, of("redis.nodes", "node", at(old))).await, (1.0, 1, 1));
    assert_eq!(covered(&source, of("redis.nodes", "role", "replica")).await, (2.0, 2, 2));
    assert_eq!(covered(&source, "redis.queue_depth").await, (2.0, 1, 1));
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 2, 2))).await;

    site.server_at(old).unwrap().kill().await.unwrap();
    let error = ask(&source, "redis.keys").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, SAFE, &["nothing that was asked answers", &old.to_string()]);
    let new = site.wait_failover(old).await.unwrap();
    until(&source, of("redis.nodes", "node", at(new)), |seen| seen == Some((1.0, 1, 1))).await;
    assert_eq!(value(&source, "redis.queue_depth").await, Some(2.0), "it was copied");
    site.server_at(new).unwrap().command(&["RPUSH", "jobs", "3"]).await.unwrap();
    assert_eq!(value(&source, "redis.queue_depth").await, Some(3.0));
    // One replica is missing, as long as the Sentinels know it; then it is a replica of the new master.
    until(&source, of("redis.nodes", "role", "replica"), |seen| seen == Some((1.0, 1, 2))).await;
    site.server_at(old).unwrap().start().await.unwrap();
    until(&source, of("redis.nodes", "role", "replica"), |seen| seen == Some((2.0, 2, 2))).await;
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 2, 2))).await;
}

#[tokio::test]
async fn a_sentinel_that_is_frozen_or_gone_holds_nothing_up() {
    let site = site().await;
    let source = source(&site, "orders").with_limit(Duration::from_secs(600));
    let source = source.with_sentinel_access(
        RedisAccess::new().with_password("watch").with_connect_limit(Duration::from_secs(600)),
    );
    site.sentinels()[0].freeze().await.unwrap();
    assert_eq!(covered(&source, "redis.nodes").await, (1.0, 1, 1));
    site.sentinels()[0].kill().await.unwrap();
    assert_eq!(covered(&source, "redis.nodes").await, (1.0, 1, 1));
    // Fewer than most are heard too, once the others have failed.
    site.sentinels()[1].kill().await.unwrap();
    assert_eq!(covered(&source, "redis.nodes").await, (1.0, 1, 1));
    site.sentinels()[2].kill().await.unwrap();
    let error = ask(&source, "redis.nodes").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, SAFE, &["no Sentinel answers", "redis orders"]);
}

#[tokio::test]
async fn what_the_sentinels_refuse_is_told() {
    let site = site().await;
    let error = ask(&source(&site, "invoices"), "redis.nodes").await.unwrap_err();
    is(
        &error,
        ErrorKind::NotFound,
        Retry::Never,
        &["SENTINEL MASTER", "correct the name", "sentinel 127.0.0.1"],
    );
    let wrong = source(&site, "orders").with_sentinel_access(RedisAccess::new());
    let error = ask(&wrong, "redis.nodes").await.unwrap_err();
    is(&error, ErrorKind::Denied, Retry::Never, &["NOAUTH", "no Sentinel answers"]);

    // Between a failover and the news of it, the one that they name is not yet, or no longer, one.
    let (old, other) = (site.master_port().await.unwrap(), site.servers()[1].port().to_string());
    let source = source(&site, "orders");
    for sentinel in site.sentinels() {
        sentinel.freeze().await.unwrap();
    }
    site.servers()[1].command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    site.server_at(old).unwrap().command(&["REPLICAOF", "127.0.0.1", &other]).await.unwrap();
    site.sentinels()[0].thaw().await.unwrap();
    let error = ask(&source.with_limit(Duration::from_secs(3)), "redis.keys").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, SAFE, &["says that it is a replica"]);
}
