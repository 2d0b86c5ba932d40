//! What every [`MetricsSource`] must do.

use std::sync::Arc;
use std::time::Duration;

use super::{Common, common_case, must, skip};
use crate::{ErrorKind, MetricQuery, MetricsSource, Sample};

/// A source to check, with a query that has data now.
#[derive(Debug)]
pub struct SourceCase {
    common: Common,
    source: Arc<dyn MetricsSource>,
    known: MetricQuery,
    absent: Option<MetricQuery>,
    unknown: Option<MetricQuery>,
    unreachable: Option<Arc<dyn MetricsSource>>,
    window: Duration,
}

common_case!(SourceCase);

/// By how much the clocks of source and test may differ.
const SKEW: Duration = Duration::from_secs(60);

impl SourceCase {
    /// Checks `source`, where `known` has data now.
    pub fn new(source: impl MetricsSource, known: impl Into<MetricQuery>) -> Self {
        Self::shared(Arc::new(source), known)
    }

    /// Checks a source that others hold too.
    pub fn shared(source: Arc<dyn MetricsSource>, known: impl Into<MetricQuery>) -> Self {
        Self {
            common: Common::new(),
            source,
            known: known.into(),
            absent: None,
            unknown: None,
            unreachable: None,
            window: Duration::from_secs(300),
        }
    }

    /// A query that the source understands and that has no data: a workload that serves nothing.
    #[must_use]
    pub fn with_absent(mut self, query: impl Into<MetricQuery>) -> Self {
        self.absent = Some(query.into());
        self
    }

    /// A query for a metric that does not exist.
    #[must_use]
    pub fn with_unknown(mut self, query: impl Into<MetricQuery>) -> Self {
        self.unknown = Some(query.into());
        self
    }

    /// The same sort of source at a place where nobody answers.
    #[must_use]
    pub fn with_unreachable(mut self, source: impl MetricsSource) -> Self {
        self.unreachable = Some(Arc::new(source));
        self
    }

    /// How far back to ask; five minutes as given.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    async fn latest(&self) -> Sample {
        let latest = must(self.source.latest(&self.common.cx, &self.known).await, "latest");
        latest.unwrap_or_else(|| {
            panic!("{} must have data now, and the source says that it has none", self.known)
        })
    }

    async fn range(&self) -> Vec<Sample> {
        must(self.source.range(&self.common.cx, &self.known, self.window).await, "range")
    }
}

/// Runs every check of this module, each on a source of its own.
pub async fn all<C: Into<SourceCase>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { source, __conformance_all! [make] }
}

fn assert_well_formed(case: &SourceCase, sample: &Sample) {
    let now = case.common.cx.clock().now();
    assert!(sample.time <= now + SKEW, "the sample is from the future: {sample:?}, now is {now:?}");
    let coverage = sample.coverage;
    assert!(
        coverage.answered <= coverage.expected && coverage.expected > 0,
        "the sample's coverage makes no sense: {coverage:?}"
    );
}

/// The newest sample has a time that is not ahead, and a coverage that makes sense.
pub async fn latest_is_well_formed(case: impl Into<SourceCase>) {
    let case = case.into();
    let check = async { assert_well_formed(&case, &case.latest().await) };
    case.common.drive(check).await;
}

/// A range comes oldest first and lies within its window.
pub async fn range_is_ordered_within_its_window(case: impl Into<SourceCase>) {
    let case = case.into();
    let check = async {
        let begin = case.common.cx.clock().now() - case.window;
        let range = case.range().await;
        if range.is_empty() {
            return skip("range_is_ordered_within_its_window", "the source keeps no history");
        }
        for sample in &range {
            assert_well_formed(&case, sample);
            assert!(sample.time + SKEW >= begin, "{sample:?} is from before the window of {:?}", case.window);
        }
        assert!(range.is_sorted_by_key(|sample| sample.time), "the range is not oldest first: {range:?}");
    };
    case.common.drive(check).await;
}

/// The newest sample is not older than a range that was read before it, and has its unit.
pub async fn range_and_latest_agree(case: impl Into<SourceCase>) {
    let case = case.into();
    let check = async {
        let range = case.range().await;
        let latest = case.latest().await;
        let Some(newest) = range.last() else {
            return skip("range_and_latest_agree", "the source keeps no history");
        };
        assert!(latest.time >= newest.time, "latest ({latest:?}) is older than a range's end ({newest:?})");
        assert_eq!(latest.unit, newest.unit, "latest and range differ in their unit");
    };
    case.common.drive(check).await;
}

/// No data is no sample, and never a value.
pub async fn absence_is_none_and_never_zero(case: impl Into<SourceCase>) {
    let case = case.into();
    let check = async {
        let Some(absent) = &case.absent else {
            return skip("absence_is_none_and_never_zero", "the case names no query without data");
        };
        let latest =
            must(case.source.latest(&case.common.cx, absent).await, "latest of a series without data");
        assert_eq!(latest, None, "{absent} has no data, and the source made some up");
        let range = must(
            case.source.range(&case.common.cx, absent, case.window).await,
            "range of a series without data",
        );
        assert_eq!(range, [], "{absent} has no data, and the source made some up");
    };
    case.common.drive(check).await;
}

/// A metric that does not exist is refused or has no data, and never has a value.
pub async fn unknown_metric_has_no_value(case: impl Into<SourceCase>) {
    let case = case.into();
    let check = async {
        let Some(unknown) = &case.unknown else {
            return skip("unknown_metric_has_no_value", "the case names no unknown metric");
        };
        match case.source.latest(&case.common.cx, unknown).await {
            Ok(latest) => {
                assert_eq!(latest, None, "{unknown} does not exist, and the source made a value up")
            }
            Err(error) => {
                let kinds = [ErrorKind::InvalidConfig, ErrorKind::NotFound];
                assert!(
                    kinds.contains(&error.kind()),
                    "an unknown metric must be one of {kinds:?}: {error:?}"
                );
            }
        }
    };
    case.common.drive(check).await;
}

/// A source that cannot be asked is an error, and not an absence.
pub async fn unreachable_is_an_error(case: impl Into<SourceCase>) {
    let case = case.into();
    let check = async {
        let Some(source) = &case.unreachable else {
            return skip("unreachable_is_an_error", "the case names no unreachable source");
        };
        let cx = case.common.patient();
        let latest = must(cx.until(source.latest(&cx, &case.known)).await, "latest within the case's limit");
        let range = cx.until(source.range(&cx, &case.known, case.window)).await;
        let range = must(range, "range within the case's limit");
        for (what, error) in [("latest", latest.err()), ("range", range.err())] {
            let Some(error) = error else { panic!("{what} of a source that cannot be asked is no error") };
            let kinds = [ErrorKind::Unavailable, ErrorKind::DeadlineExceeded];
            assert!(kinds.contains(&error.kind()), "{what} must be one of {kinds:?}: {error:?}");
        }
    };
    case.common.drive(check).await;
}
