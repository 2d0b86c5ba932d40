//! What others may ask of a run, also from another process.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::StepId;

/// What others may ask of a run. See [`Engine::ask`](crate::Engine::ask).
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// End at once and leave everything as it is, half-taken-back things too.
    Abandon,
    /// Let the run pass a gate that it waits at, or begin.
    Approve {
        /// The gate; `plan` for the plan itself.
        gate: StepId,
        /// The [`Plan::hash`](crate::Plan::hash) of what was read.
        plan_hash: String,
    },
    /// End after the effect that is under way, and keep what was done.
    CancelKeep,
    /// End after the effect that is under way, and take back what was done.
    CancelRevert,
    /// Begin no further effect. Guards go on, and may end the run.
    Pause,
    /// Do not let the run pass a gate that it waits at, or begin.
    Reject {
        /// The gate; `plan` for the plan itself.
        gate: StepId,
    },
    /// Go on after a pause.
    Resume,
    /// Something that a later version can be asked and this one cannot: it is recorded, and nothing is done.
    Unknown,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abandon => f.write_str("abandon"),
            Self::Approve { gate, .. } => write!(f, "approve {gate}"),
            Self::CancelKeep => f.write_str("cancel and keep what was done"),
            Self::CancelRevert => f.write_str("cancel and take back what was done"),
            Self::Pause => f.write_str("pause"),
            Self::Reject { gate } => write!(f, "reject {gate}"),
            Self::Resume => f.write_str("go on"),
            Self::Unknown => f.write_str("do something that this version does not know"),
        }
    }
}

/// A [`Control`] in a run's mailbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) control: Control,
    pub(super) by: String,
    pub(super) reason: String,
}
