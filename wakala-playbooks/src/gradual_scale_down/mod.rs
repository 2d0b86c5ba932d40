//! Gradual scale down: smaller by fractions, watched at each, and back to the last healthy size on trouble.
//!
//! The runbook's loop as one playbook, with what it leaves out: fractions are of the size at the start, an autoscaler's
//! minimum is lowered instead of a size that it would take back, the error rate is that of all pods, no data is no
//! permission to go on, and a size that errors came with is not where it stops.
//!
//! ```text
//! for each fraction 0.8, 0.6, 0.4, 0.3
//!   side by side
//!     worker-0.8             wakala-worker to 0.8 of the size it had, at least 3
//!     api-0.8                wakala-api likewise, at least 5
//!   soak-0.8                 ten minutes with the error rate below 1 %
//! ```

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wakala_core::guard;
use wakala_core::{
    Autoscaler, Error, Floor, Guard, GuardLimits, MetricQuery, MetricsSource, OnFailure, Part, Playbook,
    Preflight, Result, ScaleDown, SharedTarget, Soak, StepNode, Urgency, Watch, step, together,
};

#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(feature = "sim")]
mod simulated;

#[cfg(feature = "kubernetes")]
pub use kubernetes::Kubernetes;
#[cfg(feature = "sim")]
pub use simulated::Simulated;

/// The shortest soak of a real run: the runbook's last sentence.
pub const SHORTEST_SOAK: Duration = Duration::from_secs(600);

/// How long one step may take, and how often it is tried: as long as connections may take to drain.
const STEP_LIMIT: Duration = Duration::from_secs(600);
const ATTEMPTS: u32 = 40;

/// How often the guards are asked, and how many failures in a row are one too many.
const INTERVAL: Duration = Duration::from_secs(15);
const FAIL_LIMIT: u32 = 3;

/// Which share of the pods must have answered: those that do not may be the ones that fail.
const MIN_COVERAGE: f64 = 0.8;

/// What the playbook needs of a production.
///
/// Nothing here may do I/O: the parts are made first, and asked when the playbook is planned.
pub trait Production {
    /// The workload that takes the traffic.
    fn api(&self) -> SharedTarget;

    /// The autoscaler of [`api`](Self::api); it may turn out to have none.
    fn api_autoscaler(&self) -> Arc<dyn Autoscaler>;

    /// The workload that works in the background.
    fn worker(&self) -> SharedTarget;

    /// The autoscaler of [`worker`](Self::worker); it may turn out to have none.
    fn worker_autoscaler(&self) -> Arc<dyn Autoscaler>;

    /// What says whether all is well. Nothing is made smaller without it.
    fn metrics(&self) -> ApiMetrics;

    /// Further guards of the whole run. As given, none.
    fn guards(&self, parameters: &GradualScaleDown) -> Vec<Arc<dyn Guard>> {
        let _ = parameters;
        Vec::new()
    }

    /// Checks of the whole plan. As given, none.
    fn preflight(&self, parameters: &GradualScaleDown) -> Vec<Arc<dyn Preflight>> {
        let _ = parameters;
        Vec::new()
    }
}

/// The metrics of the API that the playbook reads, each over all of its pods.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// The source.
    pub source: Arc<dyn MetricsSource>,
    /// Failed requests as a share of all, a [`Ratio`](wakala_core::Unit::Ratio).
    pub error_rate: MetricQuery,
    /// Requests per second, for [`max_requests_per_api_replica`](GradualScaleDown::max_requests_per_api_replica).
    pub requests: Option<MetricQuery>,
    /// Open connections, for [`connections_per_api_replica`](GradualScaleDown::connections_per_api_replica).
    pub connections: Option<MetricQuery>,
}

impl ApiMetrics {
    /// The error rate, and nothing else.
    pub fn new(source: Arc<dyn MetricsSource>, error_rate: impl Into<MetricQuery>) -> Self {
        Self { source, error_rate: error_rate.into(), requests: None, connections: None }
    }

    /// Adds requests per second.
    #[must_use]
    pub fn with_requests(mut self, requests: impl Into<MetricQuery>) -> Self {
        self.requests = Some(requests.into());
        self
    }

    /// Adds open connections.
    #[must_use]
    pub fn with_connections(mut self, connections: impl Into<MetricQuery>) -> Self {
        self.connections = Some(connections.into());
        self
    }
}

