//! Node groups and their updates: what the API documents and moto does not keep. No I/O in here.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use super::change::Change;
use super::reply::ApiError;

/// `status` of a node group. API reference, data type `Nodegroup`, "Contents": `status`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the API's")]
pub enum NodegroupStatus {
    Active,
    CreateFailed,
    Creating,
    Degraded,
    DeleteFailed,
    Deleting,
    Updating,
}

impl NodegroupStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::CreateFailed => "CREATE_FAILED",
            Self::Creating => "CREATING",
            Self::Degraded => "DEGRADED",
            Self::DeleteFailed => "DELETE_FAILED",
            Self::Deleting => "DELETING",
            Self::Updating => "UPDATING",
        }
    }
}

/// One of `health.issues` of a node group. API reference, data type `Issue`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthIssue {
    code: String,
    message: String,
}

impl HealthIssue {
    /// An issue with one of the codes that the API reference lists, and a sentence for people.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// `AsgInstanceLaunchFailures`: the Auto Scaling group could not launch instances, as when a type is sold out.
    #[must_use]
    pub fn launch_failures() -> Self {
        Self::new(
            "AsgInstanceLaunchFailures",
            "Could not launch On-Demand Instances. InsufficientInstanceCapacity - We currently do not have sufficient \
             capacity in the Availability Zone you requested.",
        )
    }
}

/// How an update ends once its time has passed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum UpdateOutcome {
    /// The update is `Successful`, for the Auto Scaling group was changed, but no node comes or goes: the group is
    /// `DEGRADED` with these issues and [`NodegroupScaled`] is not sent.
    Degraded(Vec<HealthIssue>),
    /// The update is `Failed` with one error of this code and message; the group keeps its previous configuration.
    Failed {
        /// One of the codes that the API reference lists for `ErrorDetail`.
        code: String,
        /// A sentence for people.
        message: String,
    },
    /// The update is `Successful`.
    #[default]
    Successful,
}

/// The desired size of a node group has changed and its nodes are on their way, or on their way out.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct NodegroupScaled {
    /// The name of the cluster.
    pub cluster: String,
    /// How many nodes the group should have now.
    pub desired: u32,
    /// The name of the node group.
    pub nodegroup: String,
}

/// The sizes of a node group, in nodes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "min, desired and max are all there is")]
pub struct NodegroupSizes {
    /// `minSize`
    pub min: u32,
    /// `desiredSize`
    pub desired: u32,
    /// `maxSize`
    pub max: u32,
}

/// The sizes in an answer of `DescribeNodegroup`.
pub(super) fn sizes(described: &Value) -> Option<NodegroupSizes> {
    let sizes = &described["nodegroup"]["scalingConfig"];
    let size = |name: &str| u32::try_from(sizes[name].as_u64()?).ok();
    Some(NodegroupSizes { min: size("minSize")?, desired: size("desiredSize")?, max: size("maxSize")? })
}

/// Group names are unique within a cluster, and cluster names within a region.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct GroupId {
    pub(super) region: String,
    pub(super) cluster: String,
    pub(super) nodegroup: String,
}

#[derive(Debug, Default)]
struct Group {
    issues: Vec<HealthIssue>,
    status: Option<NodegroupStatus>,
    /// In the order in which they began. Only the last can be in progress.
    updates: Vec<Update>,
    updating: bool,
}

#[derive(Debug)]
struct Update {
    created_at: f64,
    errors: Value,
    id: String,
    params: Value,
    status: &'static str,
}

#[derive(Debug)]
struct Replay {
    arguments: Value,
    group: GroupId,
    update: String,
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<GroupId, Group>,
    outcomes: VecDeque<UpdateOutcome>,
    replays: HashMap<(String, String), Replay>,
}

/// An update whose time has yet to pass.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) arguments: Value,
    pub(super) group: GroupId,
    outcome: UpdateOutcome,
    previous: NodegroupSizes,
    sizes: NodegroupSizes,
    update: String,
}

impl Pending {
    pub(super) fn changes_the_group(&self) -> bool {
        !matches!(self.outcome, UpdateOutcome::Failed { .. })
    }

    /// Makes this an update that failed for a reason outside the script.
    pub(super) fn fail(&mut self, message: String) {
        self.outcome = UpdateOutcome::Failed { code: "Unknown".to_owned(), message };
    }
}

impl Groups {
    pub(super) fn script(&mut self, outcome: UpdateOutcome) {
        self.outcomes.push_back(outcome);
    }

    pub(super) fn set_issues(&mut self, id: GroupId, issues: Vec<HealthIssue>) {
        self.groups.entry(id).or_default().issues = issues;
    }

    pub(super) fn set_status(&mut self, id: GroupId, status: NodegroupStatus) {
        let forced = (status != NodegroupStatus::Active).then_some(status);
        self.groups.entry(id).or_default().status = forced;
    }

    pub(super) fn forget(&mut self, id: &GroupId) {
        self.groups.remove(id);
    }

    fn status(&self, id: &GroupId) -> NodegroupStatus {
        match self.groups.get(id) {
            Some(group) if group.updating => NodegroupStatus::Updating,
            Some(Group { status: Some(status), .. }) => *status,
            Some(group) if !group.issues.is_empty() => NodegroupStatus::Degraded,
            _ => NodegroupStatus::Active,
        }
    }

