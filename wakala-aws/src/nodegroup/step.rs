//! The step that brings a node group to a size and keeps it there.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_eks::types::NodegroupStatus;
use serde::Serialize;
use wakala_core::{
    Applied, Change, Error, ErrorKind, Observed, PlaybookStep, Result, Retry, Reversibility, RunContext,
    SafeSide, StepId, StepPlan, Undone, Units,
};

use super::sizes::{Rest, take_back};
use super::{NodeGroup, NodeGroupSizes, Ready, Seen};

/// How long it takes, as a rule, until new nodes have joined.
const EXPECTED: Duration = Duration::from_secs(300);

/// At least so many nodes, kept by the group's minimum.
///
/// `desired` and `min` are raised together, since a Cluster Autoscaler that finds more nodes than it needs takes
/// everything above `min` back. Nothing is made smaller on the way. The plan shows all three sizes.
///
/// **Undo** puts `min` and `max` back and leaves `desired` to whoever takes nodes away with care: EKS evicts pods when
/// it scales in, and ends the node after 15 minutes whatever a PodDisruptionBudget says. The answer is then
/// [`Undone::Deferred`]. With [`shrinking_on_undo`](Self::shrinking_on_undo) `desired` goes back too.
#[derive(Clone, Debug)]
pub struct NodeGroupSize {
    group: NodeGroup,
    size: Units,
    raising_max: bool,
    shrinking: bool,
    expected: Duration,
}

impl NodeGroupSize {
    /// At least `size` nodes in `group`; above the group's maximum the plan is refused.
    pub fn at_least(group: NodeGroup, size: impl Into<Units>) -> Self {
        Self { group, size: size.into(), raising_max: false, shrinking: false, expected: EXPECTED }
    }

    /// Raises the group's maximum where it is in the way.
    #[must_use]
    pub fn raising_max(mut self, raise: bool) -> Self {
        self.raising_max = raise;
        self
    }

    /// Lets undo lower `desired` too, where nobody has moved it since.
    #[must_use]
    pub fn shrinking_on_undo(mut self) -> Self {
        self.shrinking = true;
        self
    }

    /// Says how long it takes until the nodes are ready; five minutes as given.
    #[must_use]
    pub fn with_expected(mut self, expected: Duration) -> Self {
        self.expected = expected;
        self
    }

    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> NodeGroupStep {
        NodeGroupStep { id: id.into(), wanted: self }
    }

    fn target(&self, current: NodeGroupSizes) -> Result<NodeGroupSizes> {
        let refuse = |message: String| Err(Error::invalid("plan", message).on(self.group.target_id()));
        let Self { size, .. } = self;
        if size.0 == 0 {
            return refuse("at least 0 nodes asks for nothing; choose 1 or more".to_owned());
        }
        if *size > current.max && !self.raising_max {
            return refuse(format!(
                "{size} nodes are above its maximum of {}; raise the maximum, allow raising_max, or choose less",
                current.max
            ));
        }
        if i32::try_from(size.0).is_err() {
            return refuse(format!("{size} nodes are more than EKS can count; choose less"));
        }
        Ok(current.with_at_least(*size))
    }

    fn reversibility(&self, prior: NodeGroupSizes, target: NodeGroupSizes) -> Reversibility {
        if target.desired == prior.desired {
            return Reversibility::Exact;
        }
        let (from, to) = (target.desired, prior.desired);
        Reversibility::Compensatable(if self.shrinking {
            format!(
                "min, max and desired go back; {from} to {to} nodes, ended after 15 minutes whatever a \
                 PodDisruptionBudget says"
            )
        } else {
            format!(
                "min and max go back; desired stays {from} (was {to}) until the autoscaler or a drain lowers it"
            )
        })
    }
}

/// The step of a [`NodeGroupSize`].
///
/// Not a [`Setting`](wakala_core::Setting): a change of a node group is an operation of its own, with an id, that can
/// fail after it was accepted, and whose failure shows nowhere else. The step follows it by that id, which the run
/// keeps as the handle; after a lost answer it finds the update that is in progress.
///
/// It waits for another change of the group to end first, until the step's limit. `DEGRADED` does not end it either,
/// since AWS keeps trying to get instances: the issues are in the progress, and in the error once the limit has passed.
#[derive(Clone, Debug)]
pub struct NodeGroupStep {
    id: StepId,
    wanted: NodeGroupSize,
}

