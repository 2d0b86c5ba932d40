//! How the providers of a world are called: time passes, faults strike, then the effect.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::faults::{CallFailure, CallKind};
use super::state::State;
use crate::{Clock, Error, ErrorKind, ManualClock, Result, RunContext, Version};

/// What all handles of one world share.
pub(super) struct Shared {
    pub(super) clock: ManualClock,
    /// What the clock showed when the world began.
    pub(super) start: Duration,
    pub(super) epoch: SystemTime,
    pub(super) namespace: String,
    pub(super) call_latency: Duration,
    pub(super) call_timeout: Duration,
    pub(super) scrape_interval: u64,
    state: Mutex<State>,
}

/// One call of a provider.
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    /// As the builder knows it.
    pub(super) object: &'a str,
    /// As a person would name it.
    pub(super) subject: String,
    pub(super) kind: CallKind,
}

impl Shared {
    pub(super) fn new(
        clock: ManualClock,
        namespace: String,
        call_latency: Duration,
        call_timeout: Duration,
        scrape_interval: u64,
        state: State,
    ) -> Self {
        let (start, epoch) = (clock.monotonic(), clock.now());
        let state = Mutex::new(state);
        Self { clock, start, epoch, namespace, call_latency, call_timeout, scrape_interval, state }
    }

    /// The world as it is now, after every second that has passed since somebody last looked.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of the simulator; the test that meets it shall see that and no poison.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock.monotonic() - self.start).as_secs();
        state.advance(now);
        state
    }

    /// Makes one call: it takes its time, fails where a fault wants it, and else has its effect.
    pub(super) async fn call<T: Send>(
        &self,
        cx: &RunContext,
        call: Call<'_>,
        effect: impl FnOnce(&mut State) -> Result<T> + Send,
    ) -> Result<T> {
        let latency = {
            let state = self.state();
            self.call_latency + state.faults.call_latency(state.second)
        };
        cx.sleep(latency).await?;
        let failure = {
            let mut state = self.state();
            let now = state.second;
            match state.faults.verdict(now, call.object, call.kind) {
                None => return effect(&mut state).map_err(|error| named(error, call.subject)),
                Some(CallFailure::TimeoutAfterEffect) => {
                    effect(&mut state).map_err(|error| named(error, call.subject.clone()))?;
                    CallFailure::TimeoutAfterEffect
                }
                Some(failure) => failure,
            }
        };
        if failure.is_slow() {
            // On the clock and not on the context: a request that is out is not called back by a stop.
            self.clock.sleep(self.call_timeout).await;
        }
        Err(failure.error(call.operation).on(call.subject))
    }

    /// As a person would name a workload, whether there is one or not.
    pub(super) fn workload_id(&self, name: &str) -> String {
        let state = self.state();
        match state.workload_index(name) {
            Some(index) => state.workloads[index].id.clone(),
            None => format!("deployment {}/{name}", self.namespace),
        }
    }
}

fn named(error: Error, subject: String) -> Error {
    if error.subject().is_empty() { error.on(subject) } else { error }
}

/// Fails where the object no longer has the version that the caller has read.
pub(super) fn check_version(expected: Option<&Version>, now: u64, operation: &'static str) -> Result<()> {
    match expected {
        Some(expected) if expected.as_str() != now.to_string() => Err(Error::new(
            ErrorKind::Conflict,
            operation,
            format!("it was changed since it was read at version {expected}; read it again"),
        )),
        _ => Ok(()),
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("World").field("second", &state.second).finish_non_exhaustive()
    }
}
