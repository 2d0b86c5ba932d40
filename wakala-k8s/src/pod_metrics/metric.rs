//! What is made of the values that pods show.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;
use wakala_core::{Sample, Unit};

use super::page::Selected;
use super::scrape::Scrape;

/// The time series of one name that a pod shows, all of them or those with certain labels.
///
/// ```
/// use wakala_k8s::Series;
///
/// let all = Series::named("http_requests_total");
/// let failed = Series::named("http_requests_total").with_label_starting("code", "5");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    name: String,
    labels: BTreeMap<String, Matcher>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    Equals(String),
    StartsWith(String),
}

impl Series {
    /// All series of that name: `http_requests_total`, `latency_seconds_sum`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: BTreeMap::new() }
    }

    /// Only those where `label` has `value`. A label that is absent has the value `""`.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(label.into(), Matcher::Equals(value.into()));
        self
    }

    /// Only those where the value of `label` begins with `prefix`: `5` for the status codes 500 to 599.
    #[must_use]
    pub fn with_label_starting(mut self, label: impl Into<String>, prefix: impl Into<String>) -> Self {
        self.labels.insert(label.into(), Matcher::StartsWith(prefix.into()));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn matches(&self, labels: &[(&str, String)]) -> bool {
        self.labels.iter().all(|(label, matcher)| {
            let value = labels.iter().find(|(name, _)| name == label).map_or("", |(_, value)| value.as_str());
            match matcher {
                Matcher::Equals(wanted) => value == wanted,
                Matcher::StartsWith(prefix) => value.starts_with(prefix.as_str()),
            }
        })
    }
}

impl From<&str> for Series {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

/// What [`PodMetrics`](crate::PodMetrics) makes of the values of all pods.
///
/// Several series of a pod are added up, or their largest counts, before pods are. A pod contributes only with whole
/// numbers of its own: one where a series is missing, or shows NaN or an infinity, counts as one that did not answer.
#[derive(Clone, Debug)]
pub struct PodMetric {
    kind: Kind,
    unit: Unit,
}

#[derive(Clone, Debug)]
enum Kind {
    Increases { of: Series, over: Series },
    Max(Series),
    Rate(Series),
    Ratio { of: Series, over: Series },
    Sum(Series),
}

impl PodMetric {
    /// The sum over all pods: open connections, messages in queues.
    pub fn sum(series: impl Into<Series>, unit: Unit) -> Self {
        Self { kind: Kind::Sum(series.into()), unit }
    }

    /// The largest value of any pod: the oldest message, the fullest disk.
    pub fn max(series: impl Into<Series>, unit: Unit) -> Self {
        Self { kind: Kind::Max(series.into()), unit }
    }

    /// The sum of one gauge over the sum of another, each over the same pods: connections in use of those there are.
    ///
    /// No data where the other sum is zero.
    pub fn ratio(of: impl Into<Series>, over: impl Into<Series>) -> Self {
        Self { kind: Kind::Ratio { of: of.into(), over: over.into() }, unit: Unit::Ratio }
    }

    /// How much one counter grew over how much another did, over the same pods and the same time: the error rate.
    ///
    /// No data where the other did not grow: without requests there is no error rate.
    pub fn ratio_of_increases(of: impl Into<Series>, over: impl Into<Series>) -> Self {
        Self { kind: Kind::Increases { of: of.into(), over: over.into() }, unit: Unit::Ratio }
    }

    /// How much a counter grows each second, over all pods: requests per second.
    pub fn rate(series: impl Into<Series>) -> Self {
        Self { kind: Kind::Rate(series.into()), unit: Unit::PerSecond }
    }

    /// The series that it is made of.
    pub(crate) fn series(&self) -> Vec<&Series> {
        match &self.kind {
            Kind::Max(series) | Kind::Rate(series) | Kind::Sum(series) => vec![series],
            Kind::Increases { of, over } | Kind::Ratio { of, over } => vec![of, over],
        }
    }

    /// Whether one scrape is not enough.
    pub(crate) fn needs_two(&self) -> bool {
        matches!(self.kind, Kind::Increases { .. } | Kind::Rate(_))
    }

