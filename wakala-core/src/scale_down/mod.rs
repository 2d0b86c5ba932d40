//! The step that makes a target smaller, by a fraction of the size that it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::setting::lost_race;
use crate::step::drifted;
use crate::{
    Applied, Autoscaler, AutoscalerState, Bounds, Change, Error, ErrorKind, Floor, MetricQuery,
    MetricsSource, Observation, Observed, PlaybookStep, Removal, Result, Retry, RunContext, SafeSide,
    ScalableTargetExt, ScaleOptions, SharedTarget, StepId, StepPlan, Undone, Units, Version,
};

mod share;

use share::Share;

/// How often an autoscaler is looked at.
const POLL: Duration = Duration::from_secs(2);

/// Makes a target smaller: to a fraction of the size that it had when the plan was made.
///
/// One step of a gradual descent. All of a descent's steps are planned at once and refer to the same size, the
/// *baseline*; each knows its own fraction and [that before](Self::after). The baseline is the present size, or the
/// larger one that an [unfinished run](RunContext::inherited) began at. Sizes are rounded up.
///
/// - **It only ever makes smaller.** Where the target is as small already, or smaller, there is nothing to do.
/// - **It takes nothing from anybody.** Where the target is larger than it was after the step before, somebody scaled it
///   up meanwhile, and the step fails with `Conflict` and without effect.
/// - **Autoscalers are not fought.** Where the [autoscaler](Self::with_autoscaler) is there, its minimum is lowered
///   instead of the size, and it follows the load from there. An autoscaler that the step was not given is a plan that
///   fails.
/// - **Undo only ever makes larger.** It puts back what the step took away, and waits until that is ready.
///
/// Whoever makes things smaller watches: see [`OnFailure::BackToHealthy`](crate::OnFailure::BackToHealthy).
///
/// ```
/// use std::sync::Arc;
/// use wakala_core::testing::FakeTarget;
/// use wakala_core::{ScaleDown, Soak, guard, step};
/// # use wakala_core::testing::FakeMetrics;
///
/// # fn f(metrics: FakeMetrics) -> wakala_core::Result<wakala_core::Playbook> {
/// let api = Arc::new(FakeTarget::new("deployment production/wakala-api", 50));
/// let watch = |name| Soak::new(name, std::time::Duration::from_secs(600))
///     .with_guard(guard::metric(Arc::new(metrics.clone()), "error_rate").below(0.01));
/// wakala_core::Playbook::builder("descent")
///     .then(step(ScaleDown::new("api-0.8", api.clone(), 0.8).with_minimum(5)))
///     .then(watch("soak-0.8"))
///     .then(step(ScaleDown::new("api-0.6", api, 0.6).after(0.8).with_minimum(5)))
///     .then(watch("soak-0.6"))
///     .with_on_failure(wakala_core::OnFailure::BackToHealthy)
///     .build()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ScaleDown {
    id: StepId,
    target: SharedTarget,
    autoscaler: Option<Arc<dyn Autoscaler>>,
    fraction: f64,
    previous: f64,
    minimum: Units,
    expected: Duration,
    load: Option<Share>,
    connections: Option<Share>,
}

/// What the step moves, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// The size itself.
    Size(Units),
    /// The minimum of the autoscaler that sets the size.
    Min(Units),
}

impl Level {
    fn units(self) -> Units {
        match self {
            Self::Size(units) | Self::Min(units) => units,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Size(_) => "size",
            Self::Min(_) => "min",
        }
    }
}

/// The plan's two ends, as decoded.
#[derive(Clone, Copy, Debug)]
struct Ends {
    prior: Level,
    target: Level,
}

impl Ends {
    fn of(plan: &StepPlan) -> Result<Self> {
        Ok(Self { prior: plan.prior_as()?, target: plan.target_as()? })
    }

