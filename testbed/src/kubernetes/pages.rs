use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::{TestNamespace, unique};
use super::objects::PORT_ANNOTATION;
use crate::{TestbedError, wait_until};

const EVERY_POD: &str = "page";
const WORKLOAD_LABEL: &str = "testbed.wakala.dev/pod-metrics";
const REVISION: &str = "testbed.wakala.dev/revision";
const OBSERVED: &str = "testbed.wakala.dev/observed";
const EFFECT_DEADLINE: Duration = Duration::from_secs(30);
const STATISTICS_TIMEOUT: Duration = Duration::from_secs(10);

/// A value that may depend on how many pods of the workload are ready. An `f64` is one that does not.
///
/// ```
/// // Half of all requests fail as soon as fewer than 20 pods are ready.
/// let error_rate = wakala_testbed::Level::new(0.001).when_ready_below(20, 0.5);
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Level {
    value: String,
    ready_below: Vec<Bound>,
}

#[derive(Clone, Debug, Serialize)]
struct Bound {
    ready: u32,
    value: String,
}

impl Level {
    /// `value`, however many pods there are. It may be infinite or not a number.
    pub fn new(value: f64) -> Self {
        Self { value: value.to_string(), ready_below: Vec::new() }
    }

    /// `value` instead while fewer than `ready` pods are ready. Of several such bounds the lowest that is above their
    /// number counts.
    #[must_use]
    pub fn when_ready_below(mut self, ready: u32, value: f64) -> Self {
        self.ready_below.push(Bound { ready, value: value.to_string() });
        self
    }

    fn times(&self, factor: f64) -> Self {
        let scaled = |value: &String| {
            let value: f64 = value.parse().expect("written by us");
            (value * factor).to_string()
        };
        Self {
            value: scaled(&self.value),
            ready_below: self
                .ready_below
                .iter()
                .map(|bound| Bound { ready: bound.ready, value: scaled(&bound.value) })
                .collect(),
        }
    }
}

impl From<f64> for Level {
    fn from(value: f64) -> Self {
        Self::new(value)
    }
}

/// What a simulated pod answers when it is asked for its metrics.
///
/// ```
/// use wakala_testbed::MetricsPage;
///
/// let page = MetricsPage::new()
///     .with_gauge("ws_connections", 120.0)
///     .with_growing("http_requests_total", 100.0)
///     .with_label("code", "200");
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[must_use = "a page is served by `MetricsPages`, or by a `Workload` that is made with it"]
pub struct MetricsPage {
    metrics: Vec<Metric>,
    body: Option<String>,
    pad_bytes: usize,
    status: u16,
    delay_millis: u64,
    hang: bool,
    trickle: bool,
    refuse: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Metric {
    name: String,
    labels: BTreeMap<String, String>,
    kind: &'static str,
    level: Level,
}

impl MetricsPage {
    /// A page without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// A page of that text, whatever it is, in place of metrics.
    pub fn of_text(text: impl Into<String>) -> Self {
        Self { body: Some(text.into()), ..Self::default() }
    }

    /// No page: a connection is accepted and a request never answered.
    pub fn hanging() -> Self {
        Self { hang: true, ..Self::default() }
    }

    /// A page that goes on for ever, a byte at a time.
    pub fn trickling() -> Self {
        Self { trickle: true, ..Self::default() }
    }

    /// No page: connections are refused.
    pub fn refusing() -> Self {
        Self { refuse: true, ..Self::default() }
    }

    /// A gauge.
    pub fn with_gauge(self, name: impl Into<String>, value: impl Into<Level>) -> Self {
        self.with("gauge", name.into(), value.into())
    }

    /// A counter that shows `value`, which may also be set back.
    pub fn with_counter(self, name: impl Into<String>, value: impl Into<Level>) -> Self {
        self.with("counter", name.into(), value.into())
    }

    /// A counter that begins at 0 when the pod starts and grows by `per_second`. It keeps its value when the page
    /// changes.
    pub fn with_growing(self, name: impl Into<String>, per_second: impl Into<Level>) -> Self {
        self.with("growing", name.into(), per_second.into())
    }

    /// What a server of `per_second` requests counts: `http_requests_total`, of which the share `error_rate` also in
    /// `http_requests_errors_total`, and the gauge `error_rate`.
    pub fn with_requests(self, per_second: f64, error_rate: impl Into<Level>) -> Self {
        let error_rate = error_rate.into();
        self.with_growing("http_requests_total", per_second)
            .with_growing("http_requests_errors_total", error_rate.times(per_second))
            .with_gauge("error_rate", error_rate)
    }

    /// A label of the metric that was added last.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let metric = self.metrics.last_mut().expect("a metric comes before its labels");
        metric.labels.insert(name.into(), value.into());
        self
    }

    /// Comments of about so many bytes after the metrics.
    pub fn with_padding(mut self, bytes: usize) -> Self {
        self.pad_bytes = bytes;
        self
    }

    /// The answer's HTTP status, in place of 200.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// How long the answer takes, in whole milliseconds.
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay_millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }

    fn with(mut self, kind: &'static str, name: String, level: Level) -> Self {
        self.metrics.push(Metric { name, labels: BTreeMap::new(), kind, level });
        self
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a page has string keys only")
    }
}

