//! What is made of the values that pods show.

use std::collections::{BTreeMap, HashMap};

use wakala_core::{Sample, Unit};

use super::page::Selected;
use super::scrape::{Answer, Scrape};

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
                let series = index(series)?;
                let sums = scrape.pods.values().filter_map(|pod| Some([sum(&pod.selected[series])?]));
                total(sums).map(|([sum], pods)| (sum, pods))?
            }
            Kind::Max(series) => {
                let series = index(series)?;
                let values = scrape.pods.values().filter_map(|pod| largest(&pod.selected[series]));
                let values: Vec<_> = values.collect();
                (values.iter().copied().reduce(f64::max)?, values.len())
            }
            Kind::Ratio { of, over } => {
                let (of, over) = (index(of)?, index(over)?);
                let pods = scrape.pods.values().map(|pod| &pod.selected);
                let sums = total(pods.filter_map(|pod| Some([sum(&pod[of])?, sum(&pod[over])?])));
                sums.map(|([of, over], pods)| (of / over, pods))?
            }
            Kind::Increases { of, over } => {
                let (of_index, over_index) = (index(of)?, index(over)?);
                let sums = total(both(scrape, base?).filter_map(|(now, before)| {
                    let of = increase(of, &now.selected[of_index], &before.selected[of_index])?;
                    let over = increase(over, &now.selected[over_index], &before.selected[over_index])?;
                    Some([of, over])
                }));
                sums.map(|([of, over], pods)| (of / over, pods))?
            }
            Kind::Rate(series) => {
                let index = index(series)?;
                let rates = both(scrape, base?).filter_map(|(now, before)| {
                    let increase = increase(series, &now.selected[index], &before.selected[index])?;
                    Some([increase / now.at.saturating_duration_since(before.at).as_secs_f64()])
                });
                total(rates).map(|([rate], pods)| (rate, pods))?
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
        scrape.pods.values().any(|pod| needed.iter().all(|index| pod.selected[*index].named))
    }
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

