//! What goes wrong, and when.

use std::time::Duration;

use super::nodes::Blocked;
use crate::{Error, ErrorKind, Retry};

/// Something that goes wrong in the simulated production.
///
/// Objects are named as they were given to the builder: the writes of `wakala-api` are those of its replicas, its
/// environment and its autoscaler.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Every call of every provider fails: `Unavailable`, without effect.
    ApiOutage {
        /// For how long.
        lasting: Duration,
    },
    /// Every call of every provider takes so much longer.
    CallLatency {
        /// By how much.
        latency: Duration,
        /// For how long.
        lasting: Duration,
    },
    /// Ready pods fall over and start again where they are.
    Crash {
        /// Whose pods.
        workload: String,
        /// How many.
        pods: u32,
    },
    /// Queries take longer by that factor.
    DatabaseSlow {
        /// The factor.
        factor: f64,
        /// For how long.
        lasting: Duration,
    },
    /// The image cannot be pulled: pods that are not ready yet do not get ready.
    ImageBroken {
        /// Whose pods.
        workload: String,
        /// For how long.
        lasting: Duration,
    },
    /// The metrics source cannot be asked.
    MetricsFailing {
        /// For how long.
        lasting: Duration,
    },
    /// The metrics source keeps answering with its last samples.
    MetricsFrozen {
        /// For how long.
        lasting: Duration,
    },
    /// The metrics source has no data.
    MetricsGone {
        /// Of which metric; of all where it is `None`.
        metric: Option<String>,
        /// For how long.
        lasting: Duration,
    },
    /// Only this share of those asked contributes to a sample.
    MetricsPartial {
        /// How many of a hundred answer.
        percent: u32,
        /// For how long.
        lasting: Duration,
    },
    /// Nodes die; the pool replaces them.
    NodesLost {
        /// Whose nodes.
        pool: String,
        /// How many.
        nodes: u32,
    },
    /// The provider has no machines: no node comes, and the pool says so.
    NodesOutOfCapacity {
        /// Whose nodes.
        pool: String,
        /// For how long.
        lasting: Duration,
    },
    /// No node gets ready, and nothing says why.
    NodesStuck {
        /// Whose nodes.
        pool: String,
        /// For how long.
        lasting: Duration,
    },
    /// The next reads of an object fail.
    ReadsFail {
        /// The object.
        object: String,
        /// How they fail.
        failure: CallFailure,
        /// How many of them.
        calls: u32,
    },
    /// Somebody else sets the size of a workload.
    SomebodyScales {
        /// The workload.
        workload: String,
        /// To what.
        replicas: u32,
    },
    /// Requests fail while a workload has too few ready replicas, whatever the load is: something that each of them
    /// holds, and that is lost with them.
    TooFewReplicas {
        /// The workload.
        workload: String,
        /// How many are enough.
        enough: u32,
        /// How many requests of a hundred fail while there are fewer.
        percent: u32,
        /// For how long.
        lasting: Duration,
    },
    /// The next writes of an object fail.
    WritesFail {
        /// The object.
        object: String,
        /// How they fail.
        failure: CallFailure,
        /// How many of them.
        calls: u32,
    },
}

/// How a call fails.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Somebody else changed the object. No effect.
    Conflict,
    /// The caller lacks the permission. No effect; the only failure that a rehearsal shows too.
    Denied,
    /// The provider asks to slow down. No effect.
    RateLimited,
    /// The answer got lost after the call had its effect; the caller learns only that time ran out.
    TimeoutAfterEffect,
    /// The call got lost; the caller learns only that time ran out.
    TimeoutBeforeEffect,
    /// An internal error of the provider. No effect, and the caller cannot know it.
    Unavailable,
}

impl CallFailure {
    pub(super) fn error(self, operation: &'static str) -> Error {
        match self {
            Self::Conflict => {
                Error::new(ErrorKind::Conflict, operation, "changed by somebody else; read it again")
            }
            Self::Denied => Error::new(ErrorKind::Denied, operation, "not permitted; ask for the permission"),
            Self::RateLimited => {
                Error::new(ErrorKind::RateLimited, operation, "too many requests; slow down")
                    .with_retry(Retry::Safe { after: Some(Duration::from_secs(1)) })
            }
            Self::TimeoutAfterEffect | Self::TimeoutBeforeEffect => Error::new(
                ErrorKind::DeadlineExceeded,
                operation,
                "no answer in time; read before you repeat it",
            ),
            Self::Unavailable => {
                Error::new(ErrorKind::Unavailable, operation, "internal error of the provider")
            }
        }
    }

    /// Whether the caller waits for the provider's time-out.
    pub(super) fn is_slow(self) -> bool {
        matches!(self, Self::TimeoutAfterEffect | Self::TimeoutBeforeEffect)
    }
}

impl Fault {
    /// Ready pods fall over and start again.
    pub fn crash(workload: impl Into<String>, pods: u32) -> Self {
        Self::Crash { workload: workload.into(), pods }
    }