/// What the simulated pods of a workload serve as metrics, to be changed while they run.
///
/// The pods are those whose label `app` has the workload's name, as [`Workload`](crate::Workload) makes them. They listen
/// only if they were created [with a metrics port](crate::Workload::with_metrics_port).
///
/// ```no_run
/// # use wakala_testbed::{Level, MetricsPage, MetricsPages, TestNamespace, TestbedError, Workload};
/// # async fn example(namespace: &TestNamespace) -> Result<(), TestbedError> {
/// namespace.create(&Workload::new("api", 50).with_metrics_port(9090).deployment()).await?;
/// let pages = MetricsPages::of(namespace, "api");
/// let error_rate = Level::new(0.001).when_ready_below(20, 0.5);
/// pages.serve(&MetricsPage::new().with_requests(100.0, error_rate)).await?;
/// pages.serve_at("api-5d4f-x7k2p", &MetricsPage::hanging()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MetricsPages {
    client: Client,
    namespace: String,
    workload: String,
}

impl std::fmt::Debug for MetricsPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, workload, .. } = self;
        f.debug_struct("MetricsPages")
            .field("namespace", namespace)
            .field("workload", workload)
            .finish_non_exhaustive()
    }
}

/// How one pod was asked for its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRequests {
    /// How often this pod was asked.
    pub requests: u32,
    /// How many requests all pods of the workload had at the same time at most.
    pub peak_in_flight: u32,
}

impl MetricsPages {
    /// Of the workload's pods in a test's namespace.
    pub fn of(namespace: &TestNamespace, workload: impl Into<String>) -> Self {
        Self::new(namespace.client(), namespace.name(), workload)
    }

    /// Of the workload's pods in `namespace`.
    pub fn new(client: Client, namespace: impl Into<String>, workload: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into(), workload: workload.into() }
    }

    /// Lets every pod, present and to come, serve `page`, unless it has one of its own. Returns once that is so.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] where no simulator follows: on a foreign cluster, say.
    pub async fn serve(&self, page: &MetricsPage) -> Result<(), TestbedError> {
        self.put(EVERY_POD, Some(page)).await
    }

    /// Lets the pod of that name serve `page`, whatever the others serve. Returns once that is so. The pod need not
    /// exist yet.
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve).
    pub async fn serve_at(&self, pod: &str, page: &MetricsPage) -> Result<(), TestbedError> {
        self.put(&format!("pod.{pod}"), Some(page)).await
    }

    /// Lets the pod of that name serve what all serve again.
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve).
    pub async fn serve_as_all(&self, pod: &str) -> Result<(), TestbedError> {
        self.put(&format!("pod.{pod}"), None).await
    }

    /// How each listening pod was asked so far, by the pod's name.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] where a pod that runs does not listen.
    pub async fn requests(&self) -> Result<BTreeMap<String, PodRequests>, TestbedError> {
        let what = || format!("cannot ask the pods of {}/{}", self.namespace, self.workload);
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(STATISTICS_TIMEOUT)
            .build()
            .map_err(TestbedError::api(what()))?;
        let selector = ListParams::default().labels(&format!("app={}", self.workload));
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace)
            .list(&selector)
            .await
            .map_err(TestbedError::api(what()))?;
        let mut requests = BTreeMap::new();
        for pod in pods {
            let Some(address) = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) else {
                continue;
            };
            let Some(port) = pod.annotations().get(PORT_ANNOTATION) else { continue };
            let url = format!("http://{address}:{port}/testbed");
            let answer = client.get(url).send().await.map_err(TestbedError::api(what()))?;
            let counts = answer.json().await.map_err(TestbedError::api(what()))?;
            requests.insert(pod.name_any(), counts);
        }
        Ok(requests)
    }

    async fn put(&self, key: &str, page: Option<&MetricsPage>) -> Result<(), TestbedError> {
        let (name, revision) = (format!("pod-metrics-{}", self.workload), unique());
        let data: BTreeMap<_, _> = page.map(|page| (key, page.to_json())).into_iter().collect();
        let patch = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "labels": { WORKLOAD_LABEL: self.workload },
                "annotations": { REVISION: revision },
            },
            "data": data,
        });
        let config_maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        // A field manager per page: applying one leaves the others alone.
        let parameters = PatchParams::apply(&format!("testbed-{key}")).force();
        let what = format!("cannot set what the pods of {}/{} serve", self.namespace, self.workload);
        config_maps
            .patch(&name, &parameters, &Patch::Apply(&patch))
            .await
            .map_err(TestbedError::api(what))?;
        let what = format!("pods of {}/{} serve their new page", self.namespace, self.workload);
        wait_until(&what, EFFECT_DEADLINE, || async {
            let now = config_maps.get(&name).await?;
            match (now.annotations().get(REVISION), now.annotations().get(OBSERVED)) {
                // Somebody set another page meanwhile, which includes this one or replaces it.
                (Some(newest), Some(observed)) if newest == observed => Ok(()),
                (newest, observed) => Err(format!("{observed:?} is in force, not {newest:?}").into()),
            }
        })
        .await
    }
}