/// The pods that answered both times.
fn both<'a>(now: &'a Scrape, before: &'a Scrape) -> impl Iterator<Item = (&'a Answer, &'a Answer)> {
    now.pods.iter().filter_map(|(pod, now)| Some((now, before.pods.get(pod)?)))
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::time::Instant;
    use wakala_core::Coverage;

    use super::*;
    use crate::pod_metrics::page::select;

    fn gauges() -> PodMetric {
        PodMetric::sum("g", Unit::Count)
    }

    fn errors() -> PodMetric {
        PodMetric::ratio_of_increases("errors", "requests")
    }

    fn of_5xx() -> PodMetric {
        PodMetric::ratio_of_increases(Series::named("r").with_label_starting("code", "5"), "r")
    }

    /// A scrape of `pages`, each of a pod, of whom so many were expected.
    fn scrape(metric: &PodMetric, at: Instant, expected: u32, pages: &[(&str, &str)]) -> Scrape {
        let selections: Vec<_> = metric.series().into_iter().cloned().collect();
        let answer = |page: &str| {
            let lines = page.replace("; ", "\n") + "\n";
            Answer { at, selected: select(&lines, &selections).unwrap() }
        };
        Scrape {
            begun: at,
            time: SystemTime::UNIX_EPOCH,
            expected,
            pods: pages.iter().map(|(pod, page)| ((*pod).to_owned(), answer(page))).collect(),
            failures: BTreeMap::new(),
        }
    }

    /// Value, answered, expected.
    fn seen(sample: Option<Sample>) -> Option<(f64, u32, u32)> {
        sample.map(|Sample { value, coverage: Coverage { answered, expected }, .. }| {
            (value, answered, expected)
        })
    }

    fn once(metric: &PodMetric, expected: u32, pages: &[(&str, &str)]) -> Option<(f64, u32, u32)> {
        let selections: Vec<_> = metric.series().into_iter().cloned().collect();
        seen(metric.evaluate(&selections, &scrape(metric, Instant::now(), expected, pages), None))
    }

    fn twice(
        metric: &PodMetric,
        expected: u32,
        before: &[(&str, &str)],
        now: &[(&str, &str)],
    ) -> Option<(f64, u32, u32)> {
        let selections: Vec<_> = metric.series().into_iter().cloned().collect();
        let start = Instant::now();
        let base = scrape(metric, start, 9, before);
        let later = scrape(metric, start + Duration::from_secs(4), expected, now);
        seen(metric.evaluate(&selections, &later, Some(&base)))
    }

    #[test]
    fn sums_and_maxima_are_over_pods_that_have_numbers() {
        let pages = [
            ("a", "g{x=\"1\"} 1; g{x=\"2\"} 2"),
            ("b", "g 10"),
            ("nan", "g{x=\"1\"} 100; g{x=\"2\"} NaN"),
            ("inf", "g +Inf"),
            ("none", "other 5"),
        ];
        assert_eq!(once(&gauges(), 7, &pages), Some((13.0, 2, 7)));
        assert_eq!(once(&PodMetric::max("g", Unit::Count), 7, &pages), Some((10.0, 2, 7)));
        assert_eq!(once(&PodMetric::max("g", Unit::Count), 1, &[("a", "g -3")]), Some((-3.0, 1, 1)));
    }

    #[test]
    fn nothing_is_never_zero() {
        for metric in
            [gauges(), PodMetric::max("g", Unit::Count), PodMetric::ratio("g", "h"), errors(), of_5xx()]
        {
            assert_eq!(once(&metric, 0, &[]), None, "{metric:?}");
            assert_eq!(once(&metric, 2, &[("a", "other 1"), ("b", "other 1")]), None, "{metric:?}");
            assert_eq!(twice(&metric, 1, &[("a", "other 1")], &[("a", "other 2")]), None, "{metric:?}");
        }
        assert_eq!(once(&gauges(), 1, &[("a", "g 0")]), Some((0.0, 1, 1)), "but zero is");
    }

    #[test]
    fn a_ratio_is_one_of_sums_over_the_same_pods() {
        let metric = PodMetric::ratio("used", "size");
        let pages = [("a", "used 1; size 10"), ("b", "used 5; size 10"), ("half", "used 100")];
        assert_eq!(once(&metric, 3, &pages), Some((0.3, 2, 3)));
        assert_eq!(once(&metric, 1, &[("a", "used 1; size 0")]), None);
        assert_eq!(once(&metric, 1, &[("a", "used 0; size 0")]), None);
    }

    #[test]
    fn growth_needs_two_scrapes_of_the_same_pod() {
        assert_eq!(once(&errors(), 1, &[("a", "errors 1; requests 10")]), None);
        let before = [("a", "errors 5; requests 100"), ("gone", "errors 50; requests 100")];
        let now = [("a", "errors 6; requests 110"), ("new", "errors 80; requests 90")];
        assert_eq!(twice(&errors(), 2, &before, &now), Some((0.1, 1, 2)));
        assert_eq!(twice(&errors(), 2, &[("gone", "errors 1; requests 2")], &now), None);
    }

    #[test]
    fn growth_table() {
        for (before, now, wanted) in [
            ("errors 0; requests 0", "errors 0; requests 10", Some(0.0)),
            ("errors 3; requests 10", "errors 3; requests 10", None),
            // Errors of no request.
            ("errors 3; requests 10", "errors 4; requests 10", None),
            // Began anew: 2 of 8.
            ("errors 30; requests 100", "errors 2; requests 8", Some(0.25)),
            // Only one of them did.
            ("errors 30; requests 100", "errors 5; requests 150", Some(0.1)),
            ("errors NaN; requests 100", "errors 5; requests 150", None),
            ("errors 1; requests 100", "errors NaN; requests 150", None),
            ("errors 1; requests 100", "errors 1; requests +Inf", None),
            ("errors -1; requests 100", "errors 1; requests 150", None),
            // Without labels, absent is unknown.
            ("requests 100", "errors 5; requests 150", None),
            ("errors 1; requests 100", "requests 150", None),
        ] {
            let seen = twice(&errors(), 1, &[("a", before)], &[("a", now)]);
            assert_eq!(seen, wanted.map(|value| (value, 1, 1)), "{before} -> {now}");
        }
    }

    #[test]
    fn series_of_a_counter_come_with_their_first_event() {
        for (before, now, wanted) in [
            ("r{code=\"200\"} 1", "r{code=\"200\"} 11", Some(0.0)),
            ("r{code=\"200\"} 1", "r{code=\"200\"} 10; r{code=\"500\"} 1", Some(0.1)),
            // 4 of 500 and 5 of 503, that one for the first time; 91 of 200.
            (
                "r{code=\"200\"} 9; r{code=\"500\"} 6",
                "r{code=\"500\"} 10; r{code=\"503\"} 5; r{code=\"200\"} 100",
                Some(0.09),
            ),
            // A counter that began anew is found although another grew by more.
            ("r{code=\"200\"} 100; r{code=\"500\"} 50", "r{code=\"200\"} 190; r{code=\"500\"} 10", Some(0.1)),
            ("other 1", "r{code=\"200\"} 10; r{code=\"500\"} 1", None),
            ("r{code=\"200\"} 10", "other 1", None),
        ] {
            let seen = twice(&of_5xx(), 1, &[("a", before)], &[("a", now)]);
            assert_eq!(seen, wanted.map(|value| (value, 1, 1)), "{before} -> {now}");
        }
    }

    #[test]
    fn a_rate_is_per_second() {
        let metric = PodMetric::rate("requests");
        let before = [("a", "requests 100"), ("b", "requests 100")];
        let now = [("a", "requests 120"), ("b", "requests 4"), ("new", "requests 999")];
        assert_eq!(twice(&metric, 3, &before, &now), Some((6.0, 2, 3)));
        assert_eq!(metric.unit, Unit::PerSecond);
    }
}
