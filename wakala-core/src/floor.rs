//! The truce with an autoscaler: its bounds are moved, so that it keeps the size instead of taking it back.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::scale::allowed;
use crate::{
    Applied, Bounds, Error, ErrorKind, Guard, GuardId, Permission, ResourceKey, Result, RunContext, SafeSide,
    Setting, SettingInfo, SettingStep, StepId, Undone, Units, Verdict, Version, Versioned,
};

/// What an autoscaler says about itself at one moment.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalerState {
    /// Its name: `HorizontalPodAutoscaler production/wakala-api`.
    pub name: String,
    /// The bounds that it keeps the size within.
    pub bounds: Bounds,
    /// The size that its target is asked to have now.
    pub size: Units,
    /// The provider's version of what was read.
    pub version: Option<Version>,
}

impl AutoscalerState {
    /// An autoscaler of that name and bounds, whose target has that size.
    pub fn new(name: impl Into<String>, bounds: Bounds, size: impl Into<Units>) -> Self {
        Self { name: name.into(), bounds, size: size.into(), version: None }
    }

    /// Adds the provider's version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<Version>) -> Self {
        self.version = Some(version.into());
        self
    }
}

/// The controller that sets the size of one target by itself, where there is one.
#[async_trait]
pub trait Autoscaler: Debug + Send + Sync + 'static {
    /// The autoscaled thing as a person would name it: `autoscaler of deployment production/wakala-api`.
    fn id(&self) -> String;

    /// What a run takes for itself when it moves the bounds.
    fn resource(&self) -> ResourceKey;

    /// What a run takes for itself when it scales the target: [floors](crate::Floor) of that hold for the bounds too. As
    /// given, the same as [`resource`](Self::resource).
    fn target(&self) -> ResourceKey {
        self.resource()
    }

    /// What the provider must allow for reading and moving the bounds.
    fn permissions(&self) -> Vec<Permission>;

    /// The autoscaler as it is now; `None` where nothing scales the target by itself. Reads only.
    ///
    /// # Errors
    /// `Conflict` where several autoscalers claim the target; otherwise what the provider says.
    async fn observe(&self, cx: &RunContext) -> Result<Option<AutoscalerState>>;

    /// Moves both bounds in one write, only while `if_version` holds. Idempotent. Asks
    /// [`RunContext::permit_bounds`] before the write.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Conflict` where the version no longer holds, what
    /// [`permit`](RunContext::permit) fails with: nothing has changed then.
    async fn set_bounds(&self, cx: &RunContext, bounds: Bounds, if_version: Option<&Version>) -> Result<()>;

    /// Checks all that the provider would check of [`set_bounds`](Self::set_bounds), and changes nothing.
    ///
    /// # Errors
    /// What the write would fail with.
    async fn rehearse(&self, cx: &RunContext, bounds: Bounds) -> Result<()>;
}

impl RunContext {
    /// As [`permit`](Self::permit), for authors of autoscalers: fails where the run must not move the bounds of `target`,
    /// which has that `size`, from one to another now. A lower minimum lets the size fall, and a maximum below the size
    /// makes it fall.
    ///
    /// # Errors
    /// As for [`permit`](Self::permit).
    pub fn permit_bounds(&self, target: &ResourceKey, size: Units, from: Bounds, to: Bounds) -> Result<()> {
        self.permit(target, from.min, to.min)?;
        if to.max < from.max { self.permit(target, size, to.max) } else { Ok(()) }
    }
}

/// Raises the floor of the autoscaler that owns a target, so that the target may be scaled at once and stays there.
///
/// Where nothing scales the target by itself there is nothing to do. Taking it back lowers the floor first; a ceiling
/// that was raised comes down only once the size fits below it, since an autoscaler enforces a lower ceiling at once,
/// past all its own limits on scaling down.
#[derive(Debug)]
pub struct RaiseFloor {
    autoscaler: Arc<dyn Autoscaler>,
    size: Units,
    raise_ceiling: bool,
}

impl RaiseFloor {
    /// Keeps at least `size`; refuses a size above the autoscaler's ceiling.
    pub fn to(autoscaler: Arc<dyn Autoscaler>, size: impl Into<Units>) -> Self {
        Self { autoscaler, size: size.into(), raise_ceiling: false }
    }

    /// Whether the ceiling may be raised too, where the size is above it.
    #[must_use]
    pub fn raising_ceiling(mut self, allowed: bool) -> Self {
        self.raise_ceiling = allowed;
        self
    }

    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self)
    }
}

#[async_trait]
impl Setting for RaiseFloor {
    /// `None`: nothing scales the target by itself.
    type Value = Option<Bounds>;

