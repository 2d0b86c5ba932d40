//! What a workload says about itself at one moment, whatever its kind.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A Deployment or StatefulSet as read.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Of every write, also of status.
    pub(crate) resource_version: String,
    /// Of the specification only.
    pub(crate) generation: i64,
    /// The count that is asked for.
    pub(crate) replicas: u32,
    /// The pods that there are, old and new.
    pub(crate) existing: u32,
    pub(crate) ready: u32,
    pub(crate) rollout: Rollout,
    pub(crate) paused: bool,
    pub(crate) strategy: Strategy,
    pub(crate) min_ready_seconds: u32,
    /// Why its controller cannot create pods.
    pub(crate) create_failure: Option<String>,
    pub(crate) selector: LabelSelector,
    pub(crate) template: PodTemplateSpec,
}

/// How far a change of the template or of the count is, as `kubectl rollout status` judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rollout {
    Done,
    /// What is still missing.
    Following(String),
    /// Its controller gave up waiting.
    Failed(String),
}

/// How pods are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// A Deployment's: some at a time.
    Rolling { max_surge: IntOrString, max_unavailable: IntOrString },
    /// A Deployment's: all are stopped before the first new one starts.
    Recreate,
    /// A StatefulSet's: so many at a time, from the highest number down to the partition.
    Ordered { max_unavailable: IntOrString, partition: u32 },
    /// A StatefulSet's: not at all until somebody deletes them.
    OnDelete,
}

impl Strategy {
    /// How many pods there may be above `replicas`, and how many of them may be missing, while pods are replaced.
    ///
    /// Rounded as the controllers round: what is added up, what is missing down, and never both to nothing.
    pub(crate) fn limits(&self, replicas: u32) -> (u32, u32) {
        match self {
            Self::Rolling { max_surge, max_unavailable } => {
                let surge = share(max_surge, replicas, true);
                let unavailable = share(max_unavailable, replicas, false);
                if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(replicas)) }
            }
            Self::Recreate => (0, replicas),
            Self::Ordered { max_unavailable, .. } => (0, share(max_unavailable, replicas, true).max(1)),
            Self::OnDelete => (0, 0),
        }
    }
}

fn share(value: &IntOrString, whole: u32, up: bool) -> u32 {
    match value {
        IntOrString::Int(count) => unsigned(*count),
        IntOrString::String(text) => {
            let percent: u64 = text.trim_end_matches('%').trim().parse().unwrap_or(0);
            let hundredths = u64::from(whole).saturating_mul(percent);
            let count = if up { hundredths.div_ceil(100) } else { hundredths / 100 };
            u32::try_from(count).unwrap_or(u32::MAX)
        }
    }
}

/// Counts are signed in the API and never negative.
pub(crate) fn unsigned(count: i32) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

fn count(count: Option<i32>) -> u32 {
    unsigned(count.unwrap_or(0))
}

impl Snapshot {
    /// Whether nothing is on its way: neither new pods nor old ones that still go.
    pub(crate) fn is_settled(&self) -> bool {
        self.rollout == Rollout::Done && self.existing == self.replicas
    }

    /// Whether pods that are asked for are missing or not ready.
    pub(crate) fn is_lagging(&self) -> bool {
        self.ready < self.replicas || self.rollout != Rollout::Done
    }
}

impl From<Deployment> for Snapshot {
    fn from(object: Deployment) -> Self {
        let spec = object.spec.unwrap_or_default();
        let status = object.status.unwrap_or_default();
        let generation = object.metadata.generation.unwrap_or(0);
        let replicas = unsigned(spec.replicas.unwrap_or(1));
        let (existing, updated) = (count(status.replicas), count(status.updated_replicas));
        let available = count(status.available_replicas);
        let conditions = status.conditions.unwrap_or_default();
        let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);

