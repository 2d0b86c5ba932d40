//! Two PgBouncers in front of one server, with clients that wait.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use wakala_core::{Coverage, ErrorKind, MetricQuery, MetricsSource, Retry, RunContext};
use wakala_db::PgBouncerMetrics;
use wakala_testbed::{PgBouncer, PgBouncerBuilder, PostgresAccess, PostgresServer};

use crate::rig::{APP, LOGS, MONITOR, NOBODY, SHOP, ask, builder, of, send, start, until, value};

const ADMIN: &str = "pgbouncer_admin";
const WINDOW: Duration = Duration::from_millis(300);
const SAFE: Retry = Retry::Safe { after: None };

async fn bouncer(
    server: &PostgresServer,
    tune: impl FnOnce(PgBouncerBuilder) -> PgBouncerBuilder,
) -> PgBouncer {
    // One that may look at statistics and change nothing.
    let bouncer = PgBouncer::builder(server).with_setting("stats_users", MONITOR).with_default_pool_size(2);
    tune(bouncer).start().await.unwrap()
}

fn metrics(instances: &[(&str, &PostgresAccess)]) -> PgBouncerMetrics {
    let instances = instances.iter();
    instances
        .fold(PgBouncerMetrics::new(), |source, (name, access)| {
            source.with_instance(*name, access.config("postgres", MONITOR).unwrap())
        })
        .with_reuse(Duration::ZERO)
        .with_window(WINDOW)
}

/// A client with a transaction open, and so with a server connection.
async fn holder(bouncer: &PgBouncer, database: &str) -> Client {
    let client = bouncer.connect(database, APP).await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client
}

#[tokio::test]
async fn clients_that_wait_are_seen_over_all_instances() {
    let server = start(builder()).await;
    let (first, second) = (bouncer(&server, |b| b).await, bouncer(&server, |b| b).await);
    let source = metrics(&[("a", &first), ("b", &second)]);
    let whole = Coverage { answered: 2, expected: 2 };
    for name in ["pgbouncer.clients_active", "pgbouncer.clients_waiting", "pgbouncer.max_wait_seconds"] {
        let sample = ask(&source, name).await.unwrap().unwrap();
        assert_eq!((sample.value, sample.coverage), (0.0, whole), "{name}: the console is nobody's client");
    }

    let _held = [holder(&first, SHOP).await, holder(&first, SHOP).await, holder(&second, LOGS).await];
    for _ in 0..3 {
        send(first.connect(SHOP, APP).await.unwrap(), "SELECT 1");
    }
    until(&source, "pgbouncer.clients_waiting", |waiting| waiting == Some(3.0)).await;
    let first_wait =
        until(&source, "pgbouncer.max_wait_seconds", |wait| wait.is_some_and(|wait| wait > 0.2)).await;
    until(&source, "pgbouncer.max_wait_seconds", |wait| wait.is_some_and(|wait| wait > first_wait)).await;
    for (name, all, shop, logs, a) in [
        ("pgbouncer.clients_active", 3.0, 2.0, 1.0, 2.0),
        ("pgbouncer.clients_waiting", 3.0, 3.0, 0.0, 3.0),
        ("pgbouncer.servers", 3.0, 2.0, 1.0, 2.0),
        ("pgbouncer.servers_active", 3.0, 2.0, 1.0, 2.0),
        ("pgbouncer.servers_idle", 0.0, 0.0, 0.0, 0.0),
        ("pgbouncer.servers_used", 0.0, 0.0, 0.0, 0.0),
        ("pgbouncer.pool_used_ratio", 1.0, 1.0, 0.5, 1.0),
    ] {
        let seen = [
            value(&source, name).await,
            value(&source, of(name, "database", SHOP)).await,
            value(&source, of(name, "database", LOGS)).await,
            value(&source, of(name, "instance", "a")).await,
        ];
        assert_eq!(seen, [Some(all), Some(shop), Some(logs), Some(a)], "{name}");
        assert_eq!(
            value(&source, of(name, "database", "elsewhere")).await,
            None,
            "{name}: absence is not zero"
        );
        let of_app = ask(&source, of(name, "user", APP)).await.unwrap().unwrap();
        assert_eq!((of_app.value, of_app.coverage), (all, whole), "{name}");
        assert_eq!(value(&source, of(name, "user", "nobody")).await, None, "{name}");
    }
    let shop = of("pgbouncer.servers_active", "database", SHOP).with_label("user", APP);
    let shop = ask(&source, shop).await.unwrap().unwrap();
    assert_eq!(
        (shop.value, shop.coverage),
        (2.0, Coverage { answered: 1, expected: 2 }),
        "b has no such pool"
    );
}

