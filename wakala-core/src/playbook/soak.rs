//! Watching: guards that are asked again and again, after a change or all the time.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Guard, StepId};

/// How often guards are asked, and how much of each verdict other than pass is borne.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardLimits {
    /// How often the guards are asked.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How many failures in a row are one too many.
    pub fail_limit: u32,
    /// How long guards may lack the data for a verdict, in all.
    #[serde(with = "humantime_serde")]
    pub inconclusive_limit: Duration,
    /// How long their sources may not answer, in all.
    #[serde(with = "humantime_serde")]
    pub source_error_limit: Duration,
}

impl Default for GuardLimits {
    /// Every 15 seconds; 3 failures in a row; 5 minutes without data; 5 minutes without answer.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            fail_limit: 3,
            inconclusive_limit: Duration::from_secs(300),
            source_error_limit: Duration::from_secs(300),
        }
    }
}

/// A time to watch after a change: guards are asked again and again until samples cover the whole duration.
///
/// Only time for which all guards pass counts, those of the [whole run](Watch) too; a failure begins the count anew.
/// Time that nobody watched is filled in from guards that have a [history](Guard::history), and otherwise does not
/// count. A broken guard ends it once it failed too often in a row; guards without verdict end it after a while.
#[derive(Clone, Debug)]
pub struct Soak {
    pub(crate) id: StepId,
    pub(crate) guards: Vec<Arc<dyn Guard>>,
    pub(crate) timing: SoakTiming,
}

/// The times and limits of a [`Soak`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoakTiming {
    /// The time to cover.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// How long after the change failures do not count, since metrics still show the time before it.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How long the soak may take in all.
    #[serde(with = "humantime_serde")]
    pub at_most: Duration,
    /// How much is borne.
    #[serde(flatten)]
    pub limits: GuardLimits,
}

impl Soak {
    /// Covers `duration`; gives a minute of grace and takes thrice the duration, at least a quarter of an hour, at most.
    pub fn new(id: impl Into<StepId>, duration: Duration) -> Self {
        let at_most = duration.saturating_mul(3).max(Duration::from_secs(900));
        let (grace, limits) = (Duration::from_secs(60), GuardLimits::default());
        Self { id: id.into(), guards: Vec::new(), timing: SoakTiming { duration, grace, at_most, limits } }
    }

    /// Adds a guard.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Guard) -> Self {
        self.guards.push(Arc::new(guard));
        self
    }

    /// Adds guards that are shared.
    #[must_use]
    pub fn with_guards(mut self, guards: impl IntoIterator<Item = Arc<dyn Guard>>) -> Self {
        self.guards.extend(guards);
        self
    }

    /// How long failures do not count.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.timing.grace = grace;
        self
    }

    /// How long the soak may take in all.
    #[must_use]
    pub fn with_at_most(mut self, at_most: Duration) -> Self {
        self.timing.at_most = at_most;
        self
    }

    /// How often the guards are asked.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.timing.limits.interval = interval;
        self
    }

    /// How many failures in a row end the soak.
    #[must_use]
    pub fn with_fail_limit(mut self, fail_limit: u32) -> Self {
        self.timing.limits.fail_limit = fail_limit;
        self
    }

    /// How long guards may lack the data for a verdict, in all.
    #[must_use]
    pub fn with_inconclusive_limit(mut self, limit: Duration) -> Self {
        self.timing.limits.inconclusive_limit = limit;
        self
    }

    /// How long the sources of guards may not answer, in all.
    #[must_use]
    pub fn with_source_error_limit(mut self, limit: Duration) -> Self {
        self.timing.limits.source_error_limit = limit;
        self
    }

    /// How long guards may be without verdict for either reason.
    #[must_use]
    pub fn with_blind_limit(self, limit: Duration) -> Self {
        self.with_inconclusive_limit(limit).with_source_error_limit(limit)
    }
}

/// The guards of a whole run: asked from its first effect to its end, whether it works, waits or is paused.
///
/// Where one of them fails too often in a row, or is without verdict for too long, the run stops where it is and does
/// what its playbook says about [failures](crate::OnFailure).
#[derive(Clone, Debug)]
pub struct Watch {
    pub(crate) guards: Vec<Arc<dyn Guard>>,
    pub(crate) limits: GuardLimits,
    pub(crate) must_hold_before: bool,
}

impl Watch {
    /// Watches `guard`. It need not hold before the run: in an emergency it does not.
    pub fn new(guard: impl Guard) -> Self {
        Self::shared([Arc::new(guard) as _])
    }

    /// Watches guards that are shared.
    pub fn shared(guards: impl IntoIterator<Item = Arc<dyn Guard>>) -> Self {
        let (guards, limits) = (guards.into_iter().collect(), GuardLimits::default());
        Self { guards, limits, must_hold_before: false }
    }

    /// Refuses the plan where a guard fails while it is made: what is not well beforehand is not made smaller.
    #[must_use]
    pub fn must_hold_before(mut self) -> Self {
        self.must_hold_before = true;
        self
    }

    /// How much is borne.
    #[must_use]
    pub fn with_limits(mut self, limits: GuardLimits) -> Self {
        self.limits = limits;
        self
    }
}

impl GuardLimits {
    /// How often the guards are asked.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How many failures in a row are one too many.
    #[must_use]
    pub fn with_fail_limit(mut self, fail_limit: u32) -> Self {
        self.fail_limit = fail_limit;
        self
    }

    /// How long guards may lack the data for a verdict, in all.
    #[must_use]
    pub fn with_inconclusive_limit(mut self, limit: Duration) -> Self {
        self.inconclusive_limit = limit;
        self
    }

    /// How long their sources may not answer, in all.
    #[must_use]
    pub fn with_source_error_limit(mut self, limit: Duration) -> Self {
        self.source_error_limit = limit;
        self
    }
}
