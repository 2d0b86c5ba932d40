//! The caller's hold on a run.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::RunId;

/// How a run ends when somebody asks it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Keeps what was done.
    Keep,
    /// Takes back what was done.
    TakeBack,
}

/// The caller's hold on a run: its name, and the way to end it early. Clones hold the same run.
#[derive(Clone, Debug)]
pub struct RunHandle {
    id: RunId,
    cancel: CancellationToken,
    stop: Arc<OnceLock<Stop>>,
}

impl RunHandle {
    /// A hold on the run of that name.
    pub fn new(id: impl Into<RunId>) -> Self {
        Self { id: id.into(), cancel: CancellationToken::new(), stop: Arc::default() }
    }

    /// A hold on a run with a new name.
    pub fn generate() -> Self {
        Self::new(RunId::generate())
    }

    /// The run.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// Ends the run early. A call that is under way is finished first; no further one is begun.
    ///
    /// The first request counts; later ones change nothing. Does not keep an undo from going on.
    pub fn stop(&self, stop: Stop) {
        if self.stop.set(stop).is_ok() {
            self.cancel.cancel();
        }
    }

    /// What was asked for, where somebody asked.
    pub fn stop_requested(&self) -> Option<Stop> {
        self.stop.get().copied()
    }

    pub(super) fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }
}
