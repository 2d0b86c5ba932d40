//! What is asked of those that are left: load and connections that they must be able to bear.

use std::sync::Arc;
use std::time::Duration;

use crate::{Error, ErrorKind, MetricQuery, MetricsSource, Result, Retry, RunContext, TargetId, Units};

/// When to ask again for what is not there yet, or still too much.
const AGAIN: Duration = Duration::from_secs(15);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old a sample may be.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Which share of those asked must have answered: a sum over fewer is less than the truth.
const MIN_COVERAGE: f64 = 0.9;

/// A metric of which each unit that is left can bear so much.
#[derive(Clone, Debug)]
pub(super) struct Share {
    source: Arc<dyn MetricsSource>,
    query: MetricQuery,
    per_unit: f64,
}

impl Share {
    pub(super) fn new(source: Arc<dyn MetricsSource>, query: MetricQuery, per_unit: f64) -> Self {
        Self { source, query, per_unit }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.per_unit.is_finite() && self.per_unit > 0.0 {
            return Ok(());
        }
        let message = format!("{} of {} for each that is left makes no sense", self.per_unit, self.query);
        Err(Error::invalid("plan", message))
    }

    /// The value now; fails closed, and such that it is asked again.
    async fn value(&self, cx: &RunContext) -> Result<Seen> {
        let query = &self.query;
        let blind = |why: String| {
            let message = format!("{query} {why}, so nothing is made smaller");
            Error::new(ErrorKind::Unavailable, "apply", message)
                .with_retry(Retry::Safe { after: Some(AGAIN) })
        };
        // A source that hangs must not make the fate of the effect, which it comes before, unknown.
        let bounded = cx.clone().with_deadline(PATIENCE);
        let answer = bounded.until(self.source.latest(&bounded, query)).await.and_then(|answer| answer);
        let sample = match answer {
            Ok(Some(sample)) => sample,
            Ok(None) => return Err(blind("has no data".to_owned())),
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => return Err(blind("could not be asked".to_owned()).with_source(error)),
        };
        let age = cx.clock().now().duration_since(sample.time).unwrap_or_default();
        if age > MAX_AGE {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            return Err(blind(format!("is {age} old")));
        }
        if sample.coverage.ratio() < MIN_COVERAGE {
            let (answered, expected) = (sample.coverage.answered, sample.coverage.expected);
            return Err(blind(format!("comes from only {answered} of {expected}")));
        }
        if !sample.value.is_finite() {
            return Err(blind("is not a number".to_owned()));
        }
        Ok(Seen { value: sample.value, unit: sample.unit.to_string() })
    }

    fn is_too_much(&self, value: f64, size: Units) -> bool {
        // Also where none would be left.
        value > f64::from(size.0) * self.per_unit
    }

    /// Fails where `size` would have to bear more than it can.
    pub(super) async fn bears(&self, cx: &RunContext, id: &TargetId, size: Units) -> Result<()> {
        let seen = self.value(cx).await.map_err(|error| error.on(id))?;
        let Seen { value, unit } = &seen;
        if !self.is_too_much(*value, size) {
            return Ok(());
        }
        let (query, limit, each) = (&self.query, self.per_unit, value / f64::from(size.0));
        let message = format!(
            "{query} is {value:.0}{unit}, which would be {each:.1}{unit} for each of {size}, and {limit}{unit} is the \
             limit; nothing was made smaller"
        );
        Err(Error::new(ErrorKind::Conflict, "apply", message).on(id))
    }

    /// Fails, such that it is asked again, while there is more than `size` can hold.
    pub(super) async fn drained(&self, cx: &RunContext, id: &TargetId, size: Units) -> Result<()> {
        let seen = self.value(cx).await.map_err(|error| error.on(id))?;
        let Seen { value, unit } = &seen;
        if !self.is_too_much(*value, size) {
            return Ok(());
        }
        let (query, limit) = (&self.query, self.per_unit);
        let message = format!(
            "{query} is {value:.0}{unit}, more than {size} can hold at {limit}{unit} each; waiting until it drains"
        );
        let error = Error::new(ErrorKind::RateLimited, "apply", message).on(id);
        Err(error.with_retry(Retry::Safe { after: Some(AGAIN) }))
    }

    /// What the person who approves should know of it now; nothing where `size` is enough.
    pub(super) async fn warning(&self, cx: &RunContext, size: Units) -> Option<String> {
        match self.value(cx).await {
            Err(error) => Some(format!("{error}; it must be there when the step's turn comes")),
            Ok(Seen { value, unit }) if self.is_too_much(value, size) => Some(format!(
                "{} is {value:.0}{unit} now, more than {size} can bear at {}{unit} each",
                self.query, self.per_unit
            )),
            Ok(_) => None,
        }
    }
}

struct Seen {
    value: f64,
    unit: String,
}
