//! A target that behaves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::cell::{Cell, Write, since};
use crate::testing::lock;
use crate::{
    Bounds, Capability, Error, ErrorKind, Observation, Owner, Permission, ResourceKey, Result, RunContext,
    ScalableTarget, ScaleOptions, TargetId, Units,
};

/// A target with a size, a lead time until new units are ready, versions, and a record of what was asked of it.
///
/// Clones are the same target. As given: any size up to 10 000, ready at once, with versions, preconditions and dry
/// run, not owned by anybody. Time is that of the caller's context.
#[derive(Clone, Debug)]
pub struct FakeTarget {
    id: TargetId,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    exists: bool,
    size: Cell<Units>,
    /// How much was ready when the size last changed, and when that was.
    since: Option<(Units, SystemTime)>,
    lead_time: Duration,
    ready_limit: Option<(Units, String)>,
    bounds: Option<Bounds>,
    owner: Option<Owner>,
    capability: Capability,
    rehearsals: Vec<Units>,
}

impl State {
    fn ready(&self, now: SystemTime) -> Units {
        let desired = self.size.value;
        let ready = match self.since {
            Some((before, at)) if before < desired && since(at, now) < self.lead_time => before,
            _ => desired,
        };
        self.ready_limit.as_ref().map_or(ready, |(limit, _)| ready.min(*limit))
    }

    fn observation(&self, now: SystemTime) -> Observation {
        let (desired, ready) = (self.size.value, self.ready(now));
        let problem = self.ready_limit.as_ref().filter(|(limit, _)| desired > *limit).map(|(_, p)| p.clone());
        let mut seen = Observation::new(desired, ready).with_owner(self.owner.clone()).with_problem(problem);
        seen.bounds = self.bounds;
        seen.version = self.size.version();
        seen
    }
}

impl FakeTarget {
    /// A target of that size, all of it ready.
    pub fn new(id: impl Into<TargetId>, size: impl Into<Units>) -> Self {
        let sizes = Bounds { min: Units(0), max: Units(10_000) };
        let state = State {
            exists: true,
            size: Cell::new(size.into()),
            since: None,
            lead_time: Duration::ZERO,
            ready_limit: None,
            bounds: None,
            owner: None,
            capability: Capability::new(sizes).with_dry_run().with_preconditions(),
            rehearsals: Vec::new(),
        };
        Self { id: id.into(), state: Arc::new(Mutex::new(state)) }
    }

    /// A target that does not exist: every call answers `NotFound`.
    pub fn missing(id: impl Into<TargetId>) -> Self {
        Self::new(id, 0).configured(|state| state.exists = false)
    }

