//! A metrics source that answers by a script.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::testing::lock;
use crate::{Error, ErrorKind, MetricQuery, MetricsSource, Result, RunContext, Sample, Unit};

/// What a [`FakeMetrics`] answers for a series.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A fresh sample of this value.
    Value(f64),
    /// A sample of this value and age.
    Old(f64, Duration),
    /// A sample of this value from that far ahead: the source's clock jumped.
    Ahead(f64, Duration),
    /// A fresh sample of this value that so many of so many contributed to.
    Partial {
        /// The value.
        value: f64,
        /// How many answered.
        answered: u32,
        /// How many were asked.
        expected: u32,
    },
    /// The series exists and has no data.
    Absent,
    /// The source cannot be asked.
    Error(ErrorKind),
    /// The source never answers.
    Hang,
}

/// A source whose series follow a script on the caller's clock. Clones are the same source.
///
/// A series that was never set is refused with `InvalidConfig`, so that a misspelt name does not pass for a metric
/// without data; say [`Answer::Absent`] for that.
#[derive(Clone, Debug)]
pub struct FakeMetrics {
    state: Arc<Mutex<BTreeMap<MetricQuery, Series>>>,
    resolution: Duration,
    keeps_history: bool,
}

#[derive(Clone, Debug)]
struct Series {
    unit: Unit,
    /// What is answered from which monotonic time on.
    script: BTreeMap<Duration, Answer>,
    asked: u64,
}

impl FakeMetrics {
    /// A source without series, whose ranges have a sample every 15 seconds.
    pub fn new() -> Self {
        Self { state: Arc::default(), resolution: Duration::from_secs(15), keeps_history: true }
    }

    /// Ranges have a sample every `resolution`, above zero.
    #[must_use]
    pub fn with_resolution(mut self, resolution: Duration) -> Self {
        assert!(!resolution.is_zero(), "a range without end; choose a resolution above zero");
        self.resolution = resolution;
        self
    }

    /// Ranges have the newest sample only.
    #[must_use]
    pub fn without_history(mut self) -> Self {
        self.keeps_history = false;
        self
    }

    /// The series always answers this. Its unit is [`Unit::Ratio`] until [`with_unit`](Self::with_unit) says more.
    #[must_use]
    pub fn with(self, query: impl Into<MetricQuery>, answer: Answer) -> Self {
        self.script(query, [(Duration::ZERO, answer)]);
        self
    }

    /// The series has this unit.
    #[must_use]
    pub fn with_unit(self, query: impl Into<MetricQuery>, unit: Unit) -> Self {
        lock(&self.state).entry(query.into()).or_insert_with(Series::new).unit = unit;
        self
    }

    /// From each of these times on, counted on the clock's monotonic time, the series answers so. Before the first of
    /// them it has no data, and a range has none either of a time when the source did not answer. Replaces what was set
    /// before.
    pub fn script(
        &self,
        query: impl Into<MetricQuery>,
        answers: impl IntoIterator<Item = (Duration, Answer)>,
    ) {
        let mut state = lock(&self.state);
        state.entry(query.into()).or_insert_with(Series::new).script = answers.into_iter().collect();
    }

    /// How often the series was asked.
    pub fn asked(&self, query: impl Into<MetricQuery>) -> u64 {
        lock(&self.state).get(&query.into()).map_or(0, |series| series.asked)
    }

    fn ask(&self, query: &MetricQuery) -> Result<Series> {
        let mut state = lock(&self.state);
        let series = state.get_mut(query).ok_or_else(|| {
            Error::invalid("latest", "the fake has no such series; set it, or check the name").on(query)
        })?;
        series.asked += 1;
        Ok(series.clone())
    }
}

impl Default for FakeMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Series {
    fn new() -> Self {
        Self { unit: Unit::Ratio, script: BTreeMap::new(), asked: 0 }
    }

    /// The answer at a moment `ago` before now.
    async fn at(&self, cx: &RunContext, query: &MetricQuery, ago: Duration) -> Result<Option<Sample>> {
        let clock = cx.clock();
        let Some(moment) = clock.monotonic().checked_sub(ago) else { return Ok(None) };
        let time = clock.now() - ago;
        let sample = |value| Sample::new(time, value, self.unit);
        Ok(match self.script.range(..=moment).next_back().map(|(_, answer)| answer) {
            None | Some(Answer::Absent) => None,
            Some(Answer::Value(value)) => Some(sample(*value)),
            Some(Answer::Old(value, age)) => Some(Sample::new(time - *age, *value, self.unit)),
            Some(Answer::Ahead(value, ahead)) => Some(Sample::new(time + *ahead, *value, self.unit)),
            Some(Answer::Partial { value, answered, expected }) => {
                Some(sample(*value).with_coverage(*answered, *expected))
            }
            Some(Answer::Error(_) | Answer::Hang) if !ago.is_zero() => None,
            Some(Answer::Error(kind)) => {
                return Err(Error::new(*kind, "latest", "the fake source cannot be asked").on(query));
            }
            Some(Answer::Hang) => std::future::pending().await,
        })
    }
}

#[async_trait]
impl MetricsSource for FakeMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        self.ask(query)?.at(cx, query, Duration::ZERO).await
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        let series = self.ask(query)?;
        let mut samples = Vec::new();
        // Nothing was before the clock's beginning.
        let back = window.min(cx.clock().monotonic());
        let mut ago = Some(if self.keeps_history { back } else { Duration::ZERO });
        while let Some(back) = ago {
            samples.extend(series.at(cx, query, back).await?);
            ago = (!back.is_zero()).then(|| back.saturating_sub(self.resolution));
        }
        // One that is older than its moment in the script may lie before the window.
        let begin = cx.clock().now().checked_sub(window);
        samples.retain(|sample| begin.is_none_or(|begin| sample.time >= begin));
        samples.sort_by_key(|sample| sample.time);
        Ok(samples)
    }
}