    /// Puts `status` and `health` into a description by moto, which knows neither.
    pub(super) fn complete(&self, id: &GroupId, nodegroup: &mut Value) {
        let issues = self.groups.get(id).map_or(&[][..], |group| &group.issues);
        let issues: Vec<Value> = issues
            .iter()
            .map(|issue| json!({"code": issue.code, "message": issue.message, "resourceIds": [id.nodegroup]}))
            .collect();
        nodegroup["status"] = self.status(id).as_str().into();
        nodegroup["health"] = json!({ "issues": issues });
    }

    /// The update that an earlier call with this token began.
    ///
    /// API reference, `UpdateNodegroupConfig`, "Request Body": `clientRequestToken`, "a unique, case-sensitive
    /// identifier that you provide to ensure the idempotency of the request". That other arguments under a used token
    /// are refused, and with which code, is the common AWS rule; the EKS page does not spell it out.
    pub(super) fn replay(&self, id: &GroupId, change: &Change) -> Result<Option<Value>, ApiError> {
        let Some(token) = &change.token else { return Ok(None) };
        let Some(replay) = self.replays.get(&(id.region.clone(), token.clone())) else { return Ok(None) };
        if replay.group != *id || replay.arguments != change.arguments {
            return Err(ApiError::invalid_parameter(format!(
                "clientRequestToken {token} was used before with different parameters"
            )));
        }
        Ok(self.update(id, &replay.update))
    }

    /// Refuses what may not happen while the group is busy.
    ///
    /// API reference, `UpdateNodegroupConfig` and `DeleteNodegroup`, "Errors": `ResourceInUseException`, HTTP 409. A
    /// `DEGRADED` group may be updated: a later successful scale-out is the only way out of that status.
    pub(super) fn check_idle(&self, id: &GroupId, action: &str) -> Result<(), ApiError> {
        match self.status(id) {
            NodegroupStatus::Active | NodegroupStatus::Degraded => Ok(()),
            _ => Err(ApiError::in_use(format!(
                "Nodegroup cannot be {action} as it is currently not in Active State"
            ))),
        }
    }

    /// Begins an update: the group is `UPDATING` and the update `InProgress` until [`Groups::finish`].
    ///
    /// API reference, `UpdateNodegroupConfig`: "The response output includes an update ID that you can use to track
    /// the status of your node group update with the DescribeUpdate API operation."
    pub(super) fn begin(
        &mut self,
        id: GroupId,
        change: Change,
        current: NodegroupSizes,
    ) -> Result<(Value, Pending), ApiError> {
        self.check_idle(&id, "updated")?;
        let sizes = change.sizes.applied_to(current)?;
        let update = Update {
            created_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            errors: json!([]),
            id: Uuid::now_v7().to_string(),
            params: change.params,
            status: "InProgress",
        };
        let update_id = update.id.clone();
        let shown = update.show();
        let group = self.groups.entry(id.clone()).or_default();
        group.updates.push(update);
        group.updating = true;
        if let Some(token) = change.token {
            let replay =
                Replay { arguments: change.arguments.clone(), group: id.clone(), update: update_id.clone() };
            self.replays.insert((id.region.clone(), token), replay);
        }
        let outcome = self.outcomes.pop_front().unwrap_or_default();
        let arguments = change.arguments;
        Ok((shown, Pending { arguments, group: id, outcome, previous: current, sizes, update: update_id }))
    }

    /// Ends an update as scripted, and says whether nodes come or go because of it.
    ///
    /// API reference, `DescribeUpdate`: "When the status of the update is Successful, the update is complete. If an
    /// update fails, the status is Failed, and an error detail explains the reason for the failure."
    pub(super) fn finish(&mut self, pending: Pending) -> Option<NodegroupScaled> {
        let id = pending.group;
        let group = self.groups.get_mut(&id)?;
        group.updating = false;
        let update = group.updates.iter_mut().find(|update| update.id == pending.update)?;
        match pending.outcome {
            UpdateOutcome::Failed { code, message } => {
                update.status = "Failed";
                update.errors =
                    json!([{"errorCode": code, "errorMessage": message, "resourceIds": [id.nodegroup]}]);
                return None;
            }
            UpdateOutcome::Degraded(issues) => {
                update.status = "Successful";
                group.issues = issues;
                return None;
            }
            UpdateOutcome::Successful => update.status = "Successful",
        }
        if pending.sizes.desired > pending.previous.desired {
            group.issues.clear();
        }
        let scaled = pending.sizes.desired != pending.previous.desired;
        scaled.then_some(NodegroupScaled {
            cluster: id.cluster,
            desired: pending.sizes.desired,
            nodegroup: id.nodegroup,
        })
    }

    pub(super) fn update(&self, id: &GroupId, update: &str) -> Option<Value> {
        let updates = &self.groups.get(id)?.updates;
        updates.iter().find(|known| known.id == update).map(Update::show)
    }

    /// Newest first.
    pub(super) fn update_ids(&self, id: &GroupId) -> Vec<String> {
        let updates = self.groups.get(id).map_or(&[][..], |group| &group.updates);
        updates.iter().rev().map(|update| update.id.clone()).collect()
    }
}

impl Update {
    /// API reference, data type `Update`, "Contents".
    fn show(&self) -> Value {
        json!({
            "id": self.id,
            "status": self.status,
            "type": "ConfigUpdate",
            "params": self.params,
            "createdAt": self.created_at,
            "errors": self.errors,
        })
    }
}
