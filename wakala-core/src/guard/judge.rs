//! One judgement: a limit, and samples as they were at one moment.

use std::time::SystemTime;

use super::Verdict;
use super::bound::{Bound, Limit, number};
use super::metric::MetricGuard;
use super::window::{Aggregate, Reading, View};
use crate::Sample;

/// What the source gave for one judgement or for many.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) samples: Vec<Sample>,
    /// The companion's, where there is one.
    pub(super) traffic: Vec<Sample>,
}

impl Seen {
    /// What was known at `time`, but for what came later.
    pub(super) fn until(&self, time: SystemTime) -> (&[Sample], &[Sample]) {
        let known = |samples: &[Sample]| samples.partition_point(|sample| sample.time <= time);
        (&self.samples[..known(&self.samples)], &self.traffic[..known(&self.traffic)])
    }
}

impl MetricGuard {
    /// Judges by samples that are oldest first, and tells the value that was judged where there was one.
    pub(super) fn judge(
        &self,
        baseline: Option<f64>,
        now: SystemTime,
        (samples, traffic): (&[Sample], &[Sample]),
    ) -> (Verdict, Option<Reading>) {
        // The traffic first: without any, that the metric has no data is only what follows from it.
        if let Err(missing) = self.traffic(self.view.window.is_some(), now, traffic) {
            return (Verdict::Inconclusive(missing), None);
        }
        let reading = match self.view.read(&self.query, samples, now) {
            Ok(reading) => reading,
            Err(missing) => return (Verdict::Inconclusive(missing), None),
        };
        let limit = match self.limit(baseline) {
            Ok(limit) => limit,
            Err(missing) => return (Verdict::Inconclusive(missing), Some(reading)),
        };
        let seen = format!("{} is {reading}", self.query);
        let verdict = if self.bound.holds(reading.value, limit) {
            Verdict::Pass(seen)
        } else {
            Verdict::Fail(format!(
                "{seen}, must be {} {}",
                self.bound,
                self.limit_text(limit, baseline, &reading)
            ))
        };
        (verdict, Some(reading))
    }

    /// Whether the companion shows enough traffic to judge by; otherwise what is missing.
    pub(super) fn traffic(&self, windowed: bool, now: SystemTime, samples: &[Sample]) -> Result<(), String> {
        let Some((query, least)) = &self.traffic else { return Ok(()) };
        let mut view = View { min_samples: Some(1), ..self.view };
        view.quality.possible = None;
        // The mean over the window, times the window, is how much there was to judge by.
        view.window = view.window.filter(|_| windowed).map(|(window, _)| (window, Aggregate::Mean));
        let metric = &self.query;
        match view.read(query, samples, now) {
            Ok(reading) if reading.value >= *least => Ok(()),
            Ok(reading) => Err(format!(
                "too little traffic to judge {metric}: {query} is {reading}, must be at least {least}{}",
                reading.unit
            )),
            Err(missing) => {
                Err(format!("nobody knows whether there is traffic to judge {metric}: {missing}"))
            }
        }
    }

    /// The limit now; otherwise what is missing.
    pub(super) fn limit(&self, baseline: Option<f64>) -> Result<f64, String> {
        match &self.limit {
            Limit::Fixed(limit) => Ok(*limit),
            Limit::Baseline(rule) => match baseline {
                Some(baseline) if baseline.is_finite() => Ok(self.bound.limit(rule, baseline)),
                _ => Err(format!("{} has no baseline: the plan was made without one", self.query)),
            },
        }
    }

    fn limit_text(&self, limit: f64, baseline: Option<f64>, reading: &Reading) -> String {
        match (&self.limit, baseline) {
            (Limit::Baseline(rule), Some(baseline)) => {
                let (limit, baseline, factor) = (number(limit), number(baseline), rule.factor);
                let unit = reading.unit;
                let slack = match (rule.slack > 0.0, self.bound) {
                    (false, _) => String::new(),
                    (true, Bound::Below) => format!(" plus {}", rule.slack),
                    (true, Bound::Above) => format!(" minus {}", rule.slack),
                };
                format!("{limit}{unit} ({factor} times the baseline of {baseline}{unit}{slack})")
            }
            _ => format!("{limit}{}", reading.unit),
        }
    }
}
