//! Metrics that the pods of a workload show themselves, as a source.

mod history;
mod metric;
mod page;
mod scrape;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wakala_core::{Error, MetricQuery, MetricsSource, Permission, Result, RunContext, Sample};

pub use metric::{PodMetric, Series};

use self::history::{Failed, History, Newest, Seen, Window};
use self::scrape::{Manner, scrape};
use crate::Workload;
use crate::permissions::permit;

/// Growth is measured from a scrape that is at most so old, or four windows.
const OLDEST_BASE: Duration = Duration::from_secs(60);

/// Metrics that the ready pods of a [`Workload`] show at their own addresses, as a
/// [`MetricsSource`](wakala_core::MetricsSource). Cheap to clone; clones share what was asked.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use wakala_core::{MetricsSource, Unit, guard};
/// # use wakala_k8s::{Cluster, PodMetric, PodMetrics, Workload};
/// # fn example(cluster: &Cluster) {
/// let api = Workload::deployment(cluster, "production", "wakala-api");
/// let errors = PodMetric::ratio_of_increases("http_requests_errors_total", "http_requests_total");
/// let source = PodMetrics::of(&api).with_metric("error_rate", errors);
/// let guard = guard::metric(Arc::new(source), "error_rate").below(0.01).with_min_coverage(0.9);
/// # }
/// ```
///
/// # Which pods, and where
///
/// Those that the workload's selector finds, that one of its own ReplicaSets (or the StatefulSet) owns, that are Ready
/// and are not being deleted. They are asked by plain HTTP at their pod address: at the [port](Self::with_port) and
/// [path](Self::with_path) given, else as the annotations `prometheus.io/port` and `prometheus.io/path` say, else at the
/// container port called `metrics`, at `/metrics`. The program must be able to reach pod addresses, as it is in the
/// cluster or in its network; no proxy is used and no redirect followed.
///
/// # What is counted
///
/// A sample's [coverage](wakala_core::Coverage) tells of how many of the ready pods it is made: those that answered in
/// time with a page that can be read and has the metric's series, with numbers. No pod that has the metric is no sample,
/// and never a zero; no pod that answers, of some that are ready, is an error of kind `Unavailable` that says why. Why
/// some did not is told by [`unanswered`](Self::unanswered).
///
/// Growth ([`ratio_of_increases`](PodMetric::ratio_of_increases), [`rate`](PodMetric::rate)) is measured between two
/// scrapes, over the pods that answered both: a pod that came or went is left out, and a counter that began anew counts
/// from zero. The earlier scrape is the newest that is at least one [window](Self::with_window) old. Where there is none
/// that is not over a minute old (nor over four windows), as at the first call, the call makes one, sleeps for what is
/// left of a window and makes another: so the source has a value when a plan proves its guards, and takes that much
/// longer.
///
/// # What it costs
///
/// One read of the workload, one list of its pods and a request to each ready pod: at most [16](Self::with_parallel) at
/// a time, 2 seconds [each](Self::with_pod_timeout), 10 seconds [in all](Self::with_scrape_timeout), 4 MiB
/// [a page](Self::with_body_limit). Whoever asks while a scrape is under way, or within a second
/// [after it](Self::with_reuse), shares it, and its error.
///
/// The last 1024 samples of each metric are kept in memory, for [`range`](wakala_core::MetricsSource::range): a history
/// of what this source was asked, in this process, and of nothing else.
#[derive(Clone)]
pub struct PodMetrics {
    workload: Workload,
    metrics: BTreeMap<String, PodMetric>,
    manner: Manner,
    window: Duration,
    reuse: Duration,
    shared: Arc<Mutex<Option<History>>>,
}

impl fmt::Debug for PodMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodMetrics")
            .field("workload", &self.workload)
            .field("metrics", &self.metrics)
            .field("manner", &self.manner)
            .finish_non_exhaustive()
    }
}

impl PodMetrics {
    /// Metrics of the pods of `workload`; add them by [`with_metric`](Self::with_metric). Nothing is sent yet.
    pub fn of(workload: &Workload) -> Self {
        Self {
            workload: workload.clone(),
            metrics: BTreeMap::new(),
            manner: Manner {
                port: None,
                path: None,
                body_limit: 4 << 20,
                pod_timeout: Duration::from_secs(2),
                scrape_timeout: Duration::from_secs(10),
                parallel: 16,
            },
            window: Duration::from_secs(5),
            reuse: Duration::from_secs(1),
            shared: Arc::default(),
        }
    }

