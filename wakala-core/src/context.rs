//! What a call knows about the run that it belongs to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::event::{Event, Notice, Observer, RunInfo, Silent};
use crate::limits::Limits;
use crate::{Clock, Error, ErrorKind, Floor, ResourceKey, Result, RunId, StepId, SystemClock, Units};

/// Which half of a step a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reading for a plan.
    Plan,
    /// Doing what the plan says.
    Apply,
    /// Taking it back.
    Undo,
}

/// Passed to every call of a step, target, source or guard: the run's name, time, deadline, cancellation, progress.
///
/// Owned and cheap to clone; it has no lifetime, so mocks can take it. It carries the run, not a bag of services:
/// steps are given their targets when they are made.
#[derive(Clone, Debug)]
pub struct RunContext {
    shared: Arc<Shared>,
    step: StepId,
    phase: Phase,
    attempt: u32,
    deadline: Option<Duration>,
    handle: Option<Arc<str>>,
    baseline: Option<f64>,
    cancel: CancellationToken,
}

#[derive(Clone, Debug)]
struct Shared {
    run: RunInfo,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    limits: Arc<Limits>,
    inherited: Arc<BTreeMap<ResourceKey, Units>>,
}

impl RunContext {
    /// A context outside of any step, with no deadline.
    pub fn new(run_id: RunId, clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                run: RunInfo { id: run_id, playbook: String::new() },
                clock,
                observer: Arc::new(Silent),
                limits: Arc::default(),
                inherited: Arc::default(),
            }),
            step: StepId::from(""),
            phase: Phase::Plan,
            attempt: 1,
            deadline: None,
            handle: None,
            baseline: None,
            cancel: CancellationToken::new(),
        }
    }

    /// A context for calls outside of a run, on the host's clock: a health check, a one-off `scale_to`.
    pub fn detached() -> Self {
        Self::new(RunId::generate(), Arc::new(SystemClock::new()))
    }

    /// The same run, with progress reported to `observer`.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.shared = Arc::new(Shared { observer, ..Shared::clone(&self.shared) });
        self
    }

    /// The same run, as one of that playbook.
    #[must_use]
    pub(crate) fn of_playbook(mut self, playbook: &str) -> Self {
        let run = RunInfo { id: self.run_id().clone(), playbook: playbook.to_owned() };
        self.shared = Arc::new(Shared { run, ..Shared::clone(&self.shared) });
        self
    }

    /// The same run, within these floors.
    #[must_use]
    pub(crate) fn with_limits(mut self, limits: Limits) -> Self {
        self.shared = Arc::new(Shared { limits: Arc::new(limits), ..Shared::clone(&self.shared) });
        self
    }

    /// The same run, with the sizes that unfinished runs started from.
    #[must_use]
    pub(crate) fn with_inherited(mut self, inherited: BTreeMap<ResourceKey, Units>) -> Self {
        self.shared = Arc::new(Shared { inherited: Arc::new(inherited), ..Shared::clone(&self.shared) });
        self
    }

    /// The same, with what a guard found while the plan was made.
    #[must_use]
    pub(crate) fn with_baseline(mut self, baseline: Option<f64>) -> Self {
        self.baseline = baseline;
        self
    }

    /// The same run, ended early by `cancel`.
    #[must_use]
    pub fn with_cancellation(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The context of one attempt at one step. Deadline and handle of another step do not carry over.
    #[must_use]
    pub fn for_step(&self, step: &StepId, phase: Phase, attempt: u32) -> Self {
        Self { step: step.clone(), phase, attempt, deadline: None, handle: None, ..self.clone() }
    }

    /// The same step at a later attempt, with its deadline and handle.
    #[must_use]
    pub(crate) fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The same, ending at the latest `limit` from now. A deadline that is already nearer stays.
    #[must_use]
    pub fn with_deadline(mut self, limit: Duration) -> Self {
        let deadline = self.shared.clock.monotonic() + limit;
        self.deadline = Some(self.deadline.map_or(deadline, |nearer| nearer.min(deadline)));
        self
    }

    /// The same, with the provider's handle of the operation that `apply` started.
    #[must_use]
    pub fn with_handle(mut self, handle: Option<Arc<str>>) -> Self {
        self.handle = handle;
        self
    }

    /// The run.
    pub fn run_id(&self) -> &RunId {
        &self.shared.run.id
    }

    /// The step that the call belongs to; empty outside of steps.
    pub fn step(&self) -> &StepId {
        &self.step
    }

    /// Whether the call plans, applies or undoes.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Counts attempts at the same effect, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The provider's handle of the operation that `apply` started, as recorded by the run.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// What the guard that is asked found when the run was planned. See [`Guard::calibrate`](crate::Guard::calibrate).
    pub fn baseline(&self) -> Option<f64> {
        self.baseline
    }

    /// While planning: the size that a run which is not at its end found `resource` at, before it began to change it.
    ///
    /// What is planned now starts from there too, so that "as it was" keeps meaning the original.
    pub fn inherited(&self, resource: &ResourceKey) -> Option<Units> {
        self.shared.inherited.get(resource).copied()
    }

    /// The run's floor of `resource`, where it has one.
    pub fn floor(&self, resource: &ResourceKey) -> Option<Floor> {
        self.shared.limits.floor(resource)
    }

    /// Fails where the run must not take `resource` from one size to another now. For authors of targets: to be asked
    /// before each write, since this is what no step can get around. What is permitted counts as taken away.
    ///
    /// # Errors
    /// `Denied` below the floor or for more at once than is ever allowed; `RateLimited`, with the time to wait, for too
    /// much within a time. Nothing was written then.
    pub fn permit(&self, resource: &ResourceKey, from: Units, to: Units) -> Result<()> {
        self.shared.limits.permit(resource, from, to, self.shared.clock.monotonic())
    }

    /// The clock of the run.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Time left until the deadline; `None` where there is none.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub(self.shared.clock.monotonic()))
    }

    /// The token that ends the run early.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// A key of 32 hexadecimal digits for the provider's idempotency token.
    ///
    /// The same for every attempt at the same half of the same step with the same `request`, in this process or
    /// another; different as soon as any of them differs. Providers answer a known token with other parameters by an
    /// error, so pass what the request asks for.
    pub fn idempotency_key(&self, request: &str) -> String {
        let mut hash = Sha256::new();
        for part in [
            self.run_id().as_str(),
            self.step.as_str(),
            if self.phase == Phase::Undo { "undo" } else { "do" },
            request,
        ] {
            // The length first, so that no two lists of parts give the same bytes.
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let mut key = String::with_capacity(32);
        for byte in &hash.finalize()[..16] {
            let _ = write!(key, "{byte:02x}");
        }
        key
    }

    /// Tells whoever watches how far the step is; `done` and `total` in units of the step's own.
    pub fn progress(&self, done: u64, total: u64, note: impl Into<String>) {
        let notice = Notice::Progress { step: self.step.clone(), done, total, note: note.into() };
        self.notice(notice);
    }

    pub(crate) fn notice(&self, notice: Notice) {
        self.shared
            .observer
            .on_event(&self.shared.run, &Event::Notice { at: self.shared.clock.now(), notice });
    }

    /// Fails where the run was cancelled or the deadline has passed: for between the parts of long work.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(
                Error::new(ErrorKind::Cancelled, "run", "the run was cancelled").on(self.step.as_str())
            );
        }
        if self.time_left() == Some(Duration::ZERO) {
            return Err(Error::new(ErrorKind::DeadlineExceeded, "run", "the step's deadline has passed")
                .on(self.step.as_str()));
        }
        Ok(())
    }

    /// Sleeps on the run's clock; ends early on cancellation and at the deadline.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`, where that came first.
    pub async fn sleep(&self, duration: Duration) -> Result<()> {
        self.check()?;
        let nap = self.time_left().map_or(duration, |left| left.min(duration));
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => {}
            () = self.shared.clock.sleep(nap) => {}
        }
        self.check()
    }

    /// When a window of that length, which ends now, began.
    pub fn window_begin(&self, window: Duration) -> SystemTime {
        self.clock().now().checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Awaits `future`, at most until cancellation or the deadline; for reads, since the future is then dropped.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`, where that came first.
    pub async fn until<T>(&self, future: impl Future<Output = T> + Send) -> Result<T> {
        self.check()?;
        let limit = async {
            match self.time_left() {
                Some(left) => self.shared.clock.sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            value = future => return Ok(value),
            () = self.cancel.cancelled() => {}
            () = limit => {}
        }
        Err(self.check().err().unwrap_or_else(|| {
            Error::new(ErrorKind::DeadlineExceeded, "run", "the step's deadline has passed")
                .on(self.step.as_str())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    fn context() -> (ManualClock, RunContext) {
        let clock = ManualClock::default();
        (clock.clone(), RunContext::new("run-1".into(), Arc::new(clock)))
    }

    #[test]
    fn idempotency_key_is_the_same_for_attempts_and_differs_otherwise() {
        let cx = context().1;
        let key = |step: &str, phase, attempt, request: &str| {
            cx.for_step(&step.into(), phase, attempt).idempotency_key(request)
        };
        let first = key("nodes", Phase::Apply, 1, "30");
        assert_eq!(first.len(), 32);
        assert_eq!(first, key("nodes", Phase::Apply, 2, "30"));
        for other in [
            key("nodes", Phase::Undo, 1, "30"),
            key("nodes", Phase::Apply, 1, "31"),
            key("nodes3", Phase::Apply, 1, "0"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[tokio::test]
    async fn sleep_ends_at_the_deadline() {
        let (clock, cx) = context();
        let cx = cx.with_deadline(Duration::from_secs(5)).with_deadline(Duration::from_secs(60));
        let error = clock.run(cx.sleep(Duration::from_secs(30))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn cancellation_ends_sleep_and_until() {
        let (clock, cx) = context();
        cx.cancellation().cancel();
        assert_eq!(
            clock.run(cx.sleep(Duration::from_secs(30))).await.unwrap_err().kind(),
            ErrorKind::Cancelled
        );
        assert_eq!(cx.until(std::future::pending::<()>()).await.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
