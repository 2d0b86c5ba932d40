//! Time as a parameter: real in production, virtual in tests and simulations.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

#[cfg(any(feature = "testing", feature = "sim", test))]
mod manual;
#[cfg(any(feature = "testing", feature = "sim", test))]
pub use manual::ManualClock;

/// Where all of wakala takes the time from.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall time: for windows, ages of samples and records. It may jump when the host's clock is set.
    fn now(&self) -> SystemTime;

    /// Time since some fixed start that never goes back: for deadlines and rates.
    fn monotonic(&self) -> Duration;

    /// Returns once `duration` has passed on [`monotonic`](Self::monotonic). May be dropped at any time.
    async fn sleep(&self, duration: Duration);
}

/// The host's clock.
///
/// Sleeping and [`monotonic`](Clock::monotonic) use tokio's timer, so both follow `tokio::time::pause`.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// The host's clock, with [`monotonic`](Clock::monotonic) counting from now.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Awaits `future` for at most `limit` on `clock`; `None` once the limit has passed, with the future dropped.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock.sleep(limit) => None,
    }
}
