//! The production that wakala's runbook is about, on started servers.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::api::{Api, PostParams};
use tokio::task::JoinHandle;

use crate::aws::AwsEndpoint;
use crate::{
    ControlPlane, NodeGroup, TestbedError, Workload, horizontal_pod_autoscaler, namespace, wait_until,
};

/// How the [`Production`] is made.
#[derive(Clone, Copy, Debug)]
pub struct ProductionOptions {
    /// Nodes at the start; the group has at least 5 and at most 50.
    pub nodes: u32,
    /// How long a new node takes to be Ready.
    pub node_boot_delay: Duration,
    /// How long a change of the node group takes at AWS.
    pub update_duration: Duration,
    /// How long an API pod takes to be ready.
    pub ready_after: Duration,
}

impl Default for ProductionOptions {
    /// Ten nodes; everything takes some tenths of a second.
    fn default() -> Self {
        let moment = Duration::from_millis(200);
        Self { nodes: 10, node_boot_delay: moment, update_duration: moment, ready_after: moment }
    }
}

/// A control plane and an AWS endpoint with the runbook's objects: the Deployment `wakala-api` with 10 replicas and an
/// HPA from 5 to 50, the StatefulSet `redis-cache` with 2, the EKS node group `workers-general`.
///
/// Nodes come and go in the control plane as the node group is scaled at the AWS endpoint, as an Auto Scaling group
/// does it. All servers end when this is dropped.
#[derive(Debug)]
pub struct Production {
    control_plane: ControlPlane,
    aws: AwsEndpoint,
    joining: JoinHandle<()>,
}

impl Production {
    /// The namespace of the workloads.
    pub const NAMESPACE: &str = "production";
    /// The EKS cluster.
    pub const EKS_CLUSTER: &str = "wakala-production";
    /// The managed node group, by name and by the label of its nodes.
    pub const NODE_GROUP: &str = "workers-general";

    /// Starts the servers, makes the objects, and waits until the API is ready.
    ///
    /// # Errors
    /// Where a server cannot be started; the error says what to run.
    pub async fn start(options: ProductionOptions) -> Result<Self, TestbedError> {
        let nodes = NodeGroup::new(Self::NODE_GROUP, options.nodes)
            .with_cpu("4")
            .with_memory("16Gi")
            .with_pods(58)
            .with_label("eks.amazonaws.com/nodegroup", Self::NODE_GROUP)
            .with_boot_delay(options.node_boot_delay);
        let control_plane = ControlPlane::builder().with_nodes(nodes).start().await?;
        let aws = Self::start_aws(options).await.map_err(TestbedError::api("AWS endpoint"))?;
        let (groups, mut scaled) = (control_plane.node_groups().await?, aws.scaling_events());
        let joining = tokio::spawn(async move {
            while let Ok(event) = scaled.recv().await {
                if let Err(error) = groups.set_desired(&event.nodegroup, event.desired).await {
                    tracing::error!(group = event.nodegroup, %error, "nodes cannot be scaled");
                }
            }
        });
        let production = Self { control_plane, aws, joining };
        production.make_objects(options.ready_after).await?;
        Ok(production)
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The AWS endpoint.
    pub fn aws(&self) -> &AwsEndpoint {
        &self.aws
    }

    async fn start_aws(options: ProductionOptions) -> Result<AwsEndpoint, crate::aws::Error> {
        let aws = AwsEndpoint::builder().update_duration(options.update_duration).start().await?;
        aws.create_cluster(Self::EKS_CLUSTER).await?;
        aws.create_nodegroup(Self::EKS_CLUSTER, Self::NODE_GROUP, 5, options.nodes, 50).await?;
        Ok(aws)
    }

    async fn make_objects(&self, ready_after: Duration) -> Result<(), TestbedError> {
        let (client, post) = (self.control_plane.client().await?, PostParams::default());
        Api::all(client.clone())
            .create(&post, &namespace(Self::NAMESPACE))
            .await
            .map_err(TestbedError::api("create the namespace"))?;
        let api = Workload::new("wakala-api", 10)
            .with_cpu_request("1200m")
            .with_memory_request("2Gi")
            .with_env("RATE_LIMIT_REQUESTS", "1000")
            .with_env("RATE_LIMIT_WINDOW", "60")
            .with_ready_after(ready_after);
        let cache = Workload::new("redis-cache", 2).with_cpu_request("1").with_ready_after(ready_after);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), Self::NAMESPACE);
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), Self::NAMESPACE);
        let failed = || TestbedError::api("create a workload");
        deployments.create(&post, &api.deployment()).await.map_err(failed())?;
        sets.create(&post, &cache.stateful_set()).await.map_err(failed())?;
        Api::namespaced(client, Self::NAMESPACE)
            .create(&post, &horizontal_pod_autoscaler("wakala-api", 5, 50, 70))
            .await
            .map_err(TestbedError::api("create the autoscaler"))?;
        wait_until("the API is ready", Duration::from_secs(60), || async {
            let status = deployments.get("wakala-api").await?.status;
            match status.and_then(|status| status.ready_replicas).unwrap_or(0) {
                10 => Ok(()),
                ready => Err(format!("{ready} of 10").into()),
            }
        })
        .await
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        self.joining.abort();
    }
}
