//! What one server tells.

use std::time::Duration;

use wakala_cache::{RedisAccess, RedisMetrics};
use wakala_core::{MetricQuery, MetricsSource, RunContext, Unit};
use wakala_testbed::RedisServer;

use crate::rig::{at, covered, metrics, of, quick, sample, until, value};

#[tokio::test]
async fn clients_and_memory_are_those_that_the_server_has() {
    let server = RedisServer::builder()
        .with_setting("maxclients", 40)
        .with_max_memory(100_000_000)
        .start()
        .await
        .unwrap();
    let source = metrics(&server);
    let _clients =
        [server.connect().await.unwrap(), server.connect().await.unwrap(), server.connect().await.unwrap()];
    // The source is one more.
    until(&source, "redis.clients_connected", |seen| seen == Some((4.0, 1, 1))).await;
    assert_eq!(value(&source, "redis.clients_limit").await, Some(40.0));
    assert_eq!(value(&source, "redis.clients_used_ratio").await, Some(0.1));
    assert_eq!(value(&source, "redis.clients_blocked").await, Some(0.0));
    assert_eq!(value(&source, "redis.memory_limit_bytes").await, Some(100_000_000.0));
    assert_eq!(value(&source, "redis.nodes").await, Some(1.0));

    let before = value(&source, "redis.memory_used_ratio").await.unwrap();
    server.command(&["DEBUG", "POPULATE", "10000", "key", "1000"]).await.unwrap();
    assert_eq!(value(&source, "redis.keys").await, Some(10_000.0));
    let (ratio, bytes) = (
        value(&source, "redis.memory_used_ratio").await.unwrap(),
        sample(&source, "redis.memory_used_bytes").await.unwrap(),
    );
    assert!(ratio > before + 0.1 && ratio < 0.3, "{before} and {ratio}");
    assert!(bytes.value > 10_000_000.0 && bytes.unit == Unit::Bytes, "{bytes:?}");
    assert!(value(&source, "redis.memory_resident_bytes").await.unwrap() > 0.0);
    assert!(value(&source, "redis.memory_fragmentation_ratio").await.unwrap() > 0.0);

    let node = at(server.port());
    assert_eq!(covered(&source, of("redis.keys", "node", &node)).await, (10_000.0, 1, 1));
    assert_eq!(covered(&source, of("redis.keys", "role", "master")).await, (10_000.0, 1, 1));
    assert_eq!(value(&source, of("redis.keys", "role", "replica")).await, None);
    assert_eq!(value(&source, of("redis.keys", "node", at(1))).await, None);
}

#[tokio::test]
async fn what_a_server_does_not_have_is_not_zero() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server);
    for name in [
        "redis.memory_limit_bytes",
        "redis.memory_used_ratio",
        "redis.replication_lag_bytes",
        "redis.replication_lag_seconds",
        "redis.hit_ratio",
    ] {
        assert_eq!(value(&source, name).await, None, "{name}");
    }
    assert_eq!(value(&source.with_pings(0), "redis.ping_p50_seconds").await, None);
}

#[tokio::test]
async fn growth_is_that_of_a_window_and_never_since_the_start() {
    let server = RedisServer::builder().start().await.unwrap();
    for key in ["old", "older"] {
        // All that has been read so far was missed.
        assert_eq!(server.text(&["GET", key]).await.unwrap(), "");
    }
    let source = metrics(&server).with_window(Duration::from_millis(300));
    // The first to ask waits for a window in which nothing is read.
    assert_eq!(value(&source, "redis.hit_ratio").await, None);
    assert_eq!(value(&source, "redis.reads_missed_per_second").await, Some(0.0));
    server.command(&["SET", "there", "1"]).await.unwrap();
    for _ in 0..30 {
        server.command(&["GET", "there"]).await.unwrap();
    }
    for _ in 0..10 {
        server.command(&["GET", "missing"]).await.unwrap();
    }
    until(&source, "redis.hit_ratio", |seen| seen == Some((0.75, 1, 1))).await;
    // The pings and looks of the source itself are commands too.
    let commands = sample(&source, "redis.commands_per_second").await.unwrap();
    assert!(commands.value > 0.0 && commands.unit == Unit::PerSecond, "{commands:?}");
    assert!(value(&source, "redis.main_thread_used_ratio").await.unwrap() >= 0.0);
    assert_eq!(value(&source, "redis.evictions_per_second").await, Some(0.0));

    // Neither a start nor somebody's wish makes a rate of what was before.
    server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    assert_eq!(value(&source, "redis.reads_missed_per_second").await, None);
    until(&source, "redis.reads_missed_per_second", |seen| seen == Some((0.0, 1, 1))).await;
    server.kill().await.unwrap();
    server.start().await.unwrap();
    // It has counted further by now than it had before.
    for _ in 0..100 {
        server.command(&["GET", "there"]).await.unwrap();
        server.command(&["GET", "missing"]).await.unwrap();
    }
    assert_eq!(value(&source, "redis.commands_per_second").await, None);
    until(&source, "redis.commands_per_second", |seen| seen.is_some_and(|(rate, ..)| rate > 0.0)).await;
}

