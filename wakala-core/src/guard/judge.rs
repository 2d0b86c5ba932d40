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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::guard::{Guard, MetricCondition, metric};
    use crate::{Clock, ManualClock, MetricQuery, MetricsSource, Result, RunContext, Unit};

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A minute of history for each value, the last of them now.
    #[derive(Debug)]
    struct Minutes(Vec<f64>);

    #[async_trait]
    impl MetricsSource for Minutes {
        async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
            Ok(self.range(cx, query, Duration::ZERO).await?.pop())
        }

        async fn range(&self, cx: &RunContext, _: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
            let ages = (0..u32::try_from(self.0.len()).unwrap()).rev().map(|minutes| MINUTE * minutes);
            let samples = self.0.iter().zip(ages).filter(|(_, age)| *age <= window);
            let now = cx.clock().now();
            Ok(samples.map(|(value, age)| Sample::new(now - age, *value, Unit::Ratio)).collect())
        }
    }

    fn errors(values: &[f64]) -> MetricCondition {
        metric(Arc::new(Minutes(values.to_vec())), "errors")
    }

    fn context(baseline: impl Into<Option<f64>>) -> RunContext {
        let clock = ManualClock::default();
        clock.advance(MINUTE * 60);
        RunContext::new("run-1".into(), Arc::new(clock)).with_baseline(baseline.into())
    }

    #[tokio::test]
    async fn a_baseline_comes_from_the_plan() {
        let below = || errors(&[0.030]).below_baseline_times(1.5);
        let above = || errors(&[0.8]).above_baseline_times(0.9);
        for (guard, baseline, expected) in [
            (below(), Some(0.021), "pass: errors is 0.0300"),
            (
                below(),
                Some(0.02),
                "FAIL: errors is 0.0300, must be below 0.0300 (1.5 times the baseline of 0.0200)",
            ),
            (below().with_slack(0.002), Some(0.02), "pass: errors is 0.0300"),
            (
                below().with_slack(0.002),
                Some(0.01),
                "FAIL: errors is 0.0300, must be below 0.0170 (1.5 times the baseline of 0.0100 plus 0.002)",
            ),
            (below(), None, "no verdict: errors has no baseline: the plan was made without one"),
            (below(), Some(f64::NAN), "no verdict: errors has no baseline: the plan was made without one"),
            (above(), Some(0.88), "pass: errors is 0.8000"),
            (
                above(),
                Some(0.9),
                "FAIL: errors is 0.8000, must be above 0.8100 (0.9 times the baseline of 0.9000)",
            ),
            (above().with_slack(0.02), Some(0.9), "pass: errors is 0.8000"),
        ] {
            assert_eq!(guard.evaluate(&context(baseline)).await.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn the_past_is_judged_by_the_baseline_too() {
        let cx = context(0.01);
        let guard = errors(&[0.01, 0.03, 0.012]).below_baseline_times(2.0);
        let history = guard.history(&cx, MINUTE).await.unwrap();
        let now = cx.clock().now();
        assert_eq!(
            history.iter().map(|(time, _)| now.duration_since(*time).unwrap()).collect::<Vec<_>>(),
            [MINUTE, Duration::ZERO]
        );
        assert_eq!(history.iter().map(|(_, verdict)| verdict.is_pass()).collect::<Vec<_>>(), [false, true]);
    }

    #[tokio::test]
    async fn a_proof_uses_the_baseline_of_the_plan() {
        let guard = errors(&[0.5]).below_baseline_times(3.0);
        assert!(guard.prove(&context(0.3)).await.is_pass());
        let text = guard.prove(&context(0.4)).await.to_string();
        assert!(
            text.starts_with("no verdict: it could never fail: errors lies within 0..1, must be below 1.2"),
            "{text}"
        );
    }

    #[test]
    fn only_what_was_known_then_counts() {
        let clock = ManualClock::default();
        let at = |seconds: u32| Sample::new(clock.now() + SECOND * seconds, 0.0, Unit::Ratio);
        let seen = Seen { samples: vec![at(0), at(15), at(30)], traffic: vec![at(5), at(20)] };
        let known = |seconds: u32| {
            let (samples, traffic) = seen.until(clock.now() + SECOND * seconds);
            (samples.len(), traffic.len())
        };
        assert_eq!([0, 4, 5, 15, 30, 60].map(known), [(1, 0), (1, 0), (1, 1), (2, 1), (3, 2), (3, 2)]);
    }
}
