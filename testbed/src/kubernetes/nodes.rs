use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{TestbedError, wait_until};

const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "node-sim";
const CONFLICT_ATTEMPTS: u32 = 20;

/// A group of equal simulated nodes, called `<group>-0`, `<group>-1` and so on.
///
/// Every node carries the label `testbed.wakala.dev/node-group` with the name of its group, the usual
/// `kubernetes.io/*`, `topology.kubernetes.io/*` and `node.kubernetes.io/instance-type` labels, and a provider id
/// in the form of AWS.
#[derive(Clone, Debug)]
pub struct NodeGroup {
    pub(crate) name: String,
    count: u32,
    cpu: String,
    memory: String,
    pods: u32,
    instance_type: String,
    labels: BTreeMap<String, String>,
    zones: Vec<String>,
    boot_delay: Duration,
}

impl NodeGroup {
    /// The label that names a node's group.
    pub const LABEL: &str = "testbed.wakala.dev/node-group";

    /// `count` nodes of 32 CPUs, 128 GiB and 250 pods in one zone, Ready at once.
    pub fn new(name: impl Into<String>, count: u32) -> Self {
        Self {
            name: name.into(),
            count,
            cpu: "32".into(),
            memory: "128Gi".into(),
            pods: 250,
            instance_type: "sim.large".into(),
            labels: BTreeMap::new(),
            zones: vec!["local-1a".into()],
            boot_delay: Duration::ZERO,
        }
    }

    /// CPU of each node as a Kubernetes quantity, such as `"4"` or `"3920m"`.
    #[must_use]
    pub fn with_cpu(mut self, quantity: impl Into<String>) -> Self {
        self.cpu = quantity.into();
        self
    }

    /// Memory of each node as a Kubernetes quantity, such as `"16Gi"`.
    #[must_use]
    pub fn with_memory(mut self, quantity: impl Into<String>) -> Self {
        self.memory = quantity.into();
        self
    }

    /// How many pods each node takes.
    #[must_use]
    pub fn with_pods(mut self, pods: u32) -> Self {
        self.pods = pods;
        self
    }

    /// Value of the label `node.kubernetes.io/instance-type`.
    #[must_use]
    pub fn with_instance_type(mut self, instance_type: impl Into<String>) -> Self {
        self.instance_type = instance_type.into();
        self
    }

    /// A further label on each node, such as `eks.amazonaws.com/nodegroup`.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Zones that the nodes are dealt to in turn.
    #[must_use]
    pub fn with_zones<S: Into<String>>(mut self, zones: impl IntoIterator<Item = S>) -> Self {
        self.zones = zones.into_iter().map(Into::into).collect();
        self
    }

    /// How long a new node takes from being wanted to being Ready.
    #[must_use]
    pub fn with_boot_delay(mut self, delay: Duration) -> Self {
        self.boot_delay = delay;
        self
    }

