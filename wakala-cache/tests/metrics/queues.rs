//! What waits for workers.

use wakala_cache::RedisQueue;
use wakala_core::{ErrorKind, Retry};
use wakala_testbed::RedisServer;

use crate::rig::{ask, covered, is, metrics, of, value};

const DEPTH: &str = "redis.queue_depth";
const PENDING: &str = "redis.queue_pending";

#[tokio::test]
async fn lists_and_streams_are_as_deep_as_they_are_long() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server)
        .with_queue(RedisQueue::list("jobs"))
        .with_queue(RedisQueue::list(b"\xff\x00".to_vec()).with_name("odd"))
        .with_queue(RedisQueue::stream("events"));
    // What is empty does not exist.
    assert_eq!(covered(&source, DEPTH).await, (0.0, 3, 3));
    server.command(&["RPUSH", "jobs", "1", "2", "3"]).await.unwrap();
    for entry in 0..4 {
        server.command(&["XADD", "events", "*", "entry", &entry.to_string()]).await.unwrap();
    }
    let mut client = server.connect().await.unwrap();
    redis::cmd("RPUSH").arg(b"\xff\x00").arg("x").exec_async(&mut client).await.unwrap();
    for (queue, depth) in [("jobs", 3.0), ("events", 4.0), ("odd", 1.0)] {
        assert_eq!(covered(&source, of(DEPTH, "queue", queue)).await, (depth, 1, 1), "{queue}");
        assert_eq!(value(&source, of(PENDING, "queue", queue)).await, None, "{queue}");
    }
    assert_eq!(covered(&source, DEPTH).await, (8.0, 3, 3));
    server.command(&["DEL", "jobs"]).await.unwrap();
    assert_eq!(value(&source, of(DEPTH, "queue", "jobs")).await, Some(0.0));
}

#[tokio::test]
async fn a_group_is_as_deep_as_its_lag_and_unknown_where_the_server_cannot_tell() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server)
        .with_queue(RedisQueue::group("events", "billing"))
        .with_queue(RedisQueue::group("events", "none"))
        .with_queue(RedisQueue::list("jobs"));
    let billing = |name: &str| of(name, "queue", "events/billing");
    assert_eq!(value(&source, billing(DEPTH)).await, None, "there is no stream");
    let mut ids = Vec::new();
    for entry in 0..5 {
        ids.push(server.text(&["XADD", "events", "*", "entry", &entry.to_string()]).await.unwrap());
    }
    assert_eq!(value(&source, billing(DEPTH)).await, None, "there is no group");
    server.command(&["XGROUP", "CREATE", "events", "billing", "0"]).await.unwrap();
    server.command(&["XGROUP", "CREATE", "events", "other", "$"]).await.unwrap();
    assert_eq!(
        (value(&source, billing(DEPTH)).await, value(&source, billing(PENDING)).await),
        (Some(5.0), Some(0.0))
    );
    let read = ["XREADGROUP", "GROUP", "billing", "worker", "COUNT", "2", "STREAMS", "events", ">"];
    server.command(&read).await.unwrap();
    assert_eq!(
        (value(&source, billing(DEPTH)).await, value(&source, billing(PENDING)).await),
        (Some(3.0), Some(2.0))
    );
    server.command(&["XACK", "events", "billing", &ids[0]]).await.unwrap();
    assert_eq!(value(&source, billing(PENDING)).await, Some(1.0));
    assert_eq!(covered(&source, DEPTH).await, (3.0, 2, 3), "one group does not exist");

    // An entry from the middle is gone: how many are left to read, the server does not say.
    server.command(&["XDEL", "events", &ids[3]]).await.unwrap();
    assert_eq!(value(&source, billing(DEPTH)).await, None);
    assert_eq!(covered(&source, DEPTH).await, (0.0, 1, 3));
    assert_eq!(value(&source, billing(PENDING)).await, Some(1.0));
}

#[tokio::test]
async fn what_is_no_queue_is_told() {
    let server = RedisServer::builder().start().await.unwrap();
    server.command(&["SET", "jobs", "text"]).await.unwrap();
    server.command(&["RPUSH", "real", "1"]).await.unwrap();
    let source = metrics(&server).with_queue(RedisQueue::list("jobs")).with_queue(RedisQueue::list("real"));
    let error = ask(&source, of(DEPTH, "queue", "jobs")).await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, &["LLEN", "WRONGTYPE", "redis here"]);
    assert_eq!(covered(&source, DEPTH).await, (1.0, 1, 2));
    assert!(source.unanswered().await.unwrap().contains("WRONGTYPE"));
    // Nothing else is the worse for it.
    assert_eq!(value(&source, "redis.keys").await, Some(2.0));
    // One of the same name takes the other's place.
    let source = source.with_queue(RedisQueue::list("real").with_name("jobs"));
    assert_eq!(value(&source, of(DEPTH, "queue", "jobs")).await, Some(1.0));
}
