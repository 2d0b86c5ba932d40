//! The facts that a run's journal is made of.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Applied, Approval, Control, Error, ErrorKind, GuardId, Plan, Retry, RunId, Status, StepId, Undone,
    Verdict,
};

/// One fact of a run.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The run exists. Its plan is all that is needed to carry on or to take back, also elsewhere.
    Created {
        /// The plan.
        plan: Box<Plan>,
        /// The approval that it came with; `None` where the run waits for one.
        approval: Option<Approval>,
        /// The run whose resources this one took over.
        supersedes: Option<RunId>,
    },
    /// Somebody took the run over: to go on, to take it back, to abandon it. Its epoch fences whoever drove it before.
    TakenOver {
        /// Who decided so.
        by: String,
        /// The process that drives it from here on.
        owner: String,
        /// Whether the lease of the former driver had not lapsed.
        forced: bool,
    },
    /// The run waits until somebody approves.
    Waiting {
        /// The gate; `plan` where the plan itself is to be approved.
        gate: StepId,
        /// What is to be decided.
        question: String,
    },
    /// A gate was decided.
    Decided {
        /// The gate.
        gate: StepId,
        /// Whether the run goes on.
        approved: bool,
        /// Who decided; empty where time was over.
        by: String,
        /// Why.
        reason: String,
    },
    /// A request of somebody else reached the run.
    Controlled {
        /// Its number in the run's mailbox; `None` where it came from within the process.
        number: Option<u64>,
        /// What was asked.
        control: Control,
        /// Who asked.
        by: String,
        /// Why.
        reason: String,
    },
    /// An effect is about to be made. Written before the call.
    Intent {
        /// The step.
        step: StepId,
        /// Counts attempts, from 1.
        attempt: u32,
    },
    /// The call returned.
    Applied {
        /// The step.
        step: StepId,
        /// What the call did.
        applied: Applied,
    },
    /// An effect was found in place after a call whose fate was unknown, or before any call.
    Adopted {
        /// The step.
        step: StepId,
    },
    /// The effect is in force.
    Verified {
        /// The step.
        step: StepId,
    },
    /// The step was not done, and why.
    Skipped {
        /// The step.
        step: StepId,
        /// Why.
        reason: String,
    },
    /// The step failed.
    Failed {
        /// The step.
        step: StepId,
        /// What is known about its effect.
        effect: EffectKnown,
        /// What went wrong.
        failure: Failure,
    },
    /// A soak began.
    SoakOpened {
        /// The soak.
        soak: StepId,
        /// The time to cover.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// How far a soak is: what a later process goes on from.
    SoakProgress {
        /// The soak.
        soak: StepId,
        /// The time that samples have covered so far.
        #[serde(with = "humantime_serde")]
        covered: Duration,
    },
    /// A guard answers differently than before.
    GuardTurned {
        /// The soak; `run` for a guard of the whole run.
        soak: StepId,
        /// The guard.
        guard: GuardId,
        /// Its answer.
        verdict: Verdict,
    },
    /// A soak ended.
    SoakClosed {
        /// The soak.
        soak: StepId,
        /// The time that samples covered.
        #[serde(with = "humantime_serde")]
        covered: Duration,
        /// Why it did not pass; `None` where it did.
        failure: Option<String>,
    },
    /// The run turns round: from here on it takes back.
    Unwinding {
        /// What is taken back.
        scope: Unwind,
        /// Why, in a sentence.
        why: String,
    },
    /// A step is about to be taken back. Written before the call.
    UndoIntent {
        /// The step.
        step: StepId,
        /// Counts attempts, from 1.
        attempt: u32,
    },
    /// A step was taken back.
    Undone {
        /// The step.
        step: StepId,
        /// What that did.
        undone: Undone,
    },
    /// A step could not be taken back.
    UndoFailed {
        /// The step.
        step: StepId,
        /// What went wrong.
        failure: Failure,
    },
    /// The run could not be gone on with as it is. It stays as it was.
    Blocked {
        /// Why, and what to do.
        reason: String,
        /// Who tried.
        by: String,
    },
    /// The run ended, or one more pass over it did.
    Ended {
        /// How.
        status: Status,
        /// Why, in a sentence.
        reason: String,
    },
}

/// What a run takes back once it turns round.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unwind {
    /// All that has an effect.
    Everything,
    /// What was done since the last soak that passed.
    SinceHealthy,
    /// What the playbook calls temporary.
    Temporary,
}

/// What is known about the effect of a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKnown {
    /// It certainly had none.
    None,
    /// It has one, in whole or in part.
    Some,
    /// Nobody can tell.
    Unknown,
}