        let rollout = if status.observed_generation.unwrap_or(0) < generation {
            Rollout::Following("the change is not yet seen by its controller".into())
        } else if let Some(failed) = condition("Progressing")
            && failed.reason.as_deref() == Some("ProgressDeadlineExceeded")
        {
            Rollout::Failed(words(failed))
        } else if updated < replicas {
            Rollout::Following(format!("{updated} of {replicas} pods updated"))
        } else if existing > updated {
            Rollout::Following(format!("{} old pods still to stop", existing - updated))
        } else if available < updated {
            Rollout::Following(format!("{available} of {updated} updated pods available"))
        } else {
            Rollout::Done
        };
        let strategy = spec.strategy.unwrap_or_default();
        Self {
            resource_version: version(&object.metadata),
            generation,
            replicas,
            existing,
            ready: count(status.ready_replicas),
            rollout,
            paused: spec.paused.unwrap_or(false),
            strategy: match strategy.type_.as_deref() {
                Some("Recreate") => Strategy::Recreate,
                _ => {
                    let limits = strategy.rolling_update.unwrap_or_default();
                    let quarter = || IntOrString::String("25%".into());
                    Strategy::Rolling {
                        max_surge: limits.max_surge.unwrap_or_else(quarter),
                        max_unavailable: limits.max_unavailable.unwrap_or_else(quarter),
                    }
                }
            },
            min_ready_seconds: count(spec.min_ready_seconds),
            create_failure: condition("ReplicaFailure").filter(|c| c.status == "True").map(words),
            selector: spec.selector,
            template: spec.template,
        }
    }
}

impl From<StatefulSet> for Snapshot {
    fn from(object: StatefulSet) -> Self {
        let spec = object.spec.unwrap_or_default();
        let status = object.status.unwrap_or_default();
        let generation = object.metadata.generation.unwrap_or(0);
        let replicas = unsigned(spec.replicas.unwrap_or(1));
        let (ready, updated) = (count(status.ready_replicas), count(status.updated_replicas));
        let available = count(status.available_replicas);
        let min_ready_seconds = count(spec.min_ready_seconds);
        let update = spec.update_strategy.unwrap_or_default();
        let rolling = update.rolling_update.unwrap_or_default();
        let partition = count(rolling.partition);
        let strategy = if update.type_.as_deref() == Some("OnDelete") {
            Strategy::OnDelete
        } else {
            Strategy::Ordered {
                max_unavailable: rolling.max_unavailable.unwrap_or(IntOrString::Int(1)),
                partition,
            }
        };

        // kubectl refuses to judge OnDelete; for a count that changes, ready pods are all there is to wait for.
        let one_revision =
            strategy == Strategy::OnDelete || status.update_revision == status.current_revision;
        let rollout = if status.observed_generation.unwrap_or(0) < generation.max(1) {
            Rollout::Following("the change is not yet seen by its controller".into())
        } else if ready < replicas {
            Rollout::Following(format!("{ready} of {replicas} pods ready"))
        } else if min_ready_seconds > 0 && available < replicas {
            Rollout::Following(format!("{available} of {replicas} pods available"))
        } else if partition > 0 && updated < replicas.saturating_sub(partition) {
            Rollout::Following(format!("{updated} of {} pods updated", replicas.saturating_sub(partition)))
        } else if partition == 0 && !one_revision {
            Rollout::Following(format!("{updated} of {replicas} pods updated"))
        } else {
            Rollout::Done
        };
        Self {
            resource_version: version(&object.metadata),
            generation,
            replicas,
            existing: unsigned(status.replicas),
            ready,
            rollout,
            paused: false,
            strategy,
            min_ready_seconds,
            create_failure: None,
            selector: spec.selector,
            template: spec.template,
        }
    }
}

fn version(metadata: &ObjectMeta) -> String {
    metadata.resource_version.clone().unwrap_or_default()
}

