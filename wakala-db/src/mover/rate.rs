//! How fast a copy may go, as long as it goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Slower than this, a chunk would hold its snapshot for too long.
const SLOWEST: u64 = 64 << 10;
const UNLIMITED: u64 = u64::MAX;

/// The most bytes a second that a copy may take; clones share it, and it can be changed while a copy goes on.
#[derive(Clone, Debug)]
pub struct CopyRate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: AtomicU64,
    /// When what was spent is paid off.
    paid: Mutex<Option<Instant>>,
}

impl CopyRate {
    /// A rate; unlimited where it is `None`.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let rate = Self(Arc::new(Shared { limit: AtomicU64::new(UNLIMITED), paid: Mutex::new(None) }));
        rate.set(bytes_per_second);
        rate
    }

    /// Changes it; at least 64 KiB/s.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        let limit = bytes_per_second.map_or(UNLIMITED, |limit| limit.max(SLOWEST));
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// What it is; `None` where it is unlimited.
    pub fn bytes_per_second(&self) -> Option<u64> {
        Some(self.0.limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// How long to wait after so many bytes more.
    pub(super) fn spend(&self, bytes: u64) -> Option<Duration> {
        let limit = self.bytes_per_second()?;
        let now = Instant::now();
        let mut paid = self.0.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let due =
            paid.map_or(now, |paid| paid.max(now)) + Duration::from_secs_f64(bytes as f64 / limit as f64);
        *paid = Some(due);
        due.checked_duration_since(now)
    }
}

impl Default for CopyRate {
    /// Unlimited.
    fn default() -> Self {
        Self::new(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_waited_for_and_a_new_limit_counts_from_now_on() {
        let rate = CopyRate::new(Some(1 << 20));
        let first = rate.spend(1 << 20).unwrap();
        assert!(first > Duration::from_millis(900) && first <= Duration::from_secs(1), "{first:?}");
        let second = rate.spend(1 << 20).unwrap();
        assert!(second > Duration::from_millis(1900) && second <= Duration::from_secs(2), "{second:?}");
        rate.set(None);
        assert_eq!(rate.spend(1 << 30), None);
        rate.clone().set(Some(1));
        assert_eq!(rate.bytes_per_second(), Some(SLOWEST));
    }
}
