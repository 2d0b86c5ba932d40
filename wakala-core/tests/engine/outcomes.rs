//! Three kinds of failure, drift, and waiting.

use std::time::Duration;

use wakala_core::testing::{FakeTarget, Fault, Faults, FaultyStep, MockPlaybookStep};
use wakala_core::{
    Applied, EffectKnown, Error, ErrorKind, Observed, Revert, Status, StepOutcome, StepPlan, Undone, Units,
    step,
};

use crate::common::{
    Bench, MINUTE, SECOND, Slow, denied, lost, node, outcome, playbook, residuals, scale_up, setting,
};

fn effect(report: &wakala_core::RunReport, id: &str) -> EffectKnown {
    match outcome(report, id) {
        StepOutcome::Failed { effect, .. } => *effect,
        other => panic!("{id} did not fail: {other}"),
    }
}

#[tokio::test]
async fn an_effect_whose_answer_was_lost_is_adopted_and_not_repeated() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    target.lose_next_answer();
    let report = bench.run(&playbook([step(scale_up(&target, 50))])).await;
    assert_eq!((report.status, target.size()), (Status::Succeeded, Units(50)));
    assert_eq!(target.writes().len(), 1, "the effect was repeated");
    assert_eq!(outcome(&report, "scale"), &StepOutcome::Done);
    assert!(bench.lines().contains(&"scale: found in place".to_owned()));
    assert_eq!(residuals(&report), [("scale", true)]);
}

#[tokio::test]
async fn a_lost_request_is_made_again_under_the_same_key() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    target.fail_next(lost());
    let report = bench.run(&playbook([step(scale_up(&target, 50))])).await;
    assert_eq!((report.status, target.size(), target.effects()), (Status::Succeeded, Units(50), 1));
    let writes = target.writes();
    assert_eq!([writes[0].attempt, writes[1].attempt], [1, 2]);
    assert_eq!(writes[0].key, writes[1].key);
}

/// The first call took effect after the engine looked: it is the run's own effect, and must be taken back.
#[tokio::test]
async fn an_effect_that_shows_late_is_still_the_runs_own() {
    let bench = Bench::new();
    let mut mock = MockPlaybookStep::new();
    mock.expect_id().return_const("late");
    mock.expect_plan().returning(|_| {
        let mut plan = StepPlan::new("late".into(), "late", serde_json::json!(1), serde_json::json!(2));
        plan.resources = vec!["fake/late".into()];
        Ok(plan)
    });
    let mut looks = vec![Observed::AtTarget, Observed::AtPrior, Observed::AtPrior];
    mock.expect_observe().times(3).returning(move |_, _| Ok(looks.pop().unwrap()));
    let mut calls = vec![Ok(Applied::NoChange), Err(lost())];
    mock.expect_apply().times(2).returning(move |_, _| calls.pop().unwrap());
    mock.expect_undo().once().returning(|_, _| Ok(Undone::Restored));
    let playbook = playbook([step(mock)]);
    let report = bench.run(&playbook).await;
    assert_eq!(report.status, Status::Succeeded);
    assert_eq!(outcome(&report, "late"), &StepOutcome::Done);
    assert_eq!(residuals(&report), [("late", true)]);
    assert_eq!(bench.revert(&playbook, Revert::Everything).await.status, Status::Compensated);
}

#[tokio::test]
async fn a_retry_waits_for_the_providers_hint() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().on("apply", 1, Fault::Retryable { after: Some(SECOND * 40) });
    let report = bench.run(&playbook([step(FaultyStep::new(limit.step("limit"), &faults))])).await;
    assert_eq!((report.status, limit.effects()), (Status::Succeeded, 1));
    assert!(faults.reached());
    let waited = bench.elapsed();
    assert!((SECOND * 40..SECOND * 42).contains(&waited), "waited {waited:?}");
}

#[tokio::test]
async fn a_refusal_is_final_and_leaves_nothing() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    limit.fail_next(denied());
    let report = bench.run(&playbook([node(&limit, "limit")])).await;
    assert_eq!((report.status, limit.writes().len()), (Status::Held, 1));
    assert_eq!(effect(&report, "limit"), EffectKnown::None);
    assert_eq!(report.residuals, []);
}

