//! Conditions over metrics that must hold.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    GuardId, MetricQuery, MetricsSource, Permission, Result, RunContext, Sample, SharedTarget, Units,
};

/// What a guard answers. Only [`Pass`](Verdict::Pass) lets a run go on for good.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The condition holds. The text says what was seen.
    Pass(String),
    /// The condition is broken. The text says what was seen.
    Fail(String),
    /// There is not enough data to tell. The text says what is missing.
    Inconclusive(String),
    /// The source could not be asked. The text is the error.
    SourceError(String),
}

impl Verdict {
    /// Whether the condition holds.
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Pass(_))
    }

    /// Whether there was real data to judge by, whatever the judgement.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Pass(_) | Self::Fail(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass(text) => write!(f, "pass: {text}"),
            Self::Fail(text) => write!(f, "FAIL: {text}"),
            Self::Inconclusive(text) => write!(f, "no verdict: {text}"),
            Self::SourceError(text) => write!(f, "source error: {text}"),
        }
    }
}

/// A condition that must hold before, during or after a change.
#[async_trait]
pub trait Guard: Debug + Send + Sync + 'static {
    /// The guard's name, unique in its playbook.
    fn id(&self) -> GuardId;

    /// The condition, for the plan: `error_rate below 0.01`.
    fn condition(&self) -> String;

    /// Judges now. Reads only. A source that fails is a verdict and not an error, so that it cannot be mistaken for
    /// the absence of trouble.
    async fn evaluate(&self, cx: &RunContext) -> Verdict;

    /// What the providers must allow for judging. As given: nothing.
    fn permissions(&self) -> Vec<Permission> {
        Vec::new()
    }

    /// Whether the guard could fail at all, as far as that can be told without looking. As given: it could.
    ///
    /// # Errors
    /// `InvalidConfig` for a limit that no value, or every value, breaks.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Judges before a run whether the guard is able to guard: as [`evaluate`](Self::evaluate), and inconclusive where
    /// what is found shows that it could never fail. Reads only.
    async fn prove(&self, cx: &RunContext) -> Verdict {
        self.evaluate(cx).await
    }

    /// What the guard compares with later, as found while the plan is made; it comes back in
    /// [`RunContext::baseline`]. As given: nothing. Reads only.
    ///
    /// # Errors
    /// Where there is too little data; the plan is then refused.
    async fn calibrate(&self, cx: &RunContext) -> Result<Option<f64>> {
        let _ = cx;
        Ok(None)
    }

    /// The verdicts of the last `window`, oldest first, for a time in which nobody asked. Reads only.
    ///
    /// As given `None`: the guard knows nothing of the past. An empty list says that there was no data.
    async fn history(&self, cx: &RunContext, window: Duration) -> Option<Vec<(SystemTime, Verdict)>> {
        let _ = (cx, window);
        None
    }
}

/// Begins a guard on a metric; [`below`](MetricCondition::below) or [`above`](MetricCondition::above) ends it.
///
/// ```
/// # use std::sync::Arc;
/// # use wakala_core::{MetricsSource, guard};
/// # fn f(source: Arc<dyn MetricsSource>) {
/// let guard = guard::metric(source, "error_rate").below(0.01);
/// # }
/// ```
pub fn metric(source: Arc<dyn MetricsSource>, query: impl Into<MetricQuery>) -> MetricCondition {
    MetricCondition { source, query: query.into() }
}

/// A metric that still lacks its bound. See [`metric`].
#[derive(Debug)]
pub struct MetricCondition {
    source: Arc<dyn MetricsSource>,
    query: MetricQuery,
}

impl MetricCondition {
    /// Holds while the value is below `limit`, in the metric's unit.
    pub fn below(self, limit: f64) -> MetricGuard {
        self.guard(Bound::Below, limit)
    }

    /// Holds while the value is above `limit`, in the metric's unit.
    pub fn above(self, limit: f64) -> MetricGuard {
        self.guard(Bound::Above, limit)
    }

