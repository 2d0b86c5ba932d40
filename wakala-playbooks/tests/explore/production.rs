//! The production that both playbooks work on, as fakes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wakala_core::testing::explore::{Blackout, Scene, Snapshot};
use wakala_core::testing::{Answer, FakeAutoscaler, FakeMetrics, FakeNotifier, FakeSetting, FakeTarget};
use wakala_core::{
    Autoscaler, Bounds, Guard, ManualClock, MetricsSource, Notifier, Playbook, PlaybookStep, Preflight,
    ScalableTarget as _, SharedTarget, StepId, TruceGuard, Unit, Units,
};
use wakala_playbooks::gradual_scale_down::{self, GradualScaleDown};
use wakala_playbooks::rapid_scale::{self, RapidScale};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct FakeProduction {
    pub(crate) api: FakeTarget,
    pub(crate) api_autoscaler: FakeAutoscaler,
    pub(crate) worker: FakeTarget,
    pub(crate) cache: FakeTarget,
    pub(crate) nodes: FakeSetting<u32>,
    pub(crate) environment: FakeSetting<BTreeMap<String, String>>,
    pub(crate) metrics: FakeMetrics,
    pub(crate) blackout: Blackout,
}

impl FakeProduction {
    /// So many replicas of the API, with the bounds of its autoscaler where it has one.
    pub(crate) fn new(api: u32, bounds: Option<(u32, u32)>) -> Self {
        let api = FakeTarget::new("wakala-api", api).with_lead_time(40 * SECOND);
        let api_autoscaler = match bounds {
            Some((min, max)) => FakeAutoscaler::new(&api, Bounds::new(min, max).unwrap()),
            None => FakeAutoscaler::none(&api),
        };
        let metrics = FakeMetrics::new()
            .with("error_rate", Answer::Value(0.001))
            .with("latency_p95", Answer::Value(0.2))
            .with_unit("latency_p95", Unit::Seconds);
        Self {
            api,
            api_autoscaler,
            worker: FakeTarget::new("wakala-worker", 20).with_lead_time(20 * SECOND),
            cache: FakeTarget::new("redis-cache", 3).with_lead_time(15 * SECOND),
            nodes: FakeSetting::new("workers-general", 10, 30).with_lead_time(90 * SECOND),
            environment: FakeSetting::new(
                "environment",
                BTreeMap::new(),
                RapidScale::default().environment(),
            )
            .with_lead_time(30 * SECOND),
            metrics,
            blackout: Blackout::new(),
        }
    }

    fn source(&self) -> Arc<dyn MetricsSource> {
        self.blackout.over(Arc::new(self.metrics.clone()))
    }

    /// The scene of a playbook that makes things larger.
    pub(crate) fn spike(&self, playbook: Playbook) -> Scene {
        let (here, [api, _, cache]) = (self.clone(), self.names());
        let snapshot = move || {
            Snapshot::from([
                (api.clone(), json!(here.api.size())),
                ("api-floor".to_owned(), json!(here.api_autoscaler.bounds())),
                (cache.clone(), json!(here.cache.size())),
                ("limits".to_owned(), json!(here.environment.value())),
                ("nodes".to_owned(), json!(here.nodes.value())),
            ])
        };
        Scene::new(&ManualClock::default(), playbook, snapshot).with_blackout(&self.blackout)
    }

    /// The scene of a playbook that makes things smaller. The cache is none of its business.
    pub(crate) fn descent(&self, playbook: Playbook) -> Scene {
        let (here, [api, worker, cache]) = (self.clone(), self.names());
        let (also_here, resources) = (self.clone(), [self.api.resource(), self.worker.resource()]);
        let snapshot = move || {
            Snapshot::from([
                (api.clone(), json!(here.api.size())),
                (worker.clone(), json!(here.worker.size())),
                (cache.clone(), json!(here.cache.size())),
            ])
        };
        let sizes =
            move || resources.iter().cloned().zip([also_here.api.size(), also_here.worker.size()]).collect();
        Scene::new(&ManualClock::default(), playbook, snapshot)
            .with_sizes(sizes)
            .with_blackout(&self.blackout)
    }

    /// The names of the resources, made once: a scene is looked at after each thing that happens.
    fn names(&self) -> [String; 3] {
        [&self.api, &self.worker, &self.cache].map(|target| target.resource().into())
    }
}

impl rapid_scale::Production for FakeProduction {
    fn api(&self) -> SharedTarget {
        Arc::new(self.api.clone())
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        Arc::new(self.api_autoscaler.clone())
    }

    fn cache(&self) -> SharedTarget {
        Arc::new(self.cache.clone())
    }

    fn scale_nodes(&self, id: StepId, _: Units, _: bool) -> Arc<dyn PlaybookStep> {
        Arc::new(self.nodes.step(id))
    }

    fn set_environment(&self, id: StepId, _: &BTreeMap<String, String>, _: Units) -> Arc<dyn PlaybookStep> {
        Arc::new(self.environment.step(id))
    }

    fn metrics(&self) -> Option<rapid_scale::ApiMetrics> {
        Some(rapid_scale::ApiMetrics {
            source: self.source(),
            error_rate: "error_rate".into(),
            latency_p95: "latency_p95".into(),
        })
    }

    fn guards(&self, parameters: &RapidScale) -> Vec<Arc<dyn Guard>> {
        vec![Arc::new(TruceGuard::new(
            rapid_scale::Production::api_autoscaler(self),
            parameters.api_replicas,
        ))]
    }

    fn preflight(&self, _: &RapidScale) -> Vec<Arc<dyn Preflight>> {
        Vec::new()
    }

    fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::new(FakeNotifier::new())
    }
}

impl gradual_scale_down::Production for FakeProduction {
    fn api(&self) -> SharedTarget {
        Arc::new(self.api.clone())
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        Arc::new(self.api_autoscaler.clone())
    }

    fn worker(&self) -> SharedTarget {
        Arc::new(self.worker.clone())
    }

    fn worker_autoscaler(&self) -> Arc<dyn Autoscaler> {
        Arc::new(FakeAutoscaler::none(&self.worker))
    }

    fn metrics(&self) -> gradual_scale_down::ApiMetrics {
        gradual_scale_down::ApiMetrics::new(self.source(), "error_rate")
    }
}

/// The runbook's parameters.
pub(crate) fn rapid_scale() -> RapidScale {
    RapidScale::default()
}

/// The runbook's parameters, with a limit to how fast things may go.
pub(crate) fn gradual_scale_down() -> GradualScaleDown {
    let mut parameters = GradualScaleDown::default();
    parameters.max_removed_per_minute = Some(10);
    parameters
}
