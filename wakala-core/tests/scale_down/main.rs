//! The step that makes smaller, and the floors under it, on fakes and in virtual time.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wakala_core::testing::conformance::StepCase;
use wakala_core::testing::{FakeAutoscaler, FakeTarget, context};
use wakala_core::{
    Bounds, Change, ManualClock, Observed, Phase, PlaybookStep, Result, RunContext, ScaleDown, StepPlan,
    Undone, Units,
};

mod conditions;
mod floors;
mod plan;
mod states;
mod undo;

const API: &str = "deployment production/wakala-api";

/// A target with a step on it, in virtual time.
struct Bench {
    clock: ManualClock,
    cx: RunContext,
    target: FakeTarget,
    step: ScaleDown,
}

impl Bench {
    /// From 50 to 0.6 of it, after 0.8.
    fn new() -> Self {
        Self::with(FakeTarget::new(API, 50), |step| step.after(0.8))
    }

    fn with(target: FakeTarget, change: impl FnOnce(ScaleDown) -> ScaleDown) -> Self {
        let (clock, cx) = context();
        let step = change(ScaleDown::new("api-0.6", Arc::new(target.clone()), 0.6));
        Self { clock, cx, target, step }
    }

    fn cx(&self, phase: Phase) -> RunContext {
        self.cx.for_step(&self.step.id(), phase, 1).with_deadline(Duration::from_secs(180))
    }

    async fn plan(&self) -> Result<StepPlan> {
        self.clock.run(self.step.plan(&self.cx(Phase::Plan))).await
    }

    async fn apply(&self, plan: &StepPlan) -> Result<wakala_core::Applied> {
        self.clock.run(self.step.apply(&self.cx(Phase::Apply), plan)).await
    }

    async fn observe(&self, plan: &StepPlan) -> Observed {
        self.clock.run(self.step.observe(&self.cx(Phase::Apply), plan)).await.unwrap()
    }

    async fn undo(&self, plan: &StepPlan) -> Result<Undone> {
        self.clock.run(self.step.undo(&self.cx(Phase::Undo), plan)).await
    }
}

fn bounds(min: u32, max: u32) -> Bounds {
    Bounds::new(min, max).unwrap()
}

fn change(path: &str, from: u32, to: u32) -> Change {
    Change::new(path, Some(from.to_string()), Some(to.to_string()))
}

#[track_caller]
fn assert_says(text: impl ToString, words: &[&str]) {
    let text = text.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
}

mod of_a_size {
    use super::*;

    async fn make() -> StepCase {
        let (target, clock) = (FakeTarget::new(API, 50), ManualClock::default());
        let (world, theirs) = (target.clone(), target.clone());
        StepCase::new(ScaleDown::new("api-0.8", Arc::new(target), 0.8))
            .with_world(move || std::future::ready(json!(world.size())))
            .with_meddler(move || {
                theirs.meddle(60);
                std::future::ready(())
            })
            .on(&clock)
    }
    wakala_core::step_conformance!(make);
}

mod of_a_minimum {
    use super::*;

    async fn make() -> StepCase {
        let (target, clock) = (FakeTarget::new(API, 50), ManualClock::default());
        let autoscaler = FakeAutoscaler::new(&target, bounds(50, 100));
        let (world, theirs) = (autoscaler.clone(), autoscaler.clone());
        let step = ScaleDown::new("api-0.8", Arc::new(target), 0.8).with_autoscaler(Arc::new(autoscaler));
        StepCase::new(step)
            .with_world(move || std::future::ready(json!(world.bounds())))
            .with_meddler(move || {
                theirs.meddle(Some(bounds(60, 100)));
                std::future::ready(())
            })
            .on(&clock)
    }
    wakala_core::step_conformance!(make);
}

/// The sizes of a whole descent.
async fn sizes(size: u32, minimum: u32, fractions: &[f64]) -> Vec<(Units, Units)> {
    let mut ends = Vec::new();
    let mut previous = 1.0;
    for fraction in fractions {
        let (_, cx) = context();
        let target = Arc::new(FakeTarget::new(API, size));
        let step = ScaleDown::new("step", target, *fraction).after(previous).with_minimum(minimum);
        let plan = step.plan(&cx).await.unwrap();
        let of = |value: &serde_json::Value| serde_json::from_value(value["size"].clone()).unwrap();
        ends.push((of(&plan.prior), of(&plan.target)));
        previous = *fraction;
    }
    ends
}
