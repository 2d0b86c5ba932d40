//! Sources that look anew each time, and how they are asked.

use std::time::Duration;

use wakala_cache::{NodeAddress, RedisAccess, RedisMetrics};
use wakala_core::{Error, ErrorKind, MetricQuery, MetricsSource, Result, Retry, RunContext, Sample};
use wakala_testbed::{RedisServer, wait_until};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const WINDOW: Duration = Duration::from_millis(100);
pub(crate) const SAFE: Retry = Retry::Safe { after: None };

pub(crate) fn at(port: u16) -> NodeAddress {
    NodeAddress::new("127.0.0.1", port)
}

/// Looks anew at each call, and measures growth over a tenth of a second.
pub(crate) fn quick(source: RedisMetrics) -> RedisMetrics {
    source.with_reuse(Duration::ZERO).with_window(WINDOW).with_pings(2)
}

pub(crate) fn metrics(server: &RedisServer) -> RedisMetrics {
    quick(RedisMetrics::server("here", at(server.port()), RedisAccess::new()))
}

pub(crate) async fn ask(source: &dyn MetricsSource, query: impl Into<MetricQuery>) -> Result<Option<Sample>> {
    source.latest(&RunContext::detached(), &query.into()).await
}

pub(crate) async fn sample(source: &dyn MetricsSource, query: impl Into<MetricQuery>) -> Option<Sample> {
    let sample = ask(source, query).await.unwrap();
    assert!(
        sample.as_ref().is_none_or(|sample| sample.value.is_sign_positive()),
        "{sample:?} is shown with its sign"
    );
    sample
}

pub(crate) async fn value(source: &dyn MetricsSource, query: impl Into<MetricQuery>) -> Option<f64> {
    sample(source, query).await.map(|sample| sample.value)
}

/// The value, and of how many it is made.
pub(crate) async fn covered(source: &dyn MetricsSource, query: impl Into<MetricQuery>) -> (f64, u32, u32) {
    let sample = sample(source, query).await.expect("a sample");
    (sample.value, sample.coverage.answered, sample.coverage.expected)
}

/// Asks until the value is as wanted. An error is none of the values.
pub(crate) async fn until(
    source: &dyn MetricsSource,
    query: impl Into<MetricQuery>,
    wanted: impl Fn(Option<(f64, u32, u32)>) -> bool + Sync + Send,
) {
    let (query, wanted) = (query.into(), &wanted);
    wait_until(&query.to_string(), LIMIT, || {
        let query = query.clone();
        async move {
            let seen = ask(source, query).await?;
            let seen = seen.map(|sample| (sample.value, sample.coverage.answered, sample.coverage.expected));
            if wanted(seen) { Ok(()) } else { Err(format!("it is {seen:?}").into()) }
        }
    })
    .await
    .unwrap();
}

pub(crate) fn of(name: &str, label: &str, value: impl ToString) -> MetricQuery {
    MetricQuery::new(name).with_label(label, value.to_string())
}

#[track_caller]
pub(crate) fn is(error: &Error, kind: ErrorKind, retry: Retry, hints: &[&str]) {
    assert_eq!((error.kind(), error.retry()), (kind, retry), "{error:?}");
    for hint in hints {
        assert!(error.chain().contains(hint), "{hint:?} is not in: {error:?}");
    }
}
