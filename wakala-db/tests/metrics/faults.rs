//! Dead servers and lost networks: what the errors say must be true, and the next look finds its way back.

use std::time::{Duration, Instant};

use wakala_core::{ErrorKind, Retry};

use crate::rig::{APP, SHOP, ask, builder, metrics, start, until, value};

const SAFE: Retry = Retry::Safe { after: None };

#[tokio::test]
async fn a_server_that_was_restarted_is_found_again_at_once() {
    let server = start(builder()).await;
    let source = metrics(&server);
    assert_eq!(value(&source, "postgres.connections").await, Some(0.0));
    server.stop().await.unwrap();
    let error = ask(&source, "postgres.connections").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    server.start().await.unwrap();
    assert!(value(&source, "postgres.connections").await.is_some());

    // Between two looks.
    for _ in 0..3 {
        server.kill().await.unwrap();
        server.start().await.unwrap();
        let _session = server.connect(SHOP, APP).await.unwrap();
        ask(&source, "postgres.connections").await.unwrap();
        until(&source, "postgres.connections_idle", |all| all == Some(1.0)).await;
    }
}

#[tokio::test]
async fn a_session_that_was_ended_is_replaced_within_the_look() {
    let server = start(builder()).await;
    let source = metrics(&server);
    for _ in 0..10 {
        ask(&source, "postgres.connections").await.unwrap();
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'monitor'";
        server.execute("postgres", sql).await.unwrap();
    }
    ask(&source, "postgres.connections").await.unwrap();
}

#[tokio::test]
async fn a_link_that_is_cut_is_unavailable_and_one_that_is_silent_late() {
    let server = start(builder()).await;
    let link = server.link().unwrap();
    let limit = Duration::from_millis(500);
    let source = metrics(&server.at_port(link.port())).with_limit(limit);
    ask(&source, "postgres.connections").await.unwrap();

    link.cut().await.unwrap();
    let error = ask(&source, "postgres.connections").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    link.restore().await.unwrap();
    ask(&source, "postgres.connections").await.unwrap();

    link.freeze().await.unwrap();
    // The connection that there is, and then a new one.
    for _ in 0..2 {
        let began = Instant::now();
        let error = ask(&source, "postgres.connections").await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, SAFE), "{error}");
        assert!(began.elapsed() < limit * 4, "{:?}", began.elapsed());
    }
    link.restore().await.unwrap();
    // An answer that came too late is nobody's.
    let late = metrics(&server.at_port(link.port()));
    ask(&late, "postgres.connections").await.unwrap();
    until(&source, "postgres.connections", |all| all.is_some()).await;
}

#[tokio::test]
async fn a_lost_answer_costs_a_connection_and_nothing_else() {
    let server = start(builder()).await;
    let link = server.link().unwrap();
    let source = metrics(&server.at_port(link.port()));
    // The first has a new connection: it was not lost since the last look.
    link.lose_reply_to("pg_stat_activity");
    let error = ask(&source, "postgres.connections").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    ask(&source, "postgres.connections").await.unwrap();
    link.lose_reply_to("pg_stat_activity");
    ask(&source, "postgres.connections").await.unwrap();
    assert_eq!(link.replies_lost(), 2);
}

#[tokio::test]
async fn those_who_share_a_look_share_its_error() {
    let server = start(builder()).await;
    let source = metrics(&server).with_reuse(Duration::from_secs(600));
    server.stop().await.unwrap();
    let error = ask(&source, "postgres.connections").await.unwrap_err();
    server.start().await.unwrap();
    let shared = ask(&source, "postgres.lock_waiters").await.unwrap_err();
    assert_eq!((shared.kind(), shared.retry()), (error.kind(), error.retry()), "{shared}");
    assert!(shared.to_string().contains("the look that it shares failed"), "{shared}");
}
