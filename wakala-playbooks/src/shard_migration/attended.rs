//! What the host of a move does when its run is taken over or paused.

use std::sync::Arc;

use wakala_core::{Control, Event, Observer, Record, RunInfo};
use wakala_db::{MoveHost, MoveJob};

use super::ShardMigration;

/// An observer that lets the host of a move do what happens to its run, and passes all on to another one.
///
/// A run that this process takes over may wait for a person; meanwhile changes are to flow from shard to shard. And a run that
/// is paused begins no step: here its copy is held too, after the chunks that it is at.
#[derive(Debug)]
pub struct Attended {
    host: MoveHost,
    playbook: String,
    inner: Arc<dyn Observer>,
}

impl Attended {
    /// For the runs of the host's move.
    pub fn new(host: MoveHost, inner: Arc<dyn Observer>) -> Self {
        let playbook = ShardMigration::name_of(host.spec());
        Self { host, playbook, inner }
    }
}

impl Observer for Attended {
    fn on_event(&self, run: &RunInfo, event: &Event) {
        if run.playbook == self.playbook {
            match event.record() {
                Some(Record::TakenOver { .. }) => self.host.begin(MoveJob::Follow),
                Some(Record::Controlled { control: Control::Pause, .. }) => self.host.pause(),
                Some(Record::Controlled { control: Control::Resume, .. } | Record::Ended { .. }) => {
                    self.host.resume();
                }
                _ => {}
            }
        }
        self.inner.on_event(run, event);
    }
}