    fn configured(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut lock(&self.state));
        self
    }

    /// New units are ready after that time; removed ones are gone at once.
    #[must_use]
    pub fn with_lead_time(self, lead_time: Duration) -> Self {
        self.configured(|state| state.lead_time = lead_time)
    }

    /// No more than that many are ever ready, because of `problem`.
    #[must_use]
    pub fn with_ready_limit(self, limit: impl Into<Units>, problem: impl Into<String>) -> Self {
        self.configured(|state| state.ready_limit = Some((limit.into(), problem.into())))
    }

    /// The target has bounds of its own, and refuses sizes outside of them.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        self.configured(|state| state.bounds = Some(bounds))
    }

    /// A controller sets the size by itself. The fake only says so; nobody fights.
    #[must_use]
    pub fn with_owner(self, owner: Owner) -> Self {
        self.configured(|state| state.owner = Some(owner))
    }

    /// What the target can do. Without preconditions it has no versions either.
    #[must_use]
    pub fn with_capability(self, capability: Capability) -> Self {
        self.configured(|state| {
            state.size.versioned = capability.preconditions;
            state.capability = capability;
        })
    }

    /// The size that was asked for last.
    pub fn size(&self) -> Units {
        lock(&self.state).size.value
    }

    /// Every write, in order; checks without effect are in [`rehearsals`](Self::rehearsals).
    pub fn writes(&self) -> Vec<Write<Units>> {
        lock(&self.state).size.writes.clone()
    }

    /// How many writes changed the size.
    pub fn effects(&self) -> usize {
        lock(&self.state).size.writes.iter().filter(|write| write.changed).count()
    }

    /// The sizes that were only checked.
    pub fn rehearsals(&self) -> Vec<Units> {
        lock(&self.state).rehearsals.clone()
    }

    /// How often it was observed.
    pub fn reads(&self) -> u64 {
        lock(&self.state).size.reads
    }

    /// Somebody else sets the size; all of it is ready at once.
    pub fn meddle(&self, size: impl Into<Units>) {
        let mut state = lock(&self.state);
        state.since = None;
        state.size.set(size.into());
    }

    /// The next write fails so, without effect. Further calls queue up.
    pub fn fail_next(&self, error: Error) {
        lock(&self.state).size.fail_next(error);
    }

    /// The next write takes effect and its answer is lost: the caller cannot know. Further calls queue up.
    pub fn lose_next_answer(&self) {
        lock(&self.state).size.lose_next_answer("set_desired", self.id.as_str());
    }

    /// The next observation fails so. Further calls queue up.
    pub fn fail_next_observe(&self, error: Error) {
        lock(&self.state).size.fail_next_read(error);
    }

    fn check_exists(&self, state: &State, operation: &'static str) -> Result<()> {
        if state.exists {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, operation, "it does not exist; check its name").on(&self.id))
    }

    fn check_request(&self, state: &State, desired: Units, options: &ScaleOptions) -> Result<()> {
        let refuse = |kind, message: String| Err(Error::new(kind, "set_desired", message).on(&self.id));
        let Capability { sizes, scale_down, dry_run, preconditions, .. } = state.capability;
        if (options.dry_run && !dry_run) || (options.if_version.is_some() && !preconditions) {
            return refuse(ErrorKind::Unsupported, "it knows neither this nor a like option".to_owned());
        }
        for bounds in [Some(sizes), state.bounds].into_iter().flatten() {
            if !bounds.contains(desired) {
                return refuse(ErrorKind::InvalidConfig, format!("{desired} is outside of {bounds}"));
            }
        }
        if !scale_down && desired < state.size.value {
            return refuse(ErrorKind::Unsupported, "it cannot be made smaller".to_owned());
        }
        Ok(())
    }
}

#[async_trait]
impl ScalableTarget for FakeTarget {
    fn id(&self) -> TargetId {
        self.id.clone()
    }

    fn resource(&self) -> ResourceKey {
        ResourceKey::from(format!("fake/{}", self.id))
    }

    fn capability(&self) -> Capability {
        lock(&self.state).capability.clone()
    }

    fn permissions(&self) -> Vec<Permission> {
        vec![Permission::new("fake", "scale", self.id.as_str())]
    }

    fn read_permissions(&self) -> Vec<Permission> {
        vec![Permission::new("fake", "observe", self.id.as_str())]
    }

    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        let mut state = lock(&self.state);
        self.check_exists(&state, "observe")?;
        state.size.read()?;
        Ok(state.observation(cx.clock().now()))
    }

    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        let mut state = lock(&self.state);
        self.check_exists(&state, "set_desired")?;
        self.check_request(&state, desired, &options)?;
        let now = cx.clock().now();
        if options.dry_run {
            state.rehearsals.push(desired);
            return Ok(state.observation(now));
        }
        let (before, ready) = (state.size.value, state.ready(now));
        cx.permit(&self.resource(), before, desired)?;
        let answer =
            state.size.write(cx, &desired, options.if_version.as_ref(), "set_desired", self.id.as_str());
        if state.size.value != before {
            state.since = Some((ready, now));
        }
        answer.map(|_| state.observation(now))
    }
}
