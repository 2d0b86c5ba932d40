//! The smallest step: one piece of the world that can be read and written.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::step::drifted;
use crate::{
    Applied, Change, Error, ErrorKind, Observed, Permission, PlaybookStep, ResourceKey, Result, Retry,
    Reversibility, RunContext, SafeSide, StepId, StepPlan, Undone, Units, Version,
};

/// A value with the provider's version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The version that it was read at; `None` where the provider has none.
    pub version: Option<Version>,
}

impl<T> Versioned<T> {
    /// A value without a version.
    pub fn new(value: T) -> Self {
        Self { value, version: None }
    }

    /// A value at a version.
    pub fn at(value: T, version: Option<Version>) -> Self {
        Self { value, version }
    }
}

/// How far the world is behind a value that was written.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// The value is in force.
    Converged,
    /// The value is written and the world follows. The text says how far it is.
    Following(String),
}

/// What a plan says about a setting besides its values.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct SettingInfo {
    /// One line for people: `scale deployment production/wakala-api`.
    pub summary: String,
    /// What the run takes for itself.
    pub resources: Vec<ResourceKey>,
    /// What the provider must allow.
    pub permissions: Vec<Permission>,
    /// How far it can be taken back. As given: exactly.
    pub reversibility: Reversibility,
    /// In which direction it is safe. As given: neither.
    pub safe_side: SafeSide,
    /// How long it takes until a written value is in force. As given: a second.
    pub expected: Duration,
}

impl SettingInfo {
    /// An exactly reversible setting of `resource` that is in force within a second.
    pub fn new(summary: impl Into<String>, resource: impl Into<ResourceKey>) -> Self {
        Self {
            summary: summary.into(),
            resources: vec![resource.into()],
            permissions: Vec::new(),
            reversibility: Reversibility::Exact,
            safe_side: SafeSide::Neutral,
            expected: Duration::from_secs(1),
        }
    }

    /// Names what the provider must allow.
    #[must_use]
    pub fn with_permissions(mut self, permissions: Vec<Permission>) -> Self {
        self.permissions = permissions;
        self
    }

    /// Says how far it can be taken back.
    #[must_use]
    pub fn with_reversibility(mut self, reversibility: Reversibility) -> Self {
        self.reversibility = reversibility;
        self
    }

    /// Says in which direction it is safe.
    #[must_use]
    pub fn with_safe_side(mut self, side: SafeSide) -> Self {
        self.safe_side = side;
        self
    }

    /// Says how long it takes until a written value is in force.
    #[must_use]
    pub fn with_expected(mut self, expected: Duration) -> Self {
        self.expected = expected;
        self
    }
}

