//! What is planned, and what is refused while planning.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{FakeAutoscaler, FakeTarget, context};
use wakala_core::{
    Autoscaler as _, Capability, ErrorKind, Floor, Owner, PlaybookStep as _, Reversibility, SafeSide,
    ScalableTarget as _, ScaleDown, StepPlan, Units,
};

use super::{API, Bench, assert_says, bounds, change, sizes};

const RUNBOOK: [f64; 4] = [0.8, 0.6, 0.4, 0.3];

#[tokio::test]
async fn fractions_are_of_the_size_when_it_was_planned_and_never_of_each_other() {
    let units = |pairs: &[(u32, u32)]| -> Vec<_> {
        pairs.iter().map(|(from, to)| (Units(*from), Units(*to))).collect()
    };
    assert_eq!(sizes(50, 5, &RUNBOOK).await, units(&[(50, 40), (40, 30), (30, 20), (20, 15)]));
    // Rounded up, and never below the minimum.
    assert_eq!(sizes(11, 5, &RUNBOOK).await, units(&[(11, 9), (9, 7), (7, 5), (5, 5)]));
    assert_eq!(sizes(7, 5, &RUNBOOK).await, units(&[(7, 6), (6, 5), (5, 5), (5, 5)]));
    // What is at its minimum, or below it, is left alone.
    assert_eq!(sizes(5, 5, &RUNBOOK).await, units(&[(5, 5); 4]));
    assert_eq!(sizes(2, 5, &RUNBOOK).await, units(&[(2, 2); 4]));
    assert_eq!(sizes(0, 5, &RUNBOOK).await, units(&[(0, 0); 4]));
    // What binary fractions are off by is nobody's replica.
    assert_eq!(sizes(100, 1, &[0.55, 0.29, 0.07]).await, units(&[(100, 55), (55, 29), (29, 7)]));
    assert_eq!(sizes(1, 1, &[0.5]).await, units(&[(1, 1)]));
}

#[tokio::test]
async fn the_plan_says_what_a_person_approves() {
    let bench = Bench::new();
    let plan = bench.plan().await.unwrap();
    assert_eq!(plan.summary, format!("scale {API} down to 0.6 of 50"));
    assert_eq!(plan.changes, [change("size", 40, 30)]);
    assert_eq!((plan.safe_side, &plan.reversibility), (SafeSide::Up, &Reversibility::Exact));
    assert_eq!(plan.resources, [bench.target.resource()]);
    assert_eq!(plan.permissions, bench.target.permissions());
    assert_eq!(plan.baselines.get(&bench.target.resource()), Some(&Units(50)));
    assert_eq!((plan.expected, plan.warnings.len()), (Duration::from_secs(60), 0));
    // What the provider would refuse, it refuses now.
    assert_eq!((bench.target.rehearsals(), bench.target.writes().len()), (vec![Units(30)], 0));
    // The state before a later step is not there yet.
    assert_eq!(plan.version, None);
    let first = Bench::with(FakeTarget::new(API, 50), |step| step);
    assert!(first.plan().await.unwrap().version.is_some());

    let bench = Bench::with(FakeTarget::new(API, 50), |step| step.with_minimum(60));
    assert!(bench.plan().await.unwrap().is_no_change());
}

fn autoscaled(min: u32, size: u32, previous: f64) -> (FakeAutoscaler, Bench) {
    let target = FakeTarget::new(API, size);
    let autoscaler = FakeAutoscaler::new(&target, bounds(min, 100));
    let handle = Arc::new(autoscaler.clone());
    (autoscaler, Bench::with(target, |step| step.after(previous).with_minimum(5).with_autoscaler(handle)))
}

/// Erratum 1: an autoscaler takes back what is written past it.
#[tokio::test]
async fn the_minimum_of_an_autoscaler_is_lowered_and_not_the_size() {
    let (autoscaler, bench) = autoscaled(50, 50, 1.0);
    let plan = bench.plan().await.unwrap();
    assert_eq!(plan.summary, format!("lower the minimum of the autoscaler of {API} to 0.6 of 50"));
    assert_eq!(plan.changes, [change("min", 50, 30)]);
    assert_eq!(plan.resources, [bench.target.resource(), autoscaler.resource()]);
    assert_says(plan.warnings.join("; "), &["sets the size, now 50", "only its minimum is lowered"]);
    assert!(autoscaler.permissions().iter().all(|needed| plan.permissions.contains(needed)));

    // Fractions are of the size, also where the minimum is less; and a minimum is never raised.
    let planned = async |min, size, previous| autoscaled(min, size, previous).1.plan().await.unwrap();
    assert_eq!(planned(50, 60, 1.0).await.changes, [change("min", 50, 36)]);
    assert_eq!(planned(50, 60, 0.8).await.changes, [change("min", 48, 36)]);
    assert!(planned(5, 50, 1.0).await.is_no_change());
    assert!(planned(3, 50, 0.8).await.is_no_change());
    // Not yet where its own minimum will have it.
    let late = planned(50, 10, 1.0).await;
    assert_eq!(
        (late.changes, late.baselines.into_values().collect::<Vec<_>>()),
        (vec![change("min", 50, 30)], vec![Units(50)])
    );
    // That is said once in a descent.
    assert_eq!(planned(50, 50, 0.8).await.warnings.len(), 0);
}

