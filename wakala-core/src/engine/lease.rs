//! Keeps the lease of a run that this process drives.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::interpreter::{CALL_LIMIT, Interpreter};
use crate::{Error, ErrorKind, Result};

/// Until when the lease lasts, on this process's monotonic clock: a lower bound of what the store says.
#[derive(Debug)]
pub(super) struct LeaseKeeper {
    good_until: Mutex<Duration>,
}

impl LeaseKeeper {
    /// A lease that was asked for at `asked_at`.
    pub(super) fn new(asked_at: Duration, ttl: Duration) -> Self {
        Self { good_until: Mutex::new(asked_at + ttl) }
    }

    fn good_until(&self) -> Duration {
        *self.good_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Duration) {
        let mut good_until = self.good_until.lock().unwrap_or_else(PoisonError::into_inner);
        *good_until = until.max(*good_until);
    }
}

impl Interpreter<'_> {
    /// Renews the lease for as long as it is polled.
    pub(super) async fn keep_lease(&self) {
        loop {
            self.engine.clock.sleep(self.engine.lease / 3).await;
            // A store that does not answer is found out by whoever writes next, or needs the lease.
            let _ = self.renew().await;
            if self.journal.is_fenced() {
                return std::future::pending().await;
            }
        }
    }

    /// Makes sure that the lease lasts for one more call: an effect that may outlast the lease could meet one of the
    /// next owner.
    pub(super) async fn ensure_lease(&self) -> Result<()> {
        if self.journal.is_fenced() {
            return Err(self.journal.taken_over());
        }
        let budget = CALL_LIMIT.min(self.engine.lease / 2);
        if self.lease.good_until() >= self.engine.clock.monotonic() + budget {
            return Ok(());
        }
        self.renew().await.map_err(|error| {
            if self.journal.is_fenced() {
                return self.journal.taken_over().with_source(error);
            }
            let message = "the run's lease cannot be renewed, so nothing more is done";
            Error::new(ErrorKind::Unavailable, "renew", message)
                .on(format!("run {}", self.journal.run))
                .with_source(error)
        })
    }

    async fn renew(&self) -> Result<()> {
        let (engine, journal) = (self.engine, &self.journal);
        let asked_at = engine.clock.monotonic();
        let renew = engine.store.renew(&journal.run, journal.epoch, engine.lease);
        let answer = engine.ask_store("renew", Some(&journal.run), renew).await;
        match &answer {
            Ok(()) => self.lease.extend(asked_at + engine.lease),
            Err(error) if error.kind() == ErrorKind::Conflict => journal.fence(),
            Err(_) => {}
        }
        answer
    }
}
