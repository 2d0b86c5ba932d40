//! Whether the pods that a plan adds find nodes, and the namespace's quota room.

mod amount;
mod nodes;
mod quota;

use std::collections::BTreeSet;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, ResourceQuota};
use kube::Api;
use kube::api::{ListParams, ObjectList};
use wakala_core::{Finding, FindingLevel, Permission, Preflight, Result, RunContext, StepPlan, Units};

use self::amount::{Amount, Dimension, millis};
use self::nodes::{Demand, Placed, Room, asked_by, is_daemon, limit_of, place};
use crate::config::refuse;
use crate::permissions::{permit, permit_in_cluster};
use crate::{Cluster, Workload};

const OPERATION: &str = "preflight";
const SUBJECT: &str = "nodes and pods of the cluster";
/// Pods are read in pages, since a large cluster has tens of thousands.
const PAGE: u32 = 1000;

/// Checks that there is room for the pods that a plan adds: CPU, memory and pod slots on the nodes, and the
/// ResourceQuotas of the namespaces.
///
/// Pods are dealt to Ready nodes that their selector, required node affinity and tolerations allow, by their
/// requests, after the pods that wait for a node already. Nodes that the plan itself adds are counted where
/// [`with_nodes`](Self::with_nodes) announces them. Spread and anti-affinity between pods are not counted; a finding
/// says so where a workload has them.
///
/// ```no_run
/// # use wakala_k8s::{Cluster, ExpectedNodes, SchedulableCapacity, Workload};
/// # fn example(cluster: &Cluster, api: &Workload) -> wakala_core::Result<()> {
/// let capacity = SchedulableCapacity::of(cluster)
///     .with_growth(api, 50)
///     .with_restart(api, 50)
///     .with_nodes(ExpectedNodes::up_to(30, "eks.amazonaws.com/nodegroup", "wakala-nodes"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SchedulableCapacity {
    cluster: Cluster,
    growths: Vec<(Workload, Units)>,
    restarts: Vec<(Workload, Units)>,
    nodes: Vec<ExpectedNodes>,
    advisory: bool,
}

/// Nodes that another step of the plan adds.
#[derive(Clone, Debug)]
pub struct ExpectedNodes(Expected);

#[derive(Clone, Debug)]
enum Expected {
    UpTo { total: u32, key: String, value: String },
    Sized { count: u32, each: Amount },
}

impl ExpectedNodes {
    /// As many as are missing until `total` nodes have the label; each like the largest that has it, less the pods of
    /// DaemonSets.
    pub fn up_to(total: u32, label: impl Into<String>, value: impl Into<String>) -> Self {
        Self(Expected::UpTo { total, key: label.into(), value: value.into() })
    }

    /// `count` nodes that take `pods` pods each and have `cpu` and `memory` for them, as Kubernetes quantities: `3920m`,
    /// `14Gi`. They have no labels and no taints.
    ///
    /// # Errors
    /// `InvalidConfig` for a quantity that is none.
    pub fn sized(count: u32, cpu: &str, memory: &str, pods: u32) -> Result<Self> {
        let parse = |text: &str| {
            millis(text)
                .ok_or_else(|| refuse("expected nodes", format!("{text:?} is no quantity; write 4 or 16Gi")))
        };
        let each = Amount {
            cpu_millis: parse(cpu)?,
            memory_bytes: parse(memory)?.div_ceil(1000),
            pods: pods.into(),
        };
        Ok(Self(Expected::Sized { count, each }))
    }
}

