//! What a run did, and what is left of it.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::state::{RunState, StepState};
use crate::store::{EffectKnown, Entry, Failure};
use crate::{Applied, Change, PlannedStep, RunId, StepId, Undone};

/// How a run ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Somebody ended it and left everything as it was.
    Abandoned,
    /// All that was to be taken back is; what was not is in the report.
    Compensated,
    /// It failed or was only half taken back; what is left is in the report, and a person decides.
    Held,
    /// It was asked to stop and kept what was done.
    Stopped,
    /// Something could not be taken back. A person must look.
    Stuck,
    /// Every step is in force and every soak passed.
    Succeeded,
    /// Another run, or another process that drives this run, took over; what it did since is in the journal.
    Superseded,
}

impl Status {
    /// Whether the run can be gone on with: it keeps its resources until somebody resumes, reverts or abandons it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Held | Self::Stuck)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Abandoned => "ABANDONED",
            Self::Compensated => "COMPENSATED",
            Self::Held => "HELD",
            Self::Stopped => "STOPPED",
            Self::Stuck => "STUCK",
            Self::Succeeded => "SUCCEEDED",
            Self::Superseded => "SUPERSEDED",
        })
    }
}

/// What became of one step.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// In force because of this run.
    Done,
    /// It was so already, and still is.
    WasSo,
    /// Begun; the run ended before it was seen to be in force.
    Unverified,
    /// Failed.
    Failed {
        /// What is known about its effect.
        effect: EffectKnown,
        /// What went wrong.
        failure: Failure,
    },
    /// Not begun.
    NotBegun,
    /// Taken back.
    TakenBack,
    /// To be taken back, and nothing was there to take back: it is back already, never came to be, or leaves nothing.
    NothingToTakeBack,
    /// Somebody changed it since, so it was left alone.
    NotOurs(String),
    /// Taken back in part.
    Deferred(String),
    /// Could not be taken back.
    UndoFailed(Failure),
}

/// One step in a report.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step.
    pub id: StepId,
    /// One line about it.
    pub summary: String,
    /// What became of it.
    pub outcome: StepOutcome,
    /// From its first record to its last, without those of taking it back.
    #[serde(with = "humantime_serde")]
    pub took: Duration,
}

/// Something that the run changed and did not take back. Others may have changed it since.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residual {
    /// The step that made it.
    pub step: StepId,
    /// One line about the step.
    pub summary: String,
    /// What differs, from before to now; for a failed step, to what it aimed at. Empty where `undo` says what is left.
    pub changes: Vec<Change>,
    /// Whether it certainly differs.
    pub certain: bool,
    /// How it can be taken back.
    pub undo: String,
}

/// A temporary change that is still owed back.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obligation {
    /// The step that made it.
    pub step: StepId,
    /// When it should be back.
    #[serde(with = "humantime_serde")]
    pub due: SystemTime,
}

/// What a run did, and what is left of it. `Display` is for people.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run.
    pub run_id: RunId,
    /// The playbook's name.
    pub playbook: String,
    /// How it ended.
    pub status: Status,
    /// Why, in a sentence.
    pub reason: String,
    /// When it began.
    #[serde(with = "humantime_serde")]
    pub started_at: SystemTime,
    /// When it ended.
    #[serde(with = "humantime_serde")]
    pub ended_at: SystemTime,
    /// Every step of the plan.
    pub steps: Vec<StepReport>,
    /// What the run changed and did not take back.
    pub residuals: Vec<Residual>,
    /// What is still owed back.
    pub obligations: Vec<Obligation>,
    /// The journal.
    pub journal: Vec<Entry>,
}

impl RunReport {
    pub(super) fn of(run: &RunId, state: &RunState, journal: Vec<Entry>) -> Self {
        let (status, reason) =
            state.ended().cloned().unwrap_or((Status::Held, "the run has not come to its end".to_owned()));
        let plan = state.plan();
        let left = || {
            plan.steps().iter().filter_map(|planned| {
                let step = state.step(&planned.step.id).filter(|step| step.has_effect())?;
                Some((planned, step))
            })
        };
        Self {
            run_id: run.clone(),
            playbook: plan.playbook().to_owned(),
            status,
            reason,
            started_at: state.started_at(),
            ended_at: state.ended_at(),
            steps: plan.steps().iter().map(|planned| report(planned, state.step(&planned.step.id))).collect(),
            residuals: left().filter_map(|(planned, step)| residual(planned, step)).collect(),
            obligations: left()
                .filter_map(|(planned, _)| {
                    let due = state.started_at() + planned.policy.temporary?;
                    Some(Obligation { step: planned.step.id.clone(), due })
                })
                .collect(),
            journal,
        }
    }

    /// One step.
    pub fn step(&self, id: &str) -> Option<&StepReport> {
        self.steps.iter().find(|step| step.id.as_str() == id)
    }
}