/// The parameters of the playbook. As given they are the runbook's.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GradualScaleDown {
    /// What is left after each step, as a share of the size at the start; falling, each above 0 and below 1.
    pub fractions: Vec<f64>,
    /// Never fewer replicas of the API.
    pub api_minimum: u32,
    /// Never fewer replicas of the worker.
    pub worker_minimum: u32,
    /// How long to watch after each step; at least [`SHORTEST_SOAK`].
    #[serde(with = "humantime_serde")]
    pub soak: Duration,
    /// The largest error rate with which it goes on, as a share of all requests.
    pub max_error_rate: f64,
    /// How long the error rate may be unknown. Nothing is made smaller meanwhile; after it the run goes back to the last
    /// healthy size and stops.
    #[serde(with = "humantime_serde")]
    pub blind_for: Duration,
    /// How many replicas of each workload may be taken away within a minute, whichever step does it. A step that would
    /// take more at once is refused: choose more fractions then.
    pub max_removed_per_minute: Option<u32>,
    /// How many requests per second one replica of the API can serve: the run goes back and stops where those that a
    /// step would leave could not serve the load.
    pub max_requests_per_api_replica: Option<f64>,
    /// How many connections one replica of the API can hold: a step waits, for ten minutes at most, until those that it
    /// would leave can hold them all.
    pub connections_per_api_replica: Option<f64>,
    /// Lets the soaks be shorter than [`SHORTEST_SOAK`]: for rehearsals on a cluster that serves nobody.
    pub rehearsal: bool,
}

impl Default for GradualScaleDown {
    fn default() -> Self {
        Self {
            fractions: vec![0.8, 0.6, 0.4, 0.3],
            api_minimum: 5,
            worker_minimum: 3,
            soak: SHORTEST_SOAK,
            max_error_rate: 0.01,
            blind_for: Duration::from_secs(300),
            max_removed_per_minute: None,
            max_requests_per_api_replica: None,
            connections_per_api_replica: None,
            rehearsal: false,
        }
    }
}

impl GradualScaleDown {
    /// The playbook on `production`. Does no I/O.
    ///
    /// # Errors
    /// `InvalidConfig` for parameters that can never work; all of them are named at once.
    pub fn playbook(&self, production: &dyn Production) -> Result<Playbook> {
        let metrics = production.metrics();
        self.validate(&metrics)?;
        let (api, worker) = (production.api(), production.worker());
        let mut builder = Playbook::builder("gradual-scale-down")
            .with_description("Gradual scale down after a peak: by fractions, watched at each.")
            .with_on_failure(OnFailure::BackToHealthy)
            .with_urgency(Urgency::Routine)
            .with_floor(api.resource(), self.floor(self.api_minimum))
            .with_floor(worker.resource(), self.floor(self.worker_minimum))
            .guarded_by(self.watch(production, &metrics));
        let mut previous = 1.0;
        for fraction in &self.fractions {
            let down = |name: &str, target: &SharedTarget, autoscaler, minimum: u32| {
                ScaleDown::new(format!("{name}-{fraction}"), Arc::clone(target), *fraction)
                    .after(previous)
                    .with_minimum(minimum)
                    .with_autoscaler(autoscaler)
            };
            let worker = down("worker", &worker, production.worker_autoscaler(), self.worker_minimum);
            let api = down("api", &api, production.api_autoscaler(), self.api_minimum);
            // What was begun last goes back first: the API is what users see.
            let parts: [Part; 2] =
                [step(worker).with_limit(STEP_LIMIT).into(), self.api_step(api, &metrics).into()];
            builder = builder.then(together(parts)).then(self.soak(&format!("soak-{fraction}")));
            previous = *fraction;
        }
        for check in production.preflight(self) {
            builder = builder.with_shared_preflight(check);
        }
        builder.build()
    }

    fn api_step(&self, mut api: ScaleDown, metrics: &ApiMetrics) -> StepNode {
        let source = || Arc::clone(&metrics.source);
        let mut attempts = None;
        if let (Some(limit), Some(query)) = (self.max_requests_per_api_replica, &metrics.requests) {
            api = api.with_load(source(), query.clone(), limit);
            attempts = Some(ATTEMPTS);
        }
        if let (Some(limit), Some(query)) = (self.connections_per_api_replica, &metrics.connections) {
            api = api.with_connections(source(), query.clone(), limit);
            attempts = Some(ATTEMPTS);
        }
        let node = step(api).with_limit(STEP_LIMIT);
        match attempts {
            Some(attempts) => node.with_attempts(attempts),
            None => node,
        }
    }

