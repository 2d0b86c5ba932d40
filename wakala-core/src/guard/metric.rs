//! Guards on one metric.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::future::try_join;
use humantime::format_duration;

use super::bound::{Baseline, Bound, Limit, Values};
use super::judge::Seen;
use super::window::{Aggregate, Quality, View};
use super::{Guard, Verdict};
use crate::{Error, ErrorKind, GuardId, MetricQuery, MetricsSource, Permission, Result, RunContext};

/// A metric that still lacks its bound. See [`metric`](super::metric).
#[derive(Debug)]
pub struct MetricCondition {
    source: Arc<dyn MetricsSource>,
    query: MetricQuery,
}

impl MetricCondition {
    pub(super) fn new(source: Arc<dyn MetricsSource>, query: MetricQuery) -> Self {
        Self { source, query }
    }

    /// Holds while the value is below `limit`, in the metric's unit.
    pub fn below(self, limit: f64) -> MetricGuard {
        self.guard(Bound::Below, Limit::Fixed(limit))
    }

    /// Holds while the value is above `limit`, in the metric's unit.
    pub fn above(self, limit: f64) -> MetricGuard {
        self.guard(Bound::Above, Limit::Fixed(limit))
    }

    /// Holds while the value is below `factor` times what it was in the ten minutes before the plan was made, plus
    /// what [`with_slack`](MetricGuard::with_slack) adds.
    ///
    /// The baseline is the guard's own [aggregate](MetricGuard::over), and otherwise the mean, of those minutes. The
    /// plan is refused where there is too little to go by: fewer than [ten samples](MetricGuard::with_min_baseline),
    /// no traffic, a negative or, without slack, a zero baseline; and where more than a tenth of the baseline's own
    /// samples would break the limit, since then noise would too.
    pub fn below_baseline_times(self, factor: f64) -> MetricGuard {
        self.guard(Bound::Below, Limit::Baseline(Baseline::times(factor)))
    }

    /// Holds while the value is above `factor` times what it was in the ten minutes before the plan was made, less
    /// what [`with_slack`](MetricGuard::with_slack) takes off.
    ///
    /// As for [`below_baseline_times`](Self::below_baseline_times); a baseline so small that nothing could fall below
    /// the limit is refused too.
    pub fn above_baseline_times(self, factor: f64) -> MetricGuard {
        self.guard(Bound::Above, Limit::Baseline(Baseline::times(factor)))
    }

    fn guard(self, bound: Bound, limit: Limit) -> MetricGuard {
        let quality = Quality { max_age: Duration::from_secs(60), min_coverage: 0.5, possible: None };
        MetricGuard {
            id: GuardId::from(self.query.name()),
            source: self.source,
            query: self.query,
            bound,
            limit,
            view: View { window: None, min_samples: None, quality },
            traffic: None,
            misuse: None,
        }
    }
}

/// A guard that compares a metric with a limit: its newest sample, or what [`over`](Self::over) makes of a window.
///
/// It fails closed. What it takes for no measurement: a sample from fewer than
/// [half of those asked](Self::with_min_coverage), a value that is not a number or infinite, as ratios are where
/// something is divided by nothing, and one outside of the [values that the metric can have](Self::with_possible_values).
///
/// | samples | verdict |
/// |---|---|
/// | the newest is good, and within the limit | pass |
/// | the newest is good, and not within the limit | fail |
/// | none; the newest is no measurement, or older than [a minute](Self::with_max_age), or ahead of the run's clock by more than that | inconclusive |
/// | in a window: fewer good ones than [two](Self::with_min_samples), or none of the last minute | inconclusive |
/// | [too little traffic](Self::with_min_traffic), whatever the value | inconclusive |
/// | the source could not be asked | source error |
#[derive(Clone, Debug)]
pub struct MetricGuard {
    pub(super) id: GuardId,
    pub(super) source: Arc<dyn MetricsSource>,
    pub(super) query: MetricQuery,
    pub(super) bound: Bound,
    pub(super) limit: Limit,
    pub(super) view: View,
    pub(super) traffic: Option<(MetricQuery, f64)>,
    misuse: Option<&'static str>,
}

