//! An observer that keeps what happened.

use std::sync::{Arc, Mutex};

use crate::event::Notice;
use crate::testing::lock;
use crate::{Event, Observer, Record, RunInfo};

/// An observer that keeps every event, in order. Clones are the same observer.
#[derive(Clone, Debug, Default)]
pub struct RecordingObserver(Arc<Mutex<Vec<Event>>>);

impl RecordingObserver {
    /// An observer that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every event.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.0).clone()
    }

    /// The facts among them.
    pub fn records(&self) -> Vec<Record> {
        self.events().iter().filter_map(|event| event.record().cloned()).collect()
    }

    /// The facts among them, as a person reads them.
    pub fn lines(&self) -> Vec<String> {
        self.records().iter().map(ToString::to_string).collect()
    }

    /// The live news among them.
    pub fn notices(&self) -> Vec<Notice> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Notice { notice, .. } => Some(notice),
                _ => None,
            })
            .collect()
    }
}

impl Observer for RecordingObserver {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        lock(&self.0).push(event.clone());
    }
}