    fn floor(&self, minimum: u32) -> Floor {
        match self.max_removed_per_minute {
            Some(units) => Floor::at(minimum).with_removal(units, Duration::from_secs(60)),
            None => Floor::at(minimum),
        }
    }

    fn interval(&self) -> Duration {
        // A soak of seconds still asks several times.
        if self.rehearsal { (self.soak / 5).clamp(Duration::from_millis(100), INTERVAL) } else { INTERVAL }
    }

    fn watch(&self, production: &dyn Production, metrics: &ApiMetrics) -> Watch {
        let error_rate = guard::metric(Arc::clone(&metrics.source), metrics.error_rate.clone())
            .below(self.max_error_rate)
            .with_min_coverage(MIN_COVERAGE)
            .named("error-rate");
        let mut guards: Vec<Arc<dyn Guard>> = vec![Arc::new(error_rate)];
        guards.extend(production.guards(self));
        let limits = GuardLimits::default()
            .with_interval(self.interval())
            .with_fail_limit(FAIL_LIMIT)
            .with_inconclusive_limit(self.blind_for)
            .with_source_error_limit(self.blind_for);
        Watch::shared(guards).must_hold_before().with_limits(limits)
    }

    /// Its guards are those of the whole run. It gives no grace: before the step all was well.
    fn soak(&self, name: &str) -> Soak {
        Soak::new(name, self.soak)
            .with_grace(Duration::ZERO)
            .with_interval(self.interval())
            .with_fail_limit(FAIL_LIMIT)
            .with_blind_limit(self.blind_for)
    }

    fn validate(&self, metrics: &ApiMetrics) -> Result<()> {
        let mut wrong = Vec::new();
        if self.fractions.is_empty() {
            wrong.push("fractions is empty, so nothing would be made smaller".to_owned());
        }
        let mut previous = None;
        for fraction in &self.fractions {
            if !(*fraction > 0.0 && *fraction < 1.0) {
                wrong.push(format!("fraction {fraction} must lie between 0 and 1"));
            } else if let Some(previous) = previous.filter(|previous| fraction >= previous) {
                wrong.push(format!(
                    "fraction {fraction} comes after {previous}: each must be below that before"
                ));
            }
            previous = Some(*fraction);
        }
        for (name, minimum) in [("api_minimum", self.api_minimum), ("worker_minimum", self.worker_minimum)] {
            if minimum == 0 {
                wrong.push(format!("{name} is 0, at least 1 must stay"));
            }
        }
        let show = humantime::format_duration;
        if self.soak < SHORTEST_SOAK && !self.rehearsal {
            wrong.push(format!(
                "soak is {}, at least {} are watched (set rehearsal where nobody is served)",
                show(self.soak),
                show(SHORTEST_SOAK)
            ));
        }
        if self.soak.is_zero() && self.rehearsal {
            wrong.push("soak is 0s, which watches nothing".to_owned());
        }
        if !(self.max_error_rate > 0.0 && self.max_error_rate < 1.0) {
            wrong.push(format!("max_error_rate is {}, it must lie between 0 and 1", self.max_error_rate));
        }
        if self.blind_for.is_zero() {
            wrong.push("blind_for is 0s, one missing sample would end the run; 5m is usual".to_owned());
        }
        if self.blind_for > self.soak.max(SHORTEST_SOAK) {
            wrong.push(format!(
                "blind_for is {}, longer than is watched in all; choose at most the soak",
                show(self.blind_for)
            ));
        }
        if self.max_removed_per_minute == Some(0) {
            wrong.push("max_removed_per_minute is 0, so nothing could be made smaller".to_owned());
        }
        for (name, limit, query, with) in [
            (
                "max_requests_per_api_replica",
                self.max_requests_per_api_replica,
                &metrics.requests,
                "with_requests",
            ),
            (
                "connections_per_api_replica",
                self.connections_per_api_replica,
                &metrics.connections,
                "with_connections",
            ),
        ] {
            match limit {
                Some(limit) if !(limit.is_finite() && limit > 0.0) => {
                    wrong.push(format!("{name} is {limit}, it must be above 0"));
                }
                Some(_) if query.is_none() => {
                    wrong.push(format!("{name} needs a metric that the production lacks; give it {with}"));
                }
                _ => {}
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid("build", wrong.join("; ")).on("playbook gradual-scale-down"))
        }
    }
}
