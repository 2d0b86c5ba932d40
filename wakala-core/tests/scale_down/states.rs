//! Every state that the step may find the world in.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{FakeAutoscaler, FakeTarget};
use wakala_core::{
    Applied, Error, ErrorKind, Observed, Owner, Phase, PlaybookStep as _, Retry, StepPlan, Units,
};

use super::{API, Bench, assert_says, bounds, change};

/// At the size after 0.8, where the step's turn is.
async fn at_its_turn() -> (Bench, StepPlan) {
    let bench = Bench::new();
    let plan = bench.plan().await.unwrap();
    bench.target.meddle(40);
    (bench, plan)
}

#[tokio::test]
async fn from_where_the_step_before_left_it_one_write_brings_it_down() {
    let (bench, plan) = at_its_turn().await;
    assert_eq!(bench.observe(&plan).await, Observed::AtPrior);
    assert_eq!(bench.apply(&plan).await.unwrap(), Applied::Changed);
    assert_eq!(bench.apply(&plan).await.unwrap(), Applied::NoChange);
    assert_eq!(bench.observe(&plan).await, Observed::AtTarget);
    let written: Vec<_> = bench.target.writes().into_iter().map(|write| write.value).collect();
    assert_eq!(written, [Units(30)]);
}

#[tokio::test]
async fn what_is_on_the_way_already_is_brought_to_its_end() {
    let (bench, plan) = at_its_turn().await;
    bench.target.meddle(35);
    assert_eq!(bench.observe(&plan).await, Observed::Moved("size: 40 -> 35".to_owned()));
    assert_eq!(bench.apply(&plan).await.unwrap(), Applied::Changed);
    assert_eq!(bench.target.size(), Units(30));
}

#[tokio::test]
async fn what_is_smaller_already_is_never_made_larger() {
    let (bench, plan) = at_its_turn().await;
    for size in [30, 20, 1, 0] {
        bench.target.meddle(size);
        assert_eq!(bench.observe(&plan).await, Observed::AtTarget, "{size}");
        assert_eq!(bench.apply(&plan).await.unwrap(), Applied::NoChange, "{size}");
        assert_eq!(bench.target.size(), Units(size));
    }
    assert_eq!(bench.target.writes().len(), 0);
}

#[tokio::test]
async fn what_somebody_scaled_up_meanwhile_is_not_cut() {
    let (bench, plan) = at_its_turn().await;
    for size in [41, 50, 90] {
        bench.target.meddle(size);
        assert_eq!(bench.observe(&plan).await, Observed::Drifted(vec![change("size", 40, size)]));
        let error = bench.apply(&plan).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never));
        assert_says(error, &["changed by somebody else since the plan", &format!("size: 40 -> {size}")]);
    }
    assert_eq!(bench.target.writes().len(), 0);
}

#[tokio::test]
async fn an_autoscaler_that_came_since_is_not_fought() {
    let (bench, plan) = at_its_turn().await;
    let owner = Owner::new("HorizontalPodAutoscaler production/late", bounds(5, 100));
    let _same = bench.target.clone().with_owner(owner);
    let error = bench.apply(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_says(error, &["autoscaler: (none) -> HorizontalPodAutoscaler production/late"]);
    bench.target.meddle(30);
    assert_eq!(bench.observe(&plan).await, Observed::AtTarget, "there is nothing to fight about");
    assert_eq!(bench.target.writes().len(), 0);
}

#[tokio::test]
async fn a_minimum_is_judged_as_a_size_is() {
    let target = FakeTarget::new(API, 50);
    let autoscaler = FakeAutoscaler::new(&target, bounds(50, 100));
    let handle = Arc::new(autoscaler.clone());
    let bench = Bench::with(target, |step| step.after(0.8).with_autoscaler(handle));
    let plan = bench.plan().await.unwrap();
    let set = |min: u32| autoscaler.meddle(Some(bounds(min, 100)));

    set(45);
    assert_eq!(bench.apply(&plan).await.unwrap_err().kind(), ErrorKind::Conflict);
    set(20);
    assert_eq!(
        (bench.observe(&plan).await, bench.apply(&plan).await.unwrap()),
        (Observed::AtTarget, Applied::NoChange)
    );
    assert_eq!(autoscaler.writes().len(), 0);
    autoscaler.meddle(Some(bounds(40, 80)));
    assert_eq!(bench.observe(&plan).await, Observed::AtPrior);
    assert_eq!(bench.apply(&plan).await.unwrap(), Applied::Changed);
    // The maximum is none of its business, and the size is the autoscaler's.
    assert_eq!((autoscaler.bounds(), bench.target.writes().len()), (Some(bounds(30, 80)), 0));
    assert_eq!(bench.observe(&plan).await, Observed::AtTarget, "the bounds are all there is to verify");

    autoscaler.meddle(None);
    assert!(matches!(bench.observe(&plan).await, Observed::Drifted(_)));
    assert_says(bench.apply(&plan).await.unwrap_err(), &["autoscaler: there -> (none)"]);
}

#[tokio::test]
async fn it_settles_once_nothing_of_what_was_too_much_is_left() {
    let (bench, plan) = at_its_turn().await;
    // Forty of forty were asked for and thirty-five came: at thirty it is through.
    let slow = bench.target.clone().with_ready_limit(20, "no nodes");
    bench.apply(&plan).await.unwrap();
    let Observed::InProgress(note) = bench.observe(&plan).await else { panic!("it is not through") };
    assert_says(note, &["20 of 30 ready", "no nodes"]);
    let settle = async {
        let cx = bench.cx(Phase::Apply);
        let heal = async {
            cx.sleep(Duration::from_secs(40)).await.unwrap();
            let _healed = slow.clone().with_ready_limit(100, "");
        };
        tokio::join!(bench.step.settle(&cx, &plan), heal).0
    };
    assert_eq!(bench.clock.run(settle).await.unwrap(), Observed::AtTarget);
}

#[tokio::test]
async fn failed_calls_say_whether_they_had_an_effect() {
    let (bench, plan) = at_its_turn().await;
    // A read that failed was no write.
    bench.target.fail_next_observe(Error::new(ErrorKind::Unavailable, "observe", "down"));
    assert_eq!(bench.apply(&plan).await.unwrap_err().retry(), Retry::Safe { after: None });
    // A write whose answer was lost may have been one.
    bench.target.lose_next_answer();
    assert_eq!(bench.apply(&plan).await.unwrap_err().retry(), Retry::ObserveFirst);
    assert_eq!(bench.observe(&plan).await, Observed::AtTarget);
    // One that lost a race had none, and the next attempt judges anew.
    bench.target.meddle(40);
    bench.target.fail_next(Error::new(ErrorKind::Conflict, "set_desired", "its version is another one"));
    assert_eq!(bench.apply(&plan).await.unwrap_err().retry(), Retry::Safe { after: None });
    assert_eq!(bench.target.size(), Units(40));
}