#[tokio::test]
async fn an_instance_that_is_killed_is_missing_and_said_to_be() {
    let server = start(builder()).await;
    let (first, second) = (bouncer(&server, |b| b).await, bouncer(&server, |b| b).await);
    let source = metrics(&[("a", &first), ("b", &second)]);
    let _held = [holder(&first, SHOP).await, holder(&second, SHOP).await];
    until(&source, "pgbouncer.clients_active", |all| all == Some(2.0)).await;
    assert_eq!(source.unanswered().await, None);

    second.kill().await.unwrap();
    let sample = ask(&source, "pgbouncer.clients_active").await.unwrap().unwrap();
    assert_eq!((sample.value, sample.coverage), (1.0, Coverage { answered: 1, expected: 2 }));
    let why = source.unanswered().await.unwrap();
    assert!(why.starts_with("b: ") && why.contains("cannot be reached") && !why.contains("a: "), "{why}");
    let error = ask(&source, of("pgbouncer.clients_active", "instance", "b")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");

    first.kill().await.unwrap();
    let error = ask(&source, "pgbouncer.clients_active").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    assert!(error.to_string().contains("a: ") && error.to_string().contains("b: "), "{error}");

    second.start().await.unwrap();
    first.start().await.unwrap();
    let sample = ask(&source, "pgbouncer.clients_active").await.unwrap().unwrap();
    assert_eq!((sample.value, sample.coverage), (0.0, Coverage { answered: 2, expected: 2 }));
}

/// Queries until it is told to stop.
fn traffic(client: Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while client.simple_query("SELECT pg_sleep(0.005)").await.is_ok() {} })
}

async fn queries(bouncer: &PgBouncer) -> u64 {
    let stats = bouncer.show("STATS").await.unwrap();
    let shop = stats.iter().find(|row| row["database"] == SHOP);
    shop.map_or(0, |row| row["total_query_count"].parse().unwrap())
}

#[tokio::test]
async fn growth_is_told_at_the_first_call_and_never_across_a_restart() {
    let server = start(builder()).await;
    let (first, second) = (bouncer(&server, |b| b).await, bouncer(&server, |b| b).await);
    let source = metrics(&[("a", &first), ("b", &second)]);
    assert_eq!(value(&source, "pgbouncer.mean_query_seconds").await, None, "nothing by nothing");
    assert_eq!(value(&source, "pgbouncer.queries_per_second").await, Some(0.0));

    let running: Vec<_> = [first.connect(SHOP, APP).await.unwrap(), second.connect(SHOP, APP).await.unwrap()]
        .map(traffic)
        .into();
    let source = metrics(&[("a", &first), ("b", &second)]);
    let rate = ask(&source, "pgbouncer.queries_per_second").await.unwrap().unwrap();
    assert_eq!(rate.coverage, Coverage { answered: 2, expected: 2 });
    assert!(rate.value > 10.0 && rate.value < 400.0, "{rate:?}");
    let mean = value(&source, "pgbouncer.mean_query_seconds").await.unwrap();
    assert!(mean > 0.004 && mean < 0.5, "{mean} s");
    let mean = value(&source, "pgbouncer.mean_transaction_seconds").await.unwrap();
    assert!(mean > 0.004 && mean < 0.5, "{mean} s");
    let wait = value(&source, "pgbouncer.mean_wait_seconds").await.unwrap();
    assert!((0.0..0.1).contains(&wait), "{wait} s");
    assert_eq!(value(&source, of("pgbouncer.queries_per_second", "database", LOGS)).await, Some(0.0));

    // More queries than before the restart: this counter alone would look as if it had grown.
    let before = queries(&second).await;
    second.restart().await.unwrap();
    let client = second.connect(SHOP, APP).await.unwrap();
    while queries(&second).await <= before + 200 {
        for _ in 0..100 {
            client.simple_query("SELECT 1").await.unwrap();
        }
    }
    let rate = ask(&source, "pgbouncer.queries_per_second").await.unwrap().unwrap();
    assert_eq!(rate.coverage, Coverage { answered: 1, expected: 2 }, "{rate:?}");
    assert!(rate.value > 5.0 && rate.value < 200.0, "{rate:?}");
    let both = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let rate = ask(&source, "pgbouncer.queries_per_second").await.unwrap().unwrap();
            if rate.coverage.answered == 2 {
                break rate;
            }
        }
    });
    let both = both.await.unwrap();
    assert!(both.value < 400.0, "{both:?}");

    let cx = RunContext::detached();
    let query = MetricQuery::new("pgbouncer.queries_per_second");
    let history = source.range(&cx, &query, Duration::from_secs(60)).await.unwrap();
    assert!(history.len() >= 3 && history.iter().all(|sample| sample.value < 400.0), "{history:?}");
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_link_that_is_cut_or_silent_takes_its_instance_away_and_gives_it_back() {
    let server = start(builder()).await;
    let (first, second) = (bouncer(&server, |b| b).await, bouncer(&server, |b| b).await);
    let link = second.link().unwrap();
    let source = metrics(&[("a", &first), ("b", &second.at_port(link.port()))]).with_limit(WINDOW);
    let answered = async || {
        let sample = ask(&source, "pgbouncer.servers").await.unwrap().unwrap();
        (sample.coverage.answered, source.unanswered().await.unwrap_or_default())
    };
    let (count, why) = answered().await;
    assert_eq!(count, 2, "{why}");
    link.cut().await.unwrap();
    let (count, why) = answered().await;
    assert!(count == 1 && why.contains("cannot be reached"), "{why}");
    link.restore().await.unwrap();
    let (count, why) = answered().await;
    assert_eq!(count, 2, "{why}");
    link.freeze().await.unwrap();
    for _ in 0..2 {
        let (count, why) = answered().await;
        assert!(count == 1 && why.contains("after 300ms"), "{why}");
    }
    link.restore().await.unwrap();
    until(&source, of("pgbouncer.servers", "instance", "b"), |all| all.is_some()).await;
}

