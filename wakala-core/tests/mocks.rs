//! The mocks stand in for every trait as `dyn`, and keep the default bodies; the paused clock follows tokio's time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wakala_core::store::{Lease, LeaseState, LeaseTerms, Release, RunHead, StoredRun, Takeover};
use wakala_core::testing::predicate::{always, eq};
use wakala_core::testing::{
    Answer, FakeMetrics, MockAutoscaler, MockClock, MockGuard, MockMetricsSource, MockNotifier, MockObserver,
    MockPlaybookStep, MockPreflight, MockRunStore, MockScalableTarget, MockSetting, PausedClock, context,
};
use wakala_core::{
    Applied, Approval, Autoscaler, AutoscalerState, Bounds, Capability, Clock, Engine, Entry, Error,
    ErrorKind, Finding, Guard, MemoryStore, MetricsSource, Notification, NotifyStep, Observation, Observed,
    Playbook, PlaybookStep, RaiseFloor, Record, RunContext, RunHandle, RunId, RunStore, Sample,
    ScalableTargetExt, ScaleOptions, ScaleUp, SettingInfo, SettingStep, Severity, Soak, Status, StepPlan,
    Undone, Unit, Units, Verdict, Version, Versioned, guard, step,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_mocked_target_is_polled_by_the_default_changed() {
    let (clock, cx) = context();
    let mut target = MockScalableTarget::new();
    let mut ready = 0;
    target.expect_observe().times(4).returning(move |_| {
        ready += 10;
        Ok(Observation::new(40, ready))
    });
    target
        .expect_set_desired()
        .with(always(), eq(Units(40)), eq(ScaleOptions::default()))
        .once()
        .returning(|_, size, _| Ok(Observation::new(size, 0)));
    let seen = clock.run(target.scale_to(&cx, Units(40), SECOND * 60)).await.unwrap();
    assert_eq!(seen.ready, Units(40));
    assert_eq!(clock.monotonic(), SECOND * 3);
}

#[tokio::test]
async fn a_mocked_target_makes_a_real_step() {
    let (clock, cx) = context();
    let mut target = MockScalableTarget::new();
    target.expect_id().return_const("api");
    target.expect_resource().return_const("k8s/api");
    target.expect_permissions().returning(Vec::new);
    target.expect_capability().returning(|| Capability::new(Bounds { min: Units(0), max: Units(100) }));
    target.expect_observe().returning(|_| Ok(Observation::new(10, 10).with_version("7")));
    let plan = clock.run(ScaleUp::to(Arc::new(target), 50).step("api").plan(&cx)).await.unwrap();
    assert_eq!(plan.changes[0].to_string(), "size: 10 -> 50");
    assert_eq!(plan.version, Some("7".into()));
}

#[tokio::test]
async fn a_mocked_step_runs_in_the_engine_and_settles_by_the_default_body() {
    let (clock, _) = context();
    let mut mock = MockPlaybookStep::new();
    mock.expect_id().return_const("drain");
    mock.expect_plan().once().returning(|_| {
        let (prior, target) = (serde_json::json!("open"), serde_json::json!("drained"));
        Ok(StepPlan::new("drain".into(), "drain node-1", prior, target))
    });
    mock.expect_apply().once().returning(|_, _| Ok(Applied::Changed));
    let mut answers = vec![Observed::AtTarget, Observed::InProgress("3 pods left".into()), Observed::AtPrior];
    mock.expect_observe().times(3).returning(move |_, _| Ok(answers.pop().unwrap()));
    mock.expect_undo().never().returning(|_, _| Ok(Undone::Nothing));
    let mut preflight = MockPreflight::new();
    preflight
        .expect_check()
        .once()
        .withf(|_, steps| steps.len() == 1)
        .returning(|_, _| Ok(vec![Finding::warning("node-1 is the last of its zone")]));
    let mut observer = MockObserver::new();
    observer.expect_on_event().times(6..).return_const(());

    let playbook = Playbook::builder("drain").then(step(mock)).with_preflight(preflight).build().unwrap();
    let engine = Engine::new().with_clock(Arc::new(clock.clone())).with_observer(Arc::new(observer));
    let report = clock
        .run(async {
            let plan = engine.plan(&playbook).await?;
            assert!(plan.to_string().contains("WARNING  node-1 is the last of its zone"));
            engine.run(&playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new("r")).await
        })
        .await
        .unwrap();
    assert_eq!(report.status, Status::Succeeded);
}

#[tokio::test]
async fn mocked_guards_sources_and_notifiers_serve_a_run() {
    let (clock, cx) = context();
    let mut source = MockMetricsSource::new();
    source
        .expect_latest()
        .withf(|_, query| query.name() == "error_rate")
        .returning(|cx, _| Ok(Some(Sample::new(cx.clock().now(), 0.2, Unit::Ratio))));
    source.expect_range().returning(|_, _, _| Ok(Vec::new()));
    assert!(source.range(&cx, &"error_rate".into(), SECOND).await.unwrap().is_empty());
    let errors = guard::metric(Arc::new(source), "error_rate").below(0.01);
    assert!(matches!(errors.evaluate(&cx).await, Verdict::Fail(_)));

    let mut steady = MockGuard::new();
    steady.expect_id().return_const("steady");
    steady.expect_condition().return_const("steady");
    steady.expect_evaluate().times(2..).returning(|_| Verdict::Pass("steady".into()));
    let mut notifier = MockNotifier::new();
    notifier.expect_destination().return_const("pager");
    notifier
        .expect_notify()
        .once()
        .withf(|_, notification| notification.fields["run"] == "r")
        .returning(|_, _| Ok(()));
    let alert = NotifyStep::new("alert", Arc::new(notifier), Notification::new(Severity::High, "spike"));
    let soak = Soak::new("soak", SECOND * 30).with_guard(steady);
    let playbook = Playbook::builder("alert").then(step(alert)).then(soak).build().unwrap();
    let engine = Engine::new().with_clock(Arc::new(clock.clone()));
    let report = clock
        .run(async {
            let plan = engine.plan(&playbook).await?;
            engine.run(&playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new("r")).await
        })
        .await
        .unwrap();
    assert_eq!(report.status, Status::Succeeded);
}

#[tokio::test]
async fn a_mocked_autoscaler_sees_the_version_that_was_read() {
    let (clock, cx) = context();
    let mut mock = MockAutoscaler::new();
    mock.expect_id().return_const("autoscaler of api");
    mock.expect_resource().return_const("k8s/hpa/api");
    mock.expect_permissions().returning(Vec::new);
    mock.expect_observe().returning(|_| {
        let bounds = Bounds { min: Units(5), max: Units(60) };
        Ok(Some(AutoscalerState::new("HPA api", bounds, 8).with_version("42")))
    });
    mock.expect_rehearse().once().returning(|_, _| Ok(()));
    mock.expect_set_bounds()
        .with(always(), eq(Bounds { min: Units(50), max: Units(60) }), eq(Some(Version::from("42"))))
        .once()
        .returning(|_, _, _| Ok(()));
    let mock: Arc<dyn Autoscaler> = Arc::new(mock);
    let floor = RaiseFloor::to(mock, 50).step("floor");
    let applied = clock.run(async {
        let plan = floor.plan(&cx).await?;
        floor.apply(&cx, &plan).await
    });
    assert_eq!(applied.await.unwrap(), Applied::Changed);
}

#[tokio::test]
async fn a_mocked_setting_makes_a_real_step() {
    let (_, cx) = context();
    let mut mock = MockSetting::<u32>::new();
    mock.expect_info().returning(|| SettingInfo::new("set limit", "limit"));
    mock.expect_read().returning(|_| Ok(Versioned::at(100, Some("1".into()))));
    mock.expect_desired().returning(|_| Ok(500));
    mock.expect_write()
        .with(always(), eq(500), eq(Some(Version::from("1"))))
        .once()
        .returning(|_, _, _| Err(Error::new(ErrorKind::Denied, "write", "no permission")));
    let limit = SettingStep::new("limit", mock);
    let plan = limit.plan(&cx).await.unwrap();
    assert_eq!(limit.apply(&cx, &plan).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_mocked_store_and_clock_serve_the_engine() {
    let mut clock = MockClock::new();
    clock.expect_now().return_const(SystemTime::UNIX_EPOCH);
    clock.expect_monotonic().return_const(Duration::ZERO);
    clock.expect_sleep().returning(|_| ());
    let mut store = MockRunStore::new();
    let full = || Error::new(ErrorKind::Unavailable, "create", "the disk is full");
    store.expect_list().once().returning(|| Ok(Vec::new()));
    store.expect_create().once().returning(move |_| Err(full()));
    // An outage may hide that the run was made after all, so the engine looks.
    store.expect_load().once().returning(|_| Err(Error::new(ErrorKind::NotFound, "load", "no such run")));
    let alert = NotifyStep::new(
        "alert",
        Arc::new(wakala_core::LogNotifier),
        Notification::new(Severity::Info, "hello"),
    );
    let playbook = Playbook::builder("p").then(step(alert)).build().unwrap();
    let engine = Engine::new().with_clock(Arc::new(clock)).with_store(Arc::new(store));
    let plan = engine.plan(&playbook).await.unwrap();
    let error =
        engine.run(&playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let mut store = MockRunStore::new();
    let run = RunId::from("r");
    let head = RunHead::new(run.clone(), Vec::new(), LeaseState::Free, 1, 0, false);
    let stored = StoredRun { head: head.clone(), lines: Vec::new() };
    store.expect_acquire().once().returning(|_, _, _, _| Ok(Lease { epoch: 2 }));
    store.expect_append().once().returning(|_, _, _| Ok(()));
    store.expect_load().once().return_once(move |_| Ok(stored));
    store.expect_list().once().return_once(move || Ok(vec![head]));
    store.expect_release().once().returning(|_, _, _| Ok(()));
    let store: Arc<dyn RunStore> = Arc::new(store);
    let terms = LeaseTerms { owner: "me".to_owned(), ttl: SECOND };
    assert_eq!(store.acquire(&run, &[], &terms, Takeover::Lapsed).await.unwrap().epoch, 2);
    let entry = Entry::new(1, SystemTime::UNIX_EPOCH, 2, Record::Verified { step: "s".into() });
    store.append(&run, 2, entry.line(&run, None)).await.unwrap();
    assert!(store.load(&run).await.unwrap().lines.is_empty() && store.list().await.unwrap().len() == 1);
    store.release(&run, 2, Release::Closed).await.unwrap();
    assert!(MemoryStore::new().list().await.unwrap().is_empty());
}

/// Under tokio's paused time an hour passes at once, for spawned tasks too, and samples grow old with it.
#[tokio::test(start_paused = true)]
async fn the_paused_clock_follows_tokio() {
    let clock = PausedClock::default();
    let begin = clock.now();
    let cx = RunContext::new("r".into(), Arc::new(clock.clone()));
    let spawned = tokio::spawn({
        let cx = cx.clone();
        async move { cx.sleep(SECOND * 3600).await }
    });
    spawned.await.unwrap().unwrap();
    assert_eq!(clock.now(), begin + SECOND * 3600);
    assert_eq!(clock.monotonic(), SECOND * 3600);
    let old = FakeMetrics::new().with("error_rate", Answer::Old(0.001, SECOND * 600));
    let verdict = guard::metric(Arc::new(old), "error_rate").below(0.01).evaluate(&cx).await;
    assert_eq!(
        verdict.to_string(),
        "no verdict: the newest sample of error_rate is 10m old, 1m is the limit"
    );
}
