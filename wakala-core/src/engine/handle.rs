//! The caller's hold on a run.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::RunId;
use crate::store::Takeover;

/// How a run ends when somebody asks it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Keeps what was done.
    Keep,
    /// Takes back what was done.
    TakeBack,
}

/// The caller's hold on a run: its name, who acts, and the way to end it early. Clones hold the same run.
#[derive(Clone, Debug)]
pub struct RunHandle {
    id: RunId,
    by: Arc<str>,
    takeover: Takeover,
    supersedes: bool,
    cancel: CancellationToken,
    stop: Arc<OnceLock<Stop>>,
}

impl RunHandle {
    /// A hold on the run of that name.
    pub fn new(id: impl Into<RunId>) -> Self {
        Self {
            id: id.into(),
            by: "".into(),
            takeover: Takeover::Lapsed,
            supersedes: false,
            cancel: CancellationToken::new(),
            stop: Arc::default(),
        }
    }

    /// A hold on a run with a new name.
    pub fn generate() -> Self {
        Self::new(RunId::generate())
    }

    /// Names the person who acts. Needed for deciding about a run that nobody drives any more.
    #[must_use]
    pub fn by(mut self, name: impl Into<Arc<str>>) -> Self {
        self.by = name.into();
        self
    }

    /// Takes the run over also from a process that may be alive, without waiting for its lease to lapse.
    ///
    /// That process is fenced: it can record nothing more, and begins no further effect once it notices. A call that it
    /// had begun may still arrive. For when you know that it is gone, or want it to stop.
    #[must_use]
    pub fn by_force(mut self) -> Self {
        self.takeover = Takeover::Forced;
        self
    }

    /// Takes resources over from runs that are less [urgent](crate::Urgency), and inherits the sizes that they began
    /// with.
    #[must_use]
    pub fn superseding(mut self) -> Self {
        self.supersedes = true;
        self
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

    pub(super) fn who(&self) -> &str {
        &self.by
    }

    pub(super) fn takeover(&self) -> Takeover {
        self.takeover
    }

    pub(super) fn supersedes(&self) -> bool {
        self.supersedes
    }

    pub(super) fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }
}
