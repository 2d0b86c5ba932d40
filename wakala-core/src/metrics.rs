//! Metrics: typed queries, samples that carry time, unit and quality, and the source that answers.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Permission, Result, RunContext};

/// The unit of a sample's value.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A number of things: connections, messages in a queue.
    Count,
    /// Things per second.
    PerSecond,
    /// A share, where 1 is the whole.
    Ratio,
    /// Seconds.
    Seconds,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => " B",
            Self::Count | Self::Ratio => "",
            Self::PerSecond => "/s",
            Self::Seconds => " s",
        })
    }
}

/// How many of those that should have contributed to a sample did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// How many answered.
    pub answered: u32,
    /// How many were asked.
    pub expected: u32,
}

impl Coverage {
    /// One source that is the whole truth.
    pub const WHOLE: Self = Self { answered: 1, expected: 1 };

    /// The share that answered, from 0 to 1; 0 where nobody was asked.
    pub fn ratio(self) -> f64 {
        if self.expected == 0 { 0.0 } else { f64::from(self.answered) / f64::from(self.expected) }
    }
}

/// One measured value.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was measured, by the source's clock.
    #[serde(with = "humantime_serde")]
    pub time: SystemTime,
    /// The value in [`unit`](Self::unit)s. Never invented: a source that has no value gives no sample.
    pub value: f64,
    /// The unit of the value.
    pub unit: Unit,
    /// Which part of the truth this is.
    pub coverage: Coverage,
}

impl Sample {
    /// A sample that is the whole truth.
    pub fn new(time: SystemTime, value: f64, unit: Unit) -> Self {
        Self { time, value, unit, coverage: Coverage::WHOLE }
    }

    /// Says how many of those asked the value stands for.
    #[must_use]
    pub fn with_coverage(mut self, answered: u32, expected: u32) -> Self {
        self.coverage = Coverage { answered, expected };
        self
    }
}

/// What to ask a source for: a metric's name and the labels that select one series of it.
///
/// ```
/// use wakala_core::MetricQuery;
///
/// let query = MetricQuery::new("error_rate").with_label("workload", "wakala-api");
/// assert_eq!(query.to_string(), r#"error_rate{workload="wakala-api"}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetricQuery {
    name: String,
    labels: BTreeMap<String, String>,
}

impl MetricQuery {
    /// The metric of that name, without labels.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: BTreeMap::new() }
    }

    /// Asks for the series where `label` has `value`.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(label.into(), value.into());
        self
    }

    /// The metric's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value that the query asks of a label.
    pub fn label(&self, label: &str) -> Option<&str> {
        self.labels.get(label).map(String::as_str)
    }

    /// All labels, by name.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

impl From<&str> for MetricQuery {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for MetricQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let mut separator = "{";
        for (label, value) in &self.labels {
            write!(f, "{separator}{label}={value:?}")?;
            separator = ",";
        }
        f.write_str(if self.labels.is_empty() { "" } else { "}" })
    }
}

/// Something that answers metric queries. Reads only.
///
/// A source that cannot be asked is an error; a source that answers that there is no data is `None`. Neither is
/// ever turned into a zero.
#[async_trait]
pub trait MetricsSource: Debug + Send + Sync + 'static {
    /// The newest sample of the series, or `None` where there is none.
    ///
    /// The sample may be old: whoever decides on it looks at [`Sample::time`].
    ///
    /// # Errors
    /// `Unavailable` or `DeadlineExceeded` where the source did not answer, `Denied` without permission,
    /// `InvalidConfig` for a query that it can never answer (an unknown metric name, say).
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>>;

    /// The samples of the last `window`, oldest first; gaps are absent samples.
    ///
    /// A source without history gives what it has: at most the newest sample.
    ///
    /// # Errors
    /// As for [`latest`](Self::latest).
    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>>;

    /// What the providers must allow for answering. As given: nothing.
    fn permissions(&self) -> Vec<Permission> {
        Vec::new()
    }
}
