//! A cluster is seen as a whole, however it changes.

use std::time::Duration;

use wakala_cache::{RedisAccess, RedisMetrics, RedisQueue};
use wakala_core::{ErrorKind, Retry};
use wakala_testbed::{RedisCluster, RedisServer, wait_until};

use crate::rig::{LIMIT, ask, at, covered, is, of, quick, until, value};

const DEPTH: &str = "redis.queue_depth";
/// Their slots are 15495, 3300 and 7365: one of each third.
const QUEUES: [&str; 3] = ["{a}jobs", "{b}jobs", "{c}jobs"];

fn source(seed: &RedisServer) -> RedisMetrics {
    let source = quick(RedisMetrics::cluster("orders", [at(seed.port())], RedisAccess::new()));
    QUEUES.iter().fold(source, |source, queue| source.with_queue(RedisQueue::list(*queue)))
}

async fn fill(cluster: &RedisCluster) {
    for (number, queue) in QUEUES.iter().enumerate() {
        let pushed = cluster.nodes();
        let mut done = false;
        for node in pushed {
            // Those that do not own it refuse.
            done |= node.command(&["RPUSH", queue, &"x".repeat(number + 1)]).await.is_ok();
        }
        assert!(done, "{queue}");
    }
}

#[tokio::test]
async fn all_nodes_are_found_from_one_and_queues_where_they_are() {
    let long = Duration::from_secs(60);
    let cluster = RedisCluster::builder(3).with_replicas(1).with_node_timeout(long).start().await.unwrap();
    fill(&cluster).await;
    // A replica, which knows all the others.
    let source = source(&cluster.node(5));
    assert_eq!(covered(&source, "redis.nodes").await, (3.0, 3, 3));
    assert_eq!(covered(&source, of("redis.nodes", "role", "any")).await, (6.0, 6, 6));
    assert_eq!(covered(&source, of("redis.nodes", "role", "replica")).await, (3.0, 3, 3));
    assert_eq!(covered(&source, "redis.replicas").await, (3.0, 3, 3));
    assert_eq!(covered(&source, "redis.keys").await, (3.0, 3, 3));
    assert_eq!(covered(&source, DEPTH).await, (3.0, 3, 3));
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 3, 3))).await;
    until(&source, of("redis.replication_lag_seconds", "role", "replica"), |seen| {
        seen.is_some_and(|(seconds, answered, expected)| seconds <= 2.0 && (answered, expected) == (3, 3))
    })
    .await;
    let first = at(cluster.node(0).port());
    assert_eq!(covered(&source, of("redis.keys", "node", &first)).await, (1.0, 1, 1));
    assert!(covered(&source, "redis.commands_per_second").await.0 > 0.0);
    assert!(value(&source, "redis.ping_p99_seconds").await.unwrap() > 0.0);
    // The fullest node, and not the mean of all.
    cluster.node(1).command(&["CONFIG", "SET", "maxmemory", "3000000"]).await.unwrap();
    let (used, answered, expected) = covered(&source, "redis.memory_used_ratio").await;
    assert!(used > 0.1 && (answered, expected) == (1, 3), "{used}: only one has a limit");
    assert_eq!(source.unanswered().await, None);

    // A copy that is not there is not one that is up to date.
    cluster.node(3).kill().await.unwrap();
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 2, 3))).await;
    until(&source, of("redis.nodes", "role", "replica"), |seen| seen == Some((2.0, 2, 3))).await;
    assert!(source.unanswered().await.unwrap().contains(&at(cluster.node(3).port()).to_string()));
}

#[tokio::test]
async fn a_queue_is_followed_while_its_slot_is_moved_and_after() {
    let cluster = RedisCluster::builder(2).start().await.unwrap();
    let (one, other) = (cluster.node(0), cluster.node(1));
    let (one_id, other_id) =
        (one.text(&["CLUSTER", "MYID"]).await.unwrap(), other.text(&["CLUSTER", "MYID"]).await.unwrap());
    let (queue, slot) = ("{b}jobs", "3300");
    assert_eq!(one.text(&["CLUSTER", "KEYSLOT", queue]).await.unwrap(), slot);
    one.command(&["RPUSH", queue, "1", "2"]).await.unwrap();
    let source = quick(RedisMetrics::cluster("orders", [at(one.port())], RedisAccess::new()))
        .with_queue(RedisQueue::list(queue))
        .with_queue(RedisQueue::list("{b}empty"));
    assert_eq!(covered(&source, DEPTH).await, (2.0, 2, 2));

    other.command(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &one_id]).await.unwrap();
    one.command(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &other_id]).await.unwrap();
    // One is still here, one was never anywhere, and who asks for it is sent on.
    assert_eq!(covered(&source, DEPTH).await, (2.0, 2, 2));
    let port = other.port().to_string();
    one.command(&["MIGRATE", "127.0.0.1", &port, queue, "0", "1000"]).await.unwrap();
    assert!(one.command(&["LLEN", queue]).await.is_err(), "it is gone from here");
    assert_eq!(covered(&source, DEPTH).await, (2.0, 2, 2));

    // Whoever looks has the old map still.
    other.command(&["CLUSTER", "SETSLOT", slot, "NODE", &other_id]).await.unwrap();
    one.command(&["CLUSTER", "SETSLOT", slot, "NODE", &other_id]).await.unwrap();
    assert_eq!(covered(&source, DEPTH).await, (2.0, 2, 2));
    other.command(&["RPUSH", queue, "3"]).await.unwrap();
    assert_eq!(covered(&source, DEPTH).await, (3.0, 2, 2));
}

