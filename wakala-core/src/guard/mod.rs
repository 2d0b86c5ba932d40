//! Conditions that must hold: over metrics, over what is ready, and combinations of them.
//!
//! | to guard | write |
//! |---|---|
//! | the newest sample | [`metric`]`(source, "error_rate").below(0.01)` |
//! | a window | `.over(5 minutes, Aggregate::Mean).with_min_samples(10)` |
//! | that there is traffic to judge by | `.with_min_traffic("requests", 5.0)` |
//! | against how it was before the run | `.below_baseline_times(1.5).with_slack(0.002)` |
//! | several at once | [`all`], [`any`] |
//! | what would happen, without acting on it | [`shadow`] |
//! | that a size is ready | [`ReadyGuard`] |
//!
//! All of them fail closed: what cannot be judged is [`Verdict::Inconclusive`] and what cannot be asked is
//! [`Verdict::SourceError`], and neither lets a run go on for good. A guard that could never fail is found out
//! [while the playbook is built](Guard::check) or [planned](Guard::prove), before anything changes.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{GuardId, MetricQuery, MetricsSource, Permission, Result, RunContext};

mod baseline;
mod bound;
mod combine;
mod judge;
mod metric;
mod ready;
mod shadow;
mod window;

pub use combine::CombinedGuard;
pub use metric::{MetricCondition, MetricGuard};
pub use ready::ReadyGuard;
pub use shadow::ShadowGuard;
pub use window::Aggregate;

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

    /// The kind of verdict, as in its JSON form: `pass`, `source_error`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Fail(_) => "fail",
            Self::Inconclusive(_) => "inconclusive",
            Self::SourceError(_) => "source_error",
        }
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

/// Begins a guard on a metric; [`below`](MetricCondition::below), [`above`](MetricCondition::above) or one of the
/// baselines ends it.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use wakala_core::{Aggregate, MetricsSource, guard};
/// # fn f(source: Arc<dyn MetricsSource>) {
/// let errors = guard::metric(Arc::clone(&source), "error_rate")
///     .below(0.01)
///     .over(Duration::from_secs(300), Aggregate::Mean)
///     .with_min_samples(10)
///     .with_min_traffic("requests", 5.0);
/// let latency = guard::metric(source, "latency_p95").below_baseline_times(1.5).with_slack(0.02);
/// let healthy = guard::all("healthy").with_guard(errors).with_guard(latency);
/// # }
/// ```
pub fn metric(source: Arc<dyn MetricsSource>, query: impl Into<MetricQuery>) -> MetricCondition {
    MetricCondition::new(source, query.into())
}

/// A guard that holds while all of its members hold. See [`CombinedGuard`].
pub fn all(id: impl Into<GuardId>) -> CombinedGuard {
    CombinedGuard::all(id.into())
}

/// A guard that holds while at least one of its members holds. See [`CombinedGuard`].
pub fn any(id: impl Into<GuardId>) -> CombinedGuard {
    CombinedGuard::any(id.into())
}

/// A guard that is asked and reported, and never acts. See [`ShadowGuard`].
pub fn shadow(guard: impl Guard) -> ShadowGuard {
    ShadowGuard::new(Arc::new(guard))
}

/// For asking one guard of several, so that one that hangs leaves time to answer for the others: nine tenths of the time
/// left, and twenty seconds at most.
fn patient(cx: &RunContext) -> RunContext {
    cx.clone().with_deadline(cx.time_left().map_or(PATIENCE, |left| PATIENCE.min(left / 10 * 9)))
}

const PATIENCE: Duration = Duration::from_secs(20);
