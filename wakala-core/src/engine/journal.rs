//! The run's journal and the state that follows from it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::sync::Mutex;

use super::interpreter::backoff;
use super::{Engine, Status};
use crate::store::{EffectKnown, Entry, Failure, Record};
use crate::{Applied, Error, ErrorKind, Event, Plan, Result, Retry, RunId, StepId, StepPolicy, Undone};

/// How often writing the run's end is tried.
const END_ATTEMPTS: u32 = 3;

/// Writes records: to the store first, then to whoever watches.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    engine: &'a Engine,
    run: RunId,
    epoch: u64,
    written: Mutex<Written>,
    /// Set once the store has failed: steps side by side must not go on where one of them found that out.
    broken: AtomicBool,
}

#[derive(Debug)]
struct Written {
    entries: Vec<Entry>,
    tip: Option<String>,
}

impl<'a> Journal<'a> {
    /// Goes on with a journal under a lease.
    pub(super) fn new(
        engine: &'a Engine,
        run: &RunId,
        epoch: u64,
        entries: Vec<Entry>,
        tip: Option<String>,
    ) -> Self {
        // A new run's first entry is written by the store itself, so it is told of here.
        if let [only] = entries.as_slice() {
            engine.observer.on_event(&Event::Record(only.clone()));
        }
        let written = Mutex::new(Written { entries, tip });
        Self { engine, run: run.clone(), epoch, written, broken: AtomicBool::new(false) }
    }

    /// Writes one record. After an error nothing more may be done to the world, and nothing but the run's
    /// [end](Self::end) is written.
    pub(super) async fn write(&self, record: Record) -> Result<()> {
        let mut written = self.written.lock().await;
        if self.broken.load(Ordering::Relaxed) {
            return Err(self.lost().with_retry(Retry::Never));
        }
        self.append(&mut written, record).await
    }

    /// Writes how the run ended, also where an earlier record could not be written, and tries for a while: the store
    /// may be back by now, and a run without an end can be neither believed nor taken back.
    pub(super) async fn end(&self, status: Status, reason: String) -> Result<()> {
        let mut written = self.written.lock().await;
        for attempt in 1.. {
            let Err(error) =
                self.append(&mut written, Record::Ended { status, reason: reason.clone() }).await
            else {
                return Ok(());
            };
            if attempt == END_ATTEMPTS || matches!(error.retry(), Retry::Never | Retry::Exhausted) {
                return Err(error);
            }
            self.engine.clock.sleep(backoff(attempt)).await;
        }
        unreachable!("the last attempt returns")
    }

    async fn append(&self, written: &mut Written, record: Record) -> Result<()> {
        let entry = Entry::new(written.entries.len() as u64, self.engine.clock.now(), self.epoch, record);
        let line = entry.line(&self.run, written.tip.as_deref());
        let hash = line.hash.clone();
        let append = self.engine.store.append(&self.run, self.epoch, line);
        if let Err(error) = self.engine.ask_store("append", &self.run, append).await
            && !self.engine.is_kept(&self.run, &hash, &error).await
        {
            self.broken.store(true, Ordering::Relaxed);
            return Err(self.lost().with_retry(error.retry()).with_source(error));
        }
        self.engine.observer.on_event(&Event::Record(entry.clone()));
        written.entries.push(entry);
        written.tip = Some(hash);
        Ok(())
    }

    fn lost(&self) -> Error {
        let message = "the run's journal cannot be written, so nothing more is done";
        Error::new(ErrorKind::Unavailable, "journal", message).on(format!("run {}", self.run))
    }

    pub(super) async fn entries(&self) -> Vec<Entry> {
        self.written.lock().await.entries.clone()
    }

    pub(super) async fn state(&self) -> Result<RunState> {
        RunState::of(&self.written.lock().await.entries)
    }
}

/// What a journal says about one step.
#[derive(Clone, Debug, Default)]
pub(super) struct StepState {
    /// Place of the first intent: the order in which effects were begun.
    pub(super) begun: Option<u64>,
    pub(super) applied: Option<Applied>,
    pub(super) adopted: bool,
    pub(super) verified: bool,
    pub(super) skipped: Option<String>,
    pub(super) failed: Option<(EffectKnown, Failure)>,
    pub(super) undone: Option<Undone>,
    pub(super) undo_failed: Option<Failure>,
    /// Whether an undo was begun whose end is not in the journal.
    pub(super) undoing: bool,
    pub(super) first_at: Option<SystemTime>,
    pub(super) last_at: Option<SystemTime>,
}