/// The longest window: beyond it clocks and calendars end.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl MetricGuard {
    /// Names the guard; as given it has the metric's name.
    #[must_use]
    pub fn named(mut self, id: impl Into<GuardId>) -> Self {
        self.id = id.into();
        self
    }

    /// How old the newest sample may be, and how far ahead of the run's clock; a minute as given.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.view.quality.max_age = max_age;
        self
    }

    /// Which share of those asked must have answered, from 0 to 1; half as given. At least one must have.
    #[must_use]
    pub fn with_min_coverage(mut self, share: f64) -> Self {
        self.view.quality.min_coverage = share;
        self
    }

    /// Judges what `aggregate` makes of the last `window`, of which there must be at least two samples, or as many as
    /// [asked for](Self::with_min_samples).
    ///
    /// Samples that are no measurements count as if they were not there. Needs a source with history.
    #[must_use]
    pub fn over(mut self, window: Duration, aggregate: Aggregate) -> Self {
        self.view.window = Some((window, aggregate));
        self
    }

    /// How many good samples there must be in the [window](Self::over); two as given.
    #[must_use]
    pub fn with_min_samples(mut self, samples: usize) -> Self {
        self.view.min_samples = Some(samples);
        self
    }

    /// Judges only while a metric of the same source, such as requests per second, is at least `min`: with hardly any
    /// traffic, as after a scale-down that went wrong, neither no errors nor all errors say anything.
    ///
    /// With a [window](Self::over) the mean of that metric over it counts, otherwise its newest sample; both must be
    /// as recent and as complete as the guard's own.
    #[must_use]
    pub fn with_min_traffic(mut self, query: impl Into<MetricQuery>, min: f64) -> Self {
        self.traffic = Some((query.into(), min));
        self
    }

    /// The values that the metric can have, both ends included. One outside of them is no measurement, and a limit
    /// that none or all of them break is refused.
    ///
    /// As given a ratio is expected to lie within 0 and 1 and all else to be at least 0, until other values are seen,
    /// and no value is refused. Say `0.0..=4.0` for a utilisation that may be above what was requested.
    #[must_use]
    pub fn with_possible_values(mut self, values: RangeInclusive<f64>) -> Self {
        self.view.quality.possible = Some((*values.start(), *values.end()));
        self
    }

    /// What a value may differ from its multiple of the baseline in addition, in the metric's unit; 0 as given.
    ///
    /// Needed for what is close to 0 when all is well: half an error more than none is infinitely many times as much.
    #[must_use]
    pub fn with_slack(self, slack: f64) -> Self {
        self.with_baseline("a slack", |baseline| baseline.slack = slack)
    }

    /// How long before the plan the baseline begins; ten minutes as given.
    #[must_use]
    pub fn with_baseline_over(self, window: Duration) -> Self {
        self.with_baseline("a baseline's window", |baseline| baseline.window = window)
    }

    /// How many good samples a baseline must have; ten as given.
    #[must_use]
    pub fn with_min_baseline(self, samples: usize) -> Self {
        self.with_baseline("a baseline's number of samples", |baseline| baseline.min_samples = samples)
    }

    fn with_baseline(mut self, what: &'static str, set: impl FnOnce(&mut Baseline)) -> Self {
        match &mut self.limit {
            Limit::Baseline(baseline) => set(baseline),
            Limit::Fixed(_) => self.misuse = Some(what),
        }
        self
    }

    /// The samples of the last `span`, or only the newest.
    pub(super) async fn see(&self, cx: &RunContext, span: Option<Duration>) -> Result<Seen> {
        let ask = async |query: &MetricQuery| match span {
            Some(span) => self.source.range(cx, query, span).await,
            None => Ok(Vec::from_iter(self.source.latest(cx, query).await?)),
        };
        let traffic = async {
            match &self.traffic {
                Some((query, _)) => ask(query).await,
                None => Ok(Vec::new()),
            }
        };
        let (samples, traffic) = try_join(ask(&self.query), traffic).await?;
        Ok(Seen { samples, traffic })
    }

    fn window(&self) -> Option<Duration> {
        self.view.window.map(|(window, _)| window)
    }

    /// What can be told of the numbers alone, as the end of a sentence about the guard.
    fn mistake(&self) -> Option<String> {
        if let Some(what) = self.misuse {
            return Some(format!("{what} means nothing without a baseline; use one, or leave it out"));
        }
        if let Some(text) = self.view.mistake() {
            return Some(text);
        }
        if let Some((query, least)) = &self.traffic
            && !(least.is_finite() && *least > 0.0)
        {
            return Some(format!("at least {least} of {query} is no least traffic; choose a number above 0"));
        }
        match &self.limit {
            Limit::Baseline(rule) => rule.mistake(),
            Limit::Fixed(limit) if !limit.is_finite() => {
                Some(format!("the limit {limit} is no number; choose one that can be broken"))
            }
            Limit::Fixed(limit) => {
                let declared = self.view.quality.possible.map(Values::declared)?;
                self.bound.futility(&self.query, *limit, &declared)
            }
        }
    }
}