    /// Where the world stands, as far as what was read tells.
    fn judge(self, seen: &Seen) -> Position {
        let (prior, target) = (self.prior.units(), self.target.units());
        let (now, owner) = match seen {
            Seen::Size(seen) => (seen.desired, seen.owner.as_ref()),
            Seen::Min(Some(state)) => (state.bounds.min, None),
            Seen::Min(None) => {
                return Position::Elsewhere(Change::new("autoscaler", Some("there".to_owned()), None));
            }
        };
        let change = || Change::new(self.prior.path(), Some(prior.to_string()), Some(now.to_string()));
        if now <= target {
            Position::AtTarget(now)
        } else if let Some(owner) = owner {
            // It was nobody's when the plan was made.
            Position::Elsewhere(Change::new("autoscaler", None, Some(owner.name.clone())))
        } else if now == prior {
            Position::AtPrior
        } else if now < prior {
            Position::Between(change())
        } else {
            Position::Elsewhere(change())
        }
    }
}

enum Position {
    AtPrior,
    /// Lower than it was and not as low as wanted: on the way of the step, whoever did it.
    Between(Change),
    /// There, or below.
    AtTarget(Units),
    Elsewhere(Change),
}

/// What was read.
enum Seen {
    Size(Observation),
    Min(Option<AutoscalerState>),
}

impl Seen {
    fn version(&self) -> Option<&Version> {
        match self {
            Self::Size(seen) => seen.version.as_ref(),
            Self::Min(state) => state.as_ref()?.version.as_ref(),
        }
    }
}

impl ScaleDown {
    /// The step of that name: `target` comes down to `fraction`, above 0 and below 1, of the size that it has when the
    /// plan is made, and never below 1.
    pub fn new(id: impl Into<StepId>, target: SharedTarget, fraction: f64) -> Self {
        Self {
            id: id.into(),
            target,
            autoscaler: None,
            fraction,
            previous: 1.0,
            minimum: Units(1),
            expected: Duration::from_secs(60),
            load: None,
            connections: None,
        }
    }

    /// The fraction that the step before in the same playbook comes down to; 1, the whole, as given.
    #[must_use]
    pub fn after(mut self, previous: f64) -> Self {
        self.previous = previous;
        self
    }

    /// Never below that size; 1 as given. A target that is smaller already is left as it is.
    #[must_use]
    pub fn with_minimum(mut self, minimum: impl Into<Units>) -> Self {
        self.minimum = minimum.into();
        self
    }

    /// The autoscaler of the target: where there is one, its minimum is lowered and not the size.
    #[must_use]
    pub fn with_autoscaler(mut self, autoscaler: Arc<dyn Autoscaler>) -> Self {
        self.autoscaler = Some(autoscaler);
        self
    }

    /// Says how long it takes until what is too much is gone, or on undo until it is back; a minute as given.
    #[must_use]
    pub fn with_expected(mut self, expected: Duration) -> Self {
        self.expected = expected;
        self
    }

    /// Refuses to make the target smaller where the load, `query`, would be more than `max_per_unit` for each that is
    /// left. Looked at right before the effect; where there is no recent data from nine of ten of those asked, nothing
    /// is done, and it is asked again after 15 seconds for as often as the step may be tried.
    ///
    /// Of an autoscaled target those that are left are its minimum.
    #[must_use]
    pub fn with_load(
        mut self,
        source: Arc<dyn MetricsSource>,
        query: impl Into<MetricQuery>,
        max_per_unit: f64,
    ) -> Self {
        self.load = Some(Share::new(source, query.into(), max_per_unit));
        self
    }

    /// Makes the target smaller no faster than connections drain: waits, for as often as the step may be tried, every
    /// 15 seconds, while `query` is more than `per_unit` for each that is left. No data is waited for too.
    #[must_use]
    pub fn with_connections(
        mut self,
        source: Arc<dyn MetricsSource>,
        query: impl Into<MetricQuery>,
        per_unit: f64,
    ) -> Self {
        self.connections = Some(Share::new(source, query.into(), per_unit));
        self
    }

    fn refuse(&self, message: String) -> Error {
        Error::invalid("plan", message).on(self.target.id())
    }