fn report(planned: &PlannedStep, state: Option<&StepState>) -> StepReport {
    let outcome = state.map_or(StepOutcome::NotBegun, outcome);
    let took =
        state.and_then(|state| state.last_at?.duration_since(state.first_at?).ok()).unwrap_or_default();
    StepReport { id: planned.step.id.clone(), summary: planned.step.summary.clone(), outcome, took }
}

fn outcome(state: &StepState) -> StepOutcome {
    if let Some(failure) = &state.undo_failed {
        return StepOutcome::UndoFailed(failure.clone());
    }
    match &state.undone {
        Some(Undone::Restored) => return StepOutcome::TakenBack,
        Some(Undone::Nothing) => return StepOutcome::NothingToTakeBack,
        Some(Undone::NotOurs(what)) => return StepOutcome::NotOurs(what.clone()),
        Some(Undone::Deferred(what)) => return StepOutcome::Deferred(what.clone()),
        None => {}
    }
    if let Some((effect, failure)) = &state.failed {
        return StepOutcome::Failed { effect: *effect, failure: failure.clone() };
    }
    match (state.verified, state.begun) {
        (true, Some(_)) if state.applied != Some(Applied::NoChange) => StepOutcome::Done,
        (true, _) => StepOutcome::WasSo,
        (false, Some(_)) => StepOutcome::Unverified,
        (false, None) => StepOutcome::NotBegun,
    }
}

fn residual(planned: &PlannedStep, state: &StepState) -> Option<Residual> {
    let step = &planned.step;
    if step.changes.is_empty() || step.resources.is_empty() {
        return None;
    }
    let certain = state.verified && state.undone.is_none() && !state.undoing;
    let (changes, undo) = match (&state.undone, &state.undo_failed) {
        (_, Some(failure)) => (step.changes.clone(), format!("by hand, since undo failed: {failure}")),
        // Only the step knows which part is left.
        (Some(Undone::Deferred(what)), _) => (Vec::new(), format!("revert again later: {what}")),
        _ => (step.changes.clone(), format!("revert ({})", step.reversibility)),
    };
    Some(Residual { step: step.id.clone(), summary: step.summary.clone(), changes, certain, undo })
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.ended_at.duration_since(self.started_at).unwrap_or_default();
        writeln!(f, "{} {}: {}", self.playbook, self.status, self.reason)?;
        writeln!(f, "run {}, {}", self.run_id, seconds(took))?;
        writeln!(f)?;
        let width = self.steps.iter().map(|step| step.id.as_str().len()).max().unwrap_or(0);
        for StepReport { id, outcome, took, .. } in &self.steps {
            writeln!(
                f,
                "  {id:width$}  {outcome}{}",
                if took.is_zero() || outcome.is_back() {
                    String::new()
                } else {
                    format!(", {}", seconds(*took))
                }
            )?;
        }
        if !self.residuals.is_empty() {
            writeln!(f, "\nChanged and not taken back")?;
            for Residual { step, changes, certain, undo, .. } in &self.residuals {
                for change in changes {
                    writeln!(
                        f,
                        "  {step:width$}  {change}{}",
                        if *certain { "" } else { "  (not certain)" }
                    )?;
                }
                let step = if changes.is_empty() { step.as_str() } else { "" };
                writeln!(f, "  {step:width$}  undo: {undo}")?;
            }
        }
        if !self.obligations.is_empty() {
            writeln!(f, "\nOwed back")?;
            for Obligation { step, due } in &self.obligations {
                writeln!(f, "  {step:width$}  by {}", humantime::format_rfc3339_seconds(*due))?;
            }
        }
        Ok(())
    }
}

impl StepOutcome {
    /// Whether it tells of taking the step back, and not of doing it.
    fn is_back(&self) -> bool {
        matches!(
            self,
            Self::TakenBack
                | Self::NothingToTakeBack
                | Self::NotOurs(_)
                | Self::Deferred(_)
                | Self::UndoFailed(_)
        )
    }
}

impl fmt::Display for StepOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::WasSo => f.write_str("was so already"),
            Self::Unverified => f.write_str("begun, not seen to be in force"),
            Self::Failed { effect: EffectKnown::None, failure } => {
                write!(f, "FAILED, nothing changed: {failure}")
            }
            Self::Failed { effect: EffectKnown::Some, failure } => {
                write!(f, "FAILED, in part in force: {failure}")
            }
            Self::Failed { effect: EffectKnown::Unknown, failure } => {
                write!(f, "FAILED, effect unknown: {failure}")
            }
            Self::NotBegun => f.write_str("not begun"),
            Self::TakenBack => f.write_str("taken back"),
            Self::NothingToTakeBack => f.write_str("nothing to take back"),
            Self::NotOurs(what) => write!(f, "left alone: {what}"),
            Self::Deferred(what) => write!(f, "taken back in part: {what}"),
            Self::UndoFailed(failure) => write!(f, "UNDO FAILED: {failure}"),
        }
    }
}

fn seconds(duration: Duration) -> humantime::FormattedDuration {
    let shown = if duration < Duration::from_secs(10) {
        Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(duration.as_secs())
    };
    humantime::format_duration(shown)
}
