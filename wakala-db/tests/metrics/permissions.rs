//! What the role needs, and what those are told that ask for what there is not.

use wakala_core::{ErrorKind, MetricQuery, MetricsSource, Retry};
use wakala_db::PostgresMetrics;

use crate::rig::{APP, NOBODY, SHOP, ask, builder, metrics, of, pool, start, until, value};

#[tokio::test]
async fn a_role_that_sees_nothing_is_told_so_and_pg_monitor_suffices() {
    let server = start(builder().with_setting("wal_level", "logical")).await;
    let _session = server.connect(SHOP, APP).await.unwrap();
    server.execute("postgres", "SELECT pg_create_physical_replication_slot('s', true)").await.unwrap();
    let source = metrics(&server);
    until(&source, "postgres.connections_idle", |all| all == Some(1.0)).await;
    assert!(value(&source, of("postgres.slot_retained_bytes", "slot", "s")).await.is_some());

    let blind = PostgresMetrics::new("orders", pool(&server, NOBODY)).with_reuse(std::time::Duration::ZERO);
    let denied = async |why: &str| {
        for name in ["postgres.connections", "postgres.connections_limit", "postgres.standbys"] {
            let error = ask(&blind, name).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{why}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("postgres orders") && text.contains(r#"GRANT pg_monitor TO "stranger""#),
                "{text}"
            );
        }
    };
    denied("without a grant").await;
    server.execute("postgres", "ALTER ROLE stranger NOINHERIT; GRANT pg_monitor TO stranger").await.unwrap();
    denied("a member that does not inherit").await;
    server.execute("postgres", "ALTER ROLE stranger INHERIT").await.unwrap();
    // On the same connection.
    until(&blind, of("postgres.connections_idle", "database", SHOP), |all| all == Some(1.0)).await;
    server
        .execute("postgres", "REVOKE pg_monitor FROM stranger; GRANT pg_read_all_stats TO stranger")
        .await
        .unwrap();
    assert!(value(&blind, "postgres.connections").await.is_some());
    assert_eq!(source.permissions(), wakala_db::metrics_permissions());
}

#[tokio::test]
async fn a_login_that_fails_is_denied() {
    let server = start(builder()).await;
    let wrong = server.with_role("monitor", "wrong");
    let error = ask(&metrics(&wrong), "postgres.connections").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
}

#[tokio::test]
async fn what_there_is_not_is_refused_with_what_there_is() {
    let server = start(builder()).await;
    let source = PostgresMetrics::new("orders", pool(&server, "monitor"));
    // Nobody is asked.
    server.stop().await.unwrap();
    let query = |text: &str| MetricQuery::new(text);
    let connections = || query("postgres.connections");
    for (query, hint) in [
        (query("postgres.conections"), "postgres.connections_used_ratio"),
        (connections().with_label("db", "shop"), "database, state, wait_class"),
        (connections().with_label("state", "idle in transaction"), "idle_in_transaction_aborted"),
        (connections().with_label("wait_class", "lock"), "Lock"),
        (query("postgres.standbys").with_label("database", "shop"), "none"),
    ] {
        for error in [
            ask(&source, query.clone()).await.unwrap_err(),
            source
                .range(&wakala_core::RunContext::detached(), &query, std::time::Duration::from_secs(1))
                .await
                .unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error}");
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
    let error = ask(&source.without_replication(), "postgres.slots_lost").await.unwrap_err();
    assert!(error.to_string().contains("without_replication"), "{error}");
}
