//! Nodes, what is free on them, and which pods they take.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use super::amount::Amount;
use crate::nodes::takes_pods;

/// Equal nodes, or one.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) free: Amount,
}

/// Pods that are equal in what they ask for.
#[derive(Clone, Debug)]
pub(crate) struct Demand<'a> {
    pub(crate) spec: &'a PodSpec,
    pub(crate) each: Amount,
    pub(crate) count: u64,
}

/// How much of a demand found room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) placed: u64,
    pub(crate) eligible: usize,
    /// What was free on the eligible nodes before.
    pub(crate) free: Amount,
    /// How many would have fit if each dimension were the only one, in the order of `Dimension::ALL`.
    pub(crate) by_dimension: [u64; 3],
}

impl Room {
    /// A node with nothing on it; `None` where it is not Ready or takes no new pods.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        if !takes_pods(node) {
            return None;
        }
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Some(Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            free: Amount::of(allocatable),
        })
    }

    fn takes(&self, spec: &PodSpec) -> bool {
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let selector = spec.node_selector.iter().flatten();
        let required = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        self.taints.iter().all(|taint| taint.effect == "PreferNoSchedule" || tolerated(taint, tolerations))
            && selector.into_iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && required
                .is_none_or(|required| required.node_selector_terms.iter().any(|term| self.matches(term)))
    }

    fn matches(&self, term: &NodeSelectorTerm) -> bool {
        let name = BTreeMap::from([("metadata.name".to_owned(), self.name.clone())]);
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        // A term that asks for nothing matches nothing.
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|requirement| holds(requirement, &self.labels))
            && fields.iter().all(|requirement| holds(requirement, &name))
    }
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && exists))
            && (exists
                || toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default())
    })
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(a, b)| a > b),
        "Lt" => value.and_then(number).zip(values.first().and_then(number)).is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

/// Takes room for as many of `demand` as fit.
pub(crate) fn place(rooms: &mut [Room], demand: &Demand<'_>) -> Placed {
    let mut left = demand.count;
    let mut result = Placed { placed: 0, eligible: 0, free: Amount::default(), by_dimension: [0; 3] };
    for room in rooms.iter_mut().filter(|room| room.takes(demand.spec)) {
        result.eligible += 1;
        result.free = result.free.plus(room.free);
        for (sum, dimension) in result.by_dimension.iter_mut().zip(super::amount::Dimension::ALL) {
            *sum = sum.saturating_add(room.free.fits_by(dimension, &demand.each));
        }
        let here = room.free.fits(&demand.each).min(left);
        room.free = room.free.minus(demand.each.times(here));
        left -= here;
    }
    result.placed = demand.count - left;
    result
}

/// What the scheduler counts a pod as: its containers together or, if that is more, the hungriest moment of its
/// start; or what the pod as a whole asks for.
pub(crate) fn asked_by(spec: &PodSpec) -> Amount {
    let of = |container: &Container| {
        Amount::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let containers = spec.containers.iter().map(of).fold(Amount::default(), Amount::plus);
    let (mut sidecars, mut start) = (Amount::default(), Amount::default());
    for container in spec.init_containers.iter().flatten() {
        let asked = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.plus(asked);
            start = start.at_least(sidecars);
        } else {
            start = start.at_least(sidecars.plus(asked));
        }
    }
    let mut asked = containers.plus(sidecars).at_least(start);
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let whole_amount = Amount::of(Some(whole));
        if whole.contains_key("cpu") {
            asked.cpu_millis = whole_amount.cpu_millis;
        }
        if whole.contains_key("memory") {
            asked.memory_bytes = whole_amount.memory_bytes;
        }
    }
    let overhead = Amount::of(spec.overhead.as_ref());
    Amount { pods: 1, ..asked.plus(overhead) }
}

/// What the containers of a pod may use at most, as quotas count it.
pub(crate) fn limit_of(spec: &PodSpec) -> Amount {
    let of = |container: &Container| {
        Amount::of(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()))
    };
    spec.containers.iter().map(of).fold(Amount::default(), Amount::plus)
}

