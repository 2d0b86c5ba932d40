//! The runbook's production after a spike, on a control plane on loopback whose pods serve metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use wakala_core::Record;
use wakala_k8s::Cluster;
use wakala_testbed::{
    ControlPlane, Level, MetricsPage, MetricsPages, NodeGroup, TestNamespace, Workload, wait_until,
};

use crate::Failure;
use crate::args::{Args, Trouble, What};

const API: &str = "wakala-api";
const WORKER: &str = "wakala-worker";
const API_SIZE: u16 = 50;
const WORKER_SIZE: u16 = 30;
/// Of each API pod, per second, and how much of it fails while all is well.
const REQUESTS: f64 = 20.0;
const USUAL_ERRORS: f64 = 0.001;
/// How much fails while the API is too small.
const ERRORS: f64 = 0.05;

/// Started servers. Clones are the same; the servers end with the last of them.
#[derive(Clone)]
pub(super) struct Testbed {
    control_plane: Arc<ControlPlane>,
    namespace: TestNamespace,
    troubles: Vec<Trouble>,
}

impl Testbed {
    pub(super) async fn start(args: &Args) -> Result<Self, Failure> {
        if !args.json {
            println!("Starting a Kubernetes control plane on loopback, with {API_SIZE} API pods ...");
        }
        let nodes = NodeGroup::new("workers-general", 10).with_cpu("4").with_memory("16Gi").with_pods(58);
        let control_plane = Arc::new(ControlPlane::builder().with_nodes(nodes).start().await?);
        let namespace = control_plane.create_namespace("production").await?;
        let page = MetricsPage::new().with_requests(REQUESTS, errors(args));
        let workload = |name, size: u16| {
            Workload::new(name, size.into()).with_cpu_request("100m").with_ready_after(Duration::from_secs(2))
        };
        let api = workload(API, API_SIZE).with_metrics_port(9464).with_metrics_page(&page);
        namespace.create(&api.deployment()).await?;
        namespace.create(&workload(WORKER, WORKER_SIZE).deployment()).await?;
        let deployments = namespace.api::<Deployment>();
        wait_until("all pods are ready", Duration::from_secs(120), || async {
            for (name, size) in [(API, API_SIZE), (WORKER, WORKER_SIZE)] {
                let status = deployments.get(name).await?.status;
                let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
                if ready != i32::from(size) {
                    return Err(format!("{ready} of {size} of {name}").into());
                }
            }
            Ok(())
        })
        .await?;
        Ok(Self { control_plane, namespace, troubles: args.fault.clone() })
    }

    pub(super) async fn cluster(&self) -> Result<Cluster, Failure> {
        Ok(Cluster::from_kubeconfig(self.control_plane.kubeconfig_path(), None).await?)
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// Takes the metrics away where that is asked for and the soak of that fraction begins.
    pub(super) fn note(&self, record: &Record) {
        let Record::SoakOpened { soak, .. } = record else { return };
        let gone = |trouble: &Trouble| {
            trouble.what == What::MetricsGone && soak.as_str() == format!("soak-{}", trouble.at)
        };
        if self.troubles.iter().any(gone) {
            let pages = MetricsPages::of(&self.namespace, API);
            tokio::spawn(async move {
                if let Err(error) = pages.serve(&MetricsPage::refusing()).await {
                    eprintln!("the metrics could not be taken away: {error}");
                }
            });
        }
    }
}

/// The share of failed requests, which is higher once the API is as small as at the fraction of the fault.
fn errors(args: &Args) -> Level {
    let sizes = args.fault.iter().filter(|trouble| trouble.what == What::ErrorRate);
    sizes.fold(Level::new(USUAL_ERRORS), |level, trouble| {
        level.when_ready_below(args.parameters.api_size(API_SIZE, trouble.at) + 1, ERRORS)
    })
}

impl fmt::Debug for Testbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Testbed").field("troubles", &self.troubles).finish_non_exhaustive()
    }
}
