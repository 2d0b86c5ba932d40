//! The playbook on a Kubernetes cluster.

use std::sync::Arc;

use wakala_core::{Autoscaler, SharedTarget};
use wakala_k8s::{Cluster, HorizontalAutoscaler, Workload};

use super::{ApiMetrics, Production};

/// A production on Kubernetes, under the runbook's names until others are given.
///
/// Where a workload has a HorizontalPodAutoscaler or a KEDA ScaledObject, its minimum is lowered.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    api: Workload,
    worker: Workload,
    metrics: ApiMetrics,
}

impl Kubernetes {
    /// The Deployments `wakala-api` and `wakala-worker` of `namespace`. `metrics` must be of all pods of the API: those of
    /// one pod say nothing of the others.
    pub fn new(cluster: &Cluster, namespace: &str, metrics: ApiMetrics) -> Self {
        Self {
            api: Workload::deployment(cluster, namespace, "wakala-api"),
            worker: Workload::deployment(cluster, namespace, "wakala-worker"),
            metrics,
        }
    }

    /// Scales `api` instead.
    #[must_use]
    pub fn with_api(mut self, api: Workload) -> Self {
        self.api = api;
        self
    }

    /// Scales `worker` instead.
    #[must_use]
    pub fn with_worker(mut self, worker: Workload) -> Self {
        self.worker = worker;
        self
    }
}

impl Production for Kubernetes {
    fn api(&self) -> SharedTarget {
        Arc::new(self.api.clone())
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        Arc::new(HorizontalAutoscaler::of(&self.api))
    }

    fn worker(&self) -> SharedTarget {
        Arc::new(self.worker.clone())
    }

    fn worker_autoscaler(&self) -> Arc<dyn Autoscaler> {
        Arc::new(HorizontalAutoscaler::of(&self.worker))
    }

    fn metrics(&self) -> ApiMetrics {
        self.metrics.clone()
    }
}
