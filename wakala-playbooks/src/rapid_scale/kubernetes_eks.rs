//! The playbook on a Kubernetes cluster whose nodes are an EKS managed node group.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use wakala_aws::{Aws, NodeGroup, NodeGroupSize, NodeReadiness};
use wakala_core::{
    Autoscaler, Guard, LogNotifier, Notifier, Permission, PlaybookStep, Preflight, Result, RunContext,
    SharedTarget, StepId, TruceGuard, Units,
};
use wakala_k8s::{
    Cluster, ExpectedNodes, HorizontalAutoscaler, ReadyNodes, SchedulableCapacity, TemplateEnv, Workload,
};

use super::{ApiMetrics, Production, RapidScale};

/// The label by which a node says which node group it is of.
const NODE_GROUP_LABEL: &str = "eks.amazonaws.com/nodegroup";

/// A production on Kubernetes and EKS, under the runbook's names until others are given.
#[derive(Clone, Debug)]
pub struct KubernetesEks {
    cluster: Cluster,
    api: Workload,
    cache: Workload,
    nodes: NodeGroup,
    container: Option<String>,
    metrics: Option<ApiMetrics>,
    notifier: Arc<dyn Notifier>,
}

impl KubernetesEks {
    /// The Deployment `wakala-api` and the StatefulSet `redis-cache` of `namespace`, and the node group `node_group` of
    /// the EKS cluster `eks_cluster`; alerts go to the log, and no metrics are read.
    ///
    /// A node of the group counts once Kubernetes calls it Ready.
    pub fn new(cluster: &Cluster, namespace: &str, aws: &Aws, eks_cluster: &str, node_group: &str) -> Self {
        let ready = ReadyNodes::with_label(cluster, NODE_GROUP_LABEL, node_group);
        Self {
            cluster: cluster.clone(),
            api: Workload::deployment(cluster, namespace, "wakala-api"),
            cache: Workload::stateful_set(cluster, namespace, "redis-cache"),
            nodes: NodeGroup::new(aws, eks_cluster, node_group).with_readiness(Arc::new(GroupNodes(ready))),
            container: None,
            metrics: None,
            notifier: Arc::new(LogNotifier),
        }
    }

    /// Scales `api` instead; its environment is changed in `container`, which may be left out where there is one only.
    #[must_use]
    pub fn with_api(mut self, api: Workload, container: Option<String>) -> Self {
        self.api = api;
        self.container = container;
        self
    }

    /// Scales `cache` instead.
    #[must_use]
    pub fn with_cache(mut self, cache: Workload) -> Self {
        self.cache = cache;
        self
    }

    /// Changes how the node group is looked at: how often, say. It keeps counting Ready nodes.
    #[must_use]
    pub fn with_node_group(mut self, change: impl FnOnce(NodeGroup) -> NodeGroup) -> Self {
        self.nodes = change(self.nodes);
        self
    }

    /// Reads error rate and latency in the soak.
    #[must_use]
    pub fn with_metrics(mut self, metrics: ApiMetrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Tells `notifier` instead of the log.
    #[must_use]
    pub fn with_notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.notifier = notifier;
        self
    }
}

impl Production for KubernetesEks {
    fn api(&self) -> SharedTarget {
        Arc::new(self.api.clone())
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        Arc::new(HorizontalAutoscaler::of(&self.api))
    }

    fn cache(&self) -> SharedTarget {
        Arc::new(self.cache.clone())
    }

    fn scale_nodes(&self, id: StepId, desired: Units, raise_max: bool) -> Arc<dyn PlaybookStep> {
        Arc::new(NodeGroupSize::at_least(self.nodes.clone(), desired).raising_max(raise_max).step(id))
    }

    fn set_environment(
        &self,
        id: StepId,
        variables: &BTreeMap<String, String>,
        replicas: Units,
    ) -> Arc<dyn PlaybookStep> {
        let mut environment = TemplateEnv::of(&self.api).with_size(replicas);
        for (name, value) in variables {
            environment = environment.with_variable(name, value);
        }
        if let Some(container) = &self.container {
            environment = environment.with_container(container);
        }
        Arc::new(environment.step(id))
    }

    fn metrics(&self) -> Option<ApiMetrics> {
        self.metrics.clone()
    }

    fn guards(&self, parameters: &RapidScale) -> Vec<Arc<dyn Guard>> {
        vec![Arc::new(TruceGuard::new(self.api_autoscaler(), parameters.api_replicas))]
    }

    fn preflight(&self, parameters: &RapidScale) -> Vec<Arc<dyn Preflight>> {
        let capacity = SchedulableCapacity::of(&self.cluster)
            .with_growth(&self.api, parameters.api_replicas)
            .with_restart(&self.api, parameters.api_replicas)
            .with_growth(&self.cache, parameters.cache_replicas)
            .with_nodes(ExpectedNodes::up_to(parameters.nodes, NODE_GROUP_LABEL, self.nodes.name()));
        vec![Arc::new(capacity)]
    }

    fn notifier(&self) -> Arc<dyn Notifier> {
        Arc::clone(&self.notifier)
    }
}

/// Lets the node group of one provider count by the nodes of the other, which know nothing of each other.
#[derive(Debug)]
struct GroupNodes(ReadyNodes);

#[async_trait]
impl NodeReadiness for GroupNodes {
    fn permissions(&self) -> Vec<Permission> {
        self.0.permissions()
    }

    async fn ready(&self, cx: &RunContext) -> Result<Units> {
        self.0.count(cx).await
    }
}
