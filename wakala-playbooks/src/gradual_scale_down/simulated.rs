//! The playbook on the simulated production.

use std::sync::Arc;

use wakala_core::sim::World;
use wakala_core::{Autoscaler, MetricQuery, SharedTarget};

use super::{ApiMetrics, Production};

const API: &str = "wakala-api";
const WORKER: &str = "wakala-worker";

/// The parts of a simulated [`World`] under the runbook's names:
/// [`World::production_after_spike`] has them.
#[derive(Clone, Debug)]
pub struct Simulated {
    world: World,
}

impl Simulated {
    /// The workloads `wakala-api` and `wakala-worker` of `world`.
    pub fn new(world: &World) -> Self {
        Self { world: world.clone() }
    }
}

impl Production for Simulated {
    fn api(&self) -> SharedTarget {
        self.world.target(API)
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        self.world.autoscaler(API)
    }

    fn worker(&self) -> SharedTarget {
        self.world.target(WORKER)
    }

    fn worker_autoscaler(&self) -> Arc<dyn Autoscaler> {
        self.world.autoscaler(WORKER)
    }

    /// Error rate and requests; connections that last are not simulated.
    fn metrics(&self) -> ApiMetrics {
        let of_api = |name| MetricQuery::new(name).with_label("workload", API);
        ApiMetrics::new(self.world.metrics(), of_api("error_rate")).with_requests(of_api("requests"))
    }
}
