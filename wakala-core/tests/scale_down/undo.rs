//! Taking back: only ever larger, and only what is ours.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{FakeAutoscaler, FakeTarget};
use wakala_core::{Clock as _, Error, ErrorKind, Owner, StepPlan, Undone, Units};

use super::{API, Bench, assert_says, bounds};

async fn applied() -> (Bench, StepPlan) {
    let bench =
        Bench::with(FakeTarget::new(API, 50).with_lead_time(Duration::from_secs(30)), |step| step.after(0.8));
    let plan = bench.plan().await.unwrap();
    bench.target.meddle(40);
    bench.apply(&plan).await.unwrap();
    (bench, plan)
}

#[tokio::test]
async fn it_goes_back_to_where_the_step_found_it_and_waits_until_that_is_ready() {
    let (bench, plan) = applied().await;
    assert_eq!(bench.undo(&plan).await.unwrap(), Undone::Restored);
    assert_eq!((bench.target.size(), bench.clock.monotonic()), (Units(40), Duration::from_secs(30)));
    assert_eq!(bench.undo(&plan).await.unwrap(), Undone::Nothing);
}

#[tokio::test]
async fn an_attempt_that_lost_its_answer_is_finished_by_the_next() {
    let (bench, plan) = applied().await;
    bench.target.lose_next_answer();
    assert_eq!(bench.undo(&plan).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(bench.undo(&plan).await.unwrap(), Undone::Restored);
    assert_eq!((bench.clock.monotonic(), bench.target.effects()), (Duration::from_secs(30), 2));
}

#[tokio::test]
async fn what_does_not_get_ready_is_an_error_that_names_it() {
    let (bench, plan) = applied().await;
    let _stuck = bench.target.clone().with_ready_limit(35, "no nodes");
    let error = bench.undo(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_says(error, &[API, "35 of 40 ready", "no nodes"]);
    assert_eq!(bench.target.size(), Units(40), "it is asked for all the same");
}

#[tokio::test]
async fn what_somebody_changed_since_is_left_alone() {
    for size in [60, 41, 35, 29, 0] {
        let (bench, plan) = applied().await;
        bench.target.meddle(size);
        let Undone::NotOurs(what) = bench.undo(&plan).await.unwrap() else { panic!("{size} is somebody's") };
        assert_says(what, &[&size.to_string()]);
        assert_eq!(bench.target.size(), Units(size));
    }
    let (bench, plan) = applied().await;
    let _same = bench.target.clone().with_owner(Owner::new("ScaledObject production/api", bounds(5, 100)));
    let Undone::NotOurs(what) = bench.undo(&plan).await.unwrap() else { panic!("it has an owner") };
    assert_says(what, &["ScaledObject production/api sets the size now, 30"]);
}

#[tokio::test]
async fn a_step_that_did_nothing_takes_nothing_back() {
    let bench = Bench::with(FakeTarget::new(API, 50), |step| step.with_minimum(50));
    let plan = bench.plan().await.unwrap();
    bench.target.meddle(20);
    assert_eq!(bench.undo(&plan).await.unwrap(), Undone::Nothing);
    assert_eq!(bench.target.writes().len(), 0);
}

#[tokio::test]
async fn a_minimum_goes_back_and_its_replicas_are_waited_for() {
    let target = FakeTarget::new(API, 50).with_lead_time(Duration::from_secs(30));
    let autoscaler = FakeAutoscaler::new(&target, bounds(50, 100));
    let handle = Arc::new(autoscaler.clone());
    let bench = Bench::with(target, |step| step.after(0.8).with_autoscaler(handle));
    let plan = bench.plan().await.unwrap();
    let lowered = async || {
        autoscaler.meddle(Some(bounds(40, 100)));
        bench.apply(&plan).await.unwrap();
        bench.target.meddle(30);
    };
    lowered().await;
    // The autoscaler takes a moment.
    let cx = bench.cx(wakala_core::Phase::Undo);
    let undo = async {
        let follow = async {
            cx.sleep(Duration::from_secs(15)).await.unwrap();
            bench.target.meddle(40);
        };
        tokio::join!(wakala_core::PlaybookStep::undo(&bench.step, &cx, &plan), follow).0
    };
    assert_eq!(bench.clock.run(undo).await.unwrap(), Undone::Restored);
    assert_eq!(autoscaler.bounds(), Some(bounds(40, 100)));
    assert!(bench.clock.monotonic() >= Duration::from_secs(15));
    assert_eq!(bench.undo(&plan).await.unwrap(), Undone::Nothing);

    for theirs in [Some(bounds(35, 100)), Some(bounds(20, 100)), Some(bounds(30, 35)), None] {
        lowered().await;
        autoscaler.meddle(theirs);
        assert!(matches!(bench.undo(&plan).await.unwrap(), Undone::NotOurs(_)), "{theirs:?}");
        assert_eq!(autoscaler.bounds(), theirs);
    }
    lowered().await;
    autoscaler.fail_next(Error::new(ErrorKind::Denied, "set_bounds", "not permitted"));
    assert_eq!(bench.undo(&plan).await.unwrap_err().kind(), ErrorKind::Denied);
}
