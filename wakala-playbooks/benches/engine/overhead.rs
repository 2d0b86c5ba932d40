//! What the engine's records cost: a thousand steps that do nothing, against bare durable inserts into the same database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::Connection;
use wakala_core::{
    Applied, Approval, Engine, MemoryStore, Observed, Playbook, PlaybookStep, RunContext, RunHandle,
    RunStore, SqliteStore, Status, StepId, StepPlan, Undone, step,
};

use crate::{Result, median, round};

const STEPS: u32 = 1000;
const INSERTS: u32 = 2000;
const ROUNDS: u32 = 5;

pub(crate) struct Overhead {
    pub(crate) sqlite_ratio_vs_bare: f64,
    pub(crate) memory_us_per_step: f64,
}

pub(crate) async fn measure() -> Result<Overhead> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("runs.db");
    let store: Arc<dyn RunStore> = Arc::new(SqliteStore::open(&path).await?);
    let bare = Connection::open(&path)?;
    bare.pragma_update(None, "synchronous", "FULL")?;
    bare.execute_batch("CREATE TABLE bare (seq INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT")?;
    // One of each first: the file grows, the log is made.
    run(&store).await?;
    insert(&bare)?;
    let (mut ratios, mut memory) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Each goes first every other time.
        let (ours, theirs) = if round % 2 == 0 {
            let ours = run(&store).await?;
            (ours, insert(&bare)?)
        } else {
            let theirs = insert(&bare)?;
            (run(&store).await?, theirs)
        };
        let in_memory: Arc<dyn RunStore> = Arc::new(MemoryStore::new());
        let per_step = run(&in_memory).await?.as_secs_f64() * 1e6 / f64::from(STEPS);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!(
            "round {}: {STEPS} steps {ours:.3?}, {INSERTS} inserts {theirs:.3?}, ratio {ratio:.3}; in memory \
             {per_step:.2} us a step",
            round + 1
        );
        ratios.push(ratio);
        memory.push(per_step);
    }
    Ok(Overhead { sqlite_ratio_vs_bare: round(median(ratios)), memory_us_per_step: round(median(memory)) })
}

/// A run of steps that do nothing, from its beginning to its end. Planning is not counted.
async fn run(store: &Arc<dyn RunStore>) -> Result<Duration> {
    let engine = Engine::new().with_store(Arc::clone(store));
    let steps = (0..STEPS).map(|place| step(Nothing::new(place)));
    let playbook = steps.fold(Playbook::builder("nothing"), |builder, step| builder.then(step)).build()?;
    let plan = engine.plan(&playbook).await?;
    let approval = Approval::of(&plan, "bench");
    let start = Instant::now();
    let report = engine.run(&playbook, &plan, &approval, &RunHandle::generate()).await?;
    let took = start.elapsed();
    if report.status != Status::Succeeded {
        return Err(report.to_string().into());
    }
    Ok(took)
}

/// Inserts of about the size of a record, each durable before the next.
fn insert(bare: &Connection) -> Result<Duration> {
    let body = "x".repeat(200);
    let start = Instant::now();
    let mut statement = bare.prepare("INSERT INTO bare (body) VALUES (?1)")?;
    for _ in 0..INSERTS {
        statement.execute([&body])?;
    }
    Ok(start.elapsed())
}

/// A step whose effect is to have been called.
#[derive(Debug)]
struct Nothing {
    id: StepId,
    done: AtomicBool,
}

impl Nothing {
    fn new(place: u32) -> Self {
        Self { id: StepId::from(format!("step-{place}")), done: AtomicBool::new(false) }
    }
}

#[async_trait]
impl PlaybookStep for Nothing {
    fn id(&self) -> StepId {
        self.id.clone()
    }

    async fn plan(&self, _: &RunContext) -> wakala_core::Result<StepPlan> {
        Ok(StepPlan::new(self.id(), "nothing", false.into(), true.into()))
    }

    async fn apply(&self, _: &RunContext, _: &StepPlan) -> wakala_core::Result<Applied> {
        self.done.store(true, Ordering::Relaxed);
        Ok(Applied::Changed)
    }

    async fn observe(&self, _: &RunContext, _: &StepPlan) -> wakala_core::Result<Observed> {
        let done = self.done.load(Ordering::Relaxed);
        Ok(if done { Observed::AtTarget } else { Observed::AtPrior })
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> wakala_core::Result<Undone> {
        Ok(Undone::Nothing)
    }
}
