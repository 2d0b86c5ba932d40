//! Sessions in each state, made on purpose.

use std::time::Duration;

use wakala_core::{Coverage, MetricQuery, MetricsSource, RunContext, Unit};

use crate::rig::{APP, LOGS, MONITOR, SHOP, ask, builder, metrics, of, send, start, until, value};

/// Two sessions idle, one at work, one holding a row, one waiting for it, one failed in its transaction; and a
/// transaction that is prepared and has no session.
#[tokio::test]
async fn every_session_is_counted_in_its_place_and_nobody_else_is() {
    let server = start(builder()).await;
    let connect = |database| server.connect(database, APP);
    let setup = connect(SHOP).await.unwrap();
    for sql in [
        "CREATE TABLE t (n int)",
        "INSERT INTO t VALUES (1)",
        "BEGIN",
        "INSERT INTO t VALUES (2)",
        "PREPARE TRANSACTION 'left'",
    ] {
        setup.batch_execute(sql).await.unwrap();
    }
    drop(setup);
    let _idle = (connect(SHOP).await.unwrap(), connect(LOGS).await.unwrap());
    let holder = connect(SHOP).await.unwrap();
    holder.batch_execute("BEGIN; UPDATE t SET n = 3 WHERE n = 1").await.unwrap();
    let failed = connect(LOGS).await.unwrap();
    failed.batch_execute("BEGIN").await.unwrap();
    failed.batch_execute("SELECT 1 / 0").await.unwrap_err();
    send(connect(SHOP).await.unwrap(), "SELECT pg_sleep(600)");
    send(connect(SHOP).await.unwrap(), "UPDATE t SET n = 4 WHERE n = 1");

    let source = metrics(&server);
    until(&source, "postgres.lock_waiters", |waiters| waiters == Some(1.0)).await;
    until(&source, of("postgres.connections", "wait_class", "Timeout"), |asleep| asleep == Some(1.0)).await;
    until(&source, "postgres.connections", |all| all == Some(6.0)).await;
    for (name, all, shop, logs) in [
        ("postgres.connections", 6.0, 4.0, 2.0),
        ("postgres.connections_active", 2.0, 2.0, 0.0),
        ("postgres.connections_idle", 2.0, 1.0, 1.0),
        ("postgres.connections_idle_in_transaction", 2.0, 1.0, 1.0),
        ("postgres.lock_waiters", 1.0, 1.0, 0.0),
        ("postgres.prepared_transactions", 1.0, 1.0, 0.0),
        ("postgres.connections_limit", 97.0, 97.0, 97.0),
        ("postgres.connections_used_ratio", 6.0 / 97.0, 4.0 / 97.0, 2.0 / 97.0),
    ] {
        let seen = [
            value(&source, name).await,
            value(&source, of(name, "database", SHOP)).await,
            value(&source, of(name, "database", LOGS)).await,
        ];
        assert_eq!(seen, [Some(all), Some(shop), Some(logs)], "{name}");
        assert_eq!(
            value(&source, of(name, "database", "elsewhere")).await,
            None,
            "{name}: absence is not zero"
        );
    }
    for (state, count) in [
        ("active", 2.0),
        ("disabled", 0.0),
        ("fastpath_function_call", 0.0),
        ("idle", 2.0),
        ("idle_in_transaction", 1.0),
        ("idle_in_transaction_aborted", 1.0),
    ] {
        assert_eq!(value(&source, of("postgres.connections", "state", state)).await, Some(count), "{state}");
    }
    for (class, count) in [("Client", 4.0), ("Lock", 1.0), ("Timeout", 1.0), ("IO", 0.0), ("none", 0.0)] {
        assert_eq!(
            value(&source, of("postgres.connections", "wait_class", class)).await,
            Some(count),
            "{class}"
        );
    }
    let active = MetricQuery::new("postgres.connections_active");
    let waiting = active.with_label("wait_class", "Lock").with_label("database", SHOP);
    assert_eq!(value(&source, waiting).await, Some(1.0));
    // The place of the session that asks is taken.
    assert_eq!(value(&source, "postgres.connections_free").await, Some(90.0));

    // As the runbook counts.
    let naive = server.value("postgres", "SELECT count(*) FROM pg_stat_activity").await.unwrap();
    let naive: f64 = naive.parse().unwrap();
    assert!(naive > 6.0 + 2.0, "{naive} with its own session, ours, and background workers");

    // The holder began first, but for what is prepared; all of them are in order.
    let age = async |name: &str| value(&source, name).await.unwrap();
    let (transaction, statement) =
        (age("postgres.longest_transaction_seconds").await, age("postgres.longest_statement_seconds").await);
    let idle = age("postgres.longest_idle_in_transaction_seconds").await;
    assert!(transaction > idle && idle > statement && statement > 0.0, "{transaction} {idle} {statement}");
    assert!(transaction < 60.0, "{transaction} s");

    // The prepared transaction alone is still a long one.
    server
        .execute("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        .await
        .unwrap();
    until(&source, "postgres.connections", |all| all == Some(0.0)).await;
    assert!(age("postgres.longest_transaction_seconds").await > transaction);
    assert_eq!(value(&source, of("postgres.longest_transaction_seconds", "database", LOGS)).await, Some(0.0));
    assert_eq!(value(&source, "postgres.longest_statement_seconds").await, Some(0.0));
    drop((holder, failed));
}

#[tokio::test]
async fn the_limit_is_that_of_the_database_where_it_is_less() {
    let server =
        start(builder().with_max_connections(20).with_setting("superuser_reserved_connections", 5)).await;
    server.execute("postgres", "ALTER DATABASE shop CONNECTION LIMIT 4").await.unwrap();
    server.execute("postgres", "ALTER DATABASE logs CONNECTION LIMIT 0").await.unwrap();
    let _session = server.connect(SHOP, APP).await.unwrap();
    let source = metrics(&server);
    until(&source, "postgres.connections", |all| all == Some(1.0)).await;
    let limit = "postgres.connections_limit";
    assert_eq!(value(&source, limit).await, Some(15.0));
    assert_eq!(value(&source, of(limit, "database", SHOP)).await, Some(4.0));
    assert_eq!(value(&source, of(limit, "database", LOGS)).await, Some(0.0));
    let used = "postgres.connections_used_ratio";
    assert_eq!(value(&source, used).await, Some(1.0 / 15.0));
    assert_eq!(value(&source, of(used, "database", SHOP)).await, Some(0.25));
    assert_eq!(value(&source, of(used, "database", LOGS)).await, None, "nothing of nothing is no ratio");
    let sample = ask(&source, used).await.unwrap().unwrap();
    assert_eq!((sample.unit, sample.coverage), (Unit::Ratio, Coverage::WHOLE));
}

#[tokio::test]
async fn a_full_server_is_still_looked_at() {
    let server = start(builder().with_max_connections(10)).await;
    let source = metrics(&server);
    assert_eq!(value(&source, "postgres.connections_free").await, Some(6.0));
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(server.connect(SHOP, APP).await.unwrap());
    }
    server.connect(SHOP, APP).await.unwrap_err();
    until(&source, "postgres.connections", |all| all == Some(6.0)).await;
    assert_eq!(value(&source, "postgres.connections_free").await, Some(0.0));
    assert_eq!(value(&source, "postgres.connections_used_ratio").await, Some(6.0 / 7.0));
    // The places of superusers are beyond the limit.
    let _admins =
        (server.connect(SHOP, "postgres").await.unwrap(), server.connect(SHOP, "postgres").await.unwrap());
    until(&source, "postgres.connections_used_ratio", |used| used == Some(8.0 / 7.0)).await;
    assert_eq!(value(&source, "postgres.connections_free").await, Some(0.0));
}