    fn check(&self) -> Result<()> {
        let Self { fraction, previous, .. } = *self;
        // No comparison holds for what is no number.
        if !(fraction > 0.0 && fraction < previous && previous <= 1.0) {
            let message =
                format!("fraction {fraction} after {previous}: they must fall, from at most 1 to above 0");
            return Err(self.refuse(message));
        }
        if self.minimum == Units(0) {
            return Err(self.refuse("a minimum of 0 is none; choose at least 1".to_owned()));
        }
        [&self.load, &self.connections].into_iter().flatten().try_for_each(Share::check)
    }

    /// Whether the floor of the run lets the step do what it is to do.
    fn check_floor(&self, cx: &RunContext, from: Units, to: Units) -> Result<()> {
        let Some(Floor { min, removal }) = cx.floor(&self.target.resource()) else { return Ok(()) };
        if to < from && to < min {
            return Err(self.refuse(format!("{to} is below the floor of {min}; choose a larger fraction")));
        }
        match removal {
            Some(Removal { units, per }) if from.0 - to.0 > units.0 => {
                let (fewer, per) = (from.0 - to.0, humantime::format_duration(per));
                Err(self.refuse(format!(
                    "{fewer} fewer at once, from {from} to {to}, are more than the {units} in {per} that are allowed; \
                     choose smaller steps"
                )))
            }
            _ => Ok(()),
        }
    }

    async fn look(&self, cx: &RunContext, level: Level) -> Result<Seen> {
        match (level, &self.autoscaler) {
            (Level::Size(_), _) => self.target.observe(cx).await.map(Seen::Size),
            (Level::Min(_), Some(autoscaler)) => autoscaler.observe(cx).await.map(Seen::Min),
            (Level::Min(_), None) => Err(self
                .refuse("the plan lowers a minimum, and the step has no autoscaler; plan again".to_owned())),
        }
    }

    /// Writes an absolute value, while what was `seen` still holds.
    async fn write(&self, cx: &RunContext, units: Units, seen: &Seen) -> Result<()> {
        match (seen, &self.autoscaler) {
            (Seen::Min(Some(state)), Some(autoscaler)) => {
                let bounds = Bounds::new(units, state.bounds.max)?;
                autoscaler.set_bounds(cx, bounds, state.version.as_ref()).await
            }
            _ => {
                let conditional = self.target.capability().preconditions;
                let version = seen.version().filter(|_| conditional).cloned();
                self.target.set_desired(cx, units, ScaleOptions::if_version(version)).await.map(|_| ())
            }
        }
        .map_err(|error| lost_race(error, seen.version()))
    }

    fn observed(&self, cx: &RunContext, ends: Ends, seen: &Seen) -> Observed {
        match ends.judge(seen) {
            Position::AtPrior => Observed::AtPrior,
            Position::Between(change) => Observed::Moved(change.to_string()),
            Position::Elsewhere(change) => Observed::Drifted(vec![change]),
            Position::AtTarget(size) => match seen {
                Seen::Size(seen) if !seen.settled => {
                    let note = note(seen);
                    cx.progress(seen.ready.min(size).0.into(), size.0.into(), note.clone());
                    Observed::InProgress(note)
                }
                _ => Observed::AtTarget,
            },
        }
    }

    /// How long undo may wait, such that its own error comes before that of whoever waits for it.
    fn patience(&self, cx: &RunContext) -> Duration {
        let whole = cx.time_left().unwrap_or_else(|| (self.expected * 3).max(Duration::from_secs(60)));
        whole - whole / 10
    }
}

/// The smallest whole size that is not below `size`, where what a product of fractions is off by does not count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 or more, and saturates")]
fn ceil(size: f64) -> Units {
    Units((size - 1e-6).ceil().max(0.0) as u32)
}

fn note(seen: &Observation) -> String {
    let Observation { desired, ready, .. } = seen;
    let problem = seen.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    if ready > desired {
        format!("{ready} still there, {desired} wanted{problem}")
    } else {
        format!("{ready} of {desired} ready, the last change is not through{problem}")
    }
}

