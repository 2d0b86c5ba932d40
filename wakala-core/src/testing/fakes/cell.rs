//! What the writable fakes share: one value with a version, a record of writes, scripted failures.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use crate::{Error, ErrorKind, Phase, Result, Retry, RunContext, StepId, Version};

/// One write that reached a fake, whether or not the caller got its answer.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<V> {
    /// The value that was asked for.
    pub value: V,
    /// Whether it changed the fake: a write of what was there already does not, nor does a refused one.
    pub changed: bool,
    /// The step that the call belongs to.
    pub step: StepId,
    /// The half of the step.
    pub phase: Phase,
    /// The attempt.
    pub attempt: u32,
    /// When it arrived, by the context's clock.
    pub at: SystemTime,
    /// [`RunContext::idempotency_key`] for the value's `Debug` form.
    pub key: String,
}

#[derive(Debug)]
pub(super) struct Cell<V> {
    pub(super) value: V,
    version: u64,
    pub(super) versioned: bool,
    pub(super) writes: Vec<Write<V>>,
    pub(super) reads: u64,
    failing_reads: VecDeque<Error>,
    failing_writes: VecDeque<FailingWrite>,
}

#[derive(Debug)]
struct FailingWrite {
    error: Error,
    with_effect: bool,
}

impl<V: Clone + Debug + PartialEq> Cell<V> {
    pub(super) fn new(value: V) -> Self {
        Self {
            value,
            version: 1,
            versioned: true,
            writes: Vec::new(),
            reads: 0,
            failing_reads: VecDeque::new(),
            failing_writes: VecDeque::new(),
        }
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.versioned.then(|| Version::from(self.version.to_string()))
    }

    pub(super) fn read(&mut self) -> Result<()> {
        self.reads += 1;
        self.failing_reads.pop_front().map_or(Ok(()), Err)
    }

    /// Writes as a provider does: checks the version, changes only what differs, then may lose the answer.
    pub(super) fn write(
        &mut self,
        cx: &RunContext,
        value: &V,
        expected: Option<&Version>,
        operation: &'static str,
        subject: &str,
    ) -> Result<bool> {
        let failing = self.failing_writes.pop_front();
        let reaches = failing.as_ref().is_none_or(|failing| failing.with_effect);
        let stale = expected.is_some() && expected != self.version().as_ref();
        let changed = reaches && !stale && self.value != *value;
        self.writes.push(Write {
            value: value.clone(),
            changed,
            step: cx.step().clone(),
            phase: cx.phase(),
            attempt: cx.attempt(),
            at: cx.clock().now(),
            key: cx.idempotency_key(&format!("{value:?}")),
        });
        if changed {
            self.set(value.clone());
        }
        match failing {
            Some(failing) => Err(failing.error),
            None if stale => {
                Err(Error::new(ErrorKind::Conflict, operation, "its version is another one by now")
                    .on(subject))
            }
            None => Ok(changed),
        }
    }

    pub(super) fn set(&mut self, value: V) {
        self.value = value;
        self.version += 1;
    }

    pub(super) fn fail_next_read(&mut self, error: Error) {
        self.failing_reads.push_back(error);
    }

    pub(super) fn fail_next(&mut self, error: Error) {
        self.failing_writes.push_back(FailingWrite { error, with_effect: false });
    }

    pub(super) fn lose_next_answer(&mut self, operation: &'static str, subject: &str) {
        let error = Error::new(ErrorKind::Unavailable, operation, "the connection broke before the answer")
            .on(subject)
            .with_retry(Retry::ObserveFirst);
        self.failing_writes.push_back(FailingWrite { error, with_effect: true });
    }
}

/// The time from `then` to `now`; zero where the clock was set back.
pub(super) fn since(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}
