//! Taking a finished run back.

use std::sync::Arc;

use wakala_core::testing::{
    FakeAutoscaler, FakeSetting, FakeTarget, Fault, Faults, FaultyStep, MockPlaybookStep,
};
use wakala_core::{
    Bounds, ErrorKind, Observed, Playbook, RaiseFloor, Revert, RunHandle, Status, StepOutcome, StepPlan,
    Units, step,
};

use crate::common::{Bench, MINUTE, denied, lost, node, outcome, playbook, residuals, scale_up, setting};

/// Capacity that stays, and a limit that is temporary.
fn spike(target: &FakeTarget, limit: &FakeSetting<u32>) -> Playbook {
    playbook([step(scale_up(target, 50)), node(limit, "limit").temporary(MINUTE * 60)])
}

#[tokio::test]
async fn temporary_takes_back_what_is_temporary_and_everything_the_rest() {
    let (bench, target, limit) = (Bench::new(), FakeTarget::new("api", 10), setting("limit"));
    let playbook = spike(&target, &limit);
    let report = bench.run(&playbook).await;
    assert_eq!(residuals(&report), [("scale", true), ("limit", true)]);
    let owed: Vec<_> = report.obligations.iter().map(|owed| (owed.step.as_str(), owed.due)).collect();
    assert_eq!(owed, [("limit", report.started_at + MINUTE * 60)]);

    let report = bench.revert(&playbook, Revert::Temporary).await;
    assert_eq!((target.size(), limit.value()), (Units(50), 1));
    assert_eq!(residuals(&report), [("scale", true)]);
    assert_eq!(report.obligations, []);
    assert_eq!(outcome(&report, "limit"), &StepOutcome::TakenBack);

    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, target.size()), (Status::Compensated, Units(10)));
    assert_eq!(report.residuals, []);
}

#[tokio::test]
async fn revert_is_idempotent() {
    let (bench, target, limit) = (Bench::new(), FakeTarget::new("api", 10), setting("limit"));
    let playbook = spike(&target, &limit);
    bench.run(&playbook).await;
    for _ in 0..3 {
        let report = bench.revert(&playbook, Revert::Everything).await;
        assert_eq!(report.status, Status::Compensated);
    }
    assert_eq!((target.size(), limit.value()), (Units(10), 1));
    assert_eq!((target.effects(), limit.effects()), (2, 2), "something was taken back twice");
}

#[tokio::test]
async fn what_somebody_changed_since_is_left_alone() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let playbook = playbook([node(&limit, "limit")]);
    bench.run(&playbook).await;
    limit.meddle(7);
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!(limit.value(), 7);
    assert_eq!(
        outcome(&report, "limit"),
        &StepOutcome::NotOurs("somebody changed it since (2 -> 7)".to_owned())
    );
}

#[tokio::test]
async fn what_is_back_already_is_not_written_again() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let playbook = playbook([node(&limit, "limit")]);
    bench.run(&playbook).await;
    limit.meddle(1);
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, limit.writes().len()), (Status::Compensated, 1));
}

/// The floor comes down at once, a raised ceiling only once the size fits below it; until then it is owed.
#[tokio::test]
async fn a_raised_ceiling_is_deferred_until_the_size_fits() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let bounds = |min, max| Bounds::new(min, max).unwrap();
    let autoscaler = FakeAutoscaler::new(&target, bounds(5, 20));
    let floor = RaiseFloor::to(Arc::new(autoscaler.clone()), 50).raising_ceiling(true).step("floor");
    let playbook = playbook([step(floor).temporary(MINUTE * 60)]);
    let report = bench.run(&playbook).await;
    assert_eq!((report.status, autoscaler.bounds()), (Status::Succeeded, Some(bounds(50, 50))));
    target.meddle(50);

    let report = bench.revert(&playbook, Revert::Temporary).await;
    assert_eq!((report.status, autoscaler.bounds()), (Status::Held, Some(bounds(5, 50))), "{report}");
    assert!(
        matches!(outcome(&report, "floor"), StepOutcome::Deferred(what) if what.contains("the ceiling stays 50"))
    );
    assert_eq!((report.residuals.len(), report.obligations.len()), (1, 1), "it is still owed");

    target.meddle(18);
    let report = bench.revert(&playbook, Revert::Temporary).await;
    assert_eq!((report.status, autoscaler.bounds()), (Status::Compensated, Some(bounds(5, 20))), "{report}");
    assert_eq!((report.residuals.len(), report.obligations.len()), (0, 0));
}

#[tokio::test]
async fn an_undo_is_repeated_where_that_may_help() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let playbook = playbook([node(&limit, "limit")]);
    bench.run(&playbook).await;
    limit.lose_next_answer();
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, limit.value(), limit.effects()), (Status::Compensated, 1, 2));

    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().on("undo", 1, Fault::Hang).on("undo", 2, Fault::Retryable { after: None });
    let playbook = crate::common::playbook([step(FaultyStep::new(limit.step("limit"), &faults))]);
    bench.run(&playbook).await;
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, limit.value()), (Status::Compensated, 1));
    assert!(faults.reached());
}

