//! A bench: an engine on virtual time with everything recorded.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wakala_core::testing::{FakeSetting, FakeTarget, RecordingObserver};
use wakala_core::{
    Applied, Approval, Engine, Error, ErrorKind, ManualClock, MemoryStore, Observed, Plan, Playbook,
    PlaybookStep, Result, Retry, Revert, RunContext, RunHandle, RunReport, ScaleUp, SettingStep, StepId,
    StepNode, StepOutcome, StepPlan, Stop, Undone, step,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    pub(crate) observer: RecordingObserver,
    pub(crate) engine: Engine,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let (clock, observer) = (ManualClock::default(), RecordingObserver::new());
        let engine = Engine::new()
            .with_clock(Arc::new(clock.clone()))
            .with_observer(Arc::new(observer.clone()))
            .with_store(Arc::new(MemoryStore::new()));
        Self { clock, observer, engine }
    }

    /// With leases that are measured in virtual time too.
    pub(crate) fn with_virtual_store() -> Self {
        let mut bench = Self::new();
        let store = MemoryStore::with_clock(Arc::new(bench.clock.clone()));
        bench.engine = bench.engine.with_store(Arc::new(store));
        bench
    }

    /// Awaits in virtual time; what hangs for ever fails instead of hanging the tests.
    pub(crate) async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let real_limit = Duration::from_secs(20);
        tokio::time::timeout(real_limit, self.clock.run(future)).await.expect("nothing goes on any more")
    }

    pub(crate) async fn plan(&self, playbook: &Playbook) -> Result<Plan> {
        self.drive(self.engine.plan(playbook)).await
    }

    /// Runs a plan that was made before.
    pub(crate) async fn run_plan(&self, playbook: &Playbook, plan: &Plan) -> Result<RunReport> {
        let run = RunHandle::new("run-1");
        self.drive(self.engine.run(playbook, plan, &Approval::of(plan, "ana"), &run)).await
    }

    /// Plans and runs.
    pub(crate) async fn run(&self, playbook: &Playbook) -> RunReport {
        let plan = self.plan(playbook).await.unwrap();
        self.run_plan(playbook, &plan).await.unwrap()
    }

    /// Plans and runs, and asks to stop that long after the run's start.
    pub(crate) async fn run_and_stop(&self, playbook: &Playbook, after: Duration, stop: Stop) -> RunReport {
        use wakala_core::Clock as _;
        let plan = self.plan(playbook).await.unwrap();
        let (run, approval) = (RunHandle::new("run-1"), Approval::of(&plan, "ana"));
        let stopper = async {
            self.clock.sleep(after).await;
            run.stop(stop);
        };
        let both = async { tokio::join!(self.engine.run(playbook, &plan, &approval, &run), stopper) };
        self.drive(both).await.0.unwrap()
    }

    pub(crate) async fn revert(&self, playbook: &Playbook, scope: Revert) -> RunReport {
        self.drive(self.engine.revert(playbook, &RunHandle::new("run-1"), scope)).await.unwrap()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        use wakala_core::Clock as _;
        self.clock.monotonic()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.observer.lines()
    }
}

pub(crate) fn playbook(parts: impl IntoIterator<Item = StepNode>) -> Playbook {
    parts.into_iter().fold(Playbook::builder("test"), |builder, part| builder.then(part)).build().unwrap()
}

pub(crate) fn scale_up(target: &FakeTarget, size: u32) -> SettingStep<ScaleUp> {
    ScaleUp::to(Arc::new(target.clone()), size).step("scale")
}

pub(crate) fn setting(name: &str) -> FakeSetting<u32> {
    FakeSetting::new(name, 1, 2)
}

pub(crate) fn node(setting: &FakeSetting<u32>, id: &str) -> StepNode {
    step(setting.step(id))
}

pub(crate) fn denied() -> Error {
    Error::new(ErrorKind::Denied, "write", "no permission; grant it")
}

pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "write", "the connection broke").with_retry(Retry::ObserveFirst)
}

pub(crate) fn outcome<'r>(report: &'r RunReport, id: &str) -> &'r StepOutcome {
    &report.step(id).unwrap().outcome
}

pub(crate) fn residuals(report: &RunReport) -> Vec<(&str, bool)> {
    report.residuals.iter().map(|left| (left.step.as_str(), left.certain)).collect()
}

/// A step whose call takes its time before the effect.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) step: SettingStep<FakeSetting<u32>>,
    pub(crate) takes: Duration,
    /// Whether it looks before an effect whether its context is cancelled.
    pub(crate) attentive: bool,
}

#[async_trait]
impl PlaybookStep for Slow {
    fn id(&self) -> StepId {
        self.step.id()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        self.step.plan(cx).await
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        cx.clock().sleep(self.takes).await;
        if self.attentive {
            cx.check()?;
        }
        self.step.apply(cx, plan).await
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.step.observe(cx, plan).await
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        if self.attentive {
            cx.check()?;
        }
        self.step.undo(cx, plan).await
    }
}
