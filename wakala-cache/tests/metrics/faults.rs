//! Dead servers, frozen ones and wrong settings: what the errors say must be true, and the next look finds its way back.

use std::time::Duration;

use wakala_cache::{RedisAccess, RedisMetrics, RedisTls};
use wakala_core::{ErrorKind, Retry};
use wakala_testbed::{RedisCluster, RedisServer, wait_until};

use crate::rig::{LIMIT, SAFE, ask, at, covered, is, metrics, quick, until, value};

#[tokio::test]
async fn a_server_that_was_restarted_is_found_again_at_once() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server);
    let address = at(server.port()).to_string();
    assert_eq!(value(&source, "redis.keys").await, Some(0.0));
    server.kill().await.unwrap();
    let error = ask(&source, "redis.keys").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, SAFE, &["latest on redis here", &address, "cannot be reached"]);
    server.start().await.unwrap();
    assert_eq!(value(&source, "redis.keys").await, Some(0.0));
    // Between two looks.
    for _ in 0..3 {
        server.kill().await.unwrap();
        server.start().await.unwrap();
        assert_eq!(value(&source, "redis.keys").await, Some(0.0));
    }
}

#[tokio::test]
async fn a_frozen_server_ends_the_look_by_its_time() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server).with_limit(Duration::from_secs(1));
    until(&source, "redis.keys", |seen| seen.is_some()).await;
    server.freeze().await.unwrap();
    // The connection that there is, and then a new one, which the system takes for the server.
    for _ in 0..2 {
        let error = ask(&source, "redis.keys").await.unwrap_err();
        is(&error, ErrorKind::DeadlineExceeded, SAFE, &["no answer after 1s", "frozen or overloaded"]);
    }
    let known = RedisAccess::new().with_password("word");
    let login =
        quick(RedisMetrics::server("here", at(server.port()), known)).with_limit(Duration::from_secs(1));
    let error = ask(&login, "redis.keys").await.unwrap_err();
    is(&error, ErrorKind::DeadlineExceeded, SAFE, &["no connection after 900ms", "frozen or overloaded"]);
    server.thaw().await.unwrap();
    until(&source, "redis.keys", |seen| seen.is_some()).await;
}

#[tokio::test]
async fn the_time_of_a_look_is_that_of_all_its_questions() {
    let server = RedisServer::builder().start().await.unwrap();
    let mut client = server.connect().await.unwrap();
    let blocking = tokio::spawn(async move {
        loop {
            redis::cmd("DEBUG").arg("SLEEP").arg(0.3).exec_async(&mut client).await.unwrap();
        }
    });
    // Each answer comes in time, and all of them together do not.
    let source = metrics(&server).with_pings(20).with_limit(Duration::from_secs(2));
    let error = ask(&source, "redis.keys").await.unwrap_err();
    is(&error, ErrorKind::DeadlineExceeded, SAFE, &["no answer after 2s"]);
    blocking.abort();
    until(&source, "redis.keys", |seen| seen.is_some()).await;
}

#[tokio::test]
async fn a_frozen_node_of_a_cluster_leaves_the_others() {
    let cluster = RedisCluster::builder(3).with_node_timeout(Duration::from_secs(60)).start().await.unwrap();
    let seeds = [at(cluster.node(0).port())];
    let source =
        quick(RedisMetrics::cluster("orders", seeds, RedisAccess::new())).with_limit(Duration::from_secs(1));
    // On a machine that is busy too.
    until(&source, "redis.nodes", |seen| seen == Some((3.0, 3, 3))).await;
    cluster.node(0).freeze().await.unwrap();
    until(&source, "redis.nodes", |seen| seen == Some((2.0, 2, 3))).await;
    let text = source.unanswered().await.unwrap();
    assert!(text.contains(&at(cluster.node(0).port()).to_string()), "{text}");
    cluster.node(0).thaw().await.unwrap();
    until(&source, "redis.nodes", |seen| seen == Some((3.0, 3, 3))).await;
}