#[tokio::test]
async fn a_pool_with_a_reserve_or_a_size_of_its_own_is_measured_by_its_size() {
    let server = start(builder()).await;
    let bouncer = bouncer(&server, |b| {
        b.with_database(SHOP, "pool_size=1 reserve_pool=1").with_setting("reserve_pool_timeout", "0.1")
    })
    .await;
    let source = metrics(&[("a", &bouncer)]);
    let _held = holder(&bouncer, SHOP).await;
    let used = "pgbouncer.pool_used_ratio";
    assert_eq!(value(&source, used).await, Some(1.0));
    let second = holder(&bouncer, SHOP).await;
    until(&source, used, |used| used == Some(2.0)).await;
    let _other = holder(&bouncer, LOGS).await;
    assert_eq!(value(&source, of(used, "database", LOGS)).await, Some(0.5));
    drop(second);
}

#[tokio::test]
async fn a_user_who_may_not_look_is_denied_and_nonsense_refused() {
    let server = start(builder()).await;
    let bouncer = bouncer(&server, |b| b).await;
    let stranger = bouncer.config("postgres", NOBODY).unwrap();
    let source = PgBouncerMetrics::new().with_instance("a", stranger);
    let error = ask(&source, "pgbouncer.clients_active").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");

    let source = metrics(&[("a", &bouncer)]);
    for (query, hint) in [
        (MetricQuery::new("pgbouncer.waiting"), "pgbouncer.clients_waiting"),
        (of("pgbouncer.servers", "db", SHOP), "database, instance, user"),
        (of("pgbouncer.servers", "instance", "b"), "there are: a"),
        (of("pgbouncer.queries_per_second", "user", APP), "ask for a database"),
    ] {
        let error = ask(&source, query).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    let error = ask(&PgBouncerMetrics::new(), "pgbouncer.servers").await.unwrap_err();
    assert!(error.to_string().contains("with_instance"), "{error}");
    assert_eq!(source.permissions().len(), 4);
    // Those who administrate see it too.
    let admin = bouncer.config("postgres", ADMIN).unwrap();
    let source: Arc<dyn MetricsSource> = Arc::new(PgBouncerMetrics::new().with_instance("a", admin));
    assert_eq!(value(source.as_ref(), "pgbouncer.servers").await, Some(0.0));
}
