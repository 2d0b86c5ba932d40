//! How do I scale something that wakala has never heard of?
//!
//! A job queue with workers, all in this process and all real: jobs come in, workers work on them, the backlog grows.
//! The file shows the three traits that a team implements for a system of its own - a scalable target, a metrics
//! source, a setting - and a step that is more than a setting, and composes a playbook of them.
//!
//! ```text
//! cargo run -p wakala-examples --example custom_playbook
//! ```

#![allow(clippy::unwrap_used, reason = "a poisoned lock ends the example")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::json;
use tokio::task::JoinHandle;
use wakala_core::{
    Applied, Approval, Bounds, Capability, Engine, Error, MetricQuery, MetricsSource, Observation, Observed,
    Permission, Playbook, PlaybookStep, ResourceKey, Result, Reversibility, Revert, RunContext, RunHandle,
    Sample, ScalableTarget, ScaleOptions, ScaleUp, Setting, SettingInfo, SettingStep, Soak, StepId, StepPlan,
    TargetId, Undone, Unit, Units, Version, Versioned, guard, step, together,
};

/// The system to scale: jobs come in at a rate, each worker does one every 20 ms.
#[derive(Debug, Default)]
struct JobQueue {
    backlog: Mutex<VecDeque<u64>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    jobs_per_second: AtomicU32,
    archived: Mutex<Option<Vec<u64>>>,
}

impl JobQueue {
    fn start(workers: usize, jobs_per_second: u32) -> Arc<Self> {
        let queue = Arc::new(Self::default());
        queue.jobs_per_second.store(jobs_per_second, Ordering::SeqCst);
        queue.resize(workers);
        let intake = Arc::clone(&queue);
        tokio::spawn(async move {
            for job in 0.. {
                let rate = intake.jobs_per_second.load(Ordering::SeqCst).max(1);
                tokio::time::sleep(Duration::from_secs(1) / rate).await;
                intake.backlog.lock().unwrap().push_back(job);
            }
        });
        queue
    }

    fn resize(self: &Arc<Self>, size: usize) {
        let mut workers = self.workers.lock().unwrap();
        let kept = size.min(workers.len());
        workers.drain(kept..).for_each(|worker| worker.abort());
        while workers.len() < size {
            let queue = Arc::clone(self);
            workers.push(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    queue.backlog.lock().unwrap().pop_front();
                }
            }));
        }
    }
}

/// The workers as a scalable target.
#[derive(Debug)]
struct Workers(Arc<JobQueue>);

#[async_trait]
impl ScalableTarget for Workers {
    fn id(&self) -> TargetId {
        "workers of the job queue".into()
    }

    fn resource(&self) -> ResourceKey {
        "jobs/workers".into()
    }

    fn capability(&self) -> Capability {
        Capability::new(Bounds { min: Units(1), max: Units(64) })
    }

    fn permissions(&self) -> Vec<Permission> {
        Vec::new()
    }

    async fn observe(&self, _: &RunContext) -> Result<Observation> {
        let size = u32::try_from(self.0.workers.lock().unwrap().len()).expect("at most 64 workers");
        Ok(Observation::new(size, size))
    }

    async fn set_desired(&self, cx: &RunContext, desired: Units, _: ScaleOptions) -> Result<Observation> {
        if !self.capability().sizes.contains(desired) {
            return Err(Error::invalid("set_desired", format!("{desired} workers; 1 to 64 are possible"))
                .on(self.id()));
        }
        self.0.resize(desired.0 as usize);
        self.observe(cx).await
    }
}

/// The length of the backlog as a metric.
#[derive(Debug)]
struct Backlog(Arc<JobQueue>);

#[async_trait]
impl MetricsSource for Backlog {
    async fn latest(&self, _: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        if query.name() != "backlog" {
            return Err(Error::invalid("latest", "the job queue has one metric, backlog").on(query));
        }
        let length = self.0.backlog.lock().unwrap().len();
        Ok(Some(Sample::new(SystemTime::now(), length as f64, Unit::Count)))
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, _: Duration) -> Result<Vec<Sample>> {
        Ok(self.latest(cx, query).await?.into_iter().collect())
    }
}

/// The intake rate as a setting: read, write and the wanted value; plan, verification and undo follow from them.
#[derive(Debug)]
struct Intake {
    queue: Arc<JobQueue>,
    at_most: u32,
}

#[async_trait]
impl Setting for Intake {
    type Value = u32;

    fn info(&self) -> SettingInfo {
        SettingInfo::new("throttle the intake (jobs a second)", "jobs/intake")
    }

