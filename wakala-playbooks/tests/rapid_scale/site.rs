//! A simulated production with the playbook on it, and what both say about its settings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use wakala_core::sim::{Fault, Load, World, WorldBuilder};
use wakala_core::{
    Approval, Autoscaler as _, Change, Clock as _, Engine, Event, Observer, Plan, Playbook, Record, Result,
    Revert, RunHandle, RunInfo, RunReport, ScalableTarget as _, Setting as _, StepOutcome,
};
use wakala_playbooks::rapid_scale::{RapidScale, Simulated};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The steps that write, under the names that they have in plans.
pub(crate) const WRITERS: [&str; 5] = ["nodes", "cache", "api-floor", "api", "limits"];

/// An ordinary hour without chance: whatever changes was changed by somebody.
pub(crate) fn calm() -> WorldBuilder {
    World::production(7).with_load(Load::constant(600.0))
}

/// Fivefold load from the 12th minute on, for an hour.
pub(crate) fn spike() -> WorldBuilder {
    let load = Load::spike(600.0, 3000.0, 12 * MINUTE, 3 * MINUTE, 60 * MINUTE).with_noise(0.02);
    World::production(7).with_load(load)
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
        Self::with(builder, &RapidScale::default())
    }

    pub(crate) fn with(builder: WorldBuilder, parameters: &RapidScale) -> Self {
        let world = builder.build().unwrap();
        world.pass(10 * MINUTE);
        Self::on(world, parameters)
    }

    pub(crate) fn on(world: World, parameters: &RapidScale) -> Self {
        let playbook = parameters.playbook(&Simulated::new(&world)).unwrap();
        Self::of(world, playbook)
    }

    pub(crate) fn of(world: World, playbook: Playbook) -> Self {
        let trigger = Arc::new(Trigger::default());
        let engine = world.engine().with_observer(Arc::clone(&trigger) as Arc<dyn Observer>);
        Self { world, engine, playbook, run: RunHandle::new("spike"), trigger }
    }

    pub(crate) async fn plan(&self) -> Result<Plan> {
        self.world.run(self.engine.plan(&self.playbook)).await
    }

    pub(crate) async fn run(&self, plan: &Plan) -> Result<RunReport> {
        let approval = Approval::of(plan, "test");
        self.world.run(self.engine.run(&self.playbook, plan, &approval, &self.run)).await
    }

    /// Plans and runs.
    pub(crate) async fn respond(&self) -> RunReport {
        let plan = self.plan().await.unwrap();
        self.run(&plan).await.unwrap()
    }

    /// Lets `fault` strike right before the first call of a step.
    pub(crate) fn sabotage(&self, step: &str, fault: Fault) {
        let world = self.world.clone();
        self.at_intent(step, move || world.inject(fault).unwrap());
    }

    /// Does something right before the first call of a step, or of a soak's guards.
    pub(crate) fn at_intent(&self, step: &str, act: impl FnOnce() + Send + 'static) {
        self.trigger.arm(step, Box::new(act));
    }

    pub(crate) async fn revert(&self, scope: Revert) -> RunReport {
        self.world.run(self.engine.revert(&self.playbook, &self.run, scope)).await.unwrap()
    }

    /// Reverts again every five minutes until nothing is left, as a person would.
    pub(crate) async fn revert_until_done(&self, scope: Revert) -> RunReport {
        let mut report = self.revert(scope).await;
        for _ in 0..12 {
            if !report.steps.iter().any(|step| matches!(step.outcome, StepOutcome::Deferred(_))) {
                break;
            }
            self.world.pass(5 * MINUTE);
            report = self.revert(scope).await;
        }
        report
    }

    pub(crate) async fn settings(&self) -> Settings {
        let cx = self.world.context();
        let names = ["AGGRESSIVE_CACHING", "RATE_LIMIT_REQUESTS", "RATE_LIMIT_WINDOW"].map(|name| (name, ""));
        let read = async {
            let size = async |name| self.world.target(name).observe(&cx).await.map(|seen| seen.desired);
            let bounds = self.world.autoscaler("wakala-api").observe(&cx).await?.map(|state| state.bounds);
            let nodes = self.world.node_pool("workers-general", 1).read(&cx).await?.value;
            let env = self.world.environment("wakala-api", names).read(&cx).await?.value;
            Ok::<_, wakala_core::Error>(Settings(BTreeMap::from([
                ("api", json!({"size": size("wakala-api").await?})),
                ("api-floor", json!(bounds)),
                ("cache", json!({"size": size("redis-cache").await?})),
                ("limits", json!(env)),
                ("nodes", json!(nodes)),
            ])))
        };
        self.world.run(read).await.unwrap()
    }

    /// That moment as the world counts.
    pub(crate) fn second(&self, at: SystemTime) -> u64 {
        let start = self.world.clock().now() - self.world.elapsed();
        at.duration_since(start).unwrap().as_secs()
    }

    /// How often something of that sort was logged since the start.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.world.log().iter().filter(|occurrence| occurrence.text.contains(text)).count()
    }
}

/// What each writing step is about, as it is in the world now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings(BTreeMap<&'static str, Value>);

impl Settings {
    pub(crate) fn of(&self, step: &str) -> &Value {
        &self.0[step]
    }

    /// What differs in `later`, as the plan of that step would put it.
    pub(crate) fn changes(&self, step: &str, later: &Self) -> Vec<Change> {
        Change::between(self.of(step), later.of(step))
    }

    pub(crate) fn api(&self) -> u64 {
        self.of("api")["size"].as_u64().unwrap()
    }

    /// The same with the replicas of the API left out, which its autoscaler moves by itself.
    pub(crate) fn but_api(mut self) -> Self {
        self.0.remove("api");
        self
    }
}

/// Fails unless what the report calls changed is what differs in the world.
///
/// The replicas of the API are their autoscaler's: while its floor is raised it raises them by itself, and once the
/// floor is back it lowers them in its own time.
pub(crate) fn assert_describes(report: &RunReport, before: &Settings, after: &Settings) {
    for step in WRITERS {
        let real = before.changes(step, after);
        let residual = report.residuals.iter().find(|residual| residual.step.as_str() == step);
        let told = residual.map(|residual| residual.changes.clone()).unwrap_or_default();
        match residual {
            Some(residual) if residual.certain => assert_eq!(told, real, "{step}\n{report}"),
            Some(residual) if told.is_empty() => {
                assert!(residual.undo.contains("revert again later"), "{step}: {}\n{report}", residual.undo);
            }
            Some(_) => assert!(real.is_empty() || told == real, "{step}: {real:?}\n{report}"),
            None if step == "api" => {}
            None => assert_eq!(real, [], "{step} changed and is not in the report\n{report}"),
        }
    }
}

/// How many intents of a step the report's journal has.
pub(crate) fn intents(report: &RunReport, wanted: &str) -> usize {
    let is_intent =
        |record: &Record| matches!(record, Record::Intent { step, .. } if step.as_str() == wanted);
    report.journal.iter().filter(|entry| is_intent(&entry.record)).count()
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

impl Trigger {
    fn arm(&self, step: &str, act: Act) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(step.to_owned(), act);
    }
}

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