    fn info(&self) -> SettingInfo {
        SettingInfo::new(
            format!("raise the floor of the {}", self.autoscaler.id()),
            self.autoscaler.resource(),
        )
        .with_permissions(self.autoscaler.permissions())
        .with_safe_side(SafeSide::Up)
        .with_expected(Duration::from_secs(1))
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<Self::Value>> {
        Ok(match self.autoscaler.observe(cx).await? {
            Some(state) => Versioned::at(Some(state.bounds), state.version),
            None => Versioned::new(None),
        })
    }

    async fn write(
        &self,
        cx: &RunContext,
        value: &Self::Value,
        expected: Option<&Version>,
    ) -> Result<Applied> {
        let Some(bounds) = value else { return Ok(Applied::NoChange) };
        self.autoscaler.set_bounds(cx, *bounds, expected).await?;
        Ok(Applied::Changed)
    }

    fn desired(&self, current: &Self::Value) -> Result<Self::Value> {
        let Some(Bounds { min, max }) = *current else { return Ok(None) };
        if self.size > max && !self.raise_ceiling {
            return Err(Error::invalid(
                "plan",
                format!(
                    "size {} is above its maximum of {max}; raise the maximum, allow the playbook to raise it, or \
                     choose at most {max}",
                    self.size
                ),
            )
            .on(self.autoscaler.id()));
        }
        Bounds::new(min.max(self.size), max.max(self.size)).map(Some)
    }

    fn is_ours(&self, prior: &Self::Value, written: &Self::Value, current: &Self::Value) -> bool {
        // Each bound for itself: a floor that is back already leaves the ceiling to be taken back. What is between may
        // be what the run's own floor left of an earlier undo; `restore` knows.
        match (prior, written, current) {
            (Some(prior), Some(written), Some(current)) => {
                (prior.min..=written.min).contains(&current.min)
                    && [prior.max, written.max].contains(&current.max)
            }
            _ => current == written,
        }
    }

    fn warnings(&self, current: &Self::Value, desired: &Self::Value) -> Vec<String> {
        match (current, desired) {
            (Some(current), Some(desired)) if desired.max > current.max => vec![format!(
                "the ceiling is raised from {} to {}; while the size is above {}, taking back leaves it raised",
                current.max, desired.max, current.max
            )],
            _ => Vec::new(),
        }
    }

    async fn rehearse(&self, cx: &RunContext, value: &Self::Value) -> Result<()> {
        match value {
            Some(bounds) => self.autoscaler.rehearse(cx, *bounds).await,
            None => Ok(()),
        }
    }

    async fn restore(
        &self,
        cx: &RunContext,
        prior: &Self::Value,
        written: &Self::Value,
        current: &Versioned<Self::Value>,
    ) -> Result<Undone> {
        let (Some(prior), Some(written), Some(_)) = (prior, written, &current.value) else {
            return Ok(Undone::Nothing);
        };
        let Some(state) = self.autoscaler.observe(cx).await? else {
            return Ok(Undone::NotOurs("the autoscaler is gone".to_owned()));
        };
        if state.version != current.version {
            let message = "its bounds were changed while they were taken back";
            return Err(Error::new(ErrorKind::Conflict, "restore", message)
                .on(&state.name)
                .with_retry(crate::Retry::Safe { after: None }));
        }
        let back = allowed(cx, &self.autoscaler.target(), state.bounds.min, prior.min);
        let now = state.bounds.min;
        if ![prior.min, written.min].contains(&now) && !back.is_left_over(now) {
            let since = format!("somebody changed it since (min: {} -> {now})", written.min);
            return Ok(Undone::NotOurs(since));
        }
        let fits = state.size <= prior.max && back.size <= prior.max;
        let bounds = Bounds { min: back.size, max: if fits { prior.max } else { state.bounds.max } };
        if bounds != state.bounds {
            self.autoscaler.set_bounds(cx, bounds, state.version.as_ref()).await?;
        }
        let mut left = back.short.into_iter().collect::<Vec<_>>();
        if !fits {
            left.push(format!(
                "the floor is back at {}; the ceiling stays {} while the size is {}, since {} would cut it at once",
                bounds.min, bounds.max, state.size, prior.max
            ));
        }
        Ok(if left.is_empty() { Undone::Restored } else { Undone::Deferred(left.join("; ")) })
    }
}

/// Holds while the floor of an autoscaler is at least a size: for the soak after
/// [`RaiseFloor`].
///
/// It also holds where there is no autoscaler, since nothing takes the size back then.
#[derive(Clone, Debug)]
pub struct TruceGuard {
    id: GuardId,
    autoscaler: Arc<dyn Autoscaler>,
    size: Units,
}

impl TruceGuard {
    /// The floor of `autoscaler` is at least `size`.
    pub fn new(autoscaler: Arc<dyn Autoscaler>, size: impl Into<Units>) -> Self {
        Self { id: GuardId::from("truce"), autoscaler, size: size.into() }
    }

    /// Names the guard; as given it is `truce`.
    #[must_use]
    pub fn named(mut self, id: impl Into<GuardId>) -> Self {
        self.id = id.into();
        self
    }
}

#[async_trait]
impl Guard for TruceGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        format!("floor of the {} at least {}", self.autoscaler.id(), self.size)
    }

    fn permissions(&self) -> Vec<Permission> {
        self.autoscaler.permissions()
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.autoscaler.observe(cx).await {
            Ok(None) => Verdict::Pass("nothing scales it by itself".to_owned()),
            Ok(Some(state)) if state.bounds.min >= self.size => {
                Verdict::Pass(format!("{} keeps {}", state.name, state.bounds))
            }
            Ok(Some(state)) => Verdict::Fail(format!(
                "{} keeps {}, its floor must be {}",
                state.name, state.bounds, self.size
            )),
            Err(error) => Verdict::SourceError(error.chain()),
        }
    }
}
