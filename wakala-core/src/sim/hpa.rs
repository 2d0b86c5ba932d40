//! The HorizontalPodAutoscaler that fights whoever writes replicas.
//!
//! Follows the upstream controller (Kubernetes 1.36) without `behavior`: a round every 15 seconds; bounds enforced at
//! once and past all else; utilisation in whole percent, pods that are not ready counted as idle on the way up; a
//! tolerance of 10 %; a new size is at most twice the present one or 4; on the way down the highest recommendation of
//! the last five minutes.

use std::collections::VecDeque;

use super::model::{ceil, floor};
use crate::{Bounds, Error, Result};

/// Seconds between two rounds.
pub(super) const SYNC_SECONDS: u64 = 15;
/// Seconds of CPU samples that a round looks at.
pub(super) const CPU_WINDOW_SECONDS: usize = 30;
const STABILISATION_SECONDS: u64 = 300;
const TOLERANCE: f64 = 0.1;

/// A HorizontalPodAutoscaler on CPU.
#[derive(Clone, Debug)]
pub struct Hpa {
    pub(super) workload: String,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) cpu_target: f64,
}

impl Hpa {
    /// Keeps the replicas of `workload` within the bounds, so that each uses 80 % of the CPU that it requests.
    pub fn on(workload: impl Into<String>, min: u32, max: u32) -> Self {
        Self { workload: workload.into(), min, max, cpu_target: 0.8 }
    }

    /// Which share of the requested CPU each replica shall use.
    #[must_use]
    pub fn with_cpu_target(mut self, share: f64) -> Self {
        self.cpu_target = share;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = || format!("the autoscaler of {}", self.workload);
        check_bounds("build", self.min, self.max).map_err(|error| error.on(name()))?;
        if !(0.01..=10.0).contains(&self.cpu_target) {
            let message =
                format!("a CPU target of {} is no share of the request; 0.7 is usual", self.cpu_target);
            return Err(Error::invalid("build", message).on(name()));
        }
        Ok(())
    }
}

/// What the API refuses.
pub(super) fn check_bounds(operation: &'static str, min: u32, max: u32) -> Result<()> {
    if min == 0 {
        return Err(Error::invalid(operation, "minReplicas must be at least 1"));
    }
    if max > super::MAX_REPLICAS {
        let message = format!("maxReplicas {max} is above the {} replicas that can be", super::MAX_REPLICAS);
        return Err(Error::invalid(operation, message));
    }
    Bounds::new(min, max).map(|_| ())
}

/// What a round sees of its workload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) desired: u32,
    pub(super) ready: u32,
    pub(super) unready: u32,
    /// CPU used by the ready pods, as a share of their requests.
    pub(super) cpu: f64,
}

/// An autoscaler in the running world.
#[derive(Debug)]
pub(super) struct HpaState {
    pub(super) config: Hpa,
    pub(super) workload: usize,
    /// As a person would name it.
    pub(super) name: String,
    pub(super) bounds: Bounds,
    pub(super) version: u64,
    recommendations: VecDeque<(u64, u32)>,
}

impl HpaState {
    pub(super) fn new(config: Hpa, workload: usize, namespace: &str, desired: u32) -> Self {
        Self {
            name: format!("HorizontalPodAutoscaler {namespace}/{}", config.workload),
            bounds: Bounds { min: config.min.into(), max: config.max.into() },
            workload,
            version: 1,
            recommendations: VecDeque::from([(0, desired)]),
            config,
        }
    }

    /// One round: the size that the workload is to have.
    pub(super) fn round(&mut self, now: u64, sight: Sight) -> u32 {
        let (min, max, current) = (self.bounds.min.0, self.bounds.max.0, sight.desired);
        if current == 0 {
            return 0;
        }
        if current > max || current < min {
            return current.clamp(min, max);
        }
        let Some(proposal) = self.proposal(sight) else { return current };
        self.recommendations.retain(|&(at, _)| at + STABILISATION_SECONDS >= now);
        self.recommendations.push_back((now, proposal));
        let stable = self.recommendations.iter().map(|&(_, size)| size).max().unwrap_or(proposal);
        let limit = current.saturating_mul(2).max(4).min(max);
        stable.clamp(min.min(limit), limit)
    }

    /// What the CPU alone asks for; `None` where no pod gives a sample.
    fn proposal(&self, sight: Sight) -> Option<u32> {
        let Sight { desired, ready, unready, cpu } = sight;
        if ready == 0 {
            return None;
        }
        let target = (self.config.cpu_target * 100.0).round();
        let ratio = |share: f64| f64::from(floor(share * 100.0)) / target;
        let within = |ratio: f64| (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio);
        let seen = ratio(cpu);
        if unready == 0 || seen <= 1.0 {
            return Some(if within(seen) { desired } else { ceil(seen * f64::from(ready)) });
        }
        let all = ready + unready;
        let diluted = ratio(cpu * f64::from(ready) / f64::from(all));
        if within(diluted) || diluted < 1.0 {
            return Some(desired);
        }
        Some(ceil(diluted * f64::from(all)).max(desired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hpa() -> HpaState {
        HpaState::new(Hpa::on("api", 5, 50).with_cpu_target(0.7), 0, "production", 10)
    }

    fn sight(desired: u32, cpu: f64) -> Sight {
        Sight { desired, ready: desired, unready: 0, cpu }
    }

    #[test]
    fn follows_cpu_within_tolerance_and_limits() {
        for (seen, wanted) in [
            (sight(10, 0.7), 10),
            (sight(10, 0.76), 10),
            (sight(10, 0.9), 13),
            (sight(10, 1.0), 15),
            (sight(10, 4.0), 20),
            (sight(40, 1.0), 50),
        ] {
            assert_eq!(hpa().round(15, seen), wanted, "{seen:?}");
        }
        let mut small = hpa();
        small.bounds.min = 1.into();
        small.recommendations.clear();
        assert_eq!(small.round(15, sight(1, 9.0)), 4);
    }

    #[test]
    fn pods_on_their_way_count_as_idle() {
        let on_their_way = |unready| Sight { desired: 10 + unready, unready, ..sight(10, 1.0) };
        assert_eq!(hpa().round(15, on_their_way(5)), 15);
        assert_eq!(hpa().round(15, on_their_way(1)), 15);
        assert_eq!(hpa().round(15, Sight { ready: 0, unready: 10, ..sight(10, 0.0) }), 10);
    }

    #[test]
    fn comes_down_after_five_minutes() {
        let mut hpa = hpa();
        assert_eq!(hpa.round(300, sight(10, 0.2)), 10);
        assert_eq!(hpa.round(315, sight(10, 0.2)), 5);
    }

    #[test]
    fn enforces_bounds_at_once_and_past_its_limits() {
        let mut hpa = hpa();
        hpa.bounds = Bounds { min: 50.into(), max: 60.into() };
        assert_eq!(hpa.round(15, sight(10, 0.1)), 50);
        hpa.bounds = Bounds { min: 5.into(), max: 20.into() };
        assert_eq!(hpa.round(30, sight(50, 0.9)), 20);
    }

    #[test]
    fn takes_back_what_others_write() {
        let mut hpa = hpa();
        assert_eq!(hpa.round(15, sight(50, 0.13)), 10);
    }
}