#[tokio::test]
async fn what_is_evicted_expired_and_rejected_is_seen() {
    let server = RedisServer::builder()
        .with_max_memory(4_000_000)
        .with_setting("maxmemory-policy", "allkeys-lru")
        .with_setting("maxclients", 2)
        .with_setting("hz", 100)
        .start()
        .await
        .unwrap();
    let source = metrics(&server).with_window(Duration::from_secs(2));
    assert_eq!(value(&source, "redis.connections_rejected_per_second").await, Some(0.0));
    let mut client = server.connect().await.unwrap();
    for _ in 0..3 {
        let _ = server.command(&["PING"]).await.unwrap_err();
    }
    redis::cmd("SET").arg("a").arg("b").arg("PX").arg(1).exec_async(&mut client).await.unwrap();
    for number in 0..100 {
        redis::cmd("SET").arg(number).arg(vec![b'x'; 100_000]).exec_async(&mut client).await.unwrap();
    }
    until(&source, "redis.evictions_per_second", |seen| seen.is_some_and(|(rate, ..)| rate > 0.0)).await;
    assert!(value(&source, "redis.connections_rejected_per_second").await.unwrap() > 0.0);
    assert!(value(&source, "redis.connections_per_second").await.unwrap() > 0.0);
    let (memory, limit) = (value(&source, "redis.memory_used_ratio").await.unwrap(), 1.05);
    assert!(memory > 0.5 && memory < limit, "{memory}");
    // Evicted or expired, whichever came first; the rate is there.
    assert!(value(&source, "redis.expirations_per_second").await.is_some());
}

#[tokio::test]
async fn pings_are_as_slow_as_the_server_is() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server).with_pings(10);
    assert!(value(&source, "redis.ping_p50_seconds").await.unwrap() > 0.0);
    let mut client = server.connect().await.unwrap();
    let blocking = tokio::spawn(async move {
        loop {
            redis::cmd("DEBUG").arg("SLEEP").arg(0.04).exec_async(&mut client).await.unwrap();
        }
    });
    let slow = metrics(&server).with_pings(10);
    // Each ping waits for the end of what the server does.
    until(&slow, "redis.ping_p50_seconds", |seen| seen.is_some_and(|(seconds, ..)| seconds > 0.01)).await;
    let (median, worst) = (
        value(&slow, "redis.ping_p50_seconds").await.unwrap(),
        value(&slow, "redis.ping_p99_seconds").await.unwrap(),
    );
    assert!(worst >= median && worst > 0.01, "{median} and {worst}");
    blocking.abort();
    // What was slow a while ago no longer counts where only the last look does, and does where it is of the last minute.
    let forgetful = slow.clone().with_ping_window(Duration::ZERO);
    let mut calm = false;
    for _ in 0..20 {
        calm |= value(&forgetful, "redis.ping_p99_seconds").await.unwrap() < median;
    }
    assert!(calm, "none of twenty looks at an idle server was quick");
    assert!(value(&slow, "redis.ping_p99_seconds").await.unwrap() >= median);
}

#[tokio::test]
async fn a_look_serves_all_that_ask_and_is_kept() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server).with_reuse(Duration::from_secs(600));
    let looks = async || server.info("commandstats").await.unwrap()["cmdstat_info"].clone();
    value(&source, "redis.keys").await;
    server.command(&["SET", "a", "b"]).await.unwrap();
    let before = looks().await;
    for name in ["redis.keys", "redis.clients_connected", "redis.ping_p99_seconds"] {
        value(&source, name).await;
    }
    assert_eq!(value(&source.clone(), "redis.keys").await, Some(0.0), "a clone shares what was seen");
    let after = looks().await;
    let calls = |text: &str| text.split([',', '=']).nth(1).unwrap().parse::<u32>().unwrap();
    assert_eq!(calls(&after), calls(&before) + 1, "only the testbed has asked");

    let source = quick(RedisMetrics::server("here", at(server.port()), RedisAccess::new()));
    for _ in 0..3 {
        value(&source, "redis.keys").await;
    }
    let (cx, query) = (RunContext::detached(), MetricQuery::new("redis.keys"));
    let range = source.range(&cx, &query, Duration::from_secs(600)).await.unwrap();
    assert_eq!(range.iter().map(|sample| sample.value).collect::<Vec<_>>(), [1.0; 4]);
    assert!(range.windows(2).all(|pair| pair[0].time <= pair[1].time));
}