impl View {
    fn mistake(&self) -> Option<String> {
        let Quality { max_age, min_coverage, possible } = self.quality;
        if max_age.is_zero() {
            return Some("no sample is ever of age 0; choose a larger maximum age".to_owned());
        }
        if !(0.0..=1.0).contains(&min_coverage) {
            return Some(format!("{min_coverage} of those asked is no share; choose one from 0 to 1"));
        }
        if possible.is_some_and(|(lowest, highest)| lowest.is_nan() || highest.is_nan() || lowest >= highest)
        {
            return Some(
                "the possible values have no range; name the lowest and then the highest".to_owned(),
            );
        }
        match self.window {
            None if self.min_samples.is_some_and(|samples| samples != 1) => {
                Some("several samples need a window; say over which time, with `over`".to_owned())
            }
            Some((window, _)) if window.is_zero() || window > LONGEST => {
                Some("the window is empty or longer than ten years; choose minutes".to_owned())
            }
            Some(_) if self.min_samples == Some(0) => {
                Some("0 samples are always there; ask for at least 1".to_owned())
            }
            Some((_, Aggregate::Quantile(share))) if !(share > 0.0 && share <= 1.0) => {
                Some(format!("{share} is no quantile; choose a share above 0 and at most 1, such as 0.95"))
            }
            _ => None,
        }
    }
}

impl Baseline {
    fn times(factor: f64) -> Self {
        Self { factor, slack: 0.0, window: Duration::from_secs(600), min_samples: 10 }
    }

    fn mistake(&self) -> Option<String> {
        let Self { factor, slack, window, min_samples } = *self;
        if !(factor.is_finite() && factor > 0.0) {
            return Some(format!("{factor} times a baseline is no limit; choose a factor above 0"));
        }
        if !(slack.is_finite() && slack >= 0.0) {
            return Some(format!("{slack} is no slack; choose a number of at least 0"));
        }
        if window.is_zero() || window > LONGEST || min_samples == 0 {
            return Some("a baseline needs a time of at most ten years and at least 1 sample".to_owned());
        }
        None
    }
}