    async fn read(&self, _: &RunContext) -> Result<Versioned<u32>> {
        Ok(Versioned::new(self.queue.jobs_per_second.load(Ordering::SeqCst)))
    }

    async fn write(&self, _: &RunContext, value: &u32, _: Option<&Version>) -> Result<Applied> {
        self.queue.jobs_per_second.store(*value, Ordering::SeqCst);
        Ok(Applied::Changed)
    }

    fn desired(&self, current: &u32) -> Result<u32> {
        Ok(self.at_most.min(*current))
    }
}

/// Sets old jobs aside. Not a setting, so all four methods are written out.
#[derive(Debug)]
struct ArchiveBacklog(Arc<JobQueue>);

#[async_trait]
impl PlaybookStep for ArchiveBacklog {
    fn id(&self) -> StepId {
        "archive".into()
    }

    async fn plan(&self, _: &RunContext) -> Result<StepPlan> {
        let backlog = self.0.backlog.lock().unwrap().len();
        let mut plan = StepPlan::new(
            self.id(),
            "set the backlog aside",
            json!({ "archived": 0 }),
            json!({ "archived": format!("what is queued then, {backlog} now") }),
        );
        plan.reversibility = Reversibility::Compensatable("jobs go back to the end of the queue".into());
        plan.resources = vec!["jobs/backlog".into()];
        Ok(plan)
    }

    async fn apply(&self, _: &RunContext, _: &StepPlan) -> Result<Applied> {
        let jobs = std::mem::take(&mut *self.0.backlog.lock().unwrap());
        // Also where there was nothing to set aside: it is done then.
        self.0.archived.lock().unwrap().get_or_insert_default().extend(jobs);
        Ok(Applied::Changed)
    }

    async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        let archived = self.0.archived.lock().unwrap().is_some();
        Ok(if archived { Observed::AtTarget } else { Observed::AtPrior })
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
        let Some(jobs) = self.0.archived.lock().unwrap().take() else { return Ok(Undone::Nothing) };
        self.0.backlog.lock().unwrap().extend(jobs);
        Ok(Undone::Restored)
    }
}

fn playbook(queue: &Arc<JobQueue>) -> Result<Playbook> {
    let workers = Arc::new(Workers(Arc::clone(queue)));
    let backlog = Arc::new(Backlog(Arc::clone(queue)));
    let intake = Intake { queue: Arc::clone(queue), at_most: 200 };
    Playbook::builder("clear-backlog")
        .then(together([
            step(ScaleUp::to(workers, 8).with_expected(Duration::from_secs(1)).step("workers")).into(),
            step(SettingStep::new("intake", intake)).temporary(Duration::from_secs(3600)).into(),
        ]))
        .then(step(ArchiveBacklog(Arc::clone(queue))))
        .then(
            Soak::new("soak", Duration::from_secs(1))
                .with_interval(Duration::from_millis(200))
                .with_grace(Duration::ZERO)
                .with_guard(guard::metric(backlog, "backlog").below(50.0)),
        )
        .build()
}

#[tokio::main]
async fn main() -> Result<()> {
    // Two workers do 100 jobs a second; 400 come in.
    let queue = JobQueue::start(2, 400);
    tokio::time::sleep(Duration::from_millis(500)).await;

    let (engine, playbook) = (Engine::new(), playbook(&queue)?);
    let plan = engine.plan(&playbook).await?;
    println!("{plan}");

    let run = RunHandle::new("example");
    let report = engine.run(&playbook, &plan, &Approval::of(&plan, "you"), &run).await?;
    println!("{report}");

    // The throttled intake was temporary; the workers stay.
    let report = engine.revert(&playbook, &run, Revert::Temporary).await?;
    println!("{report}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wakala_core::Status;

    #[tokio::test]
    async fn clears_the_backlog_and_gives_the_intake_back() {
        let queue = JobQueue::start(2, 400);
        let (engine, playbook) = (Engine::new(), playbook(&queue).unwrap());
        let plan = engine.plan(&playbook).await.unwrap();
        let run = RunHandle::new("test");
        let report = engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &run).await.unwrap();
        assert_eq!(report.status, Status::Succeeded, "{report}");
        assert_eq!(queue.jobs_per_second.load(Ordering::SeqCst), 200);
        let report = engine.revert(&playbook, &run, Revert::Temporary).await.unwrap();
        assert_eq!(report.status, Status::Compensated, "{report}");
        assert_eq!(queue.jobs_per_second.load(Ordering::SeqCst), 400);
        assert_eq!(queue.workers.lock().unwrap().len(), 8);
    }
}