/// Where a group stands as seen from a plan, as far as its sizes tell.
enum Position {
    AtPrior,
    AtTarget,
    /// Only `desired` has moved.
    Moved(Vec<Change>),
    Elsewhere(Vec<Change>),
}

struct Ends {
    prior: NodeGroupSizes,
    target: NodeGroupSizes,
}

impl Ends {
    fn of(plan: &StepPlan) -> Result<Self> {
        Ok(Self { prior: plan.prior_as()?, target: plan.target_as()? })
    }

    fn judge(&self, sizes: NodeGroupSizes) -> Position {
        if sizes.reach(self.target) {
            Position::AtTarget
        } else if sizes == self.prior {
            Position::AtPrior
        } else if sizes.bounds() == self.prior.bounds() {
            Position::Moved(self.prior.changes(sizes))
        } else {
            Position::Elsewhere(self.prior.changes(sizes))
        }
    }
}

impl NodeGroupStep {
    fn group(&self) -> &NodeGroup {
        &self.wanted.group
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, message: String) -> Error {
        Error::new(kind, operation, message).on(self.group().target_id())
    }

    /// A group that is on its way out has no size to set.
    fn check_alive(&self, operation: &'static str, seen: &Seen) -> Result<()> {
        if seen.is_alive() {
            return Ok(());
        }
        let problem = seen.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
        let message = format!("it is {}{problem}; use another node group", seen.status.as_str());
        Err(self.error(ErrorKind::Conflict, operation, message))
    }

    /// While somebody else's change is under way nothing can be written, and what the sizes will be is open.
    fn check_free(&self, operation: &'static str, seen: &Seen) -> Result<()> {
        let Some(update) = &seen.update else { return Ok(()) };
        let message = format!("{} by somebody else is in progress and has to end first", update.name());
        let pause = Retry::Safe { after: Some(self.group().busy_pause) };
        Err(self.error(ErrorKind::Conflict, operation, message).with_retry(pause))
    }

    fn drifted(&self, operation: &'static str, changes: &[Change]) -> Error {
        let changes = describe(changes);
        let message = format!("changed by somebody else since the plan ({changes}); plan again");
        self.error(ErrorKind::Conflict, operation, message)
    }

    /// Where `seen` stands, with the number of ready nodes for whoever waits.
    async fn stand(&self, cx: &RunContext, ends: &Ends, seen: &Seen) -> Result<(Observed, Ready)> {
        let position = ends.judge(seen.sizes);
        let ready = if matches!(position, Position::AtTarget) {
            self.group().ready(cx, seen).await?
        } else {
            self.check_free("observe", seen)?;
            Ready::Unknown
        };
        let observed = match position {
            Position::AtPrior => Observed::AtPrior,
            Position::Moved(changes) => Observed::Moved(describe(&changes)),
            Position::Elsewhere(changes) => Observed::Drifted(changes),
            Position::AtTarget => {
                self.check_alive("observe", seen)?;
                let size = ends.target.min;
                let enough = ready.count().is_some_and(|ready| ready >= size);
                let (done, note) = (ready.count().unwrap_or_default(), note(seen, ready, size));
                cx.progress(done.min(size).0.into(), size.0.into(), note.clone());
                if enough && seen.update.is_none() && seen.status != NodegroupStatus::Creating {
                    Observed::AtTarget
                } else {
                    Observed::InProgress(note)
                }
            }
        };
        Ok((observed, ready))
    }
}

/// What a group waits for, in a line.
fn note(seen: &Seen, ready: Ready, size: Units) -> String {
    let mut parts = Vec::new();
    match ready {
        Ready::Counted(ready) => parts.push(format!("{ready} of {size} nodes ready")),
        Ready::Vouched(_) => {}
        Ready::Unknown if seen.update.is_none() => parts.push(format!("it is {}", seen.status.as_str())),
        Ready::Unknown => {}
    }
    if let Some(update) = &seen.update {
        parts.push(format!("{} is in progress", update.name()));
    }
    parts.extend(seen.problem.clone());
    parts.join(", ")
}