/// Whether a DaemonSet put the pod there, as it would on a new node.
pub(crate) fn is_daemon(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "DaemonSet")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(value: Value) -> Option<Room> {
        Room::of(&serde_json::from_value(value).unwrap())
    }

    fn ready(name: &str, labels: Value, taints: Value) -> Room {
        node(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"taints": taints},
            "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap()
    }

    fn spec(value: Value) -> PodSpec {
        let mut whole = json!({"containers": []});
        whole.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn nodes_that_are_not_ready_or_cordoned_have_no_room() {
        let status = |ready: &str| json!({"conditions": [{"type": "Ready", "status": ready}]});
        assert!(node(json!({"metadata": {}, "status": status("True")})).is_some());
        assert!(node(json!({"metadata": {}, "status": status("Unknown")})).is_none());
        assert!(
            node(json!({"metadata": {}, "spec": {"unschedulable": true}, "status": status("True")}))
                .is_none()
        );
    }

    #[test]
    fn pods_go_where_selector_affinity_and_taints_allow() {
        let plain = ready("n-1", json!({"zone": "a", "cores": "8"}), json!([]));
        let taint = json!([{"key": "team", "value": "ml", "effect": "NoSchedule"}]);
        let tainted = ready("n-2", json!({}), taint);
        let soft = ready("n-3", json!({}), json!([{"key": "x", "effect": "PreferNoSchedule"}]));
        let affinity = |expression: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]
            }}}})
        };
        for (room, pod, expected) in [
            (&plain, json!({}), true),
            (&plain, json!({"nodeSelector": {"zone": "a"}}), true),
            (&plain, json!({"nodeSelector": {"zone": "b"}}), false),
            (&plain, affinity(json!({"key": "zone", "operator": "In", "values": ["a", "b"]})), true),
            (&plain, affinity(json!({"key": "zone", "operator": "NotIn", "values": ["a"]})), false),
            (&plain, affinity(json!({"key": "gpu", "operator": "DoesNotExist"})), true),
            (&plain, affinity(json!({"key": "gpu", "operator": "Exists"})), false),
            (&plain, affinity(json!({"key": "cores", "operator": "Gt", "values": ["4"]})), true),
            (&plain, affinity(json!({"key": "cores", "operator": "Lt", "values": ["4"]})), false),
            (&tainted, json!({}), false),
            (&tainted, json!({"tolerations": [{"key": "team", "value": "ml"}]}), true),
            (&tainted, json!({"tolerations": [{"key": "team", "value": "web"}]}), false),
            (&tainted, json!({"tolerations": [{"operator": "Exists"}]}), true),
            (
                &tainted,
                json!({"tolerations": [{"key": "team", "operator": "Exists", "effect": "NoExecute"}]}),
                false,
            ),
            (&soft, json!({}), true),
        ] {
            assert_eq!(room.takes(&spec(pod.clone())), expected, "{} {pod}", room.name);
        }
    }

    #[test]
    fn placing_takes_room_node_by_node() {
        let mut rooms = vec![ready("a", json!({}), json!([])), ready("b", json!({}), json!([]))];
        let pod = spec(json!({}));
        let each = Amount { cpu_millis: 1500, memory_bytes: 1 << 30, pods: 1 };
        let placed = place(&mut rooms, &Demand { spec: &pod, each, count: 5 });
        // 8 CPU are free, but no node has room for a third pod.
        assert_eq!((placed.placed, placed.eligible, placed.by_dimension), (4, 2, [4, 16, 20]));
        assert_eq!(rooms[0].free.cpu_millis, 1000);
        assert_eq!(place(&mut rooms, &Demand { spec: &pod, each, count: 1 }).placed, 0);
    }

    #[test]
    fn a_pod_asks_for_its_hungriest_moment() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let init = |cpu: &str, always: bool| {
            let mut container = container(cpu);
            if always {
                container["restartPolicy"] = json!("Always");
            }
            container
        };
        for (pod, expected) in [
            (json!({"containers": [container("1"), container("500m")]}), 1500),
            (json!({"containers": [container("1")], "initContainers": [init("3", false)]}), 3000),
            (
                json!({"containers": [container("1")], "initContainers": [init("500m", true), init("1", false)]}),
                1500,
            ),
            (json!({"containers": [container("1")], "overhead": {"cpu": "100m"}}), 1100),
            (json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}), 4000),
        ] {
            let asked = asked_by(&spec(pod.clone()));
            assert_eq!((asked.cpu_millis, asked.pods), (expected, 1), "{pod}");
        }
    }
}
