//! What happens in a run, for whoever watches.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::guard::Verdict;
use crate::store::{Entry, Record};
use crate::{GuardId, RunId, StepId};

/// Something that happened in a run.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A fact that is in the run's journal.
    Record(Entry),
    /// Something that is worth a line on a screen and no more.
    Notice {
        /// When it happened.
        #[serde(with = "humantime_serde")]
        at: SystemTime,
        /// What happened.
        notice: Notice,
    },
}

impl Event {
    /// The journal's fact, where it is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(entry) => Some(&entry.record),
            Self::Notice { .. } => None,
        }
    }
}

/// Live news that are not kept.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Something that a person should know.
    Note {
        /// What.
        text: String,
    },
    /// How far a step is, in units of its own; both 0 where it cannot be counted.
    Progress {
        /// The step.
        step: StepId,
        /// How much is done.
        done: u64,
        /// How much there is to do.
        total: u64,
        /// What is in the way.
        note: String,
    },
    /// A call failed and will be repeated.
    Retrying {
        /// The step.
        step: StepId,
        /// What failed.
        error: String,
        /// When it is repeated.
        #[serde(with = "humantime_serde")]
        after: Duration,
    },
    /// A guard was asked.
    Guard {
        /// The soak that asked.
        soak: StepId,
        /// The guard.
        guard: GuardId,
        /// Its answer.
        verdict: Verdict,
    },
    /// How much of a soak is covered by samples.
    Soaking {
        /// The soak.
        soak: StepId,
        /// The covered time.
        #[serde(with = "humantime_serde")]
        covered: Duration,
        /// The time to cover.
        #[serde(with = "humantime_serde")]
        of: Duration,
    },
}

/// Which run an event is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The run.
    pub id: RunId,
    /// Its playbook's name; empty outside of a run.
    pub playbook: String,
}

/// Is told of every event of a run, in order. For people, not for recovery: that is what the journal is for.
pub trait Observer: Debug + Send + Sync + 'static {
    /// Takes one event. Must not block: the run waits for it.
    fn on_event(&self, run: &RunInfo, event: &Event);
}

/// All of them are told, in order.
impl Observer for Vec<Arc<dyn Observer>> {
    fn on_event(&self, run: &RunInfo, event: &Event) {
        self.iter().for_each(|observer| observer.on_event(run, event));
    }
}

/// Ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn on_event(&self, _: &RunInfo, _: &Event) {}
}

/// Sends events into a channel; those that come after the receiver is gone are dropped.
#[derive(Clone, Debug)]
pub struct ChannelObserver(mpsc::UnboundedSender<Event>);

impl ChannelObserver {
    /// The observer and the receiving end.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Observer for ChannelObserver {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        let _ = self.0.send(event.clone());
    }
}

/// The live news of all runs of an engine, for any number of listeners. Lossy: who listens too slowly misses the oldest,
/// and is told how many. What must not be missed is in the journal: see [`Engine::events`](crate::Engine::events).
#[derive(Clone, Debug)]
pub struct LiveFeed(broadcast::Sender<(RunInfo, Event)>);

impl LiveFeed {
    /// A feed that keeps `capacity` events for listeners that lag behind; at least one.
    pub fn new(capacity: usize) -> Self {
        Self(broadcast::Sender::new(capacity.max(1)))
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<(RunInfo, Event)> {
        self.0.subscribe()
    }
}

impl Observer for LiveFeed {
    fn on_event(&self, run: &RunInfo, event: &Event) {
        // An error only says that nobody listens.
        let _ = self.0.send((run.clone(), event.clone()));
    }
}
