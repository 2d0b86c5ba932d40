//! Things that have a size: what they say about themselves and how to set it.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Permission, ResourceKey, Result, RunContext, TargetId, Version};

/// A size in whatever the target counts: replicas, nodes, masters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Units(pub u32);

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u32> for Units {
    fn from(units: u32) -> Self {
        Self(units)
    }
}

/// The smallest and the largest size, both allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The smallest size.
    pub min: Units,
    /// The largest size.
    pub max: Units,
}

impl Bounds {
    /// Bounds from `min` to `max`.
    ///
    /// # Errors
    /// `InvalidConfig` where `min` is above `max`.
    pub fn new(min: impl Into<Units>, max: impl Into<Units>) -> Result<Self> {
        let (min, max) = (min.into(), max.into());
        if min > max {
            return Err(Error::invalid(
                "bounds",
                format!("min {min} is above max {max}; swap or correct them"),
            ));
        }
        Ok(Self { min, max })
    }

    /// Whether `size` lies within.
    pub fn contains(&self, size: Units) -> bool {
        (self.min..=self.max).contains(&size)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

/// A controller that sets the size by itself and would undo what others write.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// What it is, with its name: `HorizontalPodAutoscaler production/wakala-api`.
    pub name: String,
    /// The bounds that it keeps the size within.
    pub bounds: Bounds,
}

impl Owner {
    /// The owner of that name and bounds.
    pub fn new(name: impl Into<String>, bounds: Bounds) -> Self {
        Self { name: name.into(), bounds }
    }
}

/// What a target says about its size at one moment.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The size that was asked for last.
    pub desired: Units,
    /// How much of it can do its work now. May be above `desired` while the target shrinks.
    pub ready: Units,
    /// Whether the target is done with the last change: nothing old is left, nothing is on its way.
    pub settled: bool,
    /// The provider's version of what was read; `None` where it has none.
    pub version: Option<Version>,
    /// The bounds of the target itself, where it has any.
    pub bounds: Option<Bounds>,
    /// The controller that sets the size by itself.
    pub owner: Option<Owner>,
    /// What keeps the target from getting ready, in the provider's words: no capacity, an image that cannot be
    /// pulled.
    pub problem: Option<String>,
}

impl Observation {
    /// A target of that size, settled where all of it is ready.
    pub fn new(desired: impl Into<Units>, ready: impl Into<Units>) -> Self {
        let (desired, ready) = (desired.into(), ready.into());
        let settled = desired == ready;
        Self { desired, ready, settled, version: None, bounds: None, owner: None, problem: None }
    }

    /// Adds the provider's version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<Version>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Adds the target's own bounds.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = Some(bounds);
        self
    }

    /// Adds the controller that sets the size.
    #[must_use]
    pub fn with_owner(mut self, owner: Option<Owner>) -> Self {
        self.owner = owner;
        self
    }

    /// Says whether the last change is through.
    #[must_use]
    pub fn with_settled(mut self, settled: bool) -> Self {
        self.settled = settled;
        self
    }

    /// Adds what keeps the target from getting ready.
    #[must_use]
    pub fn with_problem(mut self, problem: Option<String>) -> Self {
        self.problem = problem;
        self
    }

    /// Whether the target has at least `size`, all of it ready, and nothing on its way.
    pub fn is_ready(&self, size: Units) -> bool {
        self.settled && self.desired >= size && self.ready >= size
    }
}

/// What a target can do. Planners, tests and conformance checks read it. Grows by field.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The sizes that the provider accepts whatever the target's present bounds are.
    pub sizes: Bounds,
    /// Whether the target can be made smaller.
    pub scale_down: bool,
    /// Whether [`ScaleOptions::dry_run`] is understood.
    pub dry_run: bool,
    /// Whether [`ScaleOptions::if_version`] is honoured.
    pub preconditions: bool,
}

impl Capability {
    /// Can be made larger and smaller within `sizes`; neither dry run nor preconditions.
    pub fn new(sizes: Bounds) -> Self {
        Self { sizes, scale_down: true, dry_run: false, preconditions: false }
    }

    /// Says that [`ScaleOptions::dry_run`] is understood.
    #[must_use]
    pub fn with_dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Says that [`ScaleOptions::if_version`] is honoured.
    #[must_use]
    pub fn with_preconditions(mut self) -> Self {
        self.preconditions = true;
        self
    }

    /// Says that the target can only grow.
    #[must_use]
    pub fn without_scale_down(mut self) -> Self {
        self.scale_down = false;
        self
    }
}

/// How to set a size.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScaleOptions {
    /// Set it only while the target still has this version. Needs [`Capability::preconditions`].
    pub if_version: Option<Version>,
    /// Check all that the provider would check, and change nothing. Needs [`Capability::dry_run`].
    pub dry_run: bool,
}