#[tokio::test]
async fn a_failover_is_followed_and_nodes_that_are_missing_are_counted() {
    let cluster = RedisCluster::builder(3)
        .with_replicas(1)
        .with_node_timeout(Duration::from_secs(2))
        .start()
        .await
        .unwrap();
    fill(&cluster).await;
    cluster.wait_agreed().await.unwrap();
    let source = source(&cluster.node(0));
    until(&source, "redis.replication_lag_bytes", |seen| seen == Some((0.0, 3, 3))).await;
    // The only seed, too.
    cluster.node(0).kill().await.unwrap();
    let dead = at(cluster.node(0).port());
    let (nodes, answered, expected) = covered(&source, "redis.nodes").await;
    assert_eq!((nodes, answered, expected), (2.0, 2, 3), "it belongs to them, and does not answer");
    assert!(source.unanswered().await.unwrap().contains(&dead.to_string()));
    assert_eq!(covered(&source, "redis.keys").await.1, 2);
    let error = ask(&source, of("redis.keys", "node", &dead)).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, crate::rig::SAFE, &[&dead.to_string(), "cannot be reached"]);

    // Its replica takes its place; the queue was copied, and is found there.
    until(&source, "redis.nodes", |seen| seen == Some((3.0, 3, 3))).await;
    until(&source, DEPTH, |seen| seen == Some((3.0, 3, 3))).await;
    assert_eq!(covered(&source, "redis.keys").await, (3.0, 3, 3));
    // Of growth, what the new master served as a replica counts too: it is the same process.
    until(&source, "redis.commands_per_second", |seen| seen.is_some_and(|(_, answered, _)| answered == 3))
        .await;
    cluster.node(0).start().await.unwrap();
    until(&source, of("redis.nodes", "role", "replica"), |seen| seen == Some((3.0, 3, 3))).await;
}

#[tokio::test]
async fn nodes_that_join_are_seen_and_those_that_are_forgotten_are_not() {
    let cluster = RedisCluster::builder(2).start().await.unwrap();
    let source = quick(RedisMetrics::cluster("orders", [at(cluster.node(0).port())], RedisAccess::new()));
    assert_eq!(covered(&source, "redis.nodes").await, (2.0, 2, 2));
    let spare = cluster.add_node().await.unwrap();
    assert_eq!(covered(&source, "redis.nodes").await, (2.0, 2, 2), "it knows nobody");
    let (port, bus) = (spare.port().to_string(), spare.bus_port().unwrap().to_string());
    cluster.node(0).command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.unwrap();
    until(&source, "redis.nodes", |seen| seen == Some((3.0, 3, 3))).await;

    let id = spare.text(&["CLUSTER", "MYID"]).await.unwrap();
    // It may not gossip itself back.
    spare.freeze().await.unwrap();
    for node in [cluster.node(0), cluster.node(1)] {
        node.command(&["CLUSTER", "FORGET", &id]).await.unwrap();
    }
    let patient = source.with_limit(Duration::from_millis(500));
    until(&patient, "redis.nodes", |seen| seen == Some((2.0, 2, 2))).await;
    spare.kill().await.unwrap();
}

#[tokio::test]
async fn what_is_no_cluster_and_what_are_two_is_told() {
    let alone = RedisServer::builder().start().await.unwrap();
    let source = source(&alone);
    for query in ["redis.nodes", DEPTH] {
        let error = ask(&source, query).await.unwrap_err();
        is(
            &error,
            ErrorKind::InvalidConfig,
            Retry::Never,
            &["CLUSTER NODES", "not a node of a cluster", "redis orders"],
        );
    }
    let (one, other) =
        (RedisCluster::builder(1).start().await.unwrap(), RedisCluster::builder(1).start().await.unwrap());
    let seeds = [at(one.node(0).port()), at(other.node(0).port())];
    let two = quick(RedisMetrics::cluster("orders", seeds, RedisAccess::new()));
    let error = ask(&two, "redis.nodes").await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, &["seeds", "one cluster"]);
    // A seed that does not answer says nothing of the others.
    other.node(0).kill().await.unwrap();
    let after =
        wait_until("the other seed alone", LIMIT, || async { Ok(ask(&two, "redis.nodes").await?) }).await;
    assert_eq!(after.unwrap().unwrap().value, 1.0);
}
