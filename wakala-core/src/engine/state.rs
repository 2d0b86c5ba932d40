//! What follows from a journal: a fold over its entries.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Status, Stop};
use crate::store::{EffectKnown, Entry, Failure, Record, Unwind};
use crate::{Applied, Approval, Control, Error, ErrorKind, Plan, Result, Retry, RunId, StepId, Undone};

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
    /// Whether an undo was begun again while the fate of an earlier attempt was open: a refusal then says nothing of that
    /// one.
    undo_unknown: bool,
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

    /// What is known about the effect when another process goes on with the step.
    pub(super) fn effect(&self) -> EffectKnown {
        match (&self.failed, &self.applied) {
            (Some((effect, _)), _) => *effect,
            (None, Some(Applied::Changed | Applied::Started(_))) => EffectKnown::Some,
            (None, Some(Applied::NoChange)) => EffectKnown::None,
            (None, None) if self.begun.is_some() => EffectKnown::Unknown,
            (None, None) => EffectKnown::None,
        }
    }
}

/// What a journal says about one soak.
#[derive(Clone, Debug, Default)]
pub(super) struct SoakState {
    /// The time covered when it was last recorded, and when that was; `None` where it is not open.
    pub(super) open: Option<(Duration, SystemTime)>,
    pub(super) passed: bool,
}

/// What a journal says about a run.
#[derive(Clone, Debug)]
pub(super) struct RunState {
    plan: Plan,
    pub(super) approval: Option<Approval>,
    pub(super) steps: BTreeMap<StepId, StepState>,
    pub(super) soaks: BTreeMap<StepId, SoakState>,
    /// Gates that are decided.
    pub(super) gates: BTreeMap<StepId, bool>,
    /// The gate that it waits at, and what is asked.
    pub(super) waiting: Option<(StepId, String)>,
    /// Place of the last soak that passed.
    pub(super) healthy: Option<u64>,
    /// What is taken back and why, once it has turned round.
    pub(super) unwinding: Option<(Unwind, String)>,
    pub(super) paused: bool,
    pub(super) stop: Option<Stop>,
    /// Who abandoned it, and why; until that is its end.
    pub(super) abandoned: Option<(String, String)>,
    /// The last request that was read from the mailbox.
    pub(super) mail: u64,
    pub(super) blocked: Option<String>,
    ended: Option<(Status, String)>,
    started_at: SystemTime,
    ended_at: SystemTime,
}

impl RunState {
    pub(super) fn of(run: &RunId, entries: &[Entry]) -> Result<Self> {
        let Some(Entry { record: Record::Created { plan, approval, .. }, at, .. }) = entries.first() else {
            return Err(Error::new(ErrorKind::Unexpected, "load", "the journal does not begin with a plan")
                .on(format!("run {run}")));
        };
        let mut state = Self {
            plan: (**plan).clone(),
            approval: approval.clone(),
            steps: BTreeMap::new(),
            soaks: BTreeMap::new(),
            gates: BTreeMap::new(),
            waiting: None,
            healthy: None,
            unwinding: None,
            paused: false,
            stop: None,
            abandoned: None,
            mail: 0,
            blocked: None,
            ended: None,
            started_at: *at,
            ended_at: *at,
        };
        for entry in &entries[1..] {
            state.apply(entry);
        }
        Ok(state)
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        self.ended_at = entry.at;
        // Whatever is written after the end is a new pass over the run.
        self.ended = None;
        match &entry.record {
            Record::TakenOver { .. } => self.blocked = None,
            Record::Waiting { gate, question } => self.waiting = Some((gate.clone(), question.clone())),
            Record::Decided { gate, approved, by, .. } => {
                self.waiting = None;
                self.gates.insert(gate.clone(), *approved);
                if *approved && gate.as_str() == super::interpreter::PLAN_GATE {
                    self.approval = Some(Approval::of(&self.plan, by.as_str()));
                }
            }
            Record::Controlled { number, control, by, reason } => {
                self.mail = number.unwrap_or(self.mail);
                match control {
                    Control::Pause => self.paused = true,
                    Control::Resume => self.paused = false,
                    Control::CancelKeep => self.stop = Some(Stop::Keep),
                    Control::CancelRevert => self.stop = Some(Stop::TakeBack),
                    Control::Abandon => self.abandoned = Some((by.clone(), reason.clone())),
                    Control::Approve { .. } | Control::Reject { .. } | Control::Unknown => {}
                }
            }
            Record::SoakOpened { soak, .. } => {
                self.soaks.entry(soak.clone()).or_default().open = Some((Duration::ZERO, entry.at));
            }
            Record::SoakProgress { soak, covered } => {
                self.soaks.entry(soak.clone()).or_default().open = Some((*covered, entry.at));
            }
            Record::SoakClosed { soak, failure, .. } => {
                let passed = failure.is_none();
                *self.soaks.entry(soak.clone()).or_default() = SoakState { open: None, passed };
                if passed {
                    self.healthy = Some(entry.seq);
                }
            }
            Record::Unwinding { scope, why } => self.unwinding = Some((*scope, why.clone())),
            Record::Blocked { reason, .. } => self.blocked = Some(reason.clone()),
            Record::Ended { status, reason } => {
                self.ended = Some((*status, reason.clone()));
                (self.paused, self.stop, self.abandoned, self.waiting) = (false, None, None, None);
            }
            _ => self.apply_to_step(entry),
        }
    }

