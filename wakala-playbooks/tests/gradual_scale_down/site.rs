//! A simulated production after a spike, with the playbook on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wakala_core::sim::{Fault, Load, World, WorldBuilder};
use wakala_core::{
    Approval, Autoscaler, Engine, Event, Observer, Plan, Playbook, Record, Result, RunHandle, RunInfo,
    RunReport, SharedTarget,
};
use wakala_playbooks::gradual_scale_down::{ApiMetrics, GradualScaleDown, Production, Simulated};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const API: &str = "wakala-api";
pub(crate) const WORKER: &str = "wakala-worker";

/// After the spike and without chance; the sizes are nobody's but the playbook's.
pub(crate) fn quiet() -> WorldBuilder {
    autoscaled().without_hpa()
}

/// The same with the API's autoscaler, whose minimum the spike raised.
pub(crate) fn autoscaled() -> WorldBuilder {
    World::production_after_spike(7).with_load(Load::constant(1000.0))
}

pub(crate) fn with(change: impl FnOnce(&mut GradualScaleDown)) -> GradualScaleDown {
    let mut parameters = GradualScaleDown::default();
    change(&mut parameters);
    parameters
}

/// A world ten minutes after its start, and the playbook on it.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) engine: Engine,
    pub(crate) playbook: Playbook,
    pub(crate) run: RunHandle,
    trigger: Arc<Trigger>,
}

impl Site {
    pub(crate) fn new(builder: WorldBuilder) -> Self {
        Self::with(builder, &GradualScaleDown::default())
    }

    pub(crate) fn with(builder: WorldBuilder, parameters: &GradualScaleDown) -> Self {
        let world = builder.build().unwrap();
        world.pass(10 * MINUTE);
        let playbook = parameters.playbook(&Simulated::new(&world)).unwrap();
        Self::of(world, playbook)
    }

    pub(crate) fn of(world: World, playbook: Playbook) -> Self {
        let trigger = Arc::new(Trigger::default());
        let engine = world.engine().with_observer(Arc::clone(&trigger) as Arc<dyn Observer>);
        Self { world, engine, playbook, run: RunHandle::new("descent"), trigger }
    }

    pub(crate) async fn plan(&self) -> Result<Plan> {
        self.world.run(self.engine.plan(&self.playbook)).await
    }

    pub(crate) async fn run(&self, plan: &Plan) -> Result<RunReport> {
        let approval = Approval::of(plan, "test");
        self.world.run(self.engine.run(&self.playbook, plan, &approval, &self.run)).await
    }

    /// Plans and runs.
    pub(crate) async fn descend(&self) -> RunReport {
        let plan = self.plan().await.unwrap();
        self.run(&plan).await.unwrap()
    }

    /// Lets `fault` strike right before the first call of a step, or right when a soak opens.
    pub(crate) fn sabotage(&self, part: &str, fault: Fault) {
        let world = self.world.clone();
        self.at(part, move || world.inject(fault).unwrap());
    }

    /// Does something right before the first call of a step, or right when a soak opens.
    pub(crate) fn at(&self, part: &str, act: impl FnOnce() + Send + 'static) {
        self.trigger.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part.to_owned(), Box::new(act));
    }

    /// Desired and ready replicas now.
    pub(crate) fn size(&self, workload: &str) -> (u32, u32) {
        let frame = self.world.snapshot();
        let workload = frame.workload(workload).unwrap();
        (workload.desired, workload.ready)
    }

    /// The minimum of the API's autoscaler.
    pub(crate) fn minimum(&self) -> Option<u32> {
        self.world.snapshot().workload(API).unwrap().autoscaler.map(|(min, _)| min)
    }

    /// The sizes that a workload was asked to have, one after the other.
    pub(crate) fn sizes(&self, workload: &str) -> Vec<u32> {
        let history = self.world.history();
        let mut sizes: Vec<_> =
            history.iter().map(|frame| frame.workload(workload).unwrap().desired).collect();
        sizes.dedup();
        sizes
    }

    /// The smallest size that a workload was ever asked to have.
    pub(crate) fn smallest(&self, workload: &str) -> u32 {
        self.sizes(workload).into_iter().min().unwrap()
    }
}

/// The simulated production with other metrics.
pub(crate) struct Rewired {
    pub(crate) simulated: Simulated,
    pub(crate) metrics: ApiMetrics,
}

impl Production for Rewired {
    fn api(&self) -> SharedTarget {
        self.simulated.api()
    }

    fn api_autoscaler(&self) -> Arc<dyn Autoscaler> {
        self.simulated.api_autoscaler()
    }

    fn worker(&self) -> SharedTarget {
        self.simulated.worker()
    }

    fn worker_autoscaler(&self) -> Arc<dyn Autoscaler> {
        self.simulated.worker_autoscaler()
    }

    fn metrics(&self) -> ApiMetrics {
        self.metrics.clone()
    }
}

/// How long a soak lasted, what it covered, and why it did not pass; `None` where it was not reached.
pub(crate) fn soak(report: &RunReport, wanted: &str) -> Option<(Duration, Duration, Option<String>)> {
    let opened = report
        .journal
        .iter()
        .find(|entry| matches!(&entry.record, Record::SoakOpened { soak, .. } if soak.as_str() == wanted))?;
    report.journal.iter().find_map(|entry| match &entry.record {
        Record::SoakClosed { soak, covered, failure } if soak.as_str() == wanted => {
            Some((entry.at.duration_since(opened.at).unwrap(), *covered, failure.clone()))
        }
        _ => None,
    })
}

#[track_caller]
pub(crate) fn assert_says(text: impl ToString, words: &[&str]) {
    let text = text.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// Acts at the first intent of a step, or the opening of a soak.
#[derive(Default)]
struct Trigger(Mutex<BTreeMap<String, Act>>);

impl std::fmt::Debug for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trigger")
    }
}

impl Observer for Trigger {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        let (Some(Record::Intent { step, .. }) | Some(Record::SoakOpened { soak: step, .. })) =
            event.record()
        else {
            return;
        };
        let act = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(step.as_str());
        if let Some(act) = act {
            act();
        }
    }
}
