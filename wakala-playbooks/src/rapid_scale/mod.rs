//! Traffic spike response: capacity first, then limits, then a soak.
//!
//! The runbook's six commands as one playbook. What they leave out is added: the autoscaler's floor is raised before
//! its target is scaled, the template changes go out as one restart, the capacity chain is computed beforehand, every
//! effect is verified, a soak of ten minutes follows, and what is temporary is owed back.
//!
//! ```text
//! side by side
//!   alert                      (a failure is only noted)
//!   in this order
//!     side by side
//!       nodes                  node group to 30
//!       cache                  redis-cache to 5
//!       in this order
//!         api-floor            the autoscaler's floor to 50
//!         api                  wakala-api to 50
//!     limits                   rate limits and caching, one restart
//! soak
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wakala_core::guard;
use wakala_core::{
    Autoscaler, Error, Guard, MetricQuery, MetricsSource, Notification, Notifier, NotifyStep, Playbook,
    PlaybookStep, Preflight, RaiseFloor, ReadyGuard, Result, ScaleUp, Severity, SharedTarget, Soak, StepId,
    StepNode, Units, Urgency, sequence, shared_step, step, together,
};

#[cfg(feature = "kubernetes-eks")]
mod kubernetes_eks;
#[cfg(feature = "sim")]
mod simulated;

#[cfg(feature = "kubernetes-eks")]
pub use kubernetes_eks::KubernetesEks;
#[cfg(feature = "sim")]
pub use simulated::Simulated;

/// The shortest soak of a real run: the runbook's last sentence.
pub const SHORTEST_SOAK: Duration = Duration::from_secs(600);

/// Beyond it nobody means a date.
const LONGEST_TEMPORARY: Duration = Duration::from_secs(366 * 24 * 3600);

/// What the playbook needs of a production.
///
/// Nothing here may do I/O: the parts are made first, and asked when the playbook is planned.
pub trait Production {
    /// The workload that takes the traffic.
    fn api(&self) -> SharedTarget;

    /// The autoscaler of [`api`](Self::api); it may turn out to have none.
    fn api_autoscaler(&self) -> Arc<dyn Autoscaler>;

    /// The cache.
    fn cache(&self) -> SharedTarget;

    /// The step that brings the nodes to at least `desired`, and their minimum with it; above their maximum only where
    /// it may be raised.
    fn scale_nodes(&self, id: StepId, desired: Units, raise_max: bool) -> Arc<dyn PlaybookStep>;

    /// The step that sets environment variables of [`api`](Self::api) in one restart, at a time when it has
    /// `replicas`.
    fn set_environment(
        &self,
        id: StepId,
        variables: &BTreeMap<String, String>,
        replicas: Units,
    ) -> Arc<dyn PlaybookStep>;

    /// Where error rate and latency come from; without it the soak watches readiness and the truce only.
    fn metrics(&self) -> Option<ApiMetrics>;

    /// Further guards of the soak, such as one that watches the truce with the autoscaler.
    fn guards(&self, parameters: &RapidScale) -> Vec<Arc<dyn Guard>>;

    /// Checks of the whole plan: the capacity chain.
    fn preflight(&self, parameters: &RapidScale) -> Vec<Arc<dyn Preflight>>;

    /// Whom to tell.
    fn notifier(&self) -> Arc<dyn Notifier>;
}

/// The metrics that the soak's guards read.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// The source.
    pub source: Arc<dyn MetricsSource>,
    /// Failed requests as a share of all, a [`Ratio`](wakala_core::Unit::Ratio).
    pub error_rate: MetricQuery,
    /// The 95th percentile of the response time, in [`Seconds`](wakala_core::Unit::Seconds).
    pub latency_p95: MetricQuery,
}

/// The parameters of the playbook. As given they are the runbook's.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RapidScale {
    /// Replicas of the API.
    pub api_replicas: u32,
    /// Replicas of the cache.
    pub cache_replicas: u32,
    /// Nodes of the node group.
    pub nodes: u32,
    /// Requests that the API admits in each window.
    pub rate_limit_requests: u32,
    /// The window, in whole seconds.
    #[serde(with = "humantime_serde")]
    pub rate_limit_window: Duration,
    /// Whether the API sends caching headers.
    pub aggressive_caching: bool,
    /// How long to watch afterwards; at least [`SHORTEST_SOAK`].
    #[serde(with = "humantime_serde")]
    pub soak: Duration,
    /// The largest error rate that the soak accepts, as a share of all requests.
    pub max_error_rate: f64,
    /// The longest 95th percentile of the response time that the soak accepts.
    #[serde(with = "humantime_serde")]
    pub max_latency_p95: Duration,
    /// When the temporary changes are owed back, from the run's start.
    #[serde(with = "humantime_serde")]
    pub temporary_for: Duration,
    /// Whether an autoscaler's or node group's maximum may be raised where it is in the way.
    pub raise_ceilings: bool,
    /// What the alert says.
    pub message: String,
    /// Lets the soak be shorter than [`SHORTEST_SOAK`]: for rehearsals on a cluster that serves nobody.
    pub rehearsal: bool,
}

impl Default for RapidScale {
    fn default() -> Self {
        Self {
            api_replicas: 50,
            cache_replicas: 5,
            nodes: 30,
            rate_limit_requests: 10_000,
            rate_limit_window: Duration::from_secs(60),
            aggressive_caching: true,
            soak: SHORTEST_SOAK,
            max_error_rate: 0.01,
            max_latency_p95: Duration::from_secs(1),
            temporary_for: Duration::from_secs(4 * 3600),
            raise_ceilings: false,
            message: "Traffic spike detected - rapid scaling in progress".to_owned(),
            rehearsal: false,
        }
    }
}

