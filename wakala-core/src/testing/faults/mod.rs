//! Faults: wrappers that make the calls of a real or fake thing fail in each of the ways in which infrastructure does.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::testing::lock;
use crate::{Error, ErrorKind, Result, Retry};

mod metrics;
mod step;
mod store;
mod target;

pub use metrics::FaultyMetrics;
pub use step::FaultyStep;
pub use store::FaultyStore;
pub use target::FaultyTarget;

/// A way in which one call fails.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused for now, certainly without effect; may be repeated, after `after` where the provider says so.
    Retryable {
        /// The provider's hint.
        after: Option<Duration>,
    },
    /// Refused for good, certainly without effect.
    Rejected,
    /// The effect happened, and the answer was lost.
    AnswerLost,
    /// The request was lost, and the caller cannot know that.
    RequestLost,
    /// No answer ever comes, and there is no effect.
    Hang,
    /// The effect happened, and no answer ever comes.
    HangAfterEffect,
}

impl Fault {
    /// Each way once, the retryable one without hint.
    pub const ALL: [Self; 6] = [
        Self::Retryable { after: None },
        Self::Rejected,
        Self::AnswerLost,
        Self::RequestLost,
        Self::Hang,
        Self::HangAfterEffect,
    ];

    /// Whether the call has its effect nevertheless.
    pub fn has_effect(self) -> bool {
        matches!(self, Self::AnswerLost | Self::HangAfterEffect)
    }
}

/// Which calls fail, and how. Methods go by their names in the trait.
///
/// Clones are the same script: one goes into a wrapper, the other stays with the test, which asks it whether the fault
/// was [reached](Self::reached). A fault that no call meets proves nothing.
///
/// ```
/// # use wakala_core::testing::{Fault, Faults, FaultyTarget, FakeTarget, context};
/// # use wakala_core::{Retry, ScalableTarget, Units};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let api = FakeTarget::new("api", 10);
/// let faults = Faults::new().on("set_desired", 1, Fault::AnswerLost);
/// let faulty = FaultyTarget::new(api.clone(), &faults);
///
/// let error = faulty.set_desired(&context().1, Units(50), Default::default()).await.unwrap_err();
/// assert_eq!(error.retry(), Retry::ObserveFirst);
/// assert_eq!(api.size(), Units(50));
/// assert!(faults.reached());
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    calls: BTreeMap<&'static str, u64>,
    planned: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    method: &'static str,
    first: u64,
    last: u64,
    fault: Fault,
    met: bool,
}

impl Faults {
    /// No call fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// The `nth` call of `method`, counted from 1, fails so.
    #[must_use]
    pub fn on(self, method: &'static str, nth: u64, fault: Fault) -> Self {
        self.plan(method, nth, nth, fault)
    }

    /// The `nth` call of `method`, counted from 1, and all later ones fail so.
    #[must_use]
    pub fn from(self, method: &'static str, nth: u64, fault: Fault) -> Self {
        self.plan(method, nth, u64::MAX, fault)
    }

    fn plan(self, method: &'static str, first: u64, last: u64, fault: Fault) -> Self {
        lock(&self.state).planned.push(Planned { method, first, last, fault, met: false });
        self
    }

    /// Takes all faults away; calls stay counted.
    pub fn clear(&self) {
        lock(&self.state).planned.clear();
    }

    /// How often `method` was called.
    pub fn calls(&self, method: &str) -> u64 {
        lock(&self.state).calls.get(method).copied().unwrap_or(0)
    }

    /// Whether every planned fault was met by a call.
    pub fn reached(&self) -> bool {
        lock(&self.state).planned.iter().all(|planned| planned.met)
    }

    fn next(&self, method: &'static str) -> Option<Fault> {
        let mut state = lock(&self.state);
        let State { calls, planned } = &mut *state;
        let count = calls.entry(method).or_default();
        *count += 1;
        let planned = planned
            .iter_mut()
            .find(|planned| planned.method == method && (planned.first..=planned.last).contains(count))?;
        planned.met = true;
        Some(planned.fault)
    }

    /// Makes one call, or fails it.
    async fn call<T>(
        &self,
        method: &'static str,
        subject: &str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let Some(fault) = self.next(method) else { return call.await };
        if fault.has_effect() {
            // Where the call itself fails, its own answer is the truth.
            call.await?;
        }
        let error = |kind, message| Error::new(kind, method, message).on(subject);
        Err(match fault {
            Fault::Retryable { after } => {
                error(ErrorKind::RateLimited, "injected: too many requests").with_retry(Retry::Safe { after })
            }
            Fault::Rejected => error(ErrorKind::Denied, "injected: refused").with_retry(Retry::Never),
            Fault::AnswerLost | Fault::RequestLost => {
                error(ErrorKind::Unavailable, "injected: the connection broke before the answer")
                    .with_retry(Retry::ObserveFirst)
            }
            Fault::Hang | Fault::HangAfterEffect => pending().await,
        })
    }
}