/// One undo that fails does not keep the others from being made; the run is stuck until it is mended.
#[tokio::test]
async fn an_undo_that_fails_for_good_is_stuck_and_can_be_tried_again() {
    let bench = Bench::new();
    let (a, b) = (setting("a"), setting("b"));
    let playbook = playbook([node(&a, "a"), node(&b, "b")]);
    bench.run(&playbook).await;
    b.fail_next(denied());
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, a.value(), b.value()), (Status::Stuck, 1, 2), "{report}");
    assert_eq!(
        report.reason,
        "everything is taken back, as asked, but b could not be taken back: a person must look"
    );
    assert_eq!(residuals(&report), [("b", true)]);
    assert!(report.residuals[0].undo.starts_with("by hand"), "{}", report.residuals[0].undo);

    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, b.value()), (Status::Compensated, 1), "{report}");
    assert_eq!(report.residuals, []);
}

#[tokio::test]
async fn a_revert_that_makes_no_sense_is_refused_before_anything_is_touched() {
    let (bench, a, b) = (Bench::new(), setting("a"), setting("b").with_lead_time(MINUTE));
    let whole = playbook([node(&a, "a"), node(&b, "b")]);
    let run = RunHandle::new("run-1");
    let revert = async |playbook: &Playbook| bench.engine.revert(playbook, &run, Revert::Everything).await;

    let unknown = bench.drive(revert(&whole)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);

    let plan = bench.plan(&whole).await.unwrap();
    let approval = wakala_core::Approval::of(&plan, "ana");
    let early = async {
        use wakala_core::Clock as _;
        bench.clock.sleep(MINUTE / 2).await;
        revert(&whole).await
    };
    let both = async { tokio::join!(bench.engine.run(&whole, &plan, &approval, &run), early) };
    let (ran, early) = bench.drive(both).await;
    assert_eq!(ran.unwrap().status, Status::Succeeded);
    let error = early.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("drives it, and its lease lasts for"), "{error}");

    let lacking = bench.drive(revert(&playbook([node(&a, "a")]))).await.unwrap_err();
    assert_eq!(lacking.kind(), ErrorKind::InvalidConfig);
    assert_eq!((a.value(), b.value()), (2, 2));
}

#[tokio::test]
async fn a_resource_that_another_run_holds_by_now_is_not_touched() {
    let (bench, limit) = (Bench::new(), setting("limit").with_lead_time(MINUTE));
    let playbook = playbook([node(&limit, "limit")]);
    bench.run(&playbook).await;
    limit.meddle(1);
    let plan = bench.plan(&playbook).await.unwrap();
    let approval = wakala_core::Approval::of(&plan, "ana");
    let second = RunHandle::new("run-2");
    let run = RunHandle::new("run-1");
    let early = async {
        use wakala_core::Clock as _;
        bench.clock.sleep(MINUTE / 2).await;
        bench.engine.revert(&playbook, &run, Revert::Everything).await
    };
    let both = async { tokio::join!(bench.engine.run(&playbook, &plan, &approval, &second), early) };
    let (ran, early) = bench.drive(both).await;
    assert_eq!((ran.unwrap().status, limit.value()), (Status::Succeeded, 2));
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Conflict);
}

/// A step whose call was never settled may have had an effect, and so it is undone too.
#[tokio::test]
async fn an_effect_of_unknown_fate_is_taken_back() {
    let bench = Bench::new();
    let mut mock = MockPlaybookStep::new();
    mock.expect_id().return_const("odd");
    mock.expect_plan().returning(|_| {
        let mut plan = StepPlan::new("odd".into(), "odd", serde_json::json!(1), serde_json::json!(2));
        plan.resources = vec!["fake/odd".into()];
        Ok(plan)
    });
    let mut looks = 0;
    mock.expect_observe().returning(move |_, _| {
        looks += 1;
        if looks == 1 { Ok(Observed::AtPrior) } else { Ok(Observed::CannotTell("it is modifying".into())) }
    });
    mock.expect_apply().once().returning(|_, _| Err(lost()));
    mock.expect_undo().once().returning(|_, _| Ok(wakala_core::Undone::Restored));
    let playbook = playbook([step(mock)]);
    let report = bench.run(&playbook).await;
    assert_eq!((report.status, residuals(&report)), (Status::Held, vec![("odd", false)]));
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, report.residuals.len()), (Status::Compensated, 0));
}

/// The object's version moves with every status update: a write that lost that race is made again.
#[tokio::test]
async fn an_undo_that_lost_a_race_judges_anew() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let playbook = playbook([step(scale_up(&target, 50))]);
    bench.run(&playbook).await;
    target.fail_next(wakala_core::Error::new(
        ErrorKind::Conflict,
        "set_desired",
        "its version is another one",
    ));
    let report = bench.revert(&playbook, Revert::Everything).await;
    assert_eq!((report.status, target.size()), (Status::Compensated, Units(10)), "{report}");
}
