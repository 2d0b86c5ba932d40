//! A setting that behaves.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cell::{Cell, Write, since};
use crate::testing::lock;
use crate::{
    Applied, Convergence, Error, Permission, Result, RunContext, Setting, SettingInfo, SettingStep, StepId,
    Version, Versioned,
};

/// A setting with one value, versions, a lead time until a written value is in force, and a record of writes.
///
/// Clones are the same setting. As given: with versions, in force at once, and it wants one value wherever it stands,
/// so that a value which somebody else wrote is inside of what was approved.
#[derive(Clone, Debug)]
pub struct FakeSetting<V> {
    name: String,
    desired: V,
    tolerant: bool,
    state: Arc<Mutex<State<V>>>,
}

#[derive(Debug)]
struct State<V> {
    cell: Cell<V>,
    lead_time: Duration,
    changed_at: Option<SystemTime>,
}

impl<V> FakeSetting<V>
where
    V: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// A setting that is at `current` and wants to be at `desired`. Its resource is `fake/` and the name.
    pub fn new(name: impl Into<String>, current: V, desired: V) -> Self {
        let state = State { cell: Cell::new(current), lead_time: Duration::ZERO, changed_at: None };
        Self { name: name.into(), desired, tolerant: false, state: Arc::new(Mutex::new(state)) }
    }

    /// A written value is in force after that time.
    #[must_use]
    pub fn with_lead_time(self, lead_time: Duration) -> Self {
        lock(&self.state).lead_time = lead_time;
        self
    }

    /// Its value may move between plan and effect; as given, that is drift.
    #[must_use]
    pub fn tolerant(mut self) -> Self {
        self.tolerant = true;
        self
    }

    /// The provider has no versions, so writes are without precondition.
    #[must_use]
    pub fn without_versions(self) -> Self {
        lock(&self.state).cell.versioned = false;
        self
    }

    /// The same setting, for somebody who wants another value of it.
    #[must_use]
    pub fn wanting(&self, desired: V) -> Self {
        Self { desired, ..self.clone() }
    }

    /// The step of that name on a clone.
    pub fn step(&self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self.clone())
    }

    /// The value now.
    pub fn value(&self) -> V {
        lock(&self.state).cell.value.clone()
    }

    /// Every write, in order.
    pub fn writes(&self) -> Vec<Write<V>> {
        lock(&self.state).cell.writes.clone()
    }

    /// How many writes changed the value.
    pub fn effects(&self) -> usize {
        lock(&self.state).cell.writes.iter().filter(|write| write.changed).count()
    }

    /// How often it was read.
    pub fn reads(&self) -> u64 {
        lock(&self.state).cell.reads
    }

    /// Somebody else sets the value; it is in force at once.
    pub fn meddle(&self, value: V) {
        let mut state = lock(&self.state);
        state.changed_at = None;
        state.cell.set(value);
    }

    /// The next write fails so, without effect. Further calls queue up.
    pub fn fail_next(&self, error: Error) {
        lock(&self.state).cell.fail_next(error);
    }

    /// The next write takes effect and its answer is lost: the caller cannot know. Further calls queue up.
    pub fn lose_next_answer(&self) {
        lock(&self.state).cell.lose_next_answer("write", &self.name);
    }

    /// The next read fails so. Further calls queue up.
    pub fn fail_next_read(&self, error: Error) {
        lock(&self.state).cell.fail_next_read(error);
    }
}

#[async_trait]
impl<V> Setting for FakeSetting<V>
where
    V: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Value = V;

    fn info(&self) -> SettingInfo {
        SettingInfo::new(format!("set {}", self.name), format!("fake/{}", self.name).as_str())
            .with_permissions(vec![Permission::new("fake", "write", self.name.as_str())])
            .with_expected(lock(&self.state).lead_time.max(Duration::from_secs(1)))
    }

    async fn read(&self, _: &RunContext) -> Result<Versioned<V>> {
        let cell = &mut lock(&self.state).cell;
        cell.read()?;
        Ok(Versioned::at(cell.value.clone(), cell.version()))
    }

    async fn write(&self, cx: &RunContext, value: &V, expected: Option<&Version>) -> Result<Applied> {
        let mut state = lock(&self.state);
        let before = state.cell.value.clone();
        let answer = state.cell.write(cx, value, expected, "write", &self.name);
        if state.cell.value != before {
            state.changed_at = Some(cx.clock().now());
        }
        answer.map(|changed| if changed { Applied::Changed } else { Applied::NoChange })
    }

    fn desired(&self, _: &V) -> Result<V> {
        Ok(self.desired.clone())
    }

    fn tolerates(&self, _: &V, _: &V) -> bool {
        self.tolerant
    }

    async fn convergence(&self, cx: &RunContext, _: &V) -> Result<Convergence> {
        let state = lock(&self.state);
        let Some(at) = state.changed_at else { return Ok(Convergence::Converged) };
        let passed = since(at, cx.clock().now());
        Ok(if passed >= state.lead_time {
            Convergence::Converged
        } else {
            Convergence::Following(format!(
                "in force in {}",
                humantime::format_duration(state.lead_time - passed)
            ))
        })
    }
}
