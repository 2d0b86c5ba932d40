//! A control plane and an AWS endpoint on loopback, with the runbook's objects.

use std::time::Duration;

use tokio::task::JoinHandle;
use wakala_aws::AwsConfig;
use wakala_k8s::Cluster;
use wakala_playbooks::rapid_scale::KubernetesEks;
use wakala_testbed::aws::AwsEndpoint;
use wakala_testbed::{ControlPlane, NodeGroup, Workload, horizontal_pod_autoscaler, namespace, wait_until};

use super::{Site, TESTBED_POLL};
use crate::Failure;
use crate::view::View;

const NAMESPACE: &str = "production";
const CLUSTER: &str = "wakala-production";
const GROUP: &str = "workers-general";

/// Started servers. They end when this is dropped.
pub(super) struct Testbed {
    _control_plane: ControlPlane,
    _aws: AwsEndpoint,
    joining: JoinHandle<()>,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.joining.abort();
    }
}

/// Starts the servers and makes what the runbook is about: `wakala-api` with 10 replicas and an HPA from 5 to 50,
/// `redis-cache` with 2, ten nodes of `workers-general`, which may have 50.
pub(super) async fn start(view: &View) -> Result<Site, Failure> {
    view.line("Starting a Kubernetes control plane and an AWS endpoint on loopback ...");
    let nodes = NodeGroup::new(GROUP, 10)
        .with_cpu("4")
        .with_memory("16Gi")
        .with_pods(58)
        .with_label("eks.amazonaws.com/nodegroup", GROUP)
        .with_boot_delay(Duration::from_secs(2));
    let control_plane = ControlPlane::builder().with_nodes(nodes).start().await?;
    let aws = AwsEndpoint::builder().update_duration(Duration::from_secs(2)).start().await?;
    aws.create_cluster(CLUSTER).await?;
    aws.create_nodegroup(CLUSTER, GROUP, 5, 10, 50).await?;

    // What the Auto Scaling group does: nodes come and go as the node group is scaled.
    let (groups, mut scaled) = (control_plane.node_groups().await?, aws.scaling_events());
    let joining = tokio::spawn(async move {
        while let Ok(event) = scaled.recv().await {
            if let Err(error) = groups.set_desired(&event.nodegroup, event.desired).await {
                eprintln!("testbed: nodes of {} cannot be scaled: {error}", event.nodegroup);
            }
        }
    });

    let client = control_plane.client().await?;
    make_objects(&client).await?;
    let cluster = Cluster::from_kubeconfig(control_plane.kubeconfig_path(), None).await?;
    let access = AwsConfig::new()
        .with_endpoint_url(aws.endpoint_url())
        .with_region(aws.region())
        .with_static_credentials(aws.access_key_id(), aws.secret_access_key().to_owned().into())
        .load()
        .await?;
    let production = KubernetesEks::new(&cluster, NAMESPACE, &access, CLUSTER, GROUP)
        .with_node_group(|group| group.with_poll(TESTBED_POLL).with_busy_pause(TESTBED_POLL));
    Ok(Site { production, _testbed: Some(Testbed { _control_plane: control_plane, _aws: aws, joining }) })
}

async fn make_objects(client: &kube::Client) -> Result<(), Failure> {
    use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
    use kube::api::{Api, PostParams};

    let post = PostParams::default();
    Api::all(client.clone()).create(&post, &namespace(NAMESPACE)).await?;
    let api = Workload::new("wakala-api", 10)
        .with_cpu_request("1200m")
        .with_memory_request("2Gi")
        .with_env("RATE_LIMIT_REQUESTS", "1000")
        .with_env("RATE_LIMIT_WINDOW", "60")
        .with_ready_after(Duration::from_secs(2));
    let cache =
        Workload::new("redis-cache", 2).with_cpu_request("1").with_ready_after(Duration::from_secs(1));
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    deployments.create(&post, &api.deployment()).await?;
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), NAMESPACE);
    sets.create(&post, &cache.stateful_set()).await?;
    Api::namespaced(client.clone(), NAMESPACE)
        .create(&post, &horizontal_pod_autoscaler("wakala-api", 5, 50, 70))
        .await?;
    wait_until("the API is ready", Duration::from_secs(60), || async {
        let status = deployments.get("wakala-api").await?.status;
        match status.and_then(|status| status.ready_replicas).unwrap_or(0) {
            10 => Ok(()),
            ready => Err(format!("{ready} of 10").into()),
        }
    })
    .await?;
    Ok(())
}