fn describe(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn encode(sizes: impl Serialize) -> serde_json::Value {
    serde_json::to_value(sizes).expect("three numbers under three names have a JSON form")
}

#[async_trait]
impl PlaybookStep for NodeGroupStep {
    fn id(&self) -> StepId {
        self.id.clone()
    }

    async fn plan(&self, _cx: &RunContext) -> Result<StepPlan> {
        let group = self.group();
        let seen = group.see(None).await?;
        self.check_alive("plan", &seen)?;
        let (prior, target) = (seen.sizes, self.wanted.target(seen.sizes)?);
        let summary = format!("scale {} to at least {} nodes", group.target_id(), self.wanted.size);
        let mut plan = StepPlan::new(self.id.clone(), summary, encode(prior), encode(target));
        plan.reversibility = self.wanted.reversibility(prior, target);
        plan.safe_side = SafeSide::Up;
        plan.resources = vec![group.resource_key()];
        plan.permissions = group.needed_permissions(seen.arn.as_deref());
        plan.expected = self.wanted.expected;
        if let Some(update) = &seen.update {
            plan.warnings.push(format!("{} is in progress, the step waits for its end", update.name()));
        }
        plan.warnings.extend(seen.problem.map(|problem| format!("EKS reports {problem}")));
        if group.readiness.is_none() {
            plan.warnings
                .push("nobody counts ready nodes, so only EKS's own word will be waited for".to_owned());
        }
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        let ends = Ends::of(plan)?;
        let seen = self.group().see(None).await?;
        match ends.judge(seen.sizes) {
            Position::AtTarget => Ok(Applied::NoChange),
            Position::AtPrior | Position::Moved(_) => {
                self.check_alive("apply", &seen)?;
                self.check_free("apply", &seen)?;
                let sizes = seen.sizes.brought_to(ends.target);
                let token = cx.idempotency_key(&format!("{}: {sizes}", self.group().resource_key()));
                Ok(Applied::Started(self.group().write(seen.sizes, sizes, Some(token)).await?))
            }
            Position::Elsewhere(changes) => {
                self.check_free("apply", &seen)?;
                Err(self.drifted("apply", &changes))
            }
        }
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        let seen = self.group().see(cx.handle()).await?;
        Ok(self.stand(cx, &Ends::of(plan)?, &seen).await?.0)
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        let ends = Ends::of(plan)?;
        let mut update = cx.handle().map(str::to_owned);
        loop {
            let seen = self.group().see(update.as_deref()).await?;
            let (observed, ready) = self.stand(cx, &ends, &seen).await?;
            match observed {
                Observed::InProgress(_) => {}
                Observed::AtTarget => return Ok(observed),
                _ => return seen.failure.map_or(Ok(observed), Err),
            }
            // After a lost answer this is the only way to learn of the update's failure.
            update = update.or_else(|| seen.update.as_ref().map(|update| update.id.clone()));
            self.group().changes(cx, &seen, ready).await?;
        }
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        if plan.is_no_change() {
            return Ok(Undone::Nothing);
        }
        let Ends { prior, target } = Ends::of(plan)?;
        // An update in progress may be the run's own, and may yet fail.
        let mut current = self.group().idle(cx).await?.sizes;
        if current == prior {
            // EKS promises no consistent reads, and to take stale sizes for the present ones would leave everything in
            // place: that there is nothing to do must be seen twice.
            cx.sleep(self.group().poll).await?;
            current = self.group().idle(cx).await?.sizes;
        }
        let key = self.group().resource_key();
        let too_low = cx.floor(&key).is_some_and(|floor| prior.desired < floor.min);
        let taken = take_back(prior, target, current, self.wanted.shrinking && !too_low);
        if taken.to != current {
            cx.permit(&key, current.desired, taken.to.desired)?;
            // Under a token of the SDK's: undo may be asked for again much later, when a token made of the request would
            // bring back the answer of the first time.
            let update = self.group().write(current, taken.to, None).await?;
            self.group().finished(cx, &update).await?;
        }
        Ok(match taken.rest {
            Rest::Nothing if taken.to == current => Undone::Nothing,
            Rest::Nothing => Undone::Restored,
            Rest::Ours(left) => Undone::Deferred(left),
            Rest::Theirs(left) => Undone::NotOurs(left),
        })
    }
}