/// An [`Error`] as it is recorded.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Whether the call could be repeated.
    pub retry: Retry,
    /// The error with all its causes.
    pub message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), retry: error.retry(), message: error.chain() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Record {
    /// The kind of fact, as in its JSON form: `intent`, `soak_opened`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::TakenOver { .. } => "taken_over",
            Self::Waiting { .. } => "waiting",
            Self::Decided { .. } => "decided",
            Self::Controlled { .. } => "controlled",
            Self::Intent { .. } => "intent",
            Self::Applied { .. } => "applied",
            Self::Adopted { .. } => "adopted",
            Self::Verified { .. } => "verified",
            Self::Skipped { .. } => "skipped",
            Self::Failed { .. } => "failed",
            Self::SoakOpened { .. } => "soak_opened",
            Self::SoakProgress { .. } => "soak_progress",
            Self::GuardTurned { .. } => "guard_turned",
            Self::SoakClosed { .. } => "soak_closed",
            Self::Unwinding { .. } => "unwinding",
            Self::UndoIntent { .. } => "undo_intent",
            Self::Undone { .. } => "undone",
            Self::UndoFailed { .. } => "undo_failed",
            Self::Blocked { .. } => "blocked",
            Self::Ended { .. } => "ended",
        }
    }

    /// Whether a person should look at it.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Blocked { .. }
            | Self::Failed { .. }
            | Self::SoakClosed { failure: Some(_), .. }
            | Self::UndoFailed { .. }
            | Self::Unwinding { .. } => true,
            Self::Decided { approved, .. } => !approved,
            Self::Ended { status, .. } => status.is_open(),
            Self::GuardTurned { verdict, .. } => !verdict.is_pass(),
            _ => false,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { plan, approval, supersedes } => {
                match approval {
                    Some(approval) => write!(f, "{} approved by {}", plan.playbook(), approval.by)?,
                    None => write!(f, "{} waits for approval", plan.playbook())?,
                }
                supersedes.as_ref().map_or(Ok(()), |run| write!(f, ", takes over from run {run}"))
            }
            Self::TakenOver { by, owner, forced } => {
                write!(f, "taken over by {owner}, as {by} decided")?;
                f.write_str(if *forced { ", by force" } else { "" })
            }
            Self::Waiting { gate, question } => write!(f, "{gate}: waiting for approval: {question}"),
            Self::Decided { gate, approved, by, reason } => {
                write!(f, "{gate}: {}", if *approved { "approved" } else { "REJECTED" })?;
                write_by(f, by)?;
                write_reason(f, reason)
            }
            Self::Controlled { control, by, reason, .. } => {
                write!(f, "asked to {control}")?;
                write_by(f, by)?;
                write_reason(f, reason)
            }
            Self::Intent { step, attempt: 1 } => write!(f, "{step}: applying"),
            Self::Intent { step, attempt } => write!(f, "{step}: applying, attempt {attempt}"),
            Self::Applied { step, applied: Applied::NoChange } => write!(f, "{step}: was so already"),
            Self::Applied { step, .. } => write!(f, "{step}: accepted"),
            Self::Adopted { step } => write!(f, "{step}: found in place"),
            Self::Verified { step } => write!(f, "{step}: done"),
            Self::Skipped { step, reason } => write!(f, "{step}: skipped, {reason}"),
            Self::Failed { step, failure, .. } => write!(f, "{step}: FAILED, {failure}"),
            Self::SoakOpened { soak, duration } => {
                write!(f, "{soak}: watching for {}", humantime::format_duration(*duration))
            }
            Self::GuardTurned { soak, guard, verdict } => write!(f, "{soak}: guard {guard}: {verdict}"),
            Self::SoakClosed { soak, covered, failure: None } => {
                write!(f, "{soak}: passed, {} covered", humantime::format_duration(*covered))
            }
            Self::SoakClosed { soak, failure: Some(why), .. } => write!(f, "{soak}: NOT PASSED, {why}"),
            Self::SoakProgress { soak, covered } => {
                write!(f, "{soak}: {} covered", humantime::format_duration(*covered))
            }
            Self::Unwinding { why, .. } => write!(f, "taking back: {why}"),
            Self::Blocked { reason, .. } => write!(f, "BLOCKED: {reason}"),
            Self::UndoIntent { step, .. } => write!(f, "{step}: taking back"),
            Self::Undone { step, undone: Undone::Restored } => write!(f, "{step}: taken back"),
            Self::Undone { step, undone: Undone::Nothing } => write!(f, "{step}: nothing to take back"),
            Self::Undone { step, undone: Undone::NotOurs(what) } => {
                write!(f, "{step}: left alone, {what}")
            }
            Self::Undone { step, undone: Undone::Deferred(what) } => {
                write!(f, "{step}: taken back in part, {what}")
            }
            Self::UndoFailed { step, failure } => write!(f, "{step}: UNDO FAILED, {failure}"),
            Self::Ended { status, reason } => write!(f, "{status}: {reason}"),
        }
    }
}

fn write_by(f: &mut fmt::Formatter<'_>, by: &str) -> fmt::Result {
    if by.is_empty() { Ok(()) } else { write!(f, " by {by}") }
}

fn write_reason(f: &mut fmt::Formatter<'_>, reason: &str) -> fmt::Result {
    if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
}
