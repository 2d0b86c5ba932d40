//! The engine: plans a playbook, runs an approved plan, takes it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt as _, join_all};
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::plan::{PlannedStep, Readings, liveness};
use crate::store::{
    self as stored, Entry, Lease, LeaseTerms, MemoryStore, NewRun, Record, Release, RunStore, StoredRun,
    Takeover,
};
use crate::{
    Approval, Clock, Error, ErrorKind, Finding, Floor, Guard, GuardId, Observer, Plan, Playbook, ResourceKey,
    Result, Retry, RunContext, RunId, Silent, StepId, StepNode, StepPlan, SystemClock, Units, Verdict,
};

mod control;
mod handle;
mod interpreter;
mod journal;
mod report;
mod soak;
mod unwind;

pub use control::Control;
pub use handle::{RunHandle, Stop};
pub use report::{Obligation, Residual, RunReport, Status, StepOutcome, StepReport};

use crate::clock::within;
use interpreter::{CALL_LIMIT, Interpreter, backoff, no_answer};
use journal::{Journal, RunState};

/// How long planning one step, asking one guard or making one check may take.
const PLAN_LIMIT: Duration = Duration::from_secs(60);

/// How often a step is asked for its plan where the provider is busy.
const PLAN_ATTEMPTS: u32 = 3;

/// Which steps [`Engine::revert`] takes back.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revert {
    /// All that has an effect.
    Everything,
    /// What the playbook calls temporary. Capacity that it does not is left to a gradual scale-down.
    #[default]
    Temporary,
}

/// Plans playbooks, runs approved plans, takes runs back.
///
/// The engine spawns nothing: [`run`](Self::run) is one future, and it makes progress while it is polled. Dropping
/// that future is like killing the process: what was done stays done and is in the journal. To end a run early, use
/// [`RunHandle::stop`].
#[derive(Clone, Debug)]
pub struct Engine {
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    store: Arc<dyn RunStore>,
    plan_validity: Duration,
    floors: BTreeMap<ResourceKey, Floor>,
}

impl Default for Engine {
    /// Host clock, no observer, runs in memory, plans valid for 15 minutes.
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            observer: Arc::new(Silent),
            store: Arc::new(MemoryStore::new()),
            plan_validity: Duration::from_secs(15 * 60),
            floors: BTreeMap::new(),
        }
    }
}