#[tokio::test]
async fn attempts_are_limited_and_the_end_says_where_it_stands() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().from("apply", 1, Fault::RequestLost);
    let faulty = step(FaultyStep::new(limit.step("limit"), &faults)).with_attempts(3);
    let report = bench.run(&playbook([faulty])).await;
    assert_eq!((report.status, faults.calls("apply")), (Status::Held, 3));
    assert_eq!(effect(&report, "limit"), EffectKnown::None, "{report}");
    assert!(report.reason.contains("gave up, nothing has changed"), "{}", report.reason);
    assert_eq!(report.residuals, []);
}

/// A refusal says that its own call had no effect, and not that an earlier one of unknown fate had none.
#[tokio::test]
async fn a_refusal_after_an_unknown_fate_is_looked_into() {
    for (first, status, value) in
        [(Fault::RequestLost, Status::Held, 1), (Fault::AnswerLost, Status::Succeeded, 2)]
    {
        let (bench, limit) = (Bench::new(), setting("limit"));
        // The look between the two calls sees the prior state in both cases: a read that lags behind.
        let faults = Faults::new().on("apply", 1, first).on("apply", 2, Fault::Rejected);
        let lagging = Lagging { step: FaultyStep::new(limit.step("limit"), &faults), looks: 2.into() };
        let report = bench.run(&playbook([step(lagging)])).await;
        assert!(faults.reached());
        assert_eq!((report.status, limit.value()), (status, value), "{report}");
        if status == Status::Held {
            assert_eq!(effect(&report, "limit"), EffectKnown::None);
            assert_eq!(report.residuals, []);
        } else {
            assert_eq!(residuals(&report), [("limit", true)]);
        }
    }
}

/// A step whose first looks see the prior state whatever happened.
#[derive(Debug)]
struct Lagging {
    step: FaultyStep,
    looks: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl wakala_core::PlaybookStep for Lagging {
    fn id(&self) -> wakala_core::StepId {
        self.step.id()
    }

    async fn plan(&self, cx: &wakala_core::RunContext) -> wakala_core::Result<StepPlan> {
        self.step.plan(cx).await
    }

    async fn apply(&self, cx: &wakala_core::RunContext, plan: &StepPlan) -> wakala_core::Result<Applied> {
        self.step.apply(cx, plan).await
    }

    async fn observe(&self, cx: &wakala_core::RunContext, plan: &StepPlan) -> wakala_core::Result<Observed> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.looks.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Ok(Observed::AtPrior);
        }
        self.step.observe(cx, plan).await
    }

    async fn undo(&self, cx: &wakala_core::RunContext, plan: &StepPlan) -> wakala_core::Result<Undone> {
        self.step.undo(cx, plan).await
    }
}

#[tokio::test]
async fn a_call_without_answer_ends_after_half_a_minute_and_is_looked_into() {
    for (fault, effects, attempts) in [(Fault::HangAfterEffect, 1, 1), (Fault::Hang, 1, 2)] {
        let (bench, limit) = (Bench::new(), setting("limit"));
        let faults = Faults::new().on("apply", 1, fault);
        let report = bench.run(&playbook([step(FaultyStep::new(limit.step("limit"), &faults))])).await;
        assert_eq!((report.status, limit.effects()), (Status::Succeeded, effects), "{fault:?}");
        assert_eq!(faults.calls("apply"), attempts, "{fault:?}");
        let took = bench.elapsed();
        assert!((SECOND * 30..SECOND * 32).contains(&took), "{fault:?} took {took:?}");
    }
}

/// A read that hangs is asked again; it does not eat the step's whole time.
#[tokio::test]
async fn a_look_without_answer_is_repeated() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().on("observe", 1, Fault::Hang);
    let report = bench.run(&playbook([step(FaultyStep::new(limit.step("limit"), &faults))])).await;
    assert_eq!((report.status, limit.value()), (Status::Succeeded, 2), "{report}");
}

#[tokio::test]
async fn reads_that_fail_are_repeated() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10).with_lead_time(MINUTE));
    let playbook = playbook([step(scale_up(&target, 50))]);
    let plan = bench.plan(&playbook).await.unwrap();
    for _ in 0..3 {
        target.fail_next_observe(Error::new(ErrorKind::Unavailable, "observe", "503"));
    }
    let report = bench.run_plan(&playbook, &plan).await.unwrap();
    assert_eq!((report.status, target.effects()), (Status::Succeeded, 1));
}