    /// Pods that are not ready yet do not get ready.
    pub fn image_broken(workload: impl Into<String>, lasting: Duration) -> Self {
        Self::ImageBroken { workload: workload.into(), lasting }
    }

    /// The metrics source has no data at all.
    pub fn metrics_gone(lasting: Duration) -> Self {
        Self::MetricsGone { metric: None, lasting }
    }

    /// No node comes, and the pool says that there are no machines.
    pub fn nodes_out_of_capacity(pool: impl Into<String>, lasting: Duration) -> Self {
        Self::NodesOutOfCapacity { pool: pool.into(), lasting }
    }

    /// No node gets ready, and nothing says why.
    pub fn nodes_stuck(pool: impl Into<String>, lasting: Duration) -> Self {
        Self::NodesStuck { pool: pool.into(), lasting }
    }

    /// The next `calls` reads of `object` fail.
    pub fn reads_fail(object: impl Into<String>, failure: CallFailure, calls: u32) -> Self {
        Self::ReadsFail { object: object.into(), failure, calls }
    }

    /// Somebody else sets the size of a workload.
    pub fn somebody_scales(workload: impl Into<String>, replicas: u32) -> Self {
        Self::SomebodyScales { workload: workload.into(), replicas }
    }

    /// `percent` of the requests fail while `workload` has fewer than `enough` ready replicas.
    pub fn too_few_replicas(
        workload: impl Into<String>,
        enough: u32,
        percent: u32,
        lasting: Duration,
    ) -> Self {
        Self::TooFewReplicas { workload: workload.into(), enough, percent, lasting }
    }

    /// The next `calls` writes of `object` fail.
    pub fn writes_fail(object: impl Into<String>, failure: CallFailure, calls: u32) -> Self {
        Self::WritesFail { object: object.into(), failure, calls }
    }

    /// The workload or pool that it is about.
    pub(super) fn object(&self) -> Option<&str> {
        match self {
            Self::Crash { workload, .. }
            | Self::ImageBroken { workload, .. }
            | Self::SomebodyScales { workload, .. }
            | Self::TooFewReplicas { workload, .. } => Some(workload),
            Self::NodesLost { pool, .. }
            | Self::NodesOutOfCapacity { pool, .. }
            | Self::NodesStuck { pool, .. } => Some(pool),
            Self::ReadsFail { object, .. } | Self::WritesFail { object, .. } => Some(object),
            _ => None,
        }
    }

    fn lasting(&self) -> Option<Duration> {
        match self {
            Self::ApiOutage { lasting }
            | Self::CallLatency { lasting, .. }
            | Self::DatabaseSlow { lasting, .. }
            | Self::ImageBroken { lasting, .. }
            | Self::MetricsFailing { lasting }
            | Self::MetricsFrozen { lasting }
            | Self::MetricsGone { lasting, .. }
            | Self::MetricsPartial { lasting, .. }
            | Self::NodesOutOfCapacity { lasting, .. }
            | Self::NodesStuck { lasting, .. }
            | Self::TooFewReplicas { lasting, .. } => Some(*lasting),
            _ => None,
        }
    }
}

/// What kind of call a provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    Read,
    Rehearse,
    Write,
}

/// A fault that was or is.
#[derive(Clone, Debug)]
struct Active {
    since: u64,
    until: u64,
    fault: Fault,
}

/// All faults of a world, by time.
#[derive(Debug, Default)]
pub(super) struct Faults {
    scheduled: Vec<(u64, Fault)>,
    // Those that last, also the past ones: the gaps that they left in the metrics stay.
    lasting: Vec<Active>,
    calls: Vec<(CallKind, String, CallFailure, u32)>,
}

impl Faults {
    pub(super) fn schedule(&mut self, at: u64, fault: Fault) {
        let index = self.scheduled.partition_point(|(other, _)| *other <= at);
        self.scheduled.insert(index, (at, fault));
    }

    /// Begins all that is due, and gives what takes effect in this one second.
    pub(super) fn begin(&mut self, now: u64) -> Vec<Fault> {
        let due = self.scheduled.partition_point(|(at, _)| *at <= now);
        let due: Vec<_> = self.scheduled.drain(..due).map(|(_, fault)| fault).collect();
        for fault in &due {
            match fault {
                Fault::ReadsFail { object, failure, calls } => {
                    self.calls.push((CallKind::Read, object.clone(), *failure, *calls));
                }
                Fault::WritesFail { object, failure, calls } => {
                    self.calls.push((CallKind::Write, object.clone(), *failure, *calls));
                }
                _ => {}
            }
            if let Some(lasting) = fault.lasting() {
                let until = now.saturating_add(lasting.as_secs());
                self.lasting.push(Active { since: now, until, fault: fault.clone() });
            }
        }
        due
    }

