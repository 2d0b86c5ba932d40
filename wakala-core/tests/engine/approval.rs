//! Plan first: what is read, what is refused before anything is touched.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{
    Answer, FakeMetrics, FakeTarget, Fault, Faults, FaultyStep, MockPlaybookStep, MockPreflight,
};
use wakala_core::{
    Approval, ErrorKind, Finding, Plan, Playbook, RunHandle, Soak, Status, StepPlan, Units, guard, sequence,
    step, together,
};

use crate::common::{Bench, MINUTE, SECOND, node, playbook, scale_up, setting};

fn spike(target: &FakeTarget) -> Playbook {
    playbook([step(scale_up(target, 50))])
}

#[tokio::test]
async fn planning_reads_only_and_shows_what_differs() {
    let (bench, target, limit) = (Bench::new(), FakeTarget::new("api", 10), setting("limit"));
    let playbook = playbook([step(scale_up(&target, 50)), node(&limit, "limit")]);
    let plan = bench.plan(&playbook).await.unwrap();
    assert_eq!((target.size(), target.writes(), limit.writes()), (Units(10), vec![], vec![]));
    assert_eq!(target.rehearsals(), [Units(50)], "the provider was asked to check the write");
    assert_eq!(plan.steps()[0].step.changes[0].to_string(), "size: 10 -> 50");
    assert_eq!(bench.lines(), [""; 0]);
    assert_eq!(bench.plan(&playbook).await.unwrap().hash(), plan.hash(), "planning twice gave another plan");
}

#[tokio::test]
async fn an_approval_binds_to_exactly_one_plan() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let playbook = spike(&target);
    let plan = bench.plan(&playbook).await.unwrap();
    target.meddle(12);
    let other = bench.plan(&playbook).await.unwrap();
    let run = RunHandle::new("run-1");
    let refused = bench.drive(bench.engine.run(&playbook, &plan, &Approval::of(&other, "ana"), &run)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);

    let forged = serde_json::to_string(&plan).unwrap().replace(r#""size":50"#, r#""size":500"#);
    let forged: Plan = serde_json::from_str(&forged).unwrap();
    let refused = bench.drive(bench.engine.run(&playbook, &forged, &Approval::of(&plan, "ana"), &run)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(target.writes(), []);
}

#[tokio::test]
async fn a_plan_that_went_through_json_can_be_run() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let playbook = spike(&target);
    let plan = bench.plan(&playbook).await.unwrap();
    let read: Plan = serde_json::from_str(&serde_json::to_string_pretty(&plan).unwrap()).unwrap();
    assert_eq!(read, plan);
    let run = RunHandle::new("run-1");
    let approval = Approval::of_hash(plan.hash(), "ana");
    let report = bench.drive(bench.engine.run(&playbook, &read, &approval, &run)).await.unwrap();
    assert_eq!((report.status, target.size()), (Status::Succeeded, Units(50)));
}

#[tokio::test]
async fn a_stale_plan_is_refused() {
    let (bench, target) = (Bench::new(), FakeTarget::new("api", 10));
    let playbook = spike(&target);
    let plan = bench.plan(&playbook).await.unwrap();
    bench.clock.advance(MINUTE * 15 + SECOND);
    let error = bench.run_plan(&playbook, &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.to_string(), "run on plan test: it is 15m 1s old and was valid for 15m; plan again");
    assert_eq!(target.writes(), []);
}

#[tokio::test]
async fn a_playbook_that_changed_since_the_plan_is_refused() {
    let (a, b) = (setting("a"), setting("b"));
    let soak = |seconds| Soak::new("soak", SECOND * seconds).with_guard(always_fine());
    let with_soak = |seconds| {
        Playbook::builder("test").then(node(&a, "a")).then(node(&b, "b")).then(soak(seconds)).build().unwrap()
    };
    let planned = with_soak(60);
    let others = [
        with_soak(61),
        playbook([node(&a, "a")]),
        playbook([node(&b, "b"), node(&a, "a")]),
        Playbook::builder("test")
            .then(together([node(&a, "a").into(), node(&b, "b").into()]))
            .build()
            .unwrap(),
        Playbook::builder("other name")
            .then(node(&a, "a"))
            .then(node(&b, "b"))
            .then(soak(60))
            .build()
            .unwrap(),
    ];
    let bench = Bench::new();
    let plan = bench.plan(&planned).await.unwrap();
    for other in others {
        let error = bench.run_plan(&other, &plan).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    }
    assert_eq!((a.writes(), b.writes()), (vec![], vec![]));
}