/// `SettingStep::apply` reads before it writes: a read that failed cannot have had an effect.
#[tokio::test]
async fn a_read_that_fails_within_apply_has_no_effect() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let playbook = playbook([node(&limit, "limit").with_attempts(1)]);
    let plan = bench.plan(&playbook).await.unwrap();
    // The engine's own look succeeds; the read within apply and the last look fail.
    let down = || Error::new(ErrorKind::Unavailable, "read", "503");
    let report = {
        let faults = Faults::new().from("observe", 2, Fault::Rejected);
        let guarded = FaultyStep::new(
            ReadFailsInApply { step: limit.step("limit"), limit: limit.clone(), down },
            &faults,
        );
        let playbook = crate::common::playbook([step(guarded).with_attempts(1)]);
        bench.run_plan(&playbook, &plan).await.unwrap()
    };
    assert_eq!(report.status, Status::Held);
    assert_eq!(effect(&report, "limit"), EffectKnown::None, "{report}");
    assert_eq!(report.residuals, []);
}

#[derive(Debug)]
struct ReadFailsInApply {
    step: wakala_core::SettingStep<wakala_core::testing::FakeSetting<u32>>,
    limit: wakala_core::testing::FakeSetting<u32>,
    down: fn() -> Error,
}

#[async_trait::async_trait]
impl wakala_core::PlaybookStep for ReadFailsInApply {
    fn id(&self) -> wakala_core::StepId {
        self.step.id()
    }

    async fn plan(&self, cx: &wakala_core::RunContext) -> wakala_core::Result<StepPlan> {
        self.step.plan(cx).await
    }

    async fn apply(&self, cx: &wakala_core::RunContext, plan: &StepPlan) -> wakala_core::Result<Applied> {
        self.limit.fail_next_read((self.down)());
        self.step.apply(cx, plan).await
    }

    async fn observe(&self, cx: &wakala_core::RunContext, plan: &StepPlan) -> wakala_core::Result<Observed> {
        self.step.observe(cx, plan).await
    }

    async fn undo(&self, cx: &wakala_core::RunContext, plan: &StepPlan) -> wakala_core::Result<Undone> {
        self.step.undo(cx, plan).await
    }
}

#[tokio::test]
async fn a_world_that_cannot_be_read_is_left_alone() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().from("observe", 1, Fault::RequestLost);
    let report = bench.run(&playbook([step(FaultyStep::new(limit.step("limit"), &faults))])).await;
    assert_eq!((report.status, limit.writes().len()), (Status::Held, 0));
    assert_eq!(effect(&report, "limit"), EffectKnown::None);
    assert!(faults.calls("observe") > 4, "it was asked only {} times", faults.calls("observe"));
    assert!(bench.elapsed() <= MINUTE + SECOND, "took {:?}", bench.elapsed());
}

#[tokio::test]
async fn drift_since_the_plan_is_left_alone() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let playbook = playbook([node(&limit, "limit")]);
    let plan = bench.plan(&playbook).await.unwrap();
    limit.meddle(7);
    let report = bench.run_plan(&playbook, &plan).await.unwrap();
    assert_eq!((report.status, limit.value(), limit.writes().len()), (Status::Held, 7, 0));
    assert_eq!(effect(&report, "limit"), EffectKnown::None);
    assert!(report.reason.contains("changed by somebody else since the plan (1 -> 7)"), "{}", report.reason);
}

/// The engine looks before it acts, and does not leave that to the step.
#[tokio::test]
async fn a_step_is_not_applied_to_a_world_that_drifted() {
    let bench = Bench::new();
    let mut mock = MockPlaybookStep::new();
    mock.expect_id().return_const("careless");
    mock.expect_plan().returning(|_| {
        Ok(StepPlan::new("careless".into(), "careless", serde_json::json!(1), serde_json::json!(2)))
    });
    let drift = || vec![wakala_core::Change::new("size", Some("1".into()), Some("7".into()))];
    mock.expect_observe().once().returning(move |_, _| Ok(Observed::Drifted(drift())));
    mock.expect_apply().never();
    let report = bench.run(&playbook([step(mock)])).await;
    assert_eq!((report.status, effect(&report, "careless")), (Status::Held, EffectKnown::None));
    assert!(
        report.reason.contains("changed by somebody else since the plan (size: 1 -> 7)"),
        "{}",
        report.reason
    );
}