impl StepState {
    /// Whether something that the run did, or may have done, is still there.
    pub(super) fn has_effect(&self) -> bool {
        let none =
            matches!(self.failed, Some((EffectKnown::None, _))) || self.applied == Some(Applied::NoChange);
        let gone = matches!(self.undone, Some(Undone::Restored | Undone::Nothing | Undone::NotOurs(_)));
        self.begun.is_some() && !none && !gone
    }
}

/// What a journal says about a run.
#[derive(Clone, Debug)]
pub(super) struct RunState {
    plan: Plan,
    steps: BTreeMap<StepId, StepState>,
    ended: Option<(Status, String)>,
    started_at: SystemTime,
    ended_at: SystemTime,
}

impl RunState {
    pub(super) fn of(entries: &[Entry]) -> Result<Self> {
        let Some(Entry { record: Record::Created { plan, .. }, at, .. }) = entries.first() else {
            return Err(Error::new(ErrorKind::Unexpected, "load", "the journal does not begin with a plan"));
        };
        let plan = (**plan).clone();
        let mut state = Self { plan, steps: BTreeMap::new(), ended: None, started_at: *at, ended_at: *at };
        for entry in &entries[1..] {
            state.apply(entry);
        }
        Ok(state)
    }

    fn apply(&mut self, entry: &Entry) {
        self.ended_at = entry.at;
        // Whatever is written after the end is a new pass over the run.
        self.ended = None;
        let Self { steps, ended, .. } = self;
        let mut at = |step: &StepId, change: &dyn Fn(&mut StepState)| {
            let state = steps.entry(step.clone()).or_default();
            // Taking back may come hours later: a step's time is that of doing it.
            let back = matches!(
                entry.record,
                Record::UndoIntent { .. } | Record::Undone { .. } | Record::UndoFailed { .. }
            );
            if !back {
                state.first_at.get_or_insert(entry.at);
                state.last_at = Some(entry.at);
            }
            change(state);
        };
        match &entry.record {
            Record::Intent { step, .. } => at(step, &|state| {
                state.begun.get_or_insert(entry.seq);
            }),
            Record::Applied { step, applied } => at(step, &|state| state.applied = Some(applied.clone())),
            Record::Adopted { step } => at(step, &|state| state.adopted = true),
            Record::Verified { step } => at(step, &|state| state.verified = true),
            Record::Skipped { step, reason } => at(step, &|state| state.skipped = Some(reason.clone())),
            Record::Failed { step, effect, failure } => {
                at(step, &|state| state.failed = Some((*effect, failure.clone())));
            }
            Record::Undone { step, undone } => at(step, &|state| {
                state.undone = Some(undone.clone());
                state.undo_failed = None;
                state.undoing = false;
            }),
            Record::UndoIntent { step, .. } => at(step, &|state| state.undoing = true),
            Record::UndoFailed { step, failure } => at(step, &|state| {
                state.undo_failed = Some(failure.clone());
                state.undoing = failure.retry == Retry::ObserveFirst;
            }),
            Record::Ended { status, reason } => *ended = Some((*status, reason.clone())),
            _ => {}
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn ended(&self) -> Option<&(Status, String)> {
        self.ended.as_ref()
    }

    pub(super) fn started_at(&self) -> SystemTime {
        self.started_at
    }

    pub(super) fn ended_at(&self) -> SystemTime {
        self.ended_at
    }

    pub(super) fn step(&self, id: &StepId) -> Option<&StepState> {
        self.steps.get(id)
    }

    /// The steps that have an effect, last begun first.
    pub(super) fn to_take_back(&self, wanted: impl Fn(&StepPolicy) -> bool) -> Vec<StepId> {
        let mut steps: Vec<_> = self
            .plan
            .steps()
            .iter()
            .filter(|planned| wanted(&planned.policy))
            .filter_map(|planned| {
                let state = self.steps.get(&planned.step.id).filter(|state| state.has_effect())?;
                Some((state.begun, planned.step.id.clone()))
            })
            .collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps.into_iter().map(|(_, id)| id).collect()
    }
}