#[tokio::test]
async fn without_an_autoscaler_there_the_size_is_set() {
    let target = FakeTarget::new(API, 50);
    let none = Arc::new(FakeAutoscaler::none(&target));
    let bench = Bench::with(target, |step| step.after(0.8).with_autoscaler(none.clone()));
    let plan = bench.plan().await.unwrap();
    assert_eq!(plan.changes, [change("size", 40, 30)]);
    assert_eq!(plan.resources, [bench.target.resource(), none.resource()]);
}

async fn refused(bench: &Bench) -> (ErrorKind, String) {
    let error = bench.plan().await.unwrap_err();
    assert_eq!(bench.target.writes().len(), 0);
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn an_autoscaler_that_the_step_was_not_given_is_refused() {
    let owner = Owner::new("HorizontalPodAutoscaler production/wakala-api", bounds(5, 100));
    let owned = || FakeTarget::new(API, 50).with_owner(owner.clone());
    let (kind, text) = refused(&Bench::with(owned(), |step| step)).await;
    assert_eq!(kind, ErrorKind::InvalidConfig);
    assert_says(text, &[API, &owner.name, "take 30 back", "its minimum is lowered instead"]);
    // Nor does another one do.
    let target = owned();
    let none = Arc::new(FakeAutoscaler::none(&target));
    refused(&Bench::with(target, |step| step.with_autoscaler(none))).await;
    // Where nothing is to be done, nobody fights.
    let idle = Bench::with(owned(), |step| step.with_minimum(50));
    assert!(idle.plan().await.unwrap().is_no_change());
}

#[tokio::test]
async fn fractions_without_sense_are_refused() {
    for (fraction, previous) in [
        (0.0, 1.0),
        (-0.5, 1.0),
        (1.0, 1.0),
        (0.8, 0.8),
        (0.8, 0.6),
        (0.8, 1.5),
        (1.2, 1.5),
        (f64::NAN, 1.0),
        (0.5, f64::NAN),
        (0.5, f64::INFINITY),
    ] {
        let (_, cx) = context();
        let target = Arc::new(FakeTarget::new(API, 50));
        let error = ScaleDown::new("step", target, fraction).after(previous).plan(&cx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{fraction} after {previous}");
        assert_says(error, &[API, "they must fall"]);
    }
    let (kind, text) = refused(&Bench::with(FakeTarget::new(API, 50), |step| step.with_minimum(0))).await;
    assert_eq!(kind, ErrorKind::InvalidConfig);
    assert_says(text, &["a minimum of 0 is none"]);
}

#[tokio::test]
async fn what_the_target_cannot_do_is_refused() {
    let capability = || Capability::new(bounds(0, 100));
    let grows = FakeTarget::new(API, 50).with_capability(capability().without_scale_down());
    let (kind, text) = refused(&Bench::with(grows, |step| step)).await;
    assert_eq!(kind, ErrorKind::Unsupported);
    assert_says(text, &[API, "cannot be made smaller"]);

    let bounded = FakeTarget::new(API, 50).with_bounds(bounds(35, 60));
    let (kind, text) = refused(&Bench::with(bounded, |step| step)).await;
    assert_eq!(kind, ErrorKind::InvalidConfig);
    assert_says(text, &["size 30 is below its minimum of 35", "lower the minimum first"]);

    let (kind, _) = refused(&Bench::with(FakeTarget::missing(API), |step| step)).await;
    assert_eq!(kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn what_the_floors_of_the_run_forbid_is_refused() {
    let floored = async |floor| {
        let mut bench = Bench::new();
        bench.cx = bench.cx.clone().with_floor(bench.target.resource(), floor);
        refused(&bench).await
    };
    let (kind, text) = floored(Floor::at(31)).await;
    assert_eq!(kind, ErrorKind::InvalidConfig);
    assert_says(text, &["30 is below the floor of 31", "larger fraction"]);
    let (_, text) = floored(Floor::at(1).with_removal(9, Duration::from_secs(60))).await;
    assert_says(text, &["10 fewer at once, from 40 to 30", "the 9 in 1m", "choose smaller steps"]);

    let mut bench = Bench::new();
    let enough = Floor::at(30).with_removal(10, Duration::from_secs(60));
    bench.cx = bench.cx.clone().with_floor(bench.target.resource(), enough);
    bench.plan().await.unwrap();
}

async fn inherited(before: u32, size: u32, previous: f64) -> StepPlan {
    let mut bench = Bench::with(FakeTarget::new(API, size), |step| step.after(previous));
    bench.cx = bench.cx.clone().with_size_before(bench.target.resource(), before);
    bench.plan().await.unwrap()
}

#[tokio::test]
async fn an_unfinished_run_hands_its_baseline_on() {
    // It had come from 50 to 40 when its process was lost.
    let plan = inherited(50, 40, 0.8).await;
    assert_eq!(
        (plan.changes, plan.summary),
        (vec![change("size", 40, 30)], format!("scale {API} down to 0.6 of 50"))
    );
    assert!(inherited(50, 30, 0.8).await.is_no_change(), "is there already");
    assert_eq!(inherited(50, 35, 0.8).await.changes, [change("size", 35, 30)]);
    let key = FakeTarget::new(API, 1).resource();
    assert_eq!(inherited(50, 40, 0.8).await.baselines[&key], Units(50));
    // One that made it larger has not changed what there is to take away.
    let plan = inherited(10, 50, 0.8).await;
    assert_eq!((plan.changes, plan.baselines[&key]), (vec![change("size", 40, 30)], Units(10)));
}
