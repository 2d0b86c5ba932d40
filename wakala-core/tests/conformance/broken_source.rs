//! Sources that are broken in one way each.

use std::time::Duration;

use async_trait::async_trait;
use wakala_core::testing::conformance::{SourceCase, source};
use wakala_core::testing::{Answer, FakeMetrics};
use wakala_core::{ErrorKind, ManualClock, MetricQuery, MetricsSource, Result, RunContext, Sample, Unit};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    AbsenceIsZero,
    CoverageOfNothing,
    FutureSamples,
    LatestIsOld,
    NewestFirst,
    UnknownIsZero,
    UnreachableIsAbsent,
    UnitsDiffer,
    WholeHistory,
}

#[derive(Debug)]
struct Broken {
    metrics: FakeMetrics,
    defect: Defect,
}

fn broken(defect: Defect) -> SourceCase {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(7200));
    let make = |answer| {
        let metrics = FakeMetrics::new().with("up", answer).with("idle", Answer::Absent);
        Broken { metrics, defect }
    };
    SourceCase::new(make(Answer::Value(0.5)), "up")
        .with_absent("idle")
        .with_unknown("no-such-metric")
        .with_unreachable(make(Answer::Error(ErrorKind::Unavailable)))
        .on(&clock)
}

#[async_trait]
impl MetricsSource for Broken {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        let now = cx.clock().now();
        let sample = |time, value| Ok(Some(Sample::new(time, value, Unit::Ratio)));
        match self.defect {
            Defect::AbsenceIsZero if query.name() == "idle" => sample(now, 0.0),
            Defect::CoverageOfNothing => Ok(Some(Sample::new(now, 0.5, Unit::Ratio).with_coverage(0, 0))),
            Defect::FutureSamples => sample(now + Duration::from_secs(600), 0.5),
            Defect::LatestIsOld => sample(now - Duration::from_secs(600), 0.5),
            Defect::UnknownIsZero if query.name() == "no-such-metric" => sample(now, 0.0),
            Defect::UnreachableIsAbsent => Ok(self.metrics.latest(cx, query).await.unwrap_or(None)),
            _ => self.metrics.latest(cx, query).await,
        }
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        match self.defect {
            Defect::UnreachableIsAbsent => {
                Ok(self.metrics.range(cx, query, window).await.unwrap_or_default())
            }
            Defect::WholeHistory => self.metrics.range(cx, query, Duration::from_secs(3600)).await,
            defect => {
                let mut range = self.metrics.range(cx, query, window).await?;
                match defect {
                    Defect::NewestFirst => range.reverse(),
                    Defect::UnitsDiffer => range.iter_mut().for_each(|sample| sample.unit = Unit::Bytes),
                    _ => {}
                }
                Ok(range)
            }
        }
    }
}

fails!(future, source::latest_is_well_formed, broken(Defect::FutureSamples), "the sample is from the future");
fails!(
    no_coverage,
    source::latest_is_well_formed,
    broken(Defect::CoverageOfNothing),
    "coverage makes no sense"
);
fails!(
    newest_first,
    source::range_is_ordered_within_its_window,
    broken(Defect::NewestFirst),
    "not oldest first"
);
fails!(
    whole_history,
    source::range_is_ordered_within_its_window,
    broken(Defect::WholeHistory),
    "before the window"
);
fails!(
    old_latest,
    source::range_and_latest_agree,
    broken(Defect::LatestIsOld),
    "is older than a range's end"
);
fails!(two_units, source::range_and_latest_agree, broken(Defect::UnitsDiffer), "differ in their unit");
fails!(zero_for_none, source::absence_is_none_and_never_zero, broken(Defect::AbsenceIsZero), "made some up");
fails!(
    zero_for_unknown,
    source::unknown_metric_has_no_value,
    broken(Defect::UnknownIsZero),
    "made a value up"
);
fails!(
    silent_outage,
    source::unreachable_is_an_error,
    broken(Defect::UnreachableIsAbsent),
    "of a source that cannot be asked is no error"
);
