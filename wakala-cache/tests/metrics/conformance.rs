//! The contract of every source, and the same of a Valkey.

use wakala_cache::{RedisAccess, RedisMetrics, RedisQueue};
use wakala_core::testing::conformance::SourceCase;
use wakala_testbed::{RedisCluster, RedisFlavour, RedisServer};

use crate::rig::{at, covered, metrics, of, quick, until, value};

async fn server() -> SourceCase {
    let server = RedisServer::builder().start().await.unwrap();
    let gone = RedisServer::builder().start().await.unwrap();
    gone.kill().await.unwrap();
    SourceCase::new(metrics(&server), "redis.keys")
        .with_absent("redis.memory_limit_bytes")
        .with_unknown("redis.kyes")
        .with_unreachable(metrics(&gone))
        .keeping(server)
}

mod of_a_server {
    wakala_core::source_conformance!(super::server);
}

#[tokio::test]
async fn a_valkey_is_seen_like_a_redis() {
    if RedisFlavour::Valkey.is_left_out("a_valkey_is_seen_like_a_redis") {
        return;
    }
    let cluster =
        RedisCluster::builder(2).with_replicas(1).with_flavour(RedisFlavour::Valkey).start().await.unwrap();
    let source = quick(RedisMetrics::cluster("orders", [at(cluster.node(3).port())], RedisAccess::new()))
        .with_queue(RedisQueue::list("{a}jobs"))
        .with_queue(RedisQueue::group("{b}events", "billing"));
    cluster.node(1).command(&["RPUSH", "{a}jobs", "1"]).await.unwrap();
    cluster.node(0).command(&["XGROUP", "CREATE", "{b}events", "billing", "0", "MKSTREAM"]).await.unwrap();
    cluster.node(0).command(&["XADD", "{b}events", "*", "a", "b"]).await.unwrap();
    assert_eq!(covered(&source, "redis.queue_depth").await, (2.0, 2, 2));
    assert_eq!(value(&source, of("redis.queue_pending", "queue", "{b}events/billing")).await, Some(0.0));
    assert_eq!(covered(&source, of("redis.nodes", "role", "any")).await, (4.0, 4, 4));
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 2, 2))).await;
    assert!(covered(&source, "redis.commands_per_second").await.0 > 0.0);
    assert!(value(&source, "redis.clients_used_ratio").await.unwrap() > 0.0);
    assert!(value(&source, "redis.main_thread_used_ratio").await.is_some());
}
