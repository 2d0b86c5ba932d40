//! How a stored lease stands at a moment.

use std::time::{Duration, SystemTime};

use super::presence::Presence;
use crate::store::LeaseState;

/// A lease as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) owner: String,
    /// The [presence](Presence) of the store that took or renewed it last.
    pub(super) process: String,
    /// When, in milliseconds since 1970.
    pub(super) renewed: i64,
    /// For how many milliseconds.
    pub(super) ttl: i64,
}

impl Stored {
    pub(super) fn state(self, now: SystemTime, presence: &Presence) -> LeaseState {
        match left(self.renewed, self.ttl, millis_since_1970(now)) {
            Some(left) if presence.alive(&self.process) => LeaseState::Held { owner: self.owner, left },
            _ => LeaseState::Lapsed { owner: self.owner },
        }
    }
}

/// How long a lease lasts from now; `None` where it has lapsed, or was taken farther in the future than it lasts: the
/// clock was set back since. A little back is no reason to part an owner from its run.
fn left(renewed: i64, ttl: i64, now: i64) -> Option<Duration> {
    let age = now.saturating_sub(renewed);
    let lasts = age < ttl && age > ttl.saturating_neg();
    let left = ttl.saturating_sub(age).min(ttl);
    lasts.then(|| Duration::from_millis(left.unsigned_abs()))
}

pub(super) fn millis_since_1970(time: SystemTime) -> i64 {
    millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Rounded down, at most some hundred million years.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_for_its_time() {
        let left = |now| left(10_000, 1_000, now).map(|left| left.as_millis());
        assert_eq!(left(10_000), Some(1_000));
        assert_eq!(left(10_999), Some(1));
        assert_eq!(left(11_000), None);
        assert_eq!(left(i64::MAX), None);
        // The clock was set back: never longer than its time from now, and not at all from long before.
        assert_eq!(left(9_999), Some(1_000));
        assert_eq!(left(9_001), Some(1_000));
        assert_eq!(left(9_000), None);
        assert_eq!(left(0), None);
    }

    #[test]
    fn extremes_do_not_overflow() {
        for renewed in [i64::MIN, 0, i64::MAX] {
            for ttl in [i64::MIN, 0, i64::MAX] {
                for now in [i64::MIN, 0, i64::MAX] {
                    assert!(
                        left(renewed, ttl, now)
                            .is_none_or(|left| left.as_millis() <= ttl.unsigned_abs().into())
                    );
                }
            }
        }
        assert_eq!(millis(Duration::MAX), i64::MAX);
    }
}
