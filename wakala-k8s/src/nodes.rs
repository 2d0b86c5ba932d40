//! Nodes that can take pods.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use wakala_core::{Permission, Result, RunContext, Units};

use crate::Cluster;
use crate::permissions::permit_in_cluster;

/// The nodes of a cluster that have a label and can take pods: Ready and not cordoned.
///
/// ```no_run
/// # use wakala_k8s::{Cluster, ReadyNodes};
/// # fn example(cluster: &Cluster) {
/// let nodes = ReadyNodes::with_label(cluster, "eks.amazonaws.com/nodegroup", "workers-general");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReadyNodes {
    cluster: Cluster,
    selector: String,
}

impl ReadyNodes {
    /// The nodes whose label `key` is `value`.
    pub fn with_label(cluster: &Cluster, key: &str, value: &str) -> Self {
        Self { cluster: cluster.clone(), selector: format!("{key}={value}") }
    }

    /// What the API server must allow.
    pub fn permissions(&self) -> Vec<Permission> {
        permit_in_cluster(&["list"], "core/nodes")
    }

    /// How many there are now. Reads only.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn count(&self, cx: &RunContext) -> Result<Units> {
        let nodes: Api<Node> = Api::all(self.cluster.client().clone());
        let params = ListParams::default().labels(&self.selector);
        let subject = format!("nodes {}", self.selector);
        let list = self.cluster.read(cx, "count", &subject, nodes.list(&params)).await?;
        let ready = list.items.iter().filter(|node| takes_pods(node)).count();
        Ok(Units(u32::try_from(ready).unwrap_or(u32::MAX)))
    }
}

/// Whether the scheduler puts pods on it.
pub(crate) fn takes_pods(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    !cordoned && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
