//! The step contract: plan, apply, observe, undo.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ErrorKind, ResourceKey, Result, RunContext, StepId, Units, Version};

/// What a step does to the world.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing.
    ReadOnly,
    /// It changes what the plan shows.
    Mutating,
    /// It changes something, and what cannot be told beforehand.
    Undetermined,
}

/// How far a step can be taken back.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reversibility {
    /// Undo restores the prior state exactly.
    Exact,
    /// Undo restores what matters; the text says what stays different.
    Compensatable(String),
    /// It can be taken back, but only after this time.
    CoolingDown(#[serde(with = "humantime_serde")] Duration),
    /// It cannot be taken back.
    Irreversible,
}

impl fmt::Display for Reversibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact undo"),
            Self::Compensatable(what) => write!(f, "undo: {what}"),
            Self::CoolingDown(time) => write!(f, "undo only after {}", humantime::format_duration(*time)),
            Self::Irreversible => f.write_str("CANNOT BE UNDONE"),
        }
    }
}

/// In which direction a step is safe when in doubt.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafeSide {
    /// The larger size: a step that failed on its way up keeps what it got.
    Up,
    /// The smaller size.
    Down,
    /// Neither.
    Neutral,
}

/// One thing that changes, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What changes: `replicas`, `env.RATE_LIMIT_REQUESTS`.
    pub path: String,
    /// Its value before; `None` where there was none.
    pub from: Option<String>,
    /// Its value after; `None` where it is taken away.
    pub to: Option<String>,
}

impl Change {
    /// The change of `path` between two values.
    pub fn new(path: impl Into<String>, from: Option<String>, to: Option<String>) -> Self {
        Self { path: path.into(), from, to }
    }

    /// The same change the other way round.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { path: self.path, from: self.to, to: self.from }
    }

    /// The leaves that differ between two values, as given by their serialised form.
    pub fn between(from: &Value, to: &Value) -> Vec<Self> {
        let mut changes = Vec::new();
        collect("", Some(from), Some(to), &mut changes);
        changes
    }
}

fn collect(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<Change>) {
    let empty = serde_json::Map::new();
    let as_map = |value: Option<&Value>| match value {
        Some(Value::Object(map)) => Some(map.clone()),
        None | Some(Value::Null) => Some(empty.clone()),
        Some(_) => None,
    };
    let is_object = |value: Option<&Value>| matches!(value, Some(Value::Object(_)));
    if (is_object(from) || is_object(to))
        && let (Some(left), Some(right)) = (as_map(from), as_map(to))
    {
        let mut keys: Vec<_> = left.keys().chain(right.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            collect(&path, left.get(key), right.get(key), changes);
        }
        return;
    }
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let (from, to) = (text(from), text(to));
    if from != to {
        changes.push(Change::new(path, from, to));
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "(none)".to_owned());
        // A value that is no object has no path.
        let separator = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{} -> {}", self.path, show(&self.from), show(&self.to))
    }
}

/// One thing that a provider must allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permission {
    /// Whose permission it is: `kubernetes`, `aws`, `postgres`.
    pub system: String,
    /// What is done, in that system's terms: `patch`, `eks:UpdateNodegroupConfig`.
    pub action: String,
    /// To what, in that system's terms: `apps/deployments/scale production/wakala-api`.
    pub resource: String,
}

impl Permission {
    /// The permission to do `action` to `resource` in `system`.
    pub fn new(system: impl Into<String>, action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { system: system.into(), action: action.into(), resource: resource.into() }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.system, self.action, self.resource)
    }
}

/// What one step would do, found by reading only. Serialisable: it is what a person approves.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepPlan {
    /// The step.
    pub id: StepId,
    /// One line for people: `scale deployment production/wakala-api`.
    pub summary: String,
    /// The state before, in the step's own form: what undo restores.
    pub prior: Value,
    /// The state after, in the step's own form.
    pub target: Value,
    /// The provider's version of the prior state.
    pub version: Option<Version>,
    /// What differs, for people. Empty where there is nothing to do.
    pub changes: Vec<Change>,
    /// What it does to the world.
    pub effect: Effect,
    /// How far it can be taken back.
    pub reversibility: Reversibility,
    /// In which direction it is safe.
    pub safe_side: SafeSide,
    /// What the run takes for itself because of this step.
    pub resources: Vec<ResourceKey>,
    /// What the providers must allow.
    pub permissions: Vec<Permission>,
    /// How long it is expected to take until it is verified.
    #[serde(with = "humantime_serde")]
    pub expected: Duration,
    /// What the person who approves should know.
    pub warnings: Vec<String>,
    /// For each resource whose size the step changes: the size before this run and those that it took over from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baselines: BTreeMap<ResourceKey, Units>,
}

impl StepPlan {
    /// The plan of a mutating step with exact undo, neutral side, and changes as the two values differ.
    pub fn new(id: StepId, summary: impl Into<String>, prior: Value, target: Value) -> Self {
        let changes = Change::between(&prior, &target);
        Self {
            id,
            summary: summary.into(),
            prior,
            target,
            version: None,
            changes,
            effect: Effect::Mutating,
            reversibility: Reversibility::Exact,
            safe_side: SafeSide::Neutral,
            resources: Vec::new(),
            permissions: Vec::new(),
            expected: Duration::from_secs(1),
            warnings: Vec::new(),
            baselines: BTreeMap::new(),
        }
    }

