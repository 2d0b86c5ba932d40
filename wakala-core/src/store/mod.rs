//! Where runs are recorded.

use std::fmt::{self, Debug};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Applied, Error, ErrorKind, GuardId, Plan, ResourceKey, Result, Retry, RunId, Status, StepId, Undone,
};

mod memory;
pub use memory::MemoryStore;

/// One fact of a run.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The run exists. Its plan is all that is needed to carry on or to take back, also elsewhere.
    Created {
        /// The approved plan.
        plan: Box<Plan>,
        /// Who approved it.
        approved_by: String,
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
    /// A guard answers differently than before.
    GuardTurned {
        /// The soak.
        soak: StepId,
        /// The guard.
        guard: GuardId,
        /// Its answer.
        verdict: crate::Verdict,
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
    /// Somebody asked the run to stop.
    StopRequested {
        /// Whether to take back what was done.
        revert: bool,
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
    /// The run ended, or one more pass over it did.
    Ended {
        /// How.
        status: Status,
        /// Why, in a sentence.
        reason: String,
    },
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

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { plan, approved_by } => write!(f, "{} approved by {approved_by}", plan.playbook()),
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
            Self::StopRequested { revert: false } => f.write_str("asked to stop and keep what was done"),
            Self::StopRequested { revert: true } => f.write_str("asked to stop and take back what was done"),
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

/// A [`Record`] with its place and time.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the run, from 0, without gaps.
    pub seq: u64,
    /// The writer's wall time, for information.
    #[serde(with = "humantime_serde")]
    pub at: SystemTime,
    /// The fact.
    pub record: Record,
}

impl Entry {
    /// The fact at a place and time.
    pub fn new(seq: u64, at: SystemTime, record: Record) -> Self {
        Self { seq, at, record }
    }
}

/// Keeps the journals of runs and who holds which resource. Append-only.
///
/// A run's resources are claimed by [`create`](Self::create) and given back by [`release`](Self::release), so two
/// runs never work on the same thing.
#[async_trait]
pub trait RunStore: Debug + Send + Sync + 'static {
    /// Makes a run with its first entry and claims `resources` for it: all or none.
    ///
    /// # Errors
    /// `Conflict` where the run exists, or another run holds an overlapping resource; the message names it.
    async fn create(&self, run: &RunId, resources: &[ResourceKey], first: Entry) -> Result<()>;

    /// Claims `resources` again for a run that had given them back. Idempotent.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` as for [`create`](Self::create).
    async fn claim(&self, run: &RunId, resources: &[ResourceKey]) -> Result<()>;

    /// Adds the next entry.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` where `entry.seq` is not the next place: somebody else writes.
    async fn append(&self, run: &RunId, entry: Entry) -> Result<()>;

    /// All entries of a run, in order.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    async fn load(&self, run: &RunId) -> Result<Vec<Entry>>;

    /// All runs, in the order of their names.
    ///
    /// # Errors
    /// What the store says.
    async fn list(&self) -> Result<Vec<RunId>>;

    /// Gives back all resources of a run. Idempotent.
    ///
    /// # Errors
    /// What the store says.
    async fn release(&self, run: &RunId) -> Result<()>;
}