#[async_trait]
impl PlaybookStep for ScaleDown {
    fn id(&self) -> StepId {
        self.id.clone()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        self.check()?;
        let state = match &self.autoscaler {
            Some(autoscaler) => autoscaler.observe(cx).await?,
            None => None,
        };
        let ends = match (&self.autoscaler, state) {
            (Some(autoscaler), Some(state)) => self.plan_minimum(cx, &**autoscaler, &state).await?,
            _ => self.plan_size(cx).await?,
        };
        let Planned { summary, size, prior, target, version, mut warnings } = ends;
        for share in [&self.load, &self.connections].into_iter().flatten().filter(|_| prior != target) {
            warnings.extend(share.warning(cx, target.units()).await);
        }
        let resource = self.target.resource();
        let mut plan = StepPlan::new(self.id.clone(), summary, encode(prior)?, encode(target)?);
        // The state before a later step is not there yet, and has no version.
        plan.version = version.filter(|_| self.is_first());
        plan.safe_side = SafeSide::Up;
        plan.expected = self.expected;
        plan.warnings = warnings;
        plan.permissions = self.target.permissions();
        plan.baselines = BTreeMap::from([(resource.clone(), cx.inherited(&resource).unwrap_or(size))]);
        plan.resources = vec![resource];
        if let Some(autoscaler) = &self.autoscaler {
            plan.resources.push(autoscaler.resource());
            plan.permissions.extend(autoscaler.permissions());
        }
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        let ends = Ends::of(plan)?;
        // Nothing is written yet, so a read that failed is certainly without effect.
        let seen = self.look(cx, ends.prior).await.map_err(without_effect)?;
        match ends.judge(&seen) {
            Position::AtTarget(_) => return Ok(Applied::NoChange),
            Position::Elsewhere(change) => return Err(drifted("apply", &self.id, &[change])),
            Position::AtPrior | Position::Between(_) => {}
        }
        let (id, units) = (self.target.id(), ends.target.units());
        if let Some(load) = &self.load {
            load.bears(cx, &id, units).await?;
        }
        if let Some(connections) = &self.connections {
            connections.drained(cx, &id, units).await?;
        }
        self.write(cx, units, &seen).await?;
        Ok(Applied::Changed)
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        let ends = Ends::of(plan)?;
        let seen = self.look(cx, ends.prior).await?;
        Ok(self.observed(cx, ends, &seen))
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        let ends = Ends::of(plan)?;
        let mut seen = self.look(cx, ends.prior).await?;
        loop {
            match self.observed(cx, ends, &seen) {
                Observed::InProgress(_) => {}
                decided => return Ok(decided),
            }
            seen = match &seen {
                Seen::Size(seen) => Seen::Size(self.target.changed(cx, seen).await?),
                Seen::Min(_) => {
                    cx.sleep(POLL).await?;
                    self.look(cx, ends.prior).await?
                }
            };
        }
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        let ends = Ends::of(plan)?;
        if plan.is_no_change() {
            return Ok(Undone::Nothing);
        }
        let (prior, written) = (ends.prior.units(), ends.target.units());
        let seen = self.look(cx, ends.prior).await?;
        if let Seen::Size(Observation { owner: Some(owner), desired, .. }) = &seen {
            return Ok(Undone::NotOurs(format!("{} sets the size now, {desired}", owner.name)));
        }
        match ends.judge(&seen) {
            Position::AtTarget(now) if now == written => {}
            Position::AtTarget(now) => {
                let path = ends.prior.path();
                return Ok(Undone::NotOurs(format!("{path} is {now}, the run wrote {written}")));
            }
            Position::AtPrior => {
                // Not yet where an earlier attempt has written it.
                if self.target.observe(cx).await?.is_ready(prior) {
                    return Ok(Undone::Nothing);
                }
                self.target.wait_ready(cx, prior, self.patience(cx)).await?;
                return Ok(Undone::Restored);
            }
            Position::Between(change) | Position::Elsewhere(change) => {
                return Ok(Undone::NotOurs(format!("somebody changed it since ({change})")));
            }
        }
        if let Seen::Min(Some(state)) = &seen
            && state.bounds.max < prior
        {
            let what = format!("{} keeps {}, below the {prior} before", state.name, state.bounds);
            return Ok(Undone::NotOurs(what));
        }
        self.write(cx, prior, &seen).await?;
        self.target.wait_ready(cx, prior, self.patience(cx)).await?;
        Ok(Undone::Restored)
    }
}

