//! The setting that every scalable target gives: its size.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Applied, Convergence, Error, Floor, Observation, Owner, Removal, ResourceKey, Result, Reversibility,
    RunContext, SafeSide, ScaleOptions, Setting, SettingInfo, SettingStep, SharedTarget, StepId, Undone,
    Units, Version, Versioned,
};

/// The size of a target as a setting.
///
/// It wants at least the given size: a target that is larger already is left as it is, since in an emergency nothing
/// is made smaller on the way.
#[derive(Debug)]
pub struct ScaleUp {
    target: SharedTarget,
    size: Units,
    expected: Duration,
    floor_raised: bool,
}

/// The value of [`ScaleUp`] in a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Size {
    /// The desired size.
    pub size: Units,
    // The size that the run's first predecessor began at, where this run took over in its middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<Units>,
    // What it was read from; a circumstance of the size and not a part of it.
    #[serde(skip)]
    seen: Option<Observation>,
}

impl Size {
    fn owner(&self) -> Option<&Owner> {
        self.seen.as_ref()?.owner.as_ref()
    }
}

impl PartialEq for Size {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size
    }
}

impl ScaleUp {
    /// Scales `target` to at least `size`.
    pub fn to(target: SharedTarget, size: impl Into<Units>) -> Self {
        Self { target, size: size.into(), expected: Duration::from_secs(120), floor_raised: false }
    }

    /// Says how long it takes until all of it is ready; two minutes as given.
    #[must_use]
    pub fn with_expected(mut self, expected: Duration) -> Self {
        self.expected = expected;
        self
    }

    /// Says that an earlier step raises the floor of whatever owns the size, so that the plan need not warn of it.
    #[must_use]
    pub fn with_floor_raised(mut self) -> Self {
        self.floor_raised = true;
        self
    }

    async fn seen(&self, cx: &RunContext, current: &Size) -> Result<Observation> {
        match &current.seen {
            Some(seen) => Ok(seen.clone()),
            None => self.target.observe(cx).await,
        }
    }

    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self)
    }
}

#[async_trait]
impl Setting for ScaleUp {
    type Value = Size;