/// What the playbook says about its steps is in the plan, and the approved plan is what counts.
#[tokio::test]
async fn the_plans_policies_count_and_not_those_of_a_playbook_built_differently() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let faults = Faults::new().from("apply", 1, Fault::Retryable { after: None });
    let faulty = || step(FaultyStep::new(limit.step("limit"), &faults));
    let plan = bench.plan(&playbook([faulty().with_attempts(2)])).await.unwrap();
    let report = bench.run_plan(&playbook([faulty().with_attempts(4).best_effort()]), &plan).await.unwrap();
    assert_eq!((report.status, faults.calls("apply")), (Status::Held, 2));
}

#[tokio::test]
async fn two_runs_never_work_on_the_same_thing() {
    let bench = Bench::new();
    let target = FakeTarget::new("api", 10).with_lead_time(MINUTE);
    let playbook = spike(&target);
    let plan = bench.plan(&playbook).await.unwrap();
    let approval = Approval::of(&plan, "ana");
    let (first, second) = (RunHandle::new("run-1"), RunHandle::new("run-2"));
    let (ran, refused) = bench
        .drive(async {
            tokio::join!(
                bench.engine.run(&playbook, &plan, &approval, &first),
                bench.engine.run(&playbook, &plan, &approval, &second),
            )
        })
        .await;
    assert_eq!(ran.unwrap().status, Status::Succeeded);
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        error.to_string(),
        "create on fake/api: run run-1 holds it; wait for its end, or resume, revert, abandon or supersede it first"
    );
    assert_eq!(target.effects(), 1);

    // Its end gives the target back.
    let third = bench.drive(bench.engine.run(&playbook, &plan, &approval, &second)).await.unwrap();
    assert_eq!(third.status, Status::Succeeded);
}

/// A run that cuts the branch it sits on is refused.
#[tokio::test]
async fn what_a_run_depends_on_is_not_changed_by_it() {
    for (needed, refused) in [("fake/a", true), ("fake", true), ("fake/b", false)] {
        let (mut bench, a) = (Bench::new(), setting("a"));
        bench.engine = bench.engine.depends_on(needed);
        let playbook = playbook([node(&a, "a")]);
        let plan = bench.plan(&playbook).await.unwrap();
        assert_eq!(plan.refusals().count() == 1, refused, "{plan}");
        assert_eq!(bench.run_plan(&playbook, &plan).await.is_err(), refused);
    }
}

#[tokio::test]
async fn every_step_that_cannot_be_planned_is_named() {
    let bench = Bench::new();
    let scale = |id: &'static str| wakala_core::ScaleUp::to(Arc::new(FakeTarget::missing(id)), 5).step(id);
    let playbook = playbook([step(scale("api")), step(scale("worker"))]);
    let error = bench.plan(&playbook).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.chain();
    assert!(text.contains("observe on api: it does not exist"), "{text}");
    assert!(text.contains("observe on worker: it does not exist"), "{text}");
}