/// What there is to plan.
struct Planned {
    summary: String,
    /// Now.
    size: Units,
    prior: Level,
    target: Level,
    version: Option<Version>,
    warnings: Vec<String>,
}

impl ScaleDown {
    fn is_first(&self) -> bool {
        self.previous >= 1.0
    }

    /// The size that fractions are of, and those after the step before and after this one; `present` is what is there
    /// to be made smaller.
    fn ends(&self, cx: &RunContext, size: Units, present: Units) -> (Units, Units, Units) {
        let inherited = cx.inherited(&self.target.resource());
        // What an unfinished run took away is not taken away a second time; what it added is there now.
        let baseline = inherited.map_or(size, |before| before.max(size));
        let share = |fraction: f64| ceil(f64::from(baseline.0) * fraction).max(self.minimum).min(present);
        (baseline, share(self.previous), share(self.fraction))
    }

    async fn plan_minimum(
        &self,
        cx: &RunContext,
        autoscaler: &dyn Autoscaler,
        state: &AutoscalerState,
    ) -> Result<Planned> {
        let AutoscalerState { name, bounds, .. } = state;
        // It has not caught up yet where the size is below.
        let size = state.size.max(bounds.min);
        let (baseline, from, to) = self.ends(cx, size, bounds.min);
        self.check_floor(cx, from, to)?;
        if to < from {
            autoscaler.rehearse(cx, Bounds::new(to, bounds.max)?).await?;
        }
        let mut warnings = Vec::new();
        if self.is_first() {
            warnings.push(format!(
                "{name} sets the size, now {size}: only its minimum is lowered, and it follows the load from there"
            ));
        }
        let summary =
            format!("lower the minimum of the {} to {} of {baseline}", autoscaler.id(), self.fraction);
        let (prior, target) = (Level::Min(from), Level::Min(to));
        Ok(Planned { summary, size, prior, target, version: state.version.clone(), warnings })
    }

    async fn plan_size(&self, cx: &RunContext) -> Result<Planned> {
        let seen = self.target.observe(cx).await?;
        let (baseline, from, to) = self.ends(cx, seen.desired, seen.desired);
        if to < from {
            self.check_size(&seen, to)?;
            self.check_floor(cx, from, to)?;
            if self.target.capability().dry_run {
                self.target.set_desired(cx, to, ScaleOptions::dry_run()).await?;
            }
        }
        let summary = format!("scale {} down to {} of {baseline}", self.target.id(), self.fraction);
        let (prior, target) = (Level::Size(from), Level::Size(to));
        let Observation { desired: size, version, .. } = seen;
        Ok(Planned { summary, size, prior, target, version, warnings: Vec::new() })
    }

    /// What the target would refuse, or somebody else take back.
    fn check_size(&self, seen: &Observation, to: Units) -> Result<()> {
        if let Some(owner) = &seen.owner {
            return Err(self.refuse(format!(
                "{} sets its size and would take {to} back; give the step that autoscaler, and its minimum is lowered \
                 instead",
                owner.name
            )));
        }
        let capability = self.target.capability();
        if !capability.scale_down {
            let message = "it cannot be made smaller; leave it out";
            return Err(Error::new(ErrorKind::Unsupported, "plan", message).on(self.target.id()));
        }
        let bounds = [Some(capability.sizes), seen.bounds].into_iter().flatten();
        match bounds.map(|bounds| bounds.min).max() {
            Some(min) if to < min => Err(self.refuse(format!(
                "size {to} is below its minimum of {min}; lower the minimum first, or choose more"
            ))),
            _ => Ok(()),
        }
    }
}

fn encode(level: Level) -> Result<serde_json::Value> {
    serde_json::to_value(level)
        .map_err(|error| Error::invalid("plan", "a size has no JSON form").with_source(error))
}

fn without_effect(error: Error) -> Error {
    match error.retry() {
        Retry::ObserveFirst => error.with_retry(Retry::Safe { after: None }),
        _ => error,
    }
}