fn words(condition: &DeploymentCondition) -> String {
    let text = condition.message.as_deref().filter(|text| !text.is_empty());
    text.or(condition.reason.as_deref()).unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(status: Value) -> Snapshot {
        let object = json!({
            "metadata": {"resourceVersion": "7", "generation": 3},
            "spec": {"replicas": 5, "selector": {}, "template": {}},
            "status": status,
        });
        serde_json::from_value::<Deployment>(object).unwrap().into()
    }

    fn stateful_set(strategy: Value, status: Value) -> Snapshot {
        let object = json!({
            "metadata": {"resourceVersion": "7", "generation": 3},
            "spec": {"replicas": 5, "selector": {}, "serviceName": "s", "template": {}, "updateStrategy": strategy},
            "status": status,
        });
        serde_json::from_value::<StatefulSet>(object).unwrap().into()
    }

    fn following(snapshot: &Snapshot) -> &str {
        match &snapshot.rollout {
            Rollout::Following(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_deployment_is_judged_as_kubectl_judges() {
        let unseen = deployment(json!({
            "observedGeneration": 2, "replicas": 5, "updatedReplicas": 5, "readyReplicas": 5, "availableReplicas": 5
        }));
        assert!(following(&unseen).contains("not yet seen") && !unseen.is_settled() && unseen.is_lagging());
        let few = deployment(json!({"observedGeneration": 3, "replicas": 4, "updatedReplicas": 2}));
        assert_eq!(following(&few), "2 of 5 pods updated");
        let old = deployment(
            json!({"observedGeneration": 3, "replicas": 6, "updatedReplicas": 5, "availableReplicas": 5}),
        );
        assert_eq!(following(&old), "1 old pods still to stop");
        let starting = deployment(
            json!({"observedGeneration": 3, "replicas": 5, "updatedReplicas": 5, "availableReplicas": 4}),
        );
        assert_eq!(following(&starting), "4 of 5 updated pods available");
        let done = deployment(json!({
            "observedGeneration": 3, "replicas": 5, "updatedReplicas": 5, "readyReplicas": 5, "availableReplicas": 5
        }));
        assert!(done.is_settled() && !done.is_lagging());
        assert_eq!((done.replicas, done.ready, done.resource_version.as_str()), (5, 5, "7"));
    }

    #[test]
    fn a_deployment_that_shrinks_is_not_settled_before_its_pods_went() {
        let shrinking = deployment(json!({
            "observedGeneration": 3, "replicas": 8, "updatedReplicas": 8, "readyReplicas": 8, "availableReplicas": 8
        }));
        assert_eq!(shrinking.rollout, Rollout::Done);
        assert!(!shrinking.is_settled() && !shrinking.is_lagging());
    }

    #[test]
    fn conditions_say_what_failed() {
        let failed = deployment(json!({"observedGeneration": 3, "conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"},
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: small"},
        ]}));
        assert_eq!(failed.rollout, Rollout::Failed("timed out".into()));
        assert_eq!(failed.create_failure.as_deref(), Some("exceeded quota: small"));
    }

    #[test]
    fn a_failure_of_an_earlier_change_is_not_one_of_this() {
        let fresh = deployment(json!({"observedGeneration": 2, "conditions": [
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
        ]}));
        following(&fresh);
    }

    #[test]
    fn a_stateful_set_is_judged_as_kubectl_judges() {
        let rolling = json!({"type": "RollingUpdate"});
        let unseen = stateful_set(rolling.clone(), json!({"observedGeneration": 2, "replicas": 5}));
        following(&unseen);
        let few = stateful_set(
            rolling.clone(),
            json!({"observedGeneration": 3, "replicas": 5, "readyReplicas": 4}),
        );
        assert_eq!(following(&few), "4 of 5 pods ready");
        let mixed = json!({
            "observedGeneration": 3, "replicas": 5, "readyReplicas": 5, "updatedReplicas": 2,
            "currentRevision": "a", "updateRevision": "b"
        });
        assert_eq!(following(&stateful_set(rolling, mixed.clone())), "2 of 5 pods updated");
        let partition = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}});
        assert_eq!(stateful_set(partition, mixed.clone()).rollout, Rollout::Done);
        assert_eq!(stateful_set(json!({"type": "OnDelete"}), mixed).rollout, Rollout::Done);
    }

    #[test]
    fn limits_round_as_the_controllers_round() {
        let rolling =
            |surge, unavailable| Strategy::Rolling { max_surge: surge, max_unavailable: unavailable };
        let percent = |text: &str| IntOrString::String(text.into());
        for (strategy, replicas, limits) in [
            (rolling(percent("25%"), percent("25%")), 50, (13, 12)),
            (rolling(percent("25%"), percent("25%")), 3, (1, 0)),
            (rolling(IntOrString::Int(0), percent("10%")), 5, (0, 1)),
            (rolling(IntOrString::Int(2), IntOrString::Int(0)), 5, (2, 0)),
            (rolling(IntOrString::Int(0), IntOrString::Int(9)), 5, (0, 5)),
            (Strategy::Recreate, 5, (0, 5)),
            (Strategy::Ordered { max_unavailable: IntOrString::Int(1), partition: 0 }, 5, (0, 1)),
            (Strategy::OnDelete, 5, (0, 0)),
        ] {
            assert_eq!(strategy.limits(replicas), limits, "{strategy:?} of {replicas}");
        }
    }
}