#[tokio::test]
async fn sessions_that_are_not_tracked_are_in_no_state() {
    let server = start(builder()).await;
    let quiet = server.connect(SHOP, APP).await.unwrap();
    server.execute("postgres", "ALTER DATABASE logs SET track_activities = off").await.unwrap();
    let untracked = server.connect(LOGS, APP).await.unwrap();
    untracked.batch_execute("BEGIN").await.unwrap();
    let source = metrics(&server);
    until(&source, of("postgres.connections", "state", "disabled"), |count| count == Some(1.0)).await;
    until(&source, "postgres.connections", |all| all == Some(2.0)).await;
    let sample = ask(&source, "postgres.connections_idle_in_transaction").await.unwrap().unwrap();
    assert_eq!((sample.value, sample.coverage), (0.0, Coverage { answered: 1, expected: 2 }));
    for name in
        ["postgres.connections_active", "postgres.connections_idle", "postgres.longest_transaction_seconds"]
    {
        assert_eq!(value(&source, of(name, "database", LOGS)).await, None, "{name}");
    }
    let idle = ask(&source, of("postgres.connections_idle", "database", SHOP)).await.unwrap().unwrap();
    assert_eq!((idle.value, idle.coverage), (1.0, Coverage::WHOLE));
    drop((quiet, untracked));
}

#[tokio::test]
async fn one_look_serves_a_tick_and_makes_the_history() {
    let server = start(builder()).await;
    let source = metrics(&server).with_reuse(Duration::from_millis(500));
    let names = ["postgres.connections", "postgres.lock_waiters", "postgres.connections_used_ratio"];
    let samples = futures::future::join_all(names.map(|name| ask(&source, name))).await;
    let times: Vec<_> = samples.into_iter().map(|sample| sample.unwrap().unwrap().time).collect();
    assert!(times.iter().all(|time| *time == times[0]), "{times:?}");
    let asked = "SELECT query_start::text FROM pg_stat_activity WHERE usename = 'monitor'";
    let first = server.value("postgres", asked).await.unwrap();
    value(&source, "postgres.standbys").await;
    assert_eq!(server.value("postgres", asked).await.unwrap(), first, "{MONITOR} asked once");

    let _session = server.connect(SHOP, APP).await.unwrap();
    until(&source, "postgres.connections", |all| all == Some(1.0)).await;
    let cx = RunContext::detached();
    let history = source.range(&cx, &"postgres.connections".into(), Duration::from_secs(60)).await.unwrap();
    let values: Vec<_> = history.iter().map(|sample| sample.value).collect();
    assert_eq!((values.first(), values.last()), (Some(&0.0), Some(&1.0)), "{values:?}");
    assert!(history.is_sorted_by(|a, b| a.time < b.time), "{history:?}");
    assert_eq!(source.range(&cx, &"postgres.connections".into(), Duration::ZERO).await.unwrap().len(), 0);
}