    fn guard(self, bound: Bound, limit: f64) -> MetricGuard {
        let id = GuardId::from(self.query.name());
        MetricGuard {
            id,
            source: self.source,
            query: self.query,
            bound,
            limit,
            max_age: Duration::from_secs(60),
            min_coverage: 0.5,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    Below,
    Above,
}

/// A guard that compares the newest sample of a metric with a limit.
///
/// It fails closed: no sample, one older than [`max_age`](Self::with_max_age), one from too few of those asked, or a
/// value that is no number, is [`Verdict::Inconclusive`].
#[derive(Clone, Debug)]
pub struct MetricGuard {
    id: GuardId,
    source: Arc<dyn MetricsSource>,
    query: MetricQuery,
    bound: Bound,
    limit: f64,
    max_age: Duration,
    min_coverage: f64,
}

impl MetricGuard {
    /// Names the guard; as given it has the metric's name.
    #[must_use]
    pub fn named(mut self, id: impl Into<GuardId>) -> Self {
        self.id = id.into();
        self
    }

    /// How old a sample may be; a minute as given.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Which share of those asked must have answered, from 0 to 1; half as given.
    #[must_use]
    pub fn with_min_coverage(mut self, share: f64) -> Self {
        self.min_coverage = share;
        self
    }

    fn judge(&self, cx: &RunContext, sample: Option<&Sample>) -> Verdict {
        let query = &self.query;
        let Some(sample) = sample else {
            return Verdict::Inconclusive(format!("{query} has no data"));
        };
        // A sample from the future is a clock that differs a little, not an old sample.
        let age = cx.clock().now().duration_since(sample.time).unwrap_or_default();
        if age > self.max_age {
            let (age, limit) = (humantime::format_duration(age), humantime::format_duration(self.max_age));
            return Verdict::Inconclusive(format!(
                "the newest sample of {query} is {age} old, {limit} is the limit"
            ));
        }
        if sample.coverage.ratio() < self.min_coverage {
            let (answered, expected) = (sample.coverage.answered, sample.coverage.expected);
            return Verdict::Inconclusive(format!("{query} from only {answered} of {expected}"));
        }
        if sample.value.is_nan() {
            return Verdict::Inconclusive(format!("{query} is not a number"));
        }
        let holds = match self.bound {
            Bound::Below => sample.value < self.limit,
            Bound::Above => sample.value > self.limit,
        };
        let seen = format!("{query} is {:.4}{}", sample.value, sample.unit);
        if holds {
            Verdict::Pass(seen)
        } else {
            Verdict::Fail(format!("{seen}, must be {}", self.bound(sample)))
        }
    }

    fn bound(&self, sample: &Sample) -> String {
        let word = match self.bound {
            Bound::Below => "below",
            Bound::Above => "above",
        };
        format!("{word} {}{}", self.limit, sample.unit)
    }
}

#[async_trait]
impl Guard for MetricGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        let word = match self.bound {
            Bound::Below => "below",
            Bound::Above => "above",
        };
        format!("{} {word} {}", self.query, self.limit)
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.source.latest(cx, &self.query).await {
            Ok(sample) => self.judge(cx, sample.as_ref()),
            Err(error) => Verdict::SourceError(error.chain()),
        }
    }
}

/// A guard that holds while a target has at least a size ready.
#[derive(Clone, Debug)]
pub struct ReadyGuard {
    id: GuardId,
    target: SharedTarget,
    size: Units,
}

impl ReadyGuard {
    /// Holds while `target` has at least `size` ready.
    pub fn new(id: impl Into<GuardId>, target: SharedTarget, size: impl Into<Units>) -> Self {
        Self { id: id.into(), target, size: size.into() }
    }
}

#[async_trait]
impl Guard for ReadyGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        format!("{} has at least {} ready", self.target.id(), self.size)
    }

    fn permissions(&self) -> Vec<Permission> {
        self.target.permissions()
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.target.observe(cx).await {
            Ok(seen) if seen.ready >= self.size => Verdict::Pass(format!("{} ready", seen.ready)),
            Ok(seen) => {
                let problem = seen.problem.map(|problem| format!(": {problem}")).unwrap_or_default();
                Verdict::Fail(format!("{} ready, must be at least {}{problem}", seen.ready, self.size))
            }
            Err(error) => Verdict::SourceError(error.chain()),
        }
    }
}