/// One piece of the world that can be read and written, with a typed value.
///
/// Its author writes [`info`](Self::info), [`read`](Self::read), [`write`](Self::write) and
/// [`desired`](Self::desired). Plan, verification, drift detection, idempotency and undo follow; a
/// [`SettingStep`] is the step. The remaining methods have plain defaults.
#[async_trait]
pub trait Setting: Debug + Send + Sync + 'static {
    /// The value. Serialised into the plan, so that undo restores it also in another process.
    type Value: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// What the plan says about it.
    fn info(&self) -> SettingInfo;

    /// The value now. Reads only.
    ///
    /// # Errors
    /// What the provider says.
    async fn read(&self, cx: &RunContext) -> Result<Versioned<Self::Value>>;

    /// Writes an absolute value, only while `expected` is still the version where the provider can tell. Idempotent.
    ///
    /// # Errors
    /// `Conflict` where the version no longer holds: nothing has changed then.
    async fn write(
        &self,
        cx: &RunContext,
        value: &Self::Value,
        expected: Option<&Version>,
    ) -> Result<Applied>;

    /// The value that is wanted where `current` is found. Pure: the same answer for the same value.
    ///
    /// # Errors
    /// `InvalidConfig` where nothing valid can follow from `current`: a size beyond a bound.
    fn desired(&self, current: &Self::Value) -> Result<Self::Value>;

    /// Whether `current` is as good as `target`, which the step wrote or wants. As given: only where they are equal.
    fn satisfies(&self, current: &Self::Value, target: &Self::Value) -> bool {
        current == target
    }

    /// Whether the value may go from `prior` to `current` between plan and effect without a person looking again. As
    /// given: never.
    ///
    /// For what moves by itself, such as a size that an autoscaler sets; and only where the same target still follows
    /// from `current`. Undo restores `prior`.
    fn tolerates(&self, prior: &Self::Value, current: &Self::Value) -> bool {
        let _ = (prior, current);
        false
    }

    /// Whether `current` is of the step's making, so that undo may replace it. As given: where it
    /// [satisfies](Self::satisfies) what was written.
    fn is_ours(&self, prior: &Self::Value, written: &Self::Value, current: &Self::Value) -> bool {
        let _ = prior;
        self.satisfies(current, written)
    }

    /// What the person who approves should know about going from `current` to `desired`. As given: nothing.
    fn warnings(&self, current: &Self::Value, desired: &Self::Value) -> Vec<String> {
        let _ = (current, desired);
        Vec::new()
    }

    /// The size that the value stands for, for each resource whose size it is, as it was before this run and those that
    /// it took over from: what [`RunContext::inherited`] hands on. As given: the value is no size.
    fn baselines(&self, current: &Self::Value) -> BTreeMap<ResourceKey, Units> {
        let _ = current;
        BTreeMap::new()
    }

    /// Asks the provider to check the write without doing it, while planning. Reads only. As given: no check.
    ///
    /// # Errors
    /// What the write would fail with: `Denied`, `InvalidConfig`.
    async fn rehearse(&self, cx: &RunContext, value: &Self::Value) -> Result<()> {
        let _ = (cx, value);
        Ok(())
    }

    /// How far the world is behind `current`, which [`read`](Self::read) has just found. As given: it is in force.
    ///
    /// # Errors
    /// What the provider says; an error that repeating cannot mend ends the step.
    async fn convergence(&self, cx: &RunContext, current: &Self::Value) -> Result<Convergence> {
        let _ = (cx, current);
        Ok(Convergence::Converged)
    }

    /// The value once it, or [`convergence`](Self::convergence), may differ from `current`, or earlier; reads only.
    ///
    /// As given it is read again after a second. A provider that can watch should, so that the run knows of the end
    /// when it happens.
    ///
    /// # Errors
    /// `Cancelled` and `DeadlineExceeded` from the context; what the provider says.
    async fn changed(&self, cx: &RunContext, current: &Self::Value) -> Result<Versioned<Self::Value>> {
        let _ = current;
        cx.sleep(Duration::from_secs(1)).await?;
        self.read(cx).await
    }

    /// Puts `prior` back where `current` [is ours](Self::is_ours). As given: writes it.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    async fn restore(
        &self,
        cx: &RunContext,
        prior: &Self::Value,
        written: &Self::Value,
        current: &Versioned<Self::Value>,
    ) -> Result<Undone> {
        let _ = written;
        self.write(cx, prior, current.version.as_ref()).await?;
        Ok(Undone::Restored)
    }
}

/// The step that brings a [`Setting`] to its desired value.
///
/// A value that moved between plan and apply is inside of what was approved where the setting
/// [tolerates](Setting::tolerates) that and still wants the same target: an autoscaler that went from 12 to 14 does not
/// make "at least 50" wrong. Any other change is drift, and the step fails without effect.
#[derive(Debug)]
pub struct SettingStep<S> {
    id: StepId,
    setting: S,
}

impl<S: Setting> SettingStep<S> {
    /// The step of that name.
    pub fn new(id: impl Into<StepId>, setting: S) -> Self {
        Self { id: id.into(), setting }
    }

    /// The setting.
    pub fn setting(&self) -> &S {
        &self.setting
    }

    /// Where `current` stands as seen from the plan, as far as the value alone tells.
    fn judge(&self, plan: &StepPlan, current: &S::Value) -> Result<Position> {
        let (prior, target) = (plan.prior_as::<S::Value>()?, plan.target_as::<S::Value>()?);
        Ok(if self.setting.satisfies(current, &target) {
            Position::AtTarget
        } else if *current == prior {
            Position::AtPrior
        } else if self.setting.tolerates(&prior, current)
            && self.setting.desired(current).is_ok_and(|desired| desired == target)
        {
            Position::Moved(describe(&changes(&prior, current)?))
        } else {
            Position::Elsewhere(changes(&prior, current)?)
        })
    }

