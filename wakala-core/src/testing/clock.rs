//! A clock for tests under tokio's paused time.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::Clock;

/// A clock whose wall time, too, follows tokio's timer: for `#[tokio::test(start_paused = true)]`.
///
/// [`SystemClock`](crate::SystemClock) sleeps on tokio's timer but reads the host's wall time, which stands still
/// while paused time jumps: samples would never grow old. Unlike [`ManualClock`](crate::ManualClock) this one also
/// serves spawned tasks; unlike it, it shares the runtime's time with everything else in the test.
#[derive(Clone, Debug)]
pub struct PausedClock {
    epoch: SystemTime,
    start: Instant,
}

impl PausedClock {
    /// Shows `epoch` now, and moves on with tokio's timer.
    pub fn new(epoch: SystemTime) -> Self {
        Self { epoch, start: Instant::now() }
    }
}

impl Default for PausedClock {
    /// Starts on 2026-01-01T00:00:00Z.
    fn default() -> Self {
        Self::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }
}

#[async_trait]
impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        self.epoch + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
