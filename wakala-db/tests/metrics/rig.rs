//! Servers with two databases, a role that may only look, and sessions that do what they are told.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Client, NoTls};
use wakala_core::{MetricQuery, MetricsSource, Result, RunContext, Sample};
use wakala_db::{PostgresMetrics, metrics_permissions, sql_grants};
use wakala_testbed::{PostgresAccess, PostgresBuilder, PostgresServer, wait_until};

pub(crate) const SHOP: &str = "shop";
pub(crate) const LOGS: &str = "logs";
pub(crate) const APP: &str = "app";
/// A member of `pg_monitor`, and nothing else.
pub(crate) const MONITOR: &str = "monitor";
/// A role that may log in.
pub(crate) const NOBODY: &str = "stranger";
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn builder() -> PostgresBuilder {
    PostgresServer::builder()
        .with_role(APP, "secret")
        .with_role(MONITOR, "word")
        .with_role(NOBODY, "word")
        .with_database(SHOP, APP)
        .with_database(LOGS, APP)
        .with_setting("max_prepared_transactions", 5)
}

pub(crate) async fn start(builder: PostgresBuilder) -> PostgresServer {
    let server = builder.start().await.unwrap();
    let grants = sql_grants(MONITOR, &metrics_permissions()).join("; ");
    server.execute("postgres", &grants).await.unwrap();
    server
}

/// One connection, kept.
pub(crate) fn pool(access: &PostgresAccess, role: &str) -> Pool {
    let config = access.config("postgres", role).unwrap();
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, manager)).max_size(1).build().unwrap()
}

/// Looks anew at each call.
pub(crate) fn metrics(access: &PostgresAccess) -> PostgresMetrics {
    PostgresMetrics::new("here", pool(access, MONITOR)).with_reuse(Duration::ZERO)
}

pub(crate) async fn ask(source: &dyn MetricsSource, query: impl Into<MetricQuery>) -> Result<Option<Sample>> {
    source.latest(&RunContext::detached(), &query.into()).await
}

pub(crate) async fn value(source: &dyn MetricsSource, query: impl Into<MetricQuery>) -> Option<f64> {
    let value = ask(source, query).await.unwrap().map(|sample| sample.value);
    assert!(value.is_none_or(f64::is_sign_positive), "{value:?} is shown with its sign");
    value
}

/// Asks until the value is as wanted.
pub(crate) async fn until(
    source: &dyn MetricsSource,
    query: impl Into<MetricQuery>,
    wanted: impl Fn(Option<f64>) -> bool + Sync + Send,
) -> f64 {
    let (query, wanted) = (query.into(), &wanted);
    let what = query.to_string();
    let seen = wait_until(&what, LIMIT, || {
        let query = query.clone();
        async move {
            let value = ask(source, query).await?.map(|sample| sample.value);
            if wanted(value) { Ok(value) } else { Err(format!("it is {value:?}").into()) }
        }
    });
    seen.await.unwrap().unwrap_or(f64::NAN)
}

/// A session that is told what to do, and whose answer nobody waits for.
pub(crate) fn send(client: Client, sql: &'static str) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        // It ends with its server.
        let _ = client.batch_execute(sql).await;
    })
}

pub(crate) fn of(name: &str, label: &str, value: &str) -> MetricQuery {
    MetricQuery::new(name).with_label(label, value)
}