    async fn observe_value(&self, cx: &RunContext, plan: &StepPlan, current: &S::Value) -> Result<Observed> {
        Ok(match self.judge(plan, current)? {
            Position::AtTarget => match self.setting.convergence(cx, current).await? {
                Convergence::Converged => Observed::AtTarget,
                Convergence::Following(note) => Observed::InProgress(note),
            },
            Position::AtPrior => Observed::AtPrior,
            Position::Moved(how) => Observed::Moved(how),
            Position::Elsewhere(changes) => Observed::Drifted(changes),
        })
    }
}

/// A write that lost a race with an autonomic change had certainly no effect, and the next attempt judges anew.
pub(crate) fn lost_race(error: Error, version: Option<&Version>) -> Error {
    if error.kind() == ErrorKind::Conflict && version.is_some() && error.retry() == Retry::Never {
        error.with_retry(Retry::Safe { after: None })
    } else {
        error
    }
}

enum Position {
    AtPrior,
    Moved(String),
    AtTarget,
    Elsewhere(Vec<Change>),
}

fn changes<T: Serialize>(from: &T, to: &T) -> Result<Vec<Change>> {
    Ok(Change::between(&encode(from)?, &encode(to)?))
}

fn encode<T: Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::invalid("plan", "the setting's value has no JSON form").with_source(e))
}

fn describe(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl<S: Setting> PlaybookStep for SettingStep<S> {
    fn id(&self) -> StepId {
        self.id.clone()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        let current = self.setting.read(cx).await?;
        let desired = self.setting.desired(&current.value)?;
        if desired != current.value {
            self.setting.rehearse(cx, &desired).await?;
        }
        let info = self.setting.info();
        let mut plan =
            StepPlan::new(self.id.clone(), info.summary, encode(&current.value)?, encode(&desired)?);
        plan.version = current.version;
        plan.reversibility = info.reversibility;
        plan.safe_side = info.safe_side;
        plan.resources = info.resources;
        plan.permissions = info.permissions;
        plan.expected = info.expected;
        plan.warnings = self.setting.warnings(&current.value, &desired);
        plan.baselines = self.setting.baselines(&current.value);
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        // Nothing is written yet, so a read that failed is certainly without effect.
        let current = self.setting.read(cx).await.map_err(|error| match error.retry() {
            Retry::ObserveFirst => error.with_retry(Retry::Safe { after: None }),
            _ => error,
        })?;
        match self.judge(plan, &current.value)? {
            Position::AtTarget => Ok(Applied::NoChange),
            Position::Elsewhere(changes) => Err(drifted("apply", &self.id, &changes)),
            Position::AtPrior | Position::Moved(_) => {
                let target = plan.target_as::<S::Value>()?;
                let written = self.setting.write(cx, &target, current.version.as_ref()).await;
                written.map_err(|error| lost_race(error, current.version.as_ref()))
            }
        }
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        let current = self.setting.read(cx).await?;
        self.observe_value(cx, plan, &current.value).await
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        let mut current = self.setting.read(cx).await?;
        loop {
            match self.observe_value(cx, plan, &current.value).await? {
                Observed::InProgress(_) => current = self.setting.changed(cx, &current.value).await?,
                decided => return Ok(decided),
            }
        }
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        let current = self.setting.read(cx).await?;
        let (prior, written) = (plan.prior_as::<S::Value>()?, plan.target_as::<S::Value>()?);
        if plan.is_no_change() || current.value == prior {
            return Ok(Undone::Nothing);
        }
        if self.setting.is_ours(&prior, &written, &current.value) {
            let restored = self.setting.restore(cx, &prior, &written, &current).await;
            return restored.map_err(|error| lost_race(error, current.version.as_ref()));
        }
        let since = describe(&changes(&written, &current.value)?);
        Ok(Undone::NotOurs(format!("somebody changed it since ({since})")))
    }
}