    /// Answers queries for `name` by `metric`.
    #[must_use]
    pub fn with_metric(mut self, name: impl Into<String>, metric: PodMetric) -> Self {
        self.metrics.insert(name.into(), metric);
        self.anew()
    }

    /// The port where pods show their metrics, whatever they say themselves.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.manner.port = Some(port);
        self.anew()
    }

    /// The path at which pods show their metrics, whatever they say themselves.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.manner.path = Some(path.into());
        self.anew()
    }

    /// Over which time growth is measured at least; 5 seconds as given. The first call takes as long.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window.max(Duration::from_millis(1));
        self.anew()
    }

    /// How long a scrape serves those who ask after its end; a second as given.
    #[must_use]
    pub fn with_reuse(mut self, reuse: Duration) -> Self {
        self.reuse = reuse;
        self.anew()
    }

    /// How long one pod may take to answer; 2 seconds as given.
    #[must_use]
    pub fn with_pod_timeout(mut self, limit: Duration) -> Self {
        self.manner.pod_timeout = limit;
        self.anew()
    }

    /// How long all pods may take; 10 seconds as given. Those that have not answered by then count as silent.
    #[must_use]
    pub fn with_scrape_timeout(mut self, limit: Duration) -> Self {
        self.manner.scrape_timeout = limit;
        self.anew()
    }

    /// How many bytes a page may have; 4 MiB as given. A longer one is not read.
    #[must_use]
    pub fn with_body_limit(mut self, bytes: usize) -> Self {
        self.manner.body_limit = bytes;
        self.anew()
    }

    /// How many pods are asked at the same time; 16 as given, at least one.
    #[must_use]
    pub fn with_parallel(mut self, pods: usize) -> Self {
        self.manner.parallel = pods;
        self.anew()
    }

    /// What was seen in another manner is no longer shared.
    fn anew(mut self) -> Self {
        self.shared = Arc::default();
        self
    }

    /// Why ready pods are missing from the newest scrape, with how many and the names of some: `2 refused the connection
    /// (api-x, api-y)`. `None` where all answered, and before the first scrape. Asks nobody.
    pub async fn unanswered(&self) -> Option<String> {
        let history = self.shared.lock().await;
        let newest = history.as_ref()?.newest.as_ref()?;
        match &newest.outcome {
            Ok(seen) => Some(seen.scrape.describe_failures()).filter(|text| !text.is_empty()),
            Err(failed) => Some(failed.text.clone()),
        }
    }

    /// The place of what a query asks for.
    fn declared(&self, operation: &'static str, query: &MetricQuery) -> Result<usize> {
        let refuse = |message: String| Err(Error::invalid(operation, message).on(&self.workload));
        for (label, value) in query.labels() {
            let known = match label {
                "namespace" => self.workload.namespace(),
                "workload" => self.workload.name(),
                _ => {
                    return refuse(format!(
                        "{query} asks for a label {label}; choose series by labels where the metric is declared \
                         (Series::with_label)"
                    ));
                }
            };
            if value != known {
                return refuse(format!("{query} asks for another {label}; this source knows {known} only"));
            }
        }
        match self.metrics.keys().position(|name| name == query.name()) {
            Some(place) => Ok(place),
            None => {
                let known: Vec<_> = self.metrics.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                refuse(format!("{} is not declared by with_metric; there are: {known}", query.name()))
            }
        }
    }

    fn metric(&self, place: usize) -> &PodMetric {
        self.metrics.values().nth(place).expect("places are of declared metrics")
    }

    fn selections(&self) -> Vec<Series> {
        let mut selections: Vec<Series> = Vec::new();
        for series in self.metrics.values().flat_map(PodMetric::series) {
            if !selections.contains(series) {
                selections.push(series.clone());
            }
        }
        selections
    }

    fn ages(&self) -> Window {
        Window { least: self.window, most: OLDEST_BASE.max(self.window.saturating_mul(4)) }
    }

    /// A scrape that `fits`: the newest where it does, else a new one.
    async fn scrape(
        &self,
        cx: &RunContext,
        operation: &'static str,
        fits: impl Fn(&Newest) -> bool + Send + Sync,
    ) -> Result<Seen> {
        let mut shared = cx.until(self.shared.lock()).await?;
        let history = shared.get_or_insert_with(|| History::new(self.metrics.len()));
        if let Some(newest) = history.newest.as_ref().filter(|newest| fits(newest)) {
            return newest.outcome.clone().map_err(|failed| {
                let message = format!("the scrape that it shares failed: {}", failed.text);
                Error::new(failed.kind, operation, message).on(&self.workload).with_retry(failed.retry)
            });
        }
        let selections = self.selections();
        let scraped = match scrape(&self.workload, cx, &self.manner, &selections).await {
            Ok(scraped) => scraped,
            Err(error) => {
                // The end of this call is not the end of those that wait.
                if cx.check().is_ok() {
                    let failed = Failed { kind: error.kind(), retry: error.retry(), text: error.chain() };
                    history.newest = Some(Newest { ended: Instant::now(), outcome: Err(failed) });
                }
                return Err(error);
            }
        };
        let seen = history.push(Arc::new(scraped), self.ages());
        for (place, metric) in self.metrics.values().enumerate() {
            if let Some(sample) = metric.evaluate(&selections, &seen.scrape, seen.base.as_deref()) {
                history.note(place, &sample);
            }
        }
        history.newest = Some(Newest { ended: Instant::now(), outcome: Ok(seen.clone()) });
        Ok(seen)
    }

    async fn sample(&self, cx: &RunContext, operation: &'static str, place: usize) -> Result<Option<Sample>> {
        let (metric, selections) = (self.metric(place), self.selections());
        let asked = Instant::now();
        let seen = self.scrape(cx, operation, |newest| newest.ended + self.reuse >= asked).await?;
        let evaluate = |seen: &Seen| metric.evaluate(&selections, &seen.scrape, seen.base.as_deref());
        if !metric.needs_two() || seen.base.is_some() || !metric.is_shown(&selections, &seen.scrape) {
            return Ok(evaluate(&seen));
        }

        let now = Instant::now();
        let base = {
            let mut shared = cx.until(self.shared.lock()).await?;
            shared.as_mut().and_then(|history| history.oldest(now, self.ages()))
        };
        let base = base.unwrap_or(seen.scrape);
        let due = base.begun + self.window;
        cx.sleep(due.saturating_duration_since(now)).await?;
        let fits = |newest: &Newest| match &newest.outcome {
            Ok(seen) => seen.scrape.begun >= due,
            Err(_) => newest.ended + self.reuse >= Instant::now(),
        };
        let mut seen = self.scrape(cx, operation, fits).await?;
        // On a clock of its own the run may have slept for less.
        seen.base = seen.base.or(Some(base));
        let sample = evaluate(&seen);
        if let (Some(sample), Some(history)) = (&sample, &mut *cx.until(self.shared.lock()).await?) {
            history.note(place, sample);
        }
        Ok(sample)
    }
}

#[async_trait]
impl MetricsSource for PodMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        const OPERATION: &str = "latest";
        let place = self.declared(OPERATION, query)?;
        self.sample(cx, OPERATION, place).await
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        const OPERATION: &str = "range";
        let place = self.declared(OPERATION, query)?;
        self.sample(cx, OPERATION, place).await?;
        let begin = cx.clock().now().checked_sub(window).unwrap_or(std::time::UNIX_EPOCH);
        let shared = cx.until(self.shared.lock()).await?;
        Ok(shared.as_ref().map(|history| history.since(place, begin)).unwrap_or_default())
    }

    /// What the API server must allow: to read the workload, and to list pods of its namespace.
    fn permissions(&self) -> Vec<Permission> {
        let (namespace, resource) = (self.workload.namespace(), format!("apps/{}", self.workload.plural()));
        let mut permissions = permit(&["get"], &resource, namespace, self.workload.name());
        permissions.extend(permit(&["list"], "core/pods", namespace, "*"));
        permissions
    }
}