impl ScaleOptions {
    /// Only while the target still has `version`.
    pub fn if_version(version: Option<Version>) -> Self {
        Self { if_version: version, dry_run: false }
    }

    /// Checks only.
    pub fn dry_run() -> Self {
        Self { if_version: None, dry_run: true }
    }
}

/// Something whose size can be read and set. For authors of providers; callers also have [`ScalableTargetExt`].
#[async_trait]
pub trait ScalableTarget: Debug + Send + Sync + 'static {
    /// The target as a person would name it. Does not change.
    fn id(&self) -> TargetId;

    /// What a run takes for itself when it scales this target.
    fn resource(&self) -> ResourceKey;

    /// What the target can do. Does not change.
    fn capability(&self) -> Capability;

    /// What the provider must allow for observing and scaling this target.
    fn permissions(&self) -> Vec<Permission>;

    /// What the provider must allow for observing alone: what a guard asks for, which never scales.
    ///
    /// As given all of [`permissions`](Self::permissions); a provider names fewer, so that who only watches is allowed
    /// only that.
    fn read_permissions(&self) -> Vec<Permission> {
        self.permissions()
    }

    /// The size as the provider reports it now. Reads only.
    ///
    /// # Errors
    /// `NotFound` where the target does not exist; otherwise what the provider says. Nothing has changed.
    async fn observe(&self, cx: &RunContext) -> Result<Observation>;

    /// Asks for an absolute size and returns once the provider accepted it, not once it is ready. Idempotent.
    ///
    /// # Errors
    /// `InvalidConfig` for a size that the target cannot have, `Conflict` where
    /// [`if_version`](ScaleOptions::if_version) no longer holds or somebody else owns the size, `Unsupported` for an
    /// option beyond [`capability`](Self::capability); in these cases nothing has changed. Otherwise
    /// [`Error::retry`] says whether it may have.
    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation>;

    /// Returns once the target differs from `seen`, or earlier: callers look again and decide. Reads only.
    ///
    /// As given it looks again after a second. A provider that can watch should, since the run then knows of the last
    /// ready replica when it happens.
    ///
    /// # Errors
    /// As for [`observe`](Self::observe); `Cancelled` and `DeadlineExceeded` from the context.
    async fn changed(&self, cx: &RunContext, seen: &Observation) -> Result<Observation> {
        let _ = seen;
        cx.sleep(Duration::from_secs(1)).await?;
        self.observe(cx).await
    }
}

/// For callers of a [`ScalableTarget`]: comforts made of its methods. Never implemented by hand.
pub trait ScalableTargetExt: ScalableTarget {
    /// Waits until at least `size` is ready and the last change is through, at most for `limit`.
    ///
    /// # Errors
    /// `DeadlineExceeded` names how many are ready and what the provider says is wrong.
    fn wait_ready(
        &self,
        cx: &RunContext,
        size: Units,
        limit: Duration,
    ) -> impl Future<Output = Result<Observation>> + Send;

    /// Sets the size and waits until it is ready, at most for `limit`. Idempotent.
    ///
    /// # Errors
    /// As for [`set_desired`](ScalableTarget::set_desired) and [`wait_ready`](Self::wait_ready).
    fn scale_to(
        &self,
        cx: &RunContext,
        size: Units,
        limit: Duration,
    ) -> impl Future<Output = Result<Observation>> + Send;
}

impl<T: ScalableTarget + ?Sized> ScalableTargetExt for T {
    async fn wait_ready(&self, cx: &RunContext, size: Units, limit: Duration) -> Result<Observation> {
        let cx = cx.clone().with_deadline(limit);
        let mut seen = self.observe(&cx).await?;
        while !seen.is_ready(size) {
            cx.progress(
                seen.ready.0.min(size.0).into(),
                size.0.into(),
                seen.problem.clone().unwrap_or_default(),
            );
            seen = match self.changed(&cx, &seen).await {
                Err(error) if error.kind() == ErrorKind::DeadlineExceeded => {
                    return Err(not_ready(&self.id(), &seen, size, limit).with_source(error));
                }
                other => other?,
            };
        }
        cx.progress(size.0.into(), size.0.into(), "");
        Ok(seen)
    }

    async fn scale_to(&self, cx: &RunContext, size: Units, limit: Duration) -> Result<Observation> {
        self.set_desired(cx, size, ScaleOptions::default()).await?;
        self.wait_ready(cx, size, limit).await
    }
}

fn not_ready(id: &TargetId, seen: &Observation, size: Units, limit: Duration) -> Error {
    let problem = seen.problem.as_deref().unwrap_or("the provider names no problem");
    let limit = humantime::format_duration(limit);
    Error::new(
        ErrorKind::DeadlineExceeded,
        "wait_ready",
        format!("{} of {size} ready after {limit}: {problem}", seen.ready),
    )
    .on(id)
}

/// A target that several steps share.
pub type SharedTarget = Arc<dyn ScalableTarget>;
