//! What the processes of the crash test share: where things are, and the playbook.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wakala_core::Playbook;
use wakala_k8s::{Cluster, PodMetric, PodMetrics, Workload};
use wakala_playbooks::gradual_scale_down::{ApiMetrics, GradualScaleDown, Kubernetes};

use crate::Result;

pub(crate) const NAMESPACE: &str = "production";
pub(crate) const API: &str = "wakala-api";
pub(crate) const WORKER: &str = "wakala-worker";
pub(crate) const API_SIZE: i32 = 20;
pub(crate) const WORKER_SIZE: i32 = 10;
/// The sizes after the last fraction.
pub(crate) const API_END: i32 = 6;
pub(crate) const WORKER_END: i32 = 3;

pub(crate) const KUBECONFIG: &str = "kubeconfig";
pub(crate) const STORE: &str = "runs.db";

/// The playbook, built by every process anew.
pub(crate) async fn playbook(folder: &Path) -> Result<Playbook> {
    let cluster = Cluster::from_kubeconfig(&folder.join(KUBECONFIG), None).await?;
    let api = Workload::deployment(&cluster, NAMESPACE, API);
    let source = PodMetrics::of(&api)
        .with_metric(
            "error_rate",
            PodMetric::ratio_of_increases("http_requests_errors_total", "http_requests_total"),
        )
        .with_window(Duration::from_millis(200));
    let production = Kubernetes::new(&cluster, NAMESPACE, ApiMetrics::new(Arc::new(source), "error_rate"));
    let mut parameters = GradualScaleDown::default();
    parameters.soak = Duration::from_millis(600);
    parameters.rehearsal = true;
    Ok(parameters.playbook(&production)?)
}