    /// The value of `scrape`, or since `base`. `selections` are all that pages were searched for.
    pub(crate) fn evaluate(
        &self,
        selections: &[Series],
        scrape: &Scrape,
        base: Option<&Scrape>,
    ) -> Option<Sample> {
        let index = |series: &Series| selections.iter().position(|known| known == series);
        let (value, answered) = match &self.kind {
            Kind::Sum(series) => {
                let index = index(series)?;
                total(scrape.pods.values().filter_map(|pod| Some([sum(&pod[index])?])))
                    .map(|([sum], pods)| (sum, pods))?
            }
            Kind::Max(series) => {
                let index = index(series)?;
                let values: Vec<_> = scrape.pods.values().filter_map(|pod| largest(&pod[index])).collect();
                (values.iter().copied().reduce(f64::max)?, values.len())
            }
            Kind::Ratio { of, over } => {
                let (of, over) = (index(of)?, index(over)?);
                let pods = scrape.pods.values();
                let sums = total(pods.filter_map(|pod| Some([sum(&pod[of])?, sum(&pod[over])?])));
                sums.map(|([of, over], pods)| (of / over, pods))?
            }
            Kind::Increases { of, over } => {
                let (of_index, over_index) = (index(of)?, index(over)?);
                let sums = total(both(scrape, base?).filter_map(|(now, before)| {
                    let of = increase(of, &now[of_index], &before[of_index])?;
                    Some([of, increase(over, &now[over_index], &before[over_index])?])
                }));
                sums.map(|([of, over], pods)| (of / over, pods))?
            }
            Kind::Rate(series) => {
                let index = index(series)?;
                let base = base?;
                let sums = total(
                    both(scrape, base)
                        .filter_map(|(now, before)| Some([increase(series, &now[index], &before[index])?])),
                );
                let seconds = seconds(base.begun, scrape.begun);
                sums.map(|([sum], pods)| (sum / seconds, pods))?
            }
        };
        let answered = u32::try_from(answered).unwrap_or(u32::MAX);
        // A quotient by zero is no number, and says nothing.
        let sample = Sample::new(scrape.time, value, self.unit).with_coverage(answered, scrape.expected);
        value.is_finite().then_some(sample)
    }

    /// Whether any pod shows all that the metric is made of.
    pub(crate) fn is_shown(&self, selections: &[Series], scrape: &Scrape) -> bool {
        let needed: Vec<_> = self
            .series()
            .iter()
            .filter_map(|series| selections.iter().position(|known| known == *series))
            .collect();
        scrape.pods.values().any(|pod| needed.iter().all(|index| pod[*index].named))
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

/// The sums over pods, and how many those are; `None` where there are none.
fn total<const N: usize>(pods: impl Iterator<Item = [f64; N]>) -> Option<([f64; N], usize)> {
    pods.fold(None, |total, pod| {
        let (mut sums, count) = total.unwrap_or(([0.0; N], 0));
        for (sum, value) in sums.iter_mut().zip(pod) {
            *sum += value;
        }
        Some((sums, count + 1))
    })
}

fn finite(selected: &Selected) -> bool {
    selected.values.iter().all(|(_, value)| value.is_finite())
}

fn sum(selected: &Selected) -> Option<f64> {
    (!selected.values.is_empty() && finite(selected))
        .then(|| selected.values.iter().map(|(_, value)| value).sum())
}

fn largest(selected: &Selected) -> Option<f64> {
    let largest = selected.values.iter().map(|(_, value)| *value).reduce(f64::max);
    largest.filter(|_| finite(selected))
}

type Pod = [Selected];

/// The pods that answered both times.
fn both<'a>(now: &'a Scrape, before: &'a Scrape) -> impl Iterator<Item = (&'a Pod, &'a Pod)> {
    now.pods.iter().filter_map(|(pod, now)| Some((&**now, &**before.pods.get(pod)?)))
}

/// By how much a pod's counter grew.
///
/// A counter that is smaller than it was began anew, at zero. Servers show a series with labels from its first event on:
/// where there are others of its name, one that is not there is at zero.
fn increase(series: &Series, now: &Selected, before: &Selected) -> Option<f64> {
    let known = |selected: &Selected| {
        let shown = !selected.values.is_empty() || (selected.named && !series.labels.is_empty());
        let counts = selected.values.iter().all(|(_, value)| value.is_finite() && *value >= 0.0);
        shown && counts
    };
    if !known(now) || !known(before) {
        return None;
    }
    let before: HashMap<u64, f64> = before.values.iter().copied().collect();
    let grown = now.values.iter().map(|(key, now)| match before.get(key) {
        Some(before) if now >= before => now - before,
        _ => *now,
    });
    Some(grown.sum())
}
