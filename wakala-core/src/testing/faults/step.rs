//! A step whose calls fail by a script.

use std::sync::Arc;

use async_trait::async_trait;

use super::Faults;
use crate::{Applied, Observed, PlaybookStep, Result, RunContext, StepId, StepPlan, Undone};

/// A step whose `plan`, `apply`, `observe`, `settle` and `undo` fail by a script.
#[derive(Clone, Debug)]
pub struct FaultyStep {
    inner: Arc<dyn PlaybookStep>,
    faults: Faults,
}

impl FaultyStep {
    /// Wraps `step`.
    pub fn new(step: impl PlaybookStep, faults: &Faults) -> Self {
        Self::shared(Arc::new(step), faults)
    }

    /// Wraps a step that others hold too.
    pub fn shared(step: Arc<dyn PlaybookStep>, faults: &Faults) -> Self {
        Self { inner: step, faults: faults.clone() }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl PlaybookStep for FaultyStep {
    fn id(&self) -> StepId {
        self.inner.id()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        self.faults.call("plan", self.id().as_str(), self.inner.plan(cx)).await
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        self.faults.call("apply", self.id().as_str(), self.inner.apply(cx, plan)).await
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.faults.call("observe", self.id().as_str(), self.inner.observe(cx, plan)).await
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.faults.call("settle", self.id().as_str(), self.inner.settle(cx, plan)).await
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        self.faults.call("undo", self.id().as_str(), self.inner.undo(cx, plan)).await
    }
}
