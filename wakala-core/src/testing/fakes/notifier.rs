//! A notifier that keeps what it was told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::testing::lock;
use crate::{Error, Notification, Notifier, Result, RunContext};

/// A notifier that keeps what it was told. Clones are the same notifier.
#[derive(Clone, Debug, Default)]
pub struct FakeNotifier(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sent: Vec<Notification>,
    failing: VecDeque<Error>,
}

impl FakeNotifier {
    /// A notifier that has been told nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it was told, in order, without what failed.
    pub fn sent(&self) -> Vec<Notification> {
        lock(&self.0).sent.clone()
    }

    /// The next message is lost with this error. Further calls queue up.
    pub fn fail_next(&self, error: Error) {
        lock(&self.0).failing.push_back(error);
    }
}

#[async_trait]
impl Notifier for FakeNotifier {
    fn destination(&self) -> String {
        "fake notifier".to_owned()
    }

    async fn notify(&self, _: &RunContext, notification: &Notification) -> Result<()> {
        let mut state = lock(&self.0);
        if let Some(error) = state.failing.pop_front() {
            return Err(error);
        }
        state.sent.push(notification.clone());
        Ok(())
    }
}