#[async_trait]
impl Guard for MetricGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn permissions(&self) -> Vec<Permission> {
        self.source.permissions()
    }

    fn condition(&self) -> String {
        let (query, bound) = (&self.query, self.bound);
        let mut text = match self.view.window {
            Some((window, aggregate)) => {
                format!("{aggregate} of {query} over {} {bound} ", format_duration(window))
            }
            None => format!("{query} {bound} "),
        };
        text += &match &self.limit {
            Limit::Fixed(limit) => limit.to_string(),
            Limit::Baseline(Baseline { factor, slack, window, .. }) => {
                let slack = match bound {
                    _ if *slack == 0.0 => String::new(),
                    Bound::Below => format!(" plus {slack}"),
                    Bound::Above => format!(" minus {slack}"),
                };
                format!("{factor} times its baseline of {}{slack}", format_duration(*window))
            }
        };
        match &self.traffic {
            Some((query, least)) => format!("{text}, with {query} at least {least}"),
            None => text,
        }
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.see(cx, self.window()).await {
            Ok(seen) => self.judge(cx.baseline(), cx.clock().now(), (&seen.samples, &seen.traffic)).0,
            Err(error) => Verdict::SourceError(error.chain()),
        }
    }

    /// Refuses limits, times, counts and shares that are none; whether a limit can be broken shows where the
    /// [values](Self::with_possible_values) are known, and otherwise once the unit is: see [`prove`](Guard::prove).
    fn check(&self) -> Result<()> {
        match self.mistake() {
            Some(mistake) => Err(Error::invalid("check", mistake).on(&self.id)),
            None => Ok(()),
        }
    }

    /// As [`evaluate`](Guard::evaluate), and inconclusive where the limit is one that no value, or every value, of the
    /// metric's unit breaks: a ratio below 1 or more, a number of things below 0.
    async fn prove(&self, cx: &RunContext) -> Verdict {
        let baseline = match cx.baseline() {
            Some(baseline) => Some(baseline),
            None => match self.calibrate(cx).await {
                Ok(baseline) => baseline,
                Err(error) if matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound) => {
                    return Verdict::Inconclusive(error.chain());
                }
                Err(error) => return Verdict::SourceError(error.chain()),
            },
        };
        let seen = match self.see(cx, self.window()).await {
            Ok(seen) => seen,
            Err(error) => return Verdict::SourceError(error.chain()),
        };
        let (verdict, reading) = self.judge(baseline, cx.clock().now(), (&seen.samples, &seen.traffic));
        if let (Some(reading), Ok(limit)) = (reading, self.limit(baseline)) {
            let values = match self.view.quality.possible {
                Some(declared) => Values::declared(declared),
                None => Values::of(reading.unit, reading.seen),
            };
            if let Some(futility) = self.bound.futility(&self.query, limit, &values) {
                return Verdict::Inconclusive(futility);
            }
        }
        match verdict {
            Verdict::Inconclusive(text) if seen.samples.is_empty() => Verdict::Inconclusive(format!(
                "{text}; check its name and labels, and that somebody exports it"
            )),
            verdict => verdict,
        }
    }

    async fn calibrate(&self, cx: &RunContext) -> Result<Option<f64>> {
        match &self.limit {
            Limit::Fixed(_) => Ok(None),
            Limit::Baseline(rule) => self.baseline(cx, rule).await.map(Some),
        }
    }

    /// One verdict for each sample, as it would have been judged when it was taken. `None` where the source could not
    /// be asked or its clock is too far ahead to know when that was; where it keeps no history, what it has.
    async fn history(&self, cx: &RunContext, window: Duration) -> Option<Vec<(SystemTime, Verdict)>> {
        let max_age = self.view.quality.max_age;
        // The first of them was judged by what came before it.
        let span = window.saturating_add(self.window().unwrap_or_default().max(max_age)).min(LONGEST);
        let seen = self.see(cx, Some(span)).await.ok()?;
        let now = cx.clock().now();
        let begin = now.checked_sub(window)?;
        if seen
            .samples
            .last()
            .is_some_and(|newest| newest.time.duration_since(now).is_ok_and(|ahead| ahead > max_age))
        {
            return None;
        }
        let asked = seen.samples.iter().filter(|sample| sample.time >= begin && sample.time <= now);
        let judged = asked.map(|sample| {
            let time = sample.time;
            (time, self.judge(cx.baseline(), time, seen.until(time)).0)
        });
        Some(judged.collect())
    }
}
