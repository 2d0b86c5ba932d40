//! Guards of the whole run, and floors.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wakala_core::testing::{Answer, FakeMetrics, FakeTarget};
use wakala_core::{
    Applied, Control, Error, Floor, Observed, OnFailure, Playbook, PlaybookStep, Result, RunContext,
    RunHandle, ScalableTarget, ScaleOptions, Soak, Status, StepId, StepPlan, Undone, Units, Watch, gate,
    guard, step,
};

use crate::common::{Bench, MINUTE, SECOND, node, setting};

const GOOD: Answer = Answer::Value(0.001);
const BAD: Answer = Answer::Value(0.2);

fn watch(script: impl IntoIterator<Item = (u64, Answer)>) -> Watch {
    let metrics = FakeMetrics::new();
    metrics.script("error_rate", script.into_iter().map(|(at, answer)| (Duration::from_secs(at), answer)));
    Watch::new(guard::metric(Arc::new(metrics), "error_rate").below(0.01))
}

/// It acts while a step settles, while the run is paused, and while it waits for approval.
#[tokio::test]
async fn a_failing_guard_ends_the_run_in_every_state() {
    for state in ["settling", "paused", "at a gate", "waiting for the plan's approval"] {
        let bench = Bench::new();
        let (a, b) = (setting("a"), setting("b").with_lead_time(MINUTE * 20));
        let mut builder = Playbook::builder("test")
            .guarded_by(watch([(0, GOOD), (300, BAD)]))
            .with_on_failure(OnFailure::TakeBack)
            .then(node(&a, "a"));
        if state == "at a gate" {
            builder = builder.then(gate("gate", "go on?"));
        }
        let playbook = builder.then(node(&b, "b").with_limit(MINUTE * 30)).build().unwrap();
        let plan = bench.plan(&playbook).await.unwrap();
        assert!(plan.to_string().contains("All the time\n  error_rate: error_rate below 0.01"), "{plan}");
        let (run, approval) = (RunHandle::new("run-1"), wakala_core::Approval::of(&plan, "ana"));
        let pausing = async {
            if state == "paused" {
                // Before the first step has looked for its pause.
                bench.engine.ask(&"run-1".into(), Control::Pause, "bo", "").await.unwrap();
            }
        };
        let running = async {
            match state {
                "waiting for the plan's approval" => {
                    bench.engine.run_when_approved(&playbook, &plan, &run).await
                }
                _ => bench.engine.run(&playbook, &plan, &approval, &run).await,
            }
        };
        let report = bench.drive(async { tokio::join!(running, pausing) }).await.0.unwrap();
        assert_eq!((report.status, a.value(), b.value()), (Status::Compensated, 1, 1), "{state}: {report}");
        assert!(report.reason.contains("a guard of the whole run failed"), "{state}: {}", report.reason);
        assert!(bench.elapsed() < MINUTE * 6, "{state}: it took {:?}", bench.elapsed());
    }
}

/// In a soak without guards of its own those of the whole run count.
#[tokio::test]
async fn a_soak_also_asks_the_guards_of_the_whole_run() {
    for (script, status) in
        [(vec![(0, GOOD)], Status::Succeeded), (vec![(0, GOOD), (300, BAD)], Status::Compensated)]
    {
        let (bench, a) = (Bench::new(), setting("a"));
        let playbook = Playbook::builder("test")
            .guarded_by(watch(script))
            .with_on_failure(OnFailure::BackToHealthy)
            .then(node(&a, "a"))
            .then(Soak::new("soak", MINUTE * 10))
            .build()
            .unwrap();
        let report = bench.run(&playbook).await;
        assert_eq!(report.status, status, "{report}");
    }
}