    fn to_json(&self) -> Value {
        json!({
            "count": self.count,
            "cpu": self.cpu,
            "memory": self.memory,
            "pods": self.pods,
            "instanceType": self.instance_type,
            "labels": self.labels,
            "zones": self.zones,
            "bootMillis": u64::try_from(self.boot_delay.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// The node groups of a running [`ControlPlane`](crate::ControlPlane): a fake cloud's hold on the cluster.
///
/// Cheap to clone. Bound to the runtime in which it was made, as its client is.
#[derive(Clone)]
pub struct NodeGroups {
    client: Client,
}

impl std::fmt::Debug for NodeGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeGroups").finish_non_exhaustive()
    }
}

impl NodeGroups {
    /// The groups of the control plane that `client` talks to.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Creates the group or replaces its definition. Nodes that exist keep what they were created with.
    pub async fn define(&self, group: &NodeGroup) -> Result<(), TestbedError> {
        let text = group.to_json().to_string();
        let patch = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": CONFIG_MAP },
            "data": { group.name.as_str(): text },
        });
        // A field manager per group: applying one leaves the others alone.
        let parameters = PatchParams::apply(&format!("testbed-{}", group.name)).force();
        self.config_maps()
            .patch(CONFIG_MAP, &parameters, &Patch::Apply(&patch))
            .await
            .map_err(TestbedError::api(format!("cannot define node group {}", group.name)))?;
        Ok(())
    }

    /// The number of nodes that `group` shall have.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Invalid`] if there is no such group.
    pub async fn desired(&self, group: &str) -> Result<u32, TestbedError> {
        let (_, definition) = self.definition(group).await?;
        let count = definition.get("count").and_then(Value::as_u64).unwrap_or(0);
        u32::try_from(count).map_err(|_| unreadable(group))
    }

    /// Sets the number of nodes of `group` and returns once that is recorded; the nodes come and go after it.
    ///
    /// New nodes are Ready after the group's boot delay. The nodes with the highest numbers leave first: cordoned,
    /// evicted (disruption budgets count, for a minute), removed.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Invalid`] if there is no such group.
    pub async fn set_desired(&self, group: &str, count: u32) -> Result<(), TestbedError> {
        self.update(group, |_| count).await?;
        Ok(())
    }

    /// Adds `more` nodes to `group`, as [`set_desired`](Self::set_desired) does, and returns the new number.
    pub async fn add(&self, group: &str, more: u32) -> Result<u32, TestbedError> {
        self.update(group, |count| count.saturating_add(more)).await
    }

    /// The group's nodes that are Ready and take pods.
    pub async fn ready(&self, group: &str) -> Result<Vec<Node>, TestbedError> {
        let selector = ListParams::default().labels(&format!("{}={group}", NodeGroup::LABEL));
        let mut nodes = Api::<Node>::all(self.client.clone())
            .list(&selector)
            .await
            .map_err(TestbedError::api(format!("cannot list the nodes of group {group}")))?
            .items;
        nodes.retain(takes_pods);
        Ok(nodes)
    }

    /// Waits until exactly as many nodes of `group` are Ready and take pods as it shall have.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] after `deadline`.
    pub async fn wait_ready(&self, group: &str, deadline: Duration) -> Result<(), TestbedError> {
        let what = format!("all nodes of group {group} ready");
        wait_until(&what, deadline, || async {
            let (ready, desired) = (self.ready(group).await?.len(), self.desired(group).await?);
            if u32::try_from(ready) == Ok(desired) {
                Ok(())
            } else {
                Err(format!("{ready} of {desired}").into())
            }
        })
        .await
    }

    async fn definition(&self, group: &str) -> Result<(ConfigMap, Value), TestbedError> {
        let config = self
            .config_maps()
            .get(CONFIG_MAP)
            .await
            .map_err(TestbedError::api(format!("cannot read the ConfigMap {NAMESPACE}/{CONFIG_MAP}")))?;
        let Some(text) = config.data.as_ref().and_then(|data| data.get(group)) else {
            let known: Vec<_> = config.data.iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
            return Err(TestbedError::Invalid(format!(
                "no node group {group}; there are: {}",
                known.join(", ")
            )));
        };
        let definition = serde_json::from_str(text).map_err(|_| unreadable(group))?;
        Ok((config, definition))
    }

    async fn update(
        &self,
        group: &str,
        change: impl Fn(u32) -> u32 + Send + Sync,
    ) -> Result<u32, TestbedError> {
        let mut attempt = 1;
        loop {
            let (mut config, mut definition) = self.definition(group).await?;
            let before = definition.get("count").and_then(Value::as_u64).unwrap_or(0);
            let count = change(u32::try_from(before).map_err(|_| unreadable(group))?);
            definition["count"] = count.into();
            config.data.get_or_insert_default().insert(group.to_owned(), definition.to_string());
            match self.config_maps().replace(CONFIG_MAP, &PostParams::default(), &config).await {
                Ok(_) => return Ok(count),
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < CONFLICT_ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => {
                    let what = format!("cannot set node group {group} to {count} nodes");
                    return Err(TestbedError::api(what)(error));
                }
            }
        }
    }
}

fn unreadable(group: &str) -> TestbedError {
    TestbedError::Invalid(format!(
        "the definition of node group {group} in {NAMESPACE}/{CONFIG_MAP} cannot be read"
    ))
}

fn takes_pods(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let spec = node.spec.clone().unwrap_or_default();
    ready && spec.unschedulable != Some(true) && spec.taints.unwrap_or_default().is_empty()
}