#[tokio::test]
async fn sizes_that_cannot_be_are_refused_while_planning() {
    let bench = Bench::new();
    let bounds = wakala_core::Bounds::new(2, 40).unwrap();
    for (size, word) in [(41, "above its maximum of 40"), (20_000, "outside of what it can have (0..10000)")]
    {
        let target = FakeTarget::new("api", 10).with_bounds(bounds);
        let error = bench.plan(&playbook([step(scale_up(&target, size))])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// A provider that does not answer while planning is an error after a while, and not an endless wait.
#[tokio::test]
async fn planning_comes_to_an_end() {
    let bench = Bench::new();
    let faults = Faults::new().on("plan", 1, Fault::Hang);
    let hanging = step(FaultyStep::new(setting("limit").step("limit"), &faults));
    let error = bench.plan(&playbook([hanging])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    assert!(error.to_string().contains("limit"), "{error}");

    let mut preflight = MockPreflight::new();
    preflight.expect_check().returning(|_, _| Ok(vec![]));
    let metrics = FakeMetrics::new().with("error_rate", Answer::Hang);
    let soak =
        Soak::new("soak", MINUTE).with_guard(guard::metric(Arc::new(metrics), "error_rate").below(0.01));
    let limit = setting("limit");
    let playbook = Playbook::builder("p")
        .then(node(&limit, "limit"))
        .then(soak)
        .with_preflight(preflight)
        .build()
        .unwrap();
    let plan = bench.plan(&playbook).await.unwrap();
    assert_eq!(plan.refusals().count(), 1, "a guard that never answers cannot guard");
}

#[tokio::test]
async fn a_step_that_plans_under_another_name_is_refused() {
    let mut mock = MockPlaybookStep::new();
    mock.expect_id().return_const("drain");
    mock.expect_plan().returning(|_| {
        Ok(StepPlan::new("other".into(), "drain", serde_json::Value::Null, serde_json::Value::Null))
    });
    let error = Bench::new().plan(&playbook([step(mock)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("under another name, other"), "{error}");
}

#[tokio::test]
async fn what_the_preflight_refuses_is_not_run() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let mut preflight = MockPreflight::new();
    preflight
        .expect_check()
        .returning(|_, _| Ok(vec![Finding::refusal("50 x 20 connections are above the database's 500")]));
    let playbook =
        Playbook::builder("p").then(node(&limit, "limit")).with_preflight(preflight).build().unwrap();
    let plan = bench.plan(&playbook).await.unwrap();
    let error = bench.run_plan(&playbook, &plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("50 x 20 connections are above"), "{error}");
    assert_eq!(limit.writes(), []);
}

#[tokio::test]
async fn a_guard_without_data_keeps_the_plan_from_running() {
    for blind in [
        Answer::Absent,
        Answer::Old(0.001, MINUTE * 10),
        Answer::Value(f64::NAN),
        Answer::Partial { value: 0.001, answered: 1, expected: 5 },
        Answer::Error(ErrorKind::Unavailable),
    ] {
        let (bench, limit) = (Bench::new(), setting("limit"));
        let metrics = FakeMetrics::new().with("error_rate", blind.clone());
        let guard = guard::metric(Arc::new(metrics), "error_rate").below(0.01);
        let soak = Soak::new("soak", MINUTE).with_guard(guard);
        let playbook = Playbook::builder("p").then(node(&limit, "limit")).then(soak).build().unwrap();
        let plan = bench.plan(&playbook).await.unwrap();
        assert_eq!(plan.refusals().count(), 1, "{blind:?}");
        let error = bench.run_plan(&playbook, &plan).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{blind:?}");
        assert!(error.to_string().contains("cannot guard"), "{error}");
        assert_eq!(limit.writes(), []);
    }
}

#[test]
fn a_playbook_that_makes_no_sense_is_not_built() {
    let limit = setting("limit");
    let soak = || Soak::new("soak", MINUTE);
    let builder = || Playbook::builder("p");
    let broken = [
        (builder(), "it has no steps"),
        (builder().then(sequence([])), "it has no steps"),
        (builder().then(node(&limit, "")), "no name"),
        (builder().then(node(&limit, "a")).then(node(&limit, "a")), "the name a is used twice"),
        (
            builder().then(node(&limit, "soak")).then(soak().with_guard(always_fine())),
            "the name soak is used twice",
        ),
        (builder().then(node(&limit, "a")).then(soak()), "no guard"),
        (
            builder().then(node(&limit, "a")).then(soak().with_guard(always_fine()).with_fail_limit(0)),
            "a fail limit above 0",
        ),
        (builder().then(node(&limit, "a").temporary(Duration::MAX)), "step a has a limit or deadline"),
        (builder().then(node(&limit, "a").with_limit(Duration::MAX)), "step a has a limit or deadline"),
        (
            builder()
                .then(node(&limit, "a"))
                .then(Soak::new("soak", Duration::MAX).with_guard(always_fine())),
            "soak soak has a time",
        ),
    ];
    for (builder, words) in broken {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(words), "{error} lacks {words}");
    }
}

fn always_fine() -> wakala_core::MetricGuard {
    let metrics = FakeMetrics::new().with("error_rate", Answer::Value(0.0));
    guard::metric(Arc::new(metrics), "error_rate").below(0.01)
}