    /// Whether applying it would change nothing.
    pub fn is_no_change(&self) -> bool {
        self.effect == Effect::ReadOnly || (self.effect == Effect::Mutating && self.changes.is_empty())
    }

    /// The prior state in the step's own type.
    ///
    /// # Errors
    /// `InvalidConfig` where the plan was made by another version of the step.
    pub fn prior_as<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.decode(&self.prior)
    }

    /// The target in the step's own type.
    ///
    /// # Errors
    /// As for [`prior_as`](Self::prior_as).
    pub fn target_as<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.decode(&self.target)
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, value: &Value) -> Result<T> {
        T::deserialize(value).map_err(|e| {
            Error::invalid("plan", "the plan was made by another version of this step; plan again")
                .on(&self.id)
                .with_source(e)
        })
    }
}

/// What `apply` did.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// The effect is accepted; `observe` says how far it is.
    Changed,
    /// It was so already.
    NoChange,
    /// The provider works on it under this handle, which later calls find in [`RunContext::handle`].
    Started(String),
}

/// Where the world stands as seen from a step's plan.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// As it was when the plan was made.
    AtPrior,
    /// Moved since, and the plan's target is still right: an autoscaler at work, say. The text says how.
    Moved(String),
    /// As the plan wants it, and verified.
    AtTarget,
    /// On its way to the target. The text says how far it is and what is in its way.
    InProgress(String),
    /// Somebody changed it to something else.
    Drifted(Vec<Change>),
    /// The provider's answer does not say.
    CannotTell(String),
}

/// What `undo` did.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// The prior state is back.
    Restored,
    /// There was nothing to take back, or it was back already.
    Nothing,
    /// Somebody changed it since, so it was left alone. The text says to what.
    NotOurs(String),
    /// Part of it is back; the rest would do harm now. The text says what is left and when to try again.
    Deferred(String),
}

/// One step of a playbook, for steps that are not simply a [`Setting`](crate::Setting).
///
/// The answer of [`observe`](Self::observe) serves verification, idempotency, drift detection, resume after a crash
/// and undo, so it must be right at any moment: before the effect, in its middle, long after.
#[async_trait]
pub trait PlaybookStep: Debug + Send + Sync + 'static {
    /// The step's name, unique in its playbook. Does not change.
    fn id(&self) -> StepId;

    /// Finds out what the step would do. Reads only.
    ///
    /// # Errors
    /// Whatever keeps the step from being done, as far as reading shows it: `NotFound`, `Denied`, `InvalidConfig` for
    /// a size beyond a bound. One such error keeps the whole playbook from starting.
    async fn plan(&self, cx: &RunContext) -> Result<StepPlan>;

    /// Does it: at most one effect, absolute, idempotent under [`RunContext::idempotency_key`].
    ///
    /// # Errors
    /// [`Error::retry`] must be right: `Safe` and `Never` promise that nothing changed.
    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied>;

    /// Says where the world stands. Reads only.
    ///
    /// # Errors
    /// What the provider says. An error is not an answer: the engine asks again.
    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed>;

    /// Waits until [`observe`](Self::observe) answers anything but [`Observed::InProgress`]; reads only; may be dropped.
    ///
    /// As given it looks every two seconds. A step that can watch should.
    ///
    /// # Errors
    /// As for [`observe`](Self::observe); `Cancelled` and `DeadlineExceeded` from the context.
    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        loop {
            match self.observe(cx, plan).await? {
                Observed::InProgress(note) => cx.progress(0, 0, note),
                decided => return Ok(decided),
            }
            cx.sleep(Duration::from_secs(2)).await?;
        }
    }

    /// Takes it back: restores the plan's prior state. Idempotent, also where nothing was done.
    ///
    /// A step with nothing to undo says [`Undone::Nothing`]. The context is one of its own: cancelling the run does
    /// not cancel its undo.
    ///
    /// # Errors
    /// What the provider says; the engine tries again where [`Error::retry`] allows it.
    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone>;
}

/// The error for a world that is neither as planned nor as wanted.
pub(crate) fn drifted(operation: &'static str, id: &StepId, changes: &[Change]) -> Error {
    let changes = changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Error::new(
        ErrorKind::Conflict,
        operation,
        format!("changed by somebody else since the plan ({changes}); plan again"),
    )
    .on(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_the_leaves_that_differ() {
        let from = json!({"min": 5, "max": 20, "env": null, "same": [1, 2]});
        let to = json!({"min": 50, "max": 20, "env": {"A": "1"}, "same": [1, 2]});
        let lines: Vec<_> = Change::between(&from, &to).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["env.A: (none) -> 1", "min: 5 -> 50"]);
        assert_eq!(Change::between(&json!(3), &json!(4))[0].to_string(), "3 -> 4");
    }
}
