//! The playbook on the simulated production.

use std::collections::BTreeMap;
use std::sync::Arc;

use wakala_core::sim::World;
use wakala_core::{
    Autoscaler, Guard, LogNotifier, MetricQuery, Notifier, PlaybookStep, Preflight, SharedTarget, StepId,
    TruceGuard, Units,
};

use super::{ApiMetrics, Production, RapidScale};

/// The parts of a simulated [`World`] under the runbook's names: [`World::production`] has them.
#[derive(Clone, Debug)]
pub struct Simulated {
    world: World,
    notifier: Arc<dyn Notifier>,
}

impl Simulated {
    /// The workloads `wakala-api` and `redis-cache` and the pool `workers-general` of `world`; alerts go to the log.
    pub fn new(world: &World) -> Self {
        Self { world: world.clone(), notifier: Arc::new(LogNotifier) }
    }

    /// Tells `notifier` instead of the log.
    #[must_use]
    pub fn with_notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.notifier = notifier;
        self
    }
}

const API: &str = "wakala-api";
const CACHE: &str = "redis-cache";
const NODES: &str = "workers-general";

impl Production for Simulated {
    fn api(&self) -> SharedTarget {
        self.world.target(API)
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        self.world.autoscaler(API)
    }

    fn cache(&self) -> SharedTarget {
        self.world.target(CACHE)
    }

    fn scale_nodes(&self, id: StepId, desired: Units, raise_max: bool) -> Arc<dyn PlaybookStep> {
        Arc::new(self.world.node_pool(NODES, desired.0).raising_max(raise_max).step(id))
    }

    fn set_environment(
        &self,
        id: StepId,
        variables: &BTreeMap<String, String>,
        _replicas: Units,
    ) -> Arc<dyn PlaybookStep> {
        Arc::new(self.world.environment(API, variables.clone()).step(id))
    }

    fn metrics(&self) -> Option<ApiMetrics> {
        let of_api = |name| MetricQuery::new(name).with_label("workload", API);
        let source = self.world.metrics();
        Some(ApiMetrics { source, error_rate: of_api("error_rate"), latency_p95: of_api("latency_p95") })
    }

    fn guards(&self, parameters: &RapidScale) -> Vec<Arc<dyn Guard>> {
        vec![Arc::new(TruceGuard::new(self.api_autoscaler(), parameters.api_replicas))]
    }

    fn preflight(&self, _: &RapidScale) -> Vec<Arc<dyn Preflight>> {
        vec![Arc::new(self.world.capacity())]
    }

    fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::clone(&self.notifier)
    }
}