impl RapidScale {
    /// The environment of the API that the parameters ask for.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::from([
            ("RATE_LIMIT_REQUESTS".to_owned(), self.rate_limit_requests.to_string()),
            ("RATE_LIMIT_WINDOW".to_owned(), self.rate_limit_window.as_secs().to_string()),
        ]);
        if self.aggressive_caching {
            variables.insert("AGGRESSIVE_CACHING".to_owned(), "true".to_owned());
        }
        variables
    }

    /// The playbook on `production`. Does no I/O.
    ///
    /// # Errors
    /// `InvalidConfig` for parameters that can never work; all of them are named at once.
    pub fn playbook(&self, production: &dyn Production) -> Result<Playbook> {
        self.validate()?;
        let temporary = |step: Arc<dyn PlaybookStep>| shared_step(step).temporary(self.temporary_for);
        let floor = RaiseFloor::to(production.api_autoscaler(), self.api_replicas)
            .raising_ceiling(self.raise_ceilings)
            .step("api-floor");
        let api = ScaleUp::to(production.api(), self.api_replicas)
            .with_expected(Duration::from_secs(180))
            .with_floor_raised();
        let cache =
            ScaleUp::to(production.cache(), self.cache_replicas).with_expected(Duration::from_secs(180));
        let nodes = production.scale_nodes("nodes".into(), self.nodes.into(), self.raise_ceilings);
        let limits =
            production.set_environment("limits".into(), &self.environment(), self.api_replicas.into());
        let capacity = together([
            // A node group takes one change at a time: others are waited for.
            temporary(nodes).with_attempts(20).into(),
            step(cache.step("cache")).into(),
            sequence([temporary(Arc::new(floor)).into(), step(api.step("api")).into()]),
        ]);
        let mut builder = Playbook::builder("rapid-scale")
            .with_description("Traffic spike response: capacity, then limits, then a soak.")
            .with_urgency(Urgency::Emergency)
            .then(together([self.alert(production).into(), sequence([capacity, temporary(limits).into()])]))
            .then(self.watch(production));
        for check in production.preflight(self) {
            builder = builder.with_shared_preflight(check);
        }
        builder.build()
    }

    fn alert(&self, production: &dyn Production) -> StepNode {
        let notification = Notification::new(Severity::High, self.message.clone())
            .with_field("playbook", "rapid-scale")
            .with_field("api_replicas", self.api_replicas.to_string())
            .with_field("nodes", self.nodes.to_string());
        // Nobody reads it twice, and capacity does not wait for it.
        step(NotifyStep::new("alert", production.notifier(), notification)).best_effort().with_attempts(2)
    }

    fn watch(&self, production: &dyn Production) -> Soak {
        let api = ReadyGuard::new("api-ready", production.api(), self.api_replicas);
        let mut soak = Soak::new("soak", self.soak).with_guard(api).with_guards(production.guards(self));
        if let Some(ApiMetrics { source, error_rate, latency_p95 }) = production.metrics() {
            let latency = self.max_latency_p95.as_secs_f64();
            soak = soak
                .with_guard(
                    guard::metric(Arc::clone(&source), error_rate)
                        .below(self.max_error_rate)
                        .named("error-rate"),
                )
                .with_guard(guard::metric(source, latency_p95).below(latency).named("latency-p95"));
        }
        if self.rehearsal {
            // A soak of seconds still asks several times.
            let interval = (self.soak / 5).clamp(Duration::from_millis(100), Duration::from_secs(15));
            soak = soak.with_interval(interval).with_grace(interval);
        }
        soak
    }

    fn validate(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (name, value) in [
            ("api_replicas", self.api_replicas),
            ("cache_replicas", self.cache_replicas),
            ("nodes", self.nodes),
        ] {
            if value == 0 {
                wrong.push(format!("{name} is 0, an emergency scale-up asks for at least 1"));
            }
        }
        if self.rate_limit_requests == 0 {
            wrong.push("rate_limit_requests is 0, which would admit nobody".to_owned());
        }
        if self.rate_limit_window.as_secs() == 0 || self.rate_limit_window.subsec_nanos() != 0 {
            wrong.push("rate_limit_window must be whole seconds, at least 1".to_owned());
        }
        if self.soak < SHORTEST_SOAK && !self.rehearsal {
            let (soak, shortest) =
                (humantime::format_duration(self.soak), humantime::format_duration(SHORTEST_SOAK));
            wrong.push(format!(
                "soak is {soak}, at least {shortest} are watched (set rehearsal where nobody is served)"
            ));
        }
        if !(self.max_error_rate > 0.0 && self.max_error_rate < 1.0) {
            wrong.push(format!("max_error_rate is {}, it must lie between 0 and 1", self.max_error_rate));
        }
        if self.max_latency_p95.is_zero() {
            wrong.push("max_latency_p95 is 0, which nothing meets".to_owned());
        }
        if self.temporary_for <= self.soak {
            wrong.push("temporary_for must be longer than the soak".to_owned());
        }
        if self.temporary_for > LONGEST_TEMPORARY {
            wrong.push("temporary_for is more than a year, which is for good".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid("build", wrong.join("; ")).on("playbook rapid-scale"))
        }
    }
}