#[tokio::test]
async fn a_move_inside_of_what_was_approved_is_no_drift() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let playbook = playbook([step(scale_up(&target, 50))]);
    let plan = bench.plan(&playbook).await.unwrap();
    target.meddle(14);
    let report = bench.run_plan(&playbook, &plan).await.unwrap();
    assert_eq!((report.status, target.size()), (Status::Succeeded, Units(50)));
}

#[tokio::test]
async fn what_is_so_already_is_not_written() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let playbook = playbook([step(scale_up(&target, 50))]);
    let plan = bench.plan(&playbook).await.unwrap();
    target.meddle(60);
    let report = bench.run_plan(&playbook, &plan).await.unwrap();
    assert_eq!((report.status, target.size(), target.writes().len()), (Status::Succeeded, Units(60), 0));
    assert_eq!(outcome(&report, "scale"), &StepOutcome::WasSo);
    assert_eq!(report.residuals, []);
    bench.revert(&playbook, Revert::Everything).await;
    assert_eq!(target.size(), Units(60), "what somebody else did was taken back");
}

#[tokio::test]
async fn a_target_that_never_gets_ready_fails_after_its_limit_and_says_how_far_it_got() {
    let bench = Bench::new();
    let target = FakeTarget::new("api", 10).with_ready_limit(41, "0/3 nodes have enough cpu");
    let report = bench.run(&playbook([step(scale_up(&target, 50)).with_limit(MINUTE * 5)])).await;
    assert_eq!((report.status, target.size()), (Status::Held, Units(50)));
    assert_eq!(effect(&report, "scale"), EffectKnown::Some);
    assert!(
        report.reason.contains("not in force after 5m: 41 of 50 ready: 0/3 nodes have enough cpu"),
        "{}",
        report.reason
    );
    assert!((MINUTE * 5..MINUTE * 5 + SECOND * 2).contains(&bench.elapsed()), "took {:?}", bench.elapsed());
    assert_eq!(residuals(&report), [("scale", false)]);
}

/// A provider that flaps near the end of the step's time does not hide that the effect is in force.
#[tokio::test]
async fn the_last_look_decides_after_reads_that_failed_until_the_end() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().from("settle", 1, Fault::RequestLost);
    let report = bench.run(&playbook([step(FaultyStep::new(limit.step("limit"), &faults))])).await;
    assert_eq!((report.status, limit.value()), (Status::Succeeded, 2), "{report}");
}

#[tokio::test]
async fn a_state_that_somebody_puts_back_meanwhile_is_found_out() {
    let bench = Bench::new();
    let target = FakeTarget::new("api", 10).with_lead_time(MINUTE);
    let playbook = playbook([step(scale_up(&target, 50))]);
    let plan = bench.plan(&playbook).await.unwrap();
    let fighter = async {
        use wakala_core::Clock as _;
        bench.clock.sleep(SECOND * 20).await;
        target.meddle(10);
    };
    let (run, approval) = (wakala_core::RunHandle::new("run-1"), wakala_core::Approval::of(&plan, "ana"));
    let both = async { tokio::join!(bench.engine.run(&playbook, &plan, &approval, &run), fighter) };
    let report = bench.drive(both).await.0.unwrap();
    assert_eq!((report.status, target.effects()), (Status::Held, 1), "the engine fights");
    assert!(report.reason.contains("somebody put the prior state back"), "{}", report.reason);
    assert_eq!(report.residuals, []);
}

#[tokio::test]
async fn a_provider_that_cannot_tell_holds_the_run() {
    let bench = Bench::new();
    let mut mock = MockPlaybookStep::new();
    mock.expect_id().return_const("odd");
    mock.expect_plan()
        .returning(|_| Ok(StepPlan::new("odd".into(), "odd", serde_json::json!(1), serde_json::json!(2))));
    mock.expect_observe().returning(|_, _| Ok(Observed::CannotTell("state is 'modifying'".into())));
    mock.expect_apply().never();
    let report = bench.run(&playbook([step(mock)])).await;
    assert_eq!(report.status, Status::Held);
    assert!(report.reason.contains("cannot tell where it stands: state is 'modifying'"), "{}", report.reason);
}

#[tokio::test]
async fn a_slow_call_within_its_limit_is_not_cut_short() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let slow = Slow { step: limit.step("limit"), takes: Duration::from_secs(29), attentive: false };
    let report = bench.run(&playbook([step(slow)])).await;
    assert_eq!((report.status, limit.writes().len()), (Status::Succeeded, 1));
}