    fn info(&self) -> SettingInfo {
        SettingInfo::new(format!("scale {}", self.target.id()), self.target.resource())
            .with_permissions(self.target.permissions())
            .with_safe_side(SafeSide::Up)
            .with_reversibility(Reversibility::Exact)
            .with_expected(self.expected)
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<Size>> {
        let mut read = self.target.observe(cx).await.map(size_of)?;
        read.value.original = cx.inherited(&self.target.resource());
        Ok(read)
    }

    async fn write(&self, cx: &RunContext, value: &Size, expected: Option<&Version>) -> Result<Applied> {
        let options = if self.target.capability().preconditions {
            ScaleOptions::if_version(expected.cloned())
        } else {
            ScaleOptions::default()
        };
        self.target.set_desired(cx, value.size, options).await?;
        Ok(Applied::Changed)
    }

    fn desired(&self, current: &Size) -> Result<Size> {
        let size = self.size.max(current.size);
        let sizes = self.target.capability().sizes;
        let refuse = |message: String| Err(Error::invalid("plan", message).on(self.target.id()));
        if !sizes.contains(self.size) {
            return refuse(format!(
                "size {} is outside of what it can have ({sizes}); choose another",
                self.size
            ));
        }
        if let Some(bounds) = current.seen.as_ref().and_then(|seen| seen.bounds)
            && size > bounds.max
        {
            return refuse(format!(
                "size {size} is above its maximum of {}; raise the maximum or choose less",
                bounds.max
            ));
        }
        Ok(Size { size, original: current.original, seen: None })
    }

    fn tolerates(&self, _: &Size, _: &Size) -> bool {
        // Autoscalers move sizes all the time, and at least so much is wanted from any of them.
        true
    }

    fn satisfies(&self, current: &Size, target: &Size) -> bool {
        current.size >= target.size
    }

    fn is_ours(&self, prior: &Size, _: &Size, current: &Size) -> bool {
        // What is below what was written may be what a floor left of an earlier undo; `restore` knows the floor.
        current.size > prior.size
    }

    fn baselines(&self, current: &Size) -> BTreeMap<ResourceKey, Units> {
        BTreeMap::from([(self.target.resource(), current.original.unwrap_or(current.size))])
    }

    fn warnings(&self, current: &Size, desired: &Size) -> Vec<String> {
        match current.owner() {
            Some(owner) if !self.floor_raised && owner.bounds.min < desired.size => vec![format!(
                "{} keeps the size within {} and takes {} back; raise its floor first",
                owner.name, owner.bounds, desired.size
            )],
            _ => Vec::new(),
        }
    }

    async fn rehearse(&self, cx: &RunContext, value: &Size) -> Result<()> {
        if self.target.capability().dry_run {
            self.target.set_desired(cx, value.size, ScaleOptions::dry_run()).await?;
        }
        Ok(())
    }

    async fn convergence(&self, cx: &RunContext, current: &Size) -> Result<Convergence> {
        let seen = self.seen(cx, current).await?;
        if seen.is_ready(self.size) {
            cx.progress(self.size.0.into(), self.size.0.into(), "");
            return Ok(Convergence::Converged);
        }
        let problem = seen.problem.clone().unwrap_or_default();
        cx.progress(seen.ready.min(self.size).0.into(), self.size.0.into(), problem);
        Ok(Convergence::Following(note(&seen, self.size)))
    }

    async fn changed(&self, cx: &RunContext, current: &Size) -> Result<Versioned<Size>> {
        let seen = self.seen(cx, current).await?;
        self.target.changed(cx, &seen).await.map(size_of)
    }

    async fn restore(
        &self,
        cx: &RunContext,
        prior: &Size,
        written: &Size,
        current: &Versioned<Size>,
    ) -> Result<Undone> {
        if let Some(owner) = current.value.owner() {
            // The owner knows the present load, the plan only that of its time.
            return Ok(Undone::NotOurs(format!(
                "{} sets the size, now {}, and follows the load from there",
                owner.name, current.value.size
            )));
        }
        let now = current.value.size;
        let back = allowed(cx, &self.target.resource(), now, prior.original.unwrap_or(prior.size));
        if now != written.size && !back.is_left_over(now) {
            return Ok(Undone::NotOurs(format!("size is {now}, the run wrote {}", written.size)));
        }
        if back.size != now {
            let size = Size { size: back.size, ..prior.clone() };
            self.write(cx, &size, current.version.as_ref()).await?;
        }
        Ok(back.short.map_or(Undone::Restored, Undone::Deferred))
    }
}

/// How far a size may be taken back at once.
pub(crate) struct Allowed {
    pub(crate) size: Units,
    /// Why not all the way.
    pub(crate) short: Option<String>,
    floor: Option<Floor>,
}

impl Allowed {
    /// Whether `now` may be what the floor left of an earlier undo, which is still the run's.
    pub(crate) fn is_left_over(&self, now: Units) -> bool {
        self.floor.is_some_and(|floor| now == floor.min || floor.removal.is_some())
    }
}

/// How far `resource` may go `from` one size back `to` another at once, within the run's floor.
pub(crate) fn allowed(cx: &RunContext, resource: &ResourceKey, from: Units, to: Units) -> Allowed {
    let floor = cx.floor(resource).filter(|_| to < from);
    let Some(Floor { min, removal }) = floor else { return Allowed { size: to, short: None, floor } };
    let lowest = to.max(min.min(from));
    let slow = removal.filter(|removal| from.0 - lowest.0 > removal.units.0);
    if let Some(Removal { units, per }) = slow {
        let (size, per) = (Units(from.0 - units.0), humantime::format_duration(per));
        let short = format!("it is back at {size} and not at {to} yet: at most {units} fewer in {per}");
        return Allowed { size, short: Some(short), floor };
    }
    let short = (lowest > to).then(|| format!("it stays at its floor of {lowest}, above the {to} before"));
    Allowed { size: lowest, short, floor }
}

fn size_of(seen: Observation) -> Versioned<Size> {
    let version = seen.version.clone();
    Versioned::at(Size { size: seen.desired, original: None, seen: Some(seen) }, version)
}

fn note(seen: &Observation, size: Units) -> String {
    let problem = seen.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    format!("{} of {size} ready{problem}", seen.ready)
}