/// Back to where the last soak passed, and no further.
#[tokio::test]
async fn only_what_came_after_the_last_passed_soak_is_taken_back() {
    let bench = Bench::new();
    let [a, b, c] = ["a", "b", "c"].map(setting);
    let playbook = Playbook::builder("test")
        .guarded_by(watch([(0, GOOD), (60 * 14, BAD)]))
        .with_on_failure(OnFailure::BackToHealthy)
        .then(node(&a, "a"))
        .then(Soak::new("soak-a", MINUTE * 10))
        .then(node(&b, "b"))
        .then(node(&c, "c"))
        .then(Soak::new("soak-b", MINUTE * 10))
        .build()
        .unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!((a.value(), b.value(), c.value()), (2, 1, 1));
    assert!(
        report.reason.ends_with("back to where the last soak had passed, and stopped there"),
        "{}",
        report.reason
    );
    assert_eq!(report.residuals.iter().map(|left| left.step.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn each_kind_of_blindness_has_a_limit_of_its_own() {
    let source_gone = Answer::Error(wakala_core::ErrorKind::Unavailable);
    for (answer, inconclusive, source_error, status) in [
        (Answer::Absent, 2, 10, Status::Held),
        (Answer::Absent, 10, 2, Status::Succeeded),
        (source_gone.clone(), 2, 10, Status::Succeeded),
        (source_gone, 10, 2, Status::Held),
    ] {
        let (bench, a) = (Bench::new(), setting("a"));
        let soak = Soak::new("soak", MINUTE * 10)
            .with_inconclusive_limit(MINUTE * inconclusive)
            .with_source_error_limit(MINUTE * source_error);
        let playbook = Playbook::builder("test")
            .guarded_by(watch([(0, GOOD), (60, answer), (60 * 5, GOOD)]))
            .then(node(&a, "a"))
            .then(soak)
            .build()
            .unwrap();
        let report = bench.run(&playbook).await;
        assert_eq!(report.status, status, "{inconclusive} {source_error}: {report}");
    }
}

/// What is not well beforehand is not touched where the playbook says so.
#[tokio::test]
async fn what_must_hold_before_refuses_the_plan() {
    for (must_hold, refused) in [(true, true), (false, false)] {
        let (bench, a) = (Bench::new(), setting("a"));
        let mut watch = watch([(0, BAD)]);
        if must_hold {
            watch = watch.must_hold_before();
        }
        let playbook = Playbook::builder("test").guarded_by(watch).then(node(&a, "a")).build().unwrap();
        let plan = bench.plan(&playbook).await.unwrap();
        assert_eq!(plan.refusals().count() > 0, refused, "{plan}");
    }
}

/// A soak that goes on and off comes to an end.
#[tokio::test]
async fn a_guard_that_fails_now_and_then_does_not_soak_for_ever() {
    let (bench, a) = (Bench::new(), setting("a"));
    let script =
        (0..200).flat_map(|minute| [(minute * 60, GOOD), (minute * 60 + 25, BAD), (minute * 60 + 35, GOOD)]);
    let playbook = Playbook::builder("test")
        .guarded_by(watch(script))
        .then(node(&a, "a"))
        .then(Soak::new("soak", MINUTE * 10))
        .build()
        .unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert!(report.reason.contains("covered after 30m"), "{}", report.reason);
}

/// A step of somebody's own that takes its target where it likes.
#[derive(Debug)]
struct Reckless {
    target: FakeTarget,
    size: Units,
}

#[async_trait]
impl PlaybookStep for Reckless {
    fn id(&self) -> StepId {
        "reckless".into()
    }

    async fn plan(&self, _: &RunContext) -> Result<StepPlan> {
        let (prior, target) = (self.target.size().0.into(), self.size.0.into());
        let mut plan = StepPlan::new(self.id(), "cut", prior, target);
        plan.resources = vec![self.target.resource()];
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, _: &StepPlan) -> Result<Applied> {
        self.target.set_desired(cx, self.size, ScaleOptions::default()).await?;
        Ok(Applied::Changed)
    }

    async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        Ok(if self.target.size() == self.size { Observed::AtTarget } else { Observed::AtPrior })
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
        Err(Error::invalid("undo", "never asked for"))
    }
}

/// Neither a playbook's nor the engine's floor can be crossed by a step that knows nothing of it.
#[tokio::test]
async fn no_step_gets_below_a_floor() {
    for (of_playbook, of_engine, size, allowed) in [
        (Some(5), None, 4, false),
        (None, Some(5), 4, false),
        (Some(3), Some(5), 4, false),
        (Some(4), Some(3), 4, true),
    ] {
        let bench = Bench::new();
        let target = FakeTarget::new("api", 10);
        let mut builder = Playbook::builder("test");
        if let Some(floor) = of_playbook {
            builder = builder.with_floor(target.resource(), Floor::at(floor));
        }
        let mut engine = bench.engine.clone();
        if let Some(floor) = of_engine {
            engine = engine.with_floor(target.resource(), Floor::at(floor));
        }
        let reckless = Reckless { target: target.clone(), size: Units(size) };
        let playbook = builder.then(step(reckless)).build().unwrap();
        let bench = Bench { engine, ..bench };
        let report = bench.run(&playbook).await;
        assert_eq!(report.status == Status::Succeeded, allowed, "{report}");
        assert_eq!(target.size() == Units(size), allowed);
        if !allowed {
            assert!(report.reason.contains("below its floor of 5"), "{}", report.reason);
        }
    }
}

/// At most so much is taken away within a time: what comes too early waits.
#[tokio::test]
async fn no_step_is_faster_than_the_rate() {
    let bench = Bench::new();
    let target = FakeTarget::new("api", 30);
    let cut = |id: &'static str, size: u32| {
        let reckless = Reckless { target: target.clone(), size: Units(size) };
        step(Named(id, reckless)).with_limit(MINUTE * 10).with_attempts(10)
    };
    let floor = Floor::at(1).with_removal(10, MINUTE * 2);
    let playbook = Playbook::builder("test")
        .with_floor(target.resource(), floor)
        .then(cut("a", 22))
        .then(cut("b", 15))
        .then(cut("c", 5))
        .build()
        .unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!((report.status, target.size()), (Status::Succeeded, Units(5)), "{report}");
    assert!(
        bench.elapsed() >= MINUTE * 4 && bench.elapsed() < MINUTE * 4 + SECOND * 30,
        "{:?}",
        bench.elapsed()
    );

    let bench = Bench::new();
    let target = FakeTarget::new("api", 30);
    let reckless = Reckless { target: target.clone(), size: Units(10) };
    let playbook =
        Playbook::builder("test").with_floor(target.resource(), floor).then(step(reckless)).build().unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!((report.status, target.size()), (Status::Held, Units(30)), "{report}");
    assert!(report.reason.contains("20 fewer at once"), "{}", report.reason);
}

/// A step under another name.
#[derive(Debug)]
struct Named(&'static str, Reckless);

#[async_trait]
impl PlaybookStep for Named {
    fn id(&self) -> StepId {
        self.0.into()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        let mut plan = self.1.plan(cx).await?;
        plan.id = self.id();
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        self.1.apply(cx, plan).await
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.1.observe(cx, plan).await
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        self.1.undo(cx, plan).await
    }
}
