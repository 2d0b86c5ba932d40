//! Floors under scaling up and its undo, and what a run that took over puts back.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{FakeAutoscaler, FakeTarget, context};
use wakala_core::{
    Autoscaler as _, ErrorKind, Floor, ManualClock, Phase, PlaybookStep, RaiseFloor, RunContext,
    ScalableTarget as _, ScaleUp, StepPlan, Undone, Units,
};

use super::{API, assert_says, bounds};

const MINUTE: Duration = Duration::from_secs(60);

struct Step<S> {
    clock: ManualClock,
    cx: RunContext,
    step: S,
    plan: StepPlan,
}

impl<S: PlaybookStep> Step<S> {
    /// Planned and applied.
    async fn new(step: S, context_of: impl FnOnce(RunContext) -> RunContext) -> Self {
        let (clock, cx) = context();
        let cx = context_of(cx);
        let plan = step.plan(&cx.for_step(&step.id(), Phase::Plan, 1)).await.unwrap();
        step.apply(&cx.for_step(&step.id(), Phase::Apply, 1), &plan).await.unwrap();
        Self { clock, cx, step, plan }
    }

    async fn undo(&self) -> Undone {
        self.step.undo(&self.cx.for_step(&self.step.id(), Phase::Undo, 1), &self.plan).await.unwrap()
    }
}

fn floored(target: &FakeTarget, floor: Floor) -> impl FnOnce(RunContext) -> RunContext {
    let key = target.resource();
    move |cx| cx.with_floor(key, floor)
}

#[tokio::test]
async fn taking_a_scale_up_back_ends_at_the_floor_and_says_so() {
    let target = FakeTarget::new(API, 10);
    let up = ScaleUp::to(Arc::new(target.clone()), 50).step("api");
    let step = Step::new(up, floored(&target, Floor::at(20))).await;
    assert_eq!(target.size(), Units(50));
    for _ in 0..2 {
        let Undone::Deferred(left) = step.undo().await else { panic!("it cannot all go back") };
        assert_says(left, &["floor of 20", "the 10 before"]);
        assert_eq!(target.size(), Units(20));
    }
    // What somebody else made of it is theirs, floor or not.
    target.meddle(30);
    assert!(matches!(step.undo().await, Undone::NotOurs(_)));
}

#[tokio::test]
async fn taking_a_scale_up_back_goes_no_faster_than_the_run_may() {
    let target = FakeTarget::new(API, 10);
    let up = ScaleUp::to(Arc::new(target.clone()), 50).step("api");
    let step = Step::new(up, floored(&target, Floor::at(1).with_removal(25, MINUTE))).await;
    let Undone::Deferred(left) = step.undo().await else { panic!("it cannot all go back at once") };
    assert_says(left, &["back at 25 and not at 10 yet", "at most 25 fewer in 1m"]);
    step.clock.advance(MINUTE);
    assert_eq!((step.undo().await, target.size()), (Undone::Restored, Units(10)));
    assert_eq!(step.undo().await, Undone::Nothing);
}

#[tokio::test]
async fn taking_a_raised_minimum_back_ends_at_the_floor_and_says_so() {
    let target = FakeTarget::new(API, 10);
    let autoscaler = FakeAutoscaler::new(&target, bounds(5, 100));
    let raise = RaiseFloor::to(Arc::new(autoscaler.clone()), 50).step("floor");
    let step = Step::new(raise, floored(&target, Floor::at(8))).await;
    for _ in 0..2 {
        let Undone::Deferred(left) = step.undo().await else { panic!("it cannot all go back") };
        assert_says(left, &["floor of 8", "the 5 before"]);
        assert_eq!(autoscaler.bounds(), Some(bounds(8, 100)));
    }
    autoscaler.meddle(Some(bounds(30, 100)));
    assert!(matches!(step.undo().await, Undone::NotOurs(_)));
}

#[tokio::test]
async fn no_bounds_let_a_size_fall_below_the_floor_of_the_run() {
    let target = FakeTarget::new(API, 50);
    let autoscaler = FakeAutoscaler::new(&target, bounds(5, 100));
    let cx = floored(&target, Floor::at(20))(context().1);
    let set = async |min, max| autoscaler.set_bounds(&cx, bounds(min, max), None).await.map_err(|e| e.kind());
    // A minimum that was lower before is nobody's deed; a maximum below the size cuts it.
    assert_eq!(set(5, 60).await, Ok(()));
    assert_eq!(set(5, 19).await, Err(ErrorKind::Denied));
    assert_eq!(set(5, 20).await, Ok(()));
    assert_eq!(set(4, 20).await, Err(ErrorKind::Denied));
    assert_eq!(set(20, 60).await, Ok(()));
    assert_eq!(set(19, 60).await, Err(ErrorKind::Denied));
    assert_eq!(autoscaler.bounds(), Some(bounds(20, 60)));
}

#[tokio::test]
async fn an_emergency_that_took_over_puts_the_original_back() {
    // A descent from 50 had come to 30 when the emergency took over.
    let before = |size: u32| {
        let key = FakeTarget::new(API, 1).resource();
        move |cx: RunContext| cx.with_size_before(key, size)
    };
    let target = FakeTarget::new(API, 30);
    let up = || ScaleUp::to(Arc::new(target.clone()), 60).step("api");
    let step = Step::new(up(), before(50)).await;
    assert_eq!(step.plan.baselines[&target.resource()], Units(50));
    assert_eq!(step.plan.changes, [super::change("size", 30, 60)]);
    assert_eq!((step.undo().await, target.size()), (Undone::Restored, Units(50)));

    // Also where it asked for less than there was at first.
    target.meddle(30);
    let up = ScaleUp::to(Arc::new(target.clone()), 40).step("api");
    let step = Step::new(up, before(50)).await;
    assert_eq!((step.undo().await, target.size()), (Undone::Restored, Units(50)));

    // On its own it knows no other size.
    target.meddle(30);
    let step = Step::new(ScaleUp::to(Arc::new(target.clone()), 60).step("api"), |cx| cx).await;
    assert_eq!(step.plan.baselines[&target.resource()], Units(30));
    assert_eq!((step.undo().await, target.size()), (Undone::Restored, Units(30)));
}