    fn apply_to_step(&mut self, entry: &Entry) {
        let back = matches!(
            entry.record,
            Record::UndoIntent { .. } | Record::Undone { .. } | Record::UndoFailed { .. }
        );
        let (Record::Intent { step, .. }
        | Record::Applied { step, .. }
        | Record::Adopted { step }
        | Record::Verified { step }
        | Record::Skipped { step, .. }
        | Record::Failed { step, .. }
        | Record::UndoIntent { step, .. }
        | Record::Undone { step, .. }
        | Record::UndoFailed { step, .. }) = &entry.record
        else {
            return;
        };
        let state = self.steps.entry(step.clone()).or_default();
        // Taking back may come hours later: a step's time is that of doing it.
        if !back {
            state.first_at.get_or_insert(entry.at);
            state.last_at = Some(entry.at);
        }
        match &entry.record {
            Record::Intent { .. } => {
                state.begun.get_or_insert(entry.seq);
                (state.applied, state.failed) = (None, None);
            }
            Record::Applied { applied, .. } => state.applied = Some(applied.clone()),
            Record::Adopted { .. } => (state.adopted, state.failed) = (true, None),
            Record::Verified { .. } => (state.verified, state.failed) = (true, None),
            Record::Skipped { reason, .. } => state.skipped = Some(reason.clone()),
            Record::Failed { effect, failure, .. } => state.failed = Some((*effect, failure.clone())),
            Record::UndoIntent { .. } => {
                state.undo_unknown |= state.undoing;
                state.undoing = true;
            }
            Record::Undone { undone, .. } => {
                (state.undone, state.undo_failed) = (Some(undone.clone()), None);
                (state.undoing, state.undo_unknown) = (false, false);
            }
            Record::UndoFailed { failure, .. } => {
                state.undoing = state.undo_unknown || failure.retry == Retry::ObserveFirst;
                state.undo_failed = Some(failure.clone());
            }
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

    /// Whether an effect may be begun, as far as anybody asked.
    pub(super) fn may_go_on(&self) -> bool {
        !self.paused && self.stop.is_none() && self.abandoned.is_none()
    }

    /// Whether nothing was done yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.steps.values().all(|step| step.begun.is_none())
    }

    /// The steps in `scope` that have an effect, last begun first.
    pub(super) fn to_take_back(&self, scope: Unwind) -> Vec<StepId> {
        let mut steps: Vec<_> = self
            .plan
            .steps()
            .iter()
            .filter(|planned| scope != Unwind::Temporary || planned.policy.temporary.is_some())
            .filter_map(|planned| {
                let state = self.steps.get(&planned.step.id).filter(|state| state.has_effect())?;
                Some((state.begun, planned.step.id.clone()))
            })
            .filter(|(begun, _)| scope != Unwind::SinceHealthy || *begun > self.healthy)
            .collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        steps.into_iter().map(|(_, id)| id).collect()
    }
}