impl Engine {
    /// As [`Engine::default`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Tells `observer` of every event.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Keeps runs in `store`.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn RunStore>) -> Self {
        self.store = store;
        self
    }

    /// Refuses to run plans older than `validity`.
    #[must_use]
    pub fn with_plan_validity(mut self, validity: Duration) -> Self {
        self.plan_validity = validity;
        self
    }

    /// Keeps every run of this engine from making a target smaller, or faster smaller, than that, whatever its playbook
    /// says. Of several floors of the same resource all are kept.
    #[must_use]
    pub fn with_floor(mut self, resource: impl Into<ResourceKey>, floor: Floor) -> Self {
        self.floors.entry(resource.into()).and_modify(|kept| *kept = kept.and(floor)).or_insert(floor);
        self
    }

    /// Where runs are kept.
    pub fn store(&self) -> &Arc<dyn RunStore> {
        &self.store
    }

    /// Finds out what `playbook` would do. Reads only.
    ///
    /// All steps and guards are asked, side by side, each for a minute at most. What the preflight refuses is in the plan and keeps it from
    /// being run.
    ///
    /// # Errors
    /// Where a step cannot be planned, with the kind of the first such error and the words of all of them.
    pub async fn plan(&self, playbook: &Playbook) -> Result<Plan> {
        let floors = self.floors_with(playbook.floors());
        let cx = RunContext::new(RunId::generate(), Arc::clone(&self.clock))
            .with_limits(Limits::new(floors.clone()))
            .with_inherited(self.sizes_before_unfinished().await?);
        let planned = join_all(playbook.steps().into_iter().map(|node| {
            let cx = cx.for_step(&node.step.id(), crate::Phase::Plan, 1);
            async move {
                let id = node.step.id();
                let planned = within(&*self.clock, PLAN_LIMIT, self.plan_step(node, &cx)).await;
                planned.unwrap_or_else(|| Err(no_answer("plan", PLAN_LIMIT).on(&id))).and_then(|step| {
                    if step.id == id {
                        Ok(PlannedStep { step, policy: node.policy })
                    } else {
                        Err(Error::invalid(
                            "plan",
                            format!("the step planned under another name, {}", step.id),
                        )
                        .on(id))
                    }
                })
            }
        }))
        .await;
        let steps = all_or_errors(planned)?;
        let plans: Vec<StepPlan> = steps.iter().map(|planned| planned.step.clone()).collect();
        let (mut findings, baselines) = self.prove_guards(playbook, &cx).await;
        let checks = join_all(playbook.preflight().iter().map(|check| {
            let found = within(&*self.clock, PLAN_LIMIT, check.check(&cx, &plans));
            found.map(|found| {
                found.unwrap_or_else(|| Err(no_answer("preflight", PLAN_LIMIT).on(playbook.name())))
            })
        }))
        .await;
        findings.extend(all_or_errors(checks)?.into_iter().flatten());
        let readings = Readings { steps, floors, baselines, findings };
        Ok(Plan::new(playbook, self.clock.now(), self.plan_validity, readings))
    }

    /// Plans one step; asks again where the provider is busy, since reading twice does no harm.
    async fn plan_step(&self, node: &StepNode, cx: &RunContext) -> Result<StepPlan> {
        for attempt in 1..PLAN_ATTEMPTS {
            match node.step.plan(cx).await {
                Err(error) if matches!(error.retry(), Retry::Safe { .. } | Retry::ObserveFirst) => {
                    cx.sleep(backoff(attempt)).await?;
                }
                decided => return decided,
            }
        }
        node.step.plan(cx).await
    }

    /// A guard that has no data before the run would be blind in it too.
    async fn prove_guards(
        &self,
        playbook: &Playbook,
        cx: &RunContext,
    ) -> (Vec<Finding>, BTreeMap<GuardId, f64>) {
        let watched = playbook.watch().into_iter().flat_map(|watch| {
            watch.guards.iter().map(|guard| ("the whole run".to_owned(), guard, watch.must_hold_before))
        });
        let soaked = playbook
            .soaks()
            .into_iter()
            .flat_map(|soak| soak.guards.iter().map(move |guard| (soak.id.to_string(), guard, false)));
        // A guard that several soaks share is asked once.
        let mut guards: Vec<(String, &Arc<dyn Guard>, bool)> = Vec::new();
        for (place, guard, must_hold) in watched.chain(soaked) {
            if !guards.iter().any(|(_, known, _)| Arc::ptr_eq(known, guard)) {
                guards.push((place, guard, must_hold));
            }
        }
        let proofs = join_all(guards.into_iter().map(|(place, guard, must_hold)| async move {
            let proof = async {
                let baseline = guard.calibrate(cx).await;
                let cx = cx.clone().with_baseline(baseline.as_ref().ok().copied().flatten());
                (guard.prove(&cx).await, baseline)
            };
            let (verdict, baseline) = within(&*self.clock, PLAN_LIMIT, proof).await.unwrap_or_else(|| {
                let text = format!("no answer within {}", humantime::format_duration(PLAN_LIMIT));
                (Verdict::SourceError(text), Ok(None))
            });
            let finding = match &baseline {
                Ok(_) => liveness(&place, &guard.id(), &verdict, must_hold),
                Err(error) => Finding::refusal(format!(
                    "guard {} of {place} has nothing to compare with ({})",
                    guard.id(),
                    error.chain()
                )),
            };
            (finding, baseline.ok().flatten().map(|value| (guard.id(), value)))
        }))
        .await;
        let (findings, baselines): (Vec<_>, Vec<_>) = proofs.into_iter().unzip();
        (findings, baselines.into_iter().flatten().collect())
    }

    /// For each resource that an unfinished run works on: the size that it found.
    async fn sizes_before_unfinished(&self) -> Result<BTreeMap<ResourceKey, Units>> {
        let mut sizes = BTreeMap::new();
        for head in self.ask_store("list", "all runs", self.store.list()).await? {
            if head.resources.is_empty() {
                continue;
            }
            let journal = stored::Journal::read(&self.load(&head.run).await?);
            if let Some(Entry { record: Record::Created { plan, .. }, .. }) = journal.entries.first() {
                sizes.extend(plan.sizes_before());
            }
        }
        Ok(sizes)
    }

    /// The floors of a playbook and of the engine: all of them hold.
    fn floors_with(&self, floors: &BTreeMap<ResourceKey, Floor>) -> BTreeMap<ResourceKey, Floor> {
        let mut all = floors.clone();
        for (resource, floor) in &self.floors {
            all.entry(resource.clone()).and_modify(|kept| *kept = kept.and(*floor)).or_insert(*floor);
        }
        all
    }

    /// Runs an approved plan to its end. What happened is in the report, failures too.
    ///
    /// # Errors
    /// Only before the first effect: `Denied` where the approval is for another plan, `Conflict` where the plan is
    /// too old or another run holds one of its resources, `InvalidConfig` where the preflight refused it or the
    /// playbook changed since, and what the store says.
    pub async fn run(
        &self,
        playbook: &Playbook,
        plan: &Plan,
        approval: &Approval,
        run: &RunHandle,
    ) -> Result<RunReport> {
        plan.check(playbook, approval, &*self.clock)?;
        let (plan_kept, approval) = (Box::new(plan.clone()), Some(approval.clone()));
        let created = Record::Created { plan: plan_kept, approval, supersedes: None };
        let first = Entry::new(0, self.clock.now(), 1, created);
        let line = first.line(run.id(), None);
        let tip = line.hash.clone();
        let new = NewRun {
            run: run.id().clone(),
            resources: plan.resources(),
            terms: self.terms(),
            first: line,
            supersedes: Vec::new(),
        };
        let lease = match self.ask_store("create", run.id(), self.store.create(new)).await {
            Ok(lease) => lease,
            Err(error) if self.is_kept(run.id(), &tip, &error).await => Lease { epoch: 1 },
            Err(error) => return Err(error),
        };
        let journal = Journal::new(self, run.id(), lease.epoch, vec![first], Some(tip));
        let interpreter = Interpreter::new(self, plan, nodes(playbook), journal, run);
        let report = interpreter.run(playbook.root()).await;
        Ok(self.released(report, lease.epoch).await)
    }

    /// Gives the run's resources back. A store that fails now must not cost the report of what was done.
    async fn released(&self, mut report: RunReport, epoch: u64) -> RunReport {
        let release = self.store.release(&report.run_id, epoch, Release::Resources);
        if let Err(error) = self.ask_store("release", &report.run_id, release).await {
            report.reason =
                format!("{}; its resources could not be given back ({})", report.reason, error.chain());
        }
        report
    }

    /// Takes back what a finished run did, last step first. Idempotent: what is back already is left alone.
    ///
    /// The playbook must be built as it was for the run; only its steps' `observe` and `undo` are used.
    ///
    /// # Errors
    /// Only before the first effect: `NotFound` for an unknown run, `Conflict` where the run is not at an end or
    /// another run holds one of its resources, `InvalidConfig` where the playbook lacks one of the run's steps.
    pub async fn revert(&self, playbook: &Playbook, run: &RunHandle, scope: Revert) -> Result<RunReport> {
        let stored::Journal { entries, tip, .. } = stored::Journal::read(&self.load(run.id()).await?);
        let state = RunState::of(&entries)?;
        let plan = state.plan().clone();
        let refuse =
            |kind, message: String| Err(Error::new(kind, "revert", message).on(format!("run {}", run.id())));
        if state.ended().is_none() {
            return refuse(ErrorKind::Conflict, "it is still going; stop it first".to_owned());
        }
        let nodes = nodes(playbook);
        if let Some(planned) = plan.steps().iter().find(|planned| !nodes.contains_key(&planned.step.id)) {
            let id = &planned.step.id;
            return refuse(
                ErrorKind::InvalidConfig,
                format!(
                    "the playbook {} lacks its step {id}; build it as it was for the run",
                    playbook.name()
                ),
            );
        }
        let resources = plan.resources();
        let terms = self.terms();
        let acquire = self.store.acquire(run.id(), &resources, &terms, Takeover::Lapsed);
        let lease = self.ask_store("acquire", run.id(), acquire).await?;
        let journal = Journal::new(self, run.id(), lease.epoch, entries, tip);
        let report = Interpreter::new(self, &plan, nodes, journal, run).revert(scope).await;
        Ok(self.released(report, lease.epoch).await)
    }

    fn terms(&self) -> LeaseTerms {
        LeaseTerms { owner: "engine".to_owned(), ttl: Duration::from_secs(60) }
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        self.ask_store("load", run, self.store.load(run)).await
    }

    /// One call of the store, given up after a while: a store that hangs must not hang the run.
    async fn ask_store<T>(
        &self,
        operation: &'static str,
        run: impl std::fmt::Display,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let answer = within(&*self.clock, CALL_LIMIT, call).await;
        answer.unwrap_or_else(|| Err(no_answer(operation, CALL_LIMIT).on(format!("the store of {run}"))))
    }

    /// Whether the store has a line although its answer was an error: a lost answer is looked into, as those of
    /// steps are.
    async fn is_kept(&self, run: &RunId, hash: &str, error: &Error) -> bool {
        error.retry() == Retry::ObserveFirst
            && self.load(run).await.is_ok_and(|kept| kept.lines.last().is_some_and(|last| last.hash == hash))
    }

    /// What a run did and what is left of it, from its journal.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    pub async fn report(&self, run: &RunId) -> Result<RunReport> {
        let stored::Journal { entries, .. } = stored::Journal::read(&self.load(run).await?);
        Ok(RunReport::of(run, &RunState::of(&entries)?, entries))
    }
}

fn nodes(playbook: &Playbook) -> BTreeMap<StepId, &StepNode> {
    playbook.steps().into_iter().map(|node| (node.step.id(), node)).collect()
}

fn all_or_errors<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (values, errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let mut errors = errors.into_iter().filter_map(Result::err);
    let Some(first) = errors.next() else {
        return Ok(values.into_iter().filter_map(Result::ok).collect());
    };
    let others: Vec<_> = errors.map(|error| error.chain()).collect();
    if others.is_empty() {
        return Err(first);
    }
    let message = format!("{}; also: {}", first.chain(), others.join("; "));
    // Without a source: the message has all of them, each with its causes.
    Err(Error::new(first.kind(), "plan", message).with_retry(first.retry()))
}