#[tokio::test]
async fn logins_and_tls_that_are_wrong_are_told() {
    let server = RedisServer::builder().with_password("word").with_tls().unwrap().start().await.unwrap();
    let tls = || RedisTls::of_authority(server.authority().unwrap()).unwrap();
    let source = |port, access: RedisAccess| {
        quick(RedisMetrics::server("here", at(port), access)).with_limit(Duration::from_secs(1))
    };
    let (encrypted, plain) = (server.port(), server.plain_port());
    let word = || RedisAccess::new().with_password("word");
    until(&source(encrypted, word().with_tls(tls())), "redis.nodes", |seen| seen == Some((1.0, 1, 1))).await;
    until(&source(plain, word()), "redis.nodes", |seen| seen == Some((1.0, 1, 1))).await;
    let denied = async |access: RedisAccess, hint: &str| {
        let error = ask(&source(plain, access), "redis.nodes").await.unwrap_err();
        is(&error, ErrorKind::Denied, Retry::Never, &[hint, "latest on redis here"]);
    };
    denied(RedisAccess::new(), "NOAUTH").await;
    denied(RedisAccess::new().with_password("wrong"), "WRONGPASS").await;
    let error = ask(&source(encrypted, word()), "redis.nodes").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, SAFE, &["it may expect TLS"]);
    let error = ask(&source(plain, word().with_tls(tls())), "redis.nodes").await.unwrap_err();
    assert!(error.to_string().contains("TLS at this port"), "{error:?}");
}

#[tokio::test]
async fn a_cluster_that_speaks_tls_is_found_as_a_whole() {
    let cluster = RedisCluster::builder(2)
        .with_replicas(1)
        .with_nodes(|node| node.with_tls().unwrap().with_password("word"))
        .start()
        .await
        .unwrap();
    let authority = cluster.node(0).authority().unwrap().to_owned();
    let access =
        RedisAccess::new().with_password("word").with_tls(RedisTls::of_authority(&authority).unwrap());
    let source = quick(RedisMetrics::cluster("orders", [at(cluster.node(0).port())], access));
    assert_eq!(covered(&source, crate::rig::of("redis.nodes", "role", "any")).await, (4.0, 4, 4));
}

#[tokio::test]
async fn a_server_that_reads_its_data_is_unavailable_for_now() {
    let server = RedisServer::builder()
        .with_append_only(false)
        .with_setting("loading-process-events-interval-bytes", 1024)
        .with_setting("key-load-delay", 800)
        .start()
        .await
        .unwrap();
    server.command(&["DEBUG", "POPULATE", "5000", "key", "100"]).await.unwrap();
    server.command(&["SAVE"]).await.unwrap();
    let source = metrics(&server);
    value(&source, "redis.keys").await.unwrap();
    server.kill().await.unwrap();
    server.start_early().await.unwrap();
    let error = ask(&source, "redis.keys").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, SAFE, &["PING", "LOADING", "reads its data"]);
    until(&source, "redis.keys", |seen| seen == Some((5000.0, 1, 1))).await;
}

#[tokio::test]
async fn a_lost_answer_costs_a_connection_and_nothing_else() {
    let server = RedisServer::builder().start().await.unwrap();
    let link = server.link().unwrap();
    let source = quick(RedisMetrics::server("here", at(link.port()), RedisAccess::new()));
    // The first has a new connection: it was not lost since the last look.
    link.lose_reply_to("INFO");
    is(&ask(&source, "redis.keys").await.unwrap_err(), ErrorKind::Unavailable, SAFE, &["was lost"]);
    ask(&source, "redis.keys").await.unwrap();
    link.lose_reply_to("INFO");
    ask(&source, "redis.keys").await.unwrap();
    assert_eq!(link.replies_lost(), 2);
}

#[tokio::test]
async fn those_who_share_a_look_share_its_failures() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = metrics(&server).with_reuse(Duration::from_secs(600));
    server.kill().await.unwrap();
    let error = ask(&source, "redis.keys").await.unwrap_err();
    server.start().await.unwrap();
    let shared = ask(&source, "redis.clients_connected").await.unwrap_err();
    assert_eq!((shared.kind(), shared.retry()), (error.kind(), error.retry()), "{shared}");
    let anew = source.with_reuse(Duration::ZERO);
    wait_until("an answer", LIMIT, || async { Ok(ask(&anew, "redis.keys").await.map(drop)?) }).await.unwrap();
}