    fn active(&self, now: u64) -> impl Iterator<Item = &Active> {
        self.lasting.iter().filter(move |active| active.since <= now && now < active.until)
    }

    /// How a call fails that is made now, if it does.
    pub(super) fn verdict(&mut self, now: u64, object: &str, kind: CallKind) -> Option<CallFailure> {
        if self.active(now).any(|active| matches!(active.fault, Fault::ApiOutage { .. })) {
            return Some(CallFailure::Unavailable);
        }
        let wanted = if kind == CallKind::Read { CallKind::Read } else { CallKind::Write };
        let (_, _, failure, left) = self
            .calls
            .iter_mut()
            .find(|(kind, name, _, left)| *kind == wanted && name == object && *left > 0)?;
        if kind == CallKind::Rehearse {
            return (*failure == CallFailure::Denied).then_some(*failure);
        }
        *left -= 1;
        Some(*failure)
    }

    pub(super) fn call_latency(&self, now: u64) -> Duration {
        self.active(now)
            .filter_map(|active| match active.fault {
                Fault::CallLatency { latency, .. } => Some(latency),
                _ => None,
            })
            .sum()
    }

    pub(super) fn database_factor(&self, now: u64) -> f64 {
        self.active(now)
            .filter_map(|active| match active.fault {
                Fault::DatabaseSlow { factor, .. } => Some(factor),
                _ => None,
            })
            .product()
    }

    pub(super) fn image_is_broken(&self, now: u64, name: &str) -> bool {
        self.active(now)
            .any(|active| matches!(&active.fault, Fault::ImageBroken { workload, .. } if workload == name))
    }

    /// The share of the requests that fail for want of replicas.
    pub(super) fn lost_for_want_of_replicas(&self, now: u64, name: &str, ready: u32) -> f64 {
        let shares = self.active(now).filter_map(|active| match &active.fault {
            Fault::TooFewReplicas { workload, enough, percent, .. }
                if workload == name && ready < *enough =>
            {
                Some(f64::from(*percent.min(&100)) / 100.0)
            }
            _ => None,
        });
        shares.fold(0.0, f64::max)
    }

    pub(super) fn nodes_blocked(&self, now: u64, name: &str) -> Option<Blocked> {
        self.active(now).find_map(|active| match &active.fault {
            Fault::NodesOutOfCapacity { pool, .. } if pool == name => Some(Blocked::OutOfCapacity),
            Fault::NodesStuck { pool, .. } if pool == name => Some(Blocked::Stuck),
            _ => None,
        })
    }

    pub(super) fn metrics_fail(&self, now: u64) -> bool {
        self.active(now).any(|active| matches!(active.fault, Fault::MetricsFailing { .. }))
    }

    /// Since when the metrics source repeats itself.
    pub(super) fn frozen_since(&self, now: u64) -> Option<u64> {
        self.active(now)
            .filter(|active| matches!(active.fault, Fault::MetricsFrozen { .. }))
            .map(|active| active.since)
            .min()
    }

    /// Whether the source has no sample of `metric` from that second.
    pub(super) fn has_gap(&self, at: u64, metric: &str) -> bool {
        self.active(at).any(|active| match &active.fault {
            Fault::MetricsGone { metric: gone, .. } => gone.as_deref().is_none_or(|gone| gone == metric),
            _ => false,
        })
    }

    /// How many of a hundred answered at that second.
    pub(super) fn answering(&self, at: u64) -> Option<u32> {
        self.active(at).find_map(|active| match active.fault {
            Fault::MetricsPartial { percent, .. } => Some(percent.min(100)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn calls_fail_as_often_as_said() {
        let mut faults = Faults::default();
        faults.schedule(10, Fault::writes_fail("api", CallFailure::RateLimited, 2));
        faults.begin(9);
        assert_eq!(faults.verdict(9, "api", CallKind::Write), None);
        faults.begin(10);
        assert_eq!(faults.verdict(10, "api", CallKind::Read), None);
        assert_eq!(faults.verdict(10, "api", CallKind::Rehearse), None);
        assert_eq!(faults.verdict(10, "web", CallKind::Write), None);
        for _ in 0..2 {
            assert_eq!(faults.verdict(10, "api", CallKind::Write), Some(CallFailure::RateLimited));
        }
        assert_eq!(faults.verdict(10, "api", CallKind::Write), None);
    }

    #[test]
    fn lasting_faults_end_and_leave_their_gap() {
        let mut faults = Faults::default();
        faults.schedule(60, Fault::metrics_gone(MINUTE));
        faults.schedule(0, Fault::ApiOutage { lasting: MINUTE });
        faults.begin(60);
        assert_eq!([59, 60, 119, 120].map(|at| faults.has_gap(at, "error_rate")), [false, true, true, false]);
        assert_eq!(faults.verdict(61, "api", CallKind::Read), Some(CallFailure::Unavailable));
        assert_eq!(faults.verdict(200, "api", CallKind::Read), None);
    }
}