impl SchedulableCapacity {
    /// A check of that cluster that adds nothing yet.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.clone(),
            growths: Vec::new(),
            restarts: Vec::new(),
            nodes: Vec::new(),
            advisory: false,
        }
    }

    /// Adds the pods that `workload` lacks until it has `size`.
    #[must_use]
    pub fn with_growth(mut self, workload: &Workload, size: impl Into<Units>) -> Self {
        self.growths.push((workload.clone(), size.into()));
        self
    }

    /// Adds the extra pods (maxSurge) of a change of the template while `workload` has `size`.
    #[must_use]
    pub fn with_restart(mut self, workload: &Workload, size: impl Into<Units>) -> Self {
        self.restarts.push((workload.clone(), size.into()));
        self
    }

    /// Announces nodes that another step of the plan adds.
    #[must_use]
    pub fn with_nodes(mut self, nodes: ExpectedNodes) -> Self {
        self.nodes.push(nodes);
        self
    }

    /// Whether a lack of room is a warning instead of a refusal: for clusters that add nodes by themselves.
    #[must_use]
    pub fn advisory(mut self, advisory: bool) -> Self {
        self.advisory = advisory;
        self
    }

    async fn list<K>(&self, cx: &RunContext, api: Api<K>, mut params: ListParams) -> Result<Vec<K>>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send,
    {
        let mut all = Vec::new();
        loop {
            let page: ObjectList<K> = self.cluster.read(cx, OPERATION, SUBJECT, api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    async fn additions(&self, cx: &RunContext) -> Result<Vec<Addition>> {
        let mut additions = Vec::new();
        for (workload, size) in &self.growths {
            let seen = workload.snapshot(cx, OPERATION).await?;
            let count = size.0.saturating_sub(seen.existing);
            additions.push(Addition::new(workload, seen.template.spec, count, format!("{count} more pods")));
        }
        for (workload, size) in &self.restarts {
            let seen = workload.snapshot(cx, OPERATION).await?;
            let (surge, _) = seen.strategy.limits(size.0);
            let what = format!("{surge} extra pods of a restart");
            additions.push(Addition::new(workload, seen.template.spec, surge, what));
        }
        additions.retain(|addition| addition.count > 0);
        Ok(additions)
    }

    /// The rooms that there are and will be, and findings about the latter.
    fn rooms(&self, nodes: &[Node], pods: &[Pod]) -> (Vec<Room>, Vec<Finding>) {
        let mut findings = Vec::new();
        let empty: Vec<Room> = nodes.iter().filter_map(Room::of).collect();
        let used = |room: &Room, counted: &dyn Fn(&Pod) -> bool| {
            pods.iter()
                .filter_map(|pod| {
                    pod.spec
                        .as_ref()
                        .filter(|spec| spec.node_name.as_ref() == Some(&room.name) && counted(pod))
                })
                .map(asked_by)
                .fold(Amount::default(), Amount::plus)
        };
        let mut rooms: Vec<Room> = empty
            .iter()
            .map(|room| Room { free: room.free.minus(used(room, &|_| true)), ..room.clone() })
            .collect();
        for ExpectedNodes(expected) in &self.nodes {
            match expected {
                Expected::Sized { count, each } => {
                    let new = |number| Room {
                        name: format!("expected-{number}"),
                        labels: Default::default(),
                        taints: Vec::new(),
                        free: *each,
                    };
                    rooms.extend((0..*count).map(new));
                }
                Expected::UpTo { total, key, value } => {
                    let group: Vec<_> =
                        empty.iter().filter(|room| room.labels.get(key) == Some(value)).collect();
                    let Some(largest) = group.iter().max_by_key(|room| room.free.cpu_millis) else {
                        findings.push(Finding::warning(format!(
                            "no Ready node has the label {key}={value}, so the size of the {total} expected ones is not \
                             known and they are not counted"
                        )));
                        continue;
                    };
                    let present = u32::try_from(group.len()).unwrap_or(u32::MAX);
                    let free = largest.free.minus(used(largest, &is_daemon));
                    let new =
                        |number| Room { name: format!("expected-{number}"), free, ..(*largest).clone() };
                    rooms.extend((0..total.saturating_sub(present)).map(new));
                }
            }
        }
        (rooms, findings)
    }

    fn lack(&self, text: String) -> Finding {
        if self.advisory { Finding::warning(text) } else { Finding::refusal(text) }
    }

    fn judge(&self, addition: &Addition, placed: &Placed, expected: usize) -> Finding {
        let Addition { workload, what, each, count, .. } = addition;
        let on = if expected == 0 {
            format!("{} nodes", placed.eligible)
        } else {
            format!("{} nodes, {expected} of them still to come,", placed.eligible)
        };
        if placed.eligible == 0 {
            return self.lack(format!(
                "{what} of {workload} find no node: none that is Ready fits their node selector, affinity and \
                 tolerations"
            ));
        }
        if placed.placed == *count {
            return Finding::ok(format!("{what} of {workload} find room on {on} ({each} each)"));
        }
        let scarcest = Dimension::ALL.into_iter().zip(placed.by_dimension).min_by_key(|(_, fits)| *fits);
        let (dimension, fits) = scarcest.unwrap_or((Dimension::Pods, 0));
        let (need, have) =
            (dimension.show(dimension.of(&each.times(*count))), dimension.show(dimension.of(&placed.free)));
        let bound = if fits < *count {
            format!("{} runs out: {need} needed, {have} free", dimension.name())
        } else {
            format!("{need} needed, {have} free, but split over nodes that each have too little left")
        };
        self.lack(format!(
            "only {} of {what} of {workload} find room on {on} ({each} each): {bound}; add nodes or choose a smaller \
             size",
            placed.placed
        ))
    }
}

/// Pods that the plan adds to one workload.
struct Addition {
    workload: Workload,
    spec: PodSpec,
    each: Amount,
    limit: Amount,
    count: u64,
    what: String,
}

impl Addition {
    fn new(workload: &Workload, spec: Option<PodSpec>, count: u32, what: String) -> Self {
        let spec = spec.unwrap_or_default();
        let (each, limit) = (asked_by(&spec), limit_of(&spec));
        Self { workload: workload.clone(), spec, each, limit, count: count.into(), what }
    }

    fn is_spread(&self) -> bool {
        let affinity = self.spec.affinity.as_ref();
        let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let together = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let required = apart.is_some_and(|a| a.required_during_scheduling_ignored_during_execution.is_some())
            || together.is_some_and(|a| a.required_during_scheduling_ignored_during_execution.is_some());
        let spread = self.spec.topology_spread_constraints.iter().flatten();
        required || spread.into_iter().any(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
    }
}

#[async_trait]
impl Preflight for SchedulableCapacity {
    fn permissions(&self) -> Vec<Permission> {
        let mut permissions = permit_in_cluster(&["list"], "core/nodes");
        permissions.extend(permit_in_cluster(&["list"], "core/pods"));
        for (workload, _) in self.growths.iter().chain(&self.restarts) {
            let resource = format!("apps/{}", workload.plural());
            permissions.extend(permit(&["get"], &resource, workload.namespace(), workload.name()));
            permissions.extend(permit(&["list"], "core/resourcequotas", workload.namespace(), "*"));
        }
        permissions.sort();
        permissions.dedup();
        permissions
    }

    async fn check(&self, cx: &RunContext, _: &[StepPlan]) -> Result<Vec<Finding>> {
        let additions = self.additions(cx).await?;
        if additions.is_empty() {
            return Ok(vec![Finding::ok("no pods are added")]);
        }
        let client = self.cluster.client();
        let page = ListParams::default().limit(PAGE);
        let alive = page.clone().fields("status.phase!=Succeeded,status.phase!=Failed");
        let (nodes, pods) = futures::try_join!(
            self.list::<Node>(cx, Api::all(client.clone()), page.clone()),
            self.list::<Pod>(cx, Api::all(client.clone()), alive),
        )?;

        let (mut rooms, mut findings) = self.rooms(&nodes, &pods);
        let waiting = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        for spec in waiting.filter_map(|pod| pod.spec.as_ref()).filter(|spec| spec.node_name.is_none()) {
            place(&mut rooms, &Demand { spec, each: asked_by(spec), count: 1 });
        }
        let expected = rooms.iter().filter(|room| room.name.starts_with("expected-")).count();
        for addition in &additions {
            let Addition { spec, each, count, .. } = addition;
            let placed = place(&mut rooms, &Demand { spec, each: *each, count: *count });
            findings.push(self.judge(addition, &placed, expected));
            if addition.is_spread() {
                findings.push(Finding::warning(format!(
                    "{} has rules about which pods may share a node or zone; they are not counted",
                    addition.workload
                )));
            }
        }

        let namespaces: BTreeSet<&str> =
            additions.iter().map(|addition| addition.workload.namespace()).collect();
        for namespace in namespaces {
            let api = self.cluster.namespaced::<ResourceQuota>(namespace);
            let quotas = self.list(cx, api, ListParams::default()).await?;
            let here = additions.iter().filter(|addition| addition.workload.namespace() == namespace);
            let (mut asked, mut limit) = (Amount::default(), Amount::default());
            for Addition { each, limit: most, count, .. } in here {
                asked = asked.plus(each.times(*count));
                limit = limit.plus(most.times(*count));
            }
            for lack in quota::lacks(&quotas, &asked, &limit) {
                findings.push(match lack.level {
                    FindingLevel::Refusal => self.lack(lack.text),
                    _ => lack,
                });
            }
        }
        Ok(findings)
    }
}
