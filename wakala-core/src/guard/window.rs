//! From samples to the one value that a guard judges, as long as they are good enough.

use std::fmt;
use std::time::{Duration, SystemTime};

use humantime::format_duration;

use super::bound::number;
use crate::{MetricQuery, Sample, Unit};

/// What a guard makes of the samples of a window.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aggregate {
    /// The newest of them: as without a window, and with a say in how many there must be.
    Latest,
    /// The largest. The strict choice for a guard below a limit.
    Max,
    /// Their mean, each counting the same.
    Mean,
    /// The smallest. The strict choice for a guard above a limit.
    Min,
    /// The smallest of them that at least this share, above 0 and at most 1, does not exceed; `Quantile(0.95)` of
    /// fewer than 20 samples is the largest.
    Quantile(f64),
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Max => f.write_str("max"),
            Self::Mean => f.write_str("mean"),
            Self::Min => f.write_str("min"),
            Self::Quantile(share) => write!(f, "quantile {share}"),
        }
    }
}

impl Aggregate {
    /// Of finite values, oldest first; `None` where there are none.
    pub(super) fn of(self, values: &[f64]) -> Option<f64> {
        let newest = values.last().copied()?;
        Some(match self {
            Self::Latest => newest,
            Self::Max => values.iter().copied().fold(newest, f64::max),
            Self::Mean => values.iter().sum::<f64>() / values.len() as f64,
            Self::Min => values.iter().copied().fold(newest, f64::min),
            Self::Quantile(share) => {
                let mut sorted = values.to_vec();
                sorted.sort_by(f64::total_cmp);
                // 0.07 of 100 is a little more than 7 for a computer.
                let enough = |rank: usize| rank as f64 + 1e-9 >= share * sorted.len() as f64;
                let rank = (1..=sorted.len()).find(|rank| enough(*rank)).unwrap_or(sorted.len());
                sorted[rank - 1]
            }
        })
    }
}

/// What a sample must be to be judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quality {
    pub(super) max_age: Duration,
    pub(super) min_coverage: f64,
    pub(super) possible: Option<(f64, f64)>,
}

impl Quality {
    /// Why a sample is no measurement, whatever its age.
    pub(super) fn flaw(&self, query: &MetricQuery, sample: &Sample) -> Option<String> {
        let Sample { value, coverage, .. } = sample;
        if coverage.answered == 0 || coverage.ratio() < self.min_coverage {
            return Some(format!("{query} from only {} of {}", coverage.answered, coverage.expected));
        }
        if value.is_nan() {
            return Some(format!("{query} is not a number"));
        }
        if value.is_infinite() {
            return Some(format!("{query} is infinite, as where something is divided by nothing"));
        }
        match self.possible {
            Some((lowest, highest)) if !(lowest..=highest).contains(value) => {
                Some(format!("{query} is {value}, which cannot be: it lies within {lowest}..{highest}"))
            }
            _ => None,
        }
    }

    /// Why a sample says nothing about `now`.
    pub(super) fn lateness(&self, query: &MetricQuery, sample: &Sample, now: SystemTime) -> Option<String> {
        let limit = format_duration(self.max_age);
        let (age, where_it_is) = match now.duration_since(sample.time) {
            Ok(age) => (age, "old"),
            // A clock that differs a little is usual, and one that jumped makes every age wrong.
            Err(ahead) => (ahead.duration(), "ahead of the clock here"),
        };
        (age > self.max_age).then(|| {
            let age = format_duration(Duration::new(age.as_secs(), age.subsec_millis() * 1_000_000));
            format!("the newest sample of {query} is {age} {where_it_is}, {limit} is the limit")
        })
    }
}

/// Which samples are judged, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) window: Option<(Duration, Aggregate)>,
    /// As given two in a window, and one without.
    pub(super) min_samples: Option<usize>,
    pub(super) quality: Quality,
}

/// The one value that is judged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading {
    pub(super) value: f64,
    pub(super) unit: Unit,
    /// The smallest and the largest value that it was made of.
    pub(super) seen: (f64, f64),
    how: String,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", number(self.value), self.unit, self.how)
    }
}

impl View {
    /// How many samples a window must have.
    pub(super) fn needed(&self) -> usize {
        self.min_samples.unwrap_or(2)
    }

    /// What the samples, oldest first, say at `now`; otherwise what is missing.
    pub(super) fn read(
        &self,
        query: &MetricQuery,
        samples: &[Sample],
        now: SystemTime,
    ) -> Result<Reading, String> {
        let Some(newest) = samples.last() else {
            return Err(format!("{query} has no data"));
        };
        if let Some(late) = self.quality.lateness(query, newest, now) {
            return Err(late);
        }
        let Some((window, aggregate)) = self.window else {
            return match self.quality.flaw(query, newest) {
                Some(flaw) => Err(flaw),
                None => Ok(Reading {
                    value: newest.value,
                    unit: newest.unit,
                    seen: (newest.value, newest.value),
                    how: String::new(),
                }),
            };
        };
        let begin = now.checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH);
        let within = &samples[samples.partition_point(|sample| sample.time < begin)..];
        // One that is no measurement is a gap, and so one bad scrape does not blind a window; the count tells.
        let (usable, flaws): (Vec<_>, Vec<_>) =
            within.iter().partition(|sample| self.quality.flaw(query, sample).is_none());
        let values: Vec<f64> = usable.iter().map(|sample| sample.value).collect();
        let span = format_duration(window);
        let value = match aggregate.of(&values) {
            Some(value) if values.len() >= self.needed() => value,
            _ => {
                let flaw = flaws.last().and_then(|sample| self.quality.flaw(query, sample));
                let flaw = flaw.map(|flaw| format!(" ({flaw})")).unwrap_or_default();
                return Err(format!(
                    "{} usable samples of {query} within {span}, {} are needed{flaw}",
                    values.len(),
                    self.needed()
                ));
            }
        };
        // The newest may be there and be of no use, time and again.
        if let Some(late) = usable.last().and_then(|sample| self.quality.lateness(query, sample, now)) {
            return Err(format!("{late} (newer ones are of no use)"));
        }
        let extreme = |aggregate: Aggregate| aggregate.of(&values).unwrap_or(value);
        Ok(Reading {
            value,
            unit: newest.unit,
            seen: (extreme(Aggregate::Min), extreme(Aggregate::Max)),
            how: format!(" ({aggregate} of {} samples within {span})", values.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + MINUTE * 1000
    }

    fn ago(seconds: u64, value: f64) -> Sample {
        Sample::new(now() - SECOND * u32::try_from(seconds).unwrap(), value, Unit::Ratio)
    }

    fn view(window: Option<Aggregate>, min_samples: impl Into<Option<usize>>) -> View {
        View {
            window: window.map(|aggregate| (MINUTE * 5, aggregate)),
            min_samples: min_samples.into(),
            quality: Quality { max_age: MINUTE, min_coverage: 0.5, possible: None },
        }
    }

    fn says(view: View, samples: &[Sample]) -> String {
        match view.read(&"m".into(), samples, now()) {
            Ok(reading) => format!("ok {reading}"),
            Err(missing) => missing,
        }
    }

    #[test]
    fn aggregates() {
        let values = [3.0, 1.0, 2.0, 10.0, 4.0];
        for (aggregate, expected) in [
            (Aggregate::Latest, 4.0),
            (Aggregate::Max, 10.0),
            (Aggregate::Mean, 4.0),
            (Aggregate::Min, 1.0),
            (Aggregate::Quantile(0.2), 1.0),
            (Aggregate::Quantile(0.21), 2.0),
            (Aggregate::Quantile(0.5), 3.0),
            (Aggregate::Quantile(0.95), 10.0),
            (Aggregate::Quantile(1.0), 10.0),
        ] {
            assert_eq!(aggregate.of(&values), Some(expected), "{aggregate}");
            assert_eq!(aggregate.of(&[]), None, "{aggregate}");
            assert_eq!(aggregate.of(&[7.0]), Some(7.0), "{aggregate}");
        }
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(Aggregate::Quantile(0.07).of(&hundred), Some(7.0));
        let negative = [-3.0, -1.0];
        assert_eq!(Aggregate::Max.of(&negative), Some(-1.0));
        assert_eq!(Aggregate::Min.of(&negative), Some(-3.0));
    }

    #[test]
    fn one_sample_must_be_a_measurement_of_now() {
        let ahead = Sample::new(now() + SECOND * 61, 0.1, Unit::Ratio);
        let near = Sample::new(now() + SECOND * 60, 0.1, Unit::Ratio);
        for (sample, expected) in [
            (ago(60, 0.1), "ok 0.1000"),
            (near, "ok 0.1000"),
            (ago(61, 0.1), "the newest sample of m is 1m 1s old, 1m is the limit"),
            (ahead, "the newest sample of m is 1m 1s ahead of the clock here, 1m is the limit"),
            (ago(0, 0.1).with_coverage(5, 10), "ok 0.1000"),
            (ago(0, 0.1).with_coverage(4, 10), "m from only 4 of 10"),
            (ago(0, f64::NAN), "m is not a number"),
            (ago(0, f64::INFINITY), "m is infinite, as where something is divided by nothing"),
            (ago(0, f64::NEG_INFINITY), "m is infinite, as where something is divided by nothing"),
        ] {
            assert_eq!(says(view(None, 1), &[sample]), expected);
        }
        assert_eq!(says(view(None, 1), &[]), "m has no data");
        let mut lenient = view(None, 1);
        lenient.quality.min_coverage = 0.0;
        assert_eq!(says(lenient, &[ago(0, 0.1).with_coverage(0, 10)]), "m from only 0 of 10");
        lenient.quality.possible = Some((0.0, 1.0));
        assert_eq!(says(lenient, &[ago(0, 42.0)]), "m is 42, which cannot be: it lies within 0..1");
        assert_eq!(says(lenient, &[ago(0, 1.0)]), "ok 1.0000");
    }

    #[test]
    fn a_window_takes_what_lies_within_and_is_of_use() {
        let mean = view(Some(Aggregate::Mean), None);
        let (old, nan, thin) = (ago(301, 9.0), ago(20, f64::NAN), ago(10, 9.0).with_coverage(1, 10));
        let usual = [old, ago(300, 0.1), ago(40, 0.3), nan, thin, ago(0, 0.2)];
        assert_eq!(says(mean, &usual), "ok 0.2000 (mean of 3 samples within 5m)");
        let reading = mean.read(&"m".into(), &usual, now()).unwrap();
        assert_eq!(reading.seen, (0.1, 0.3));
    }

    #[test]
    fn a_window_needs_enough_samples_and_one_of_now() {
        let mean = view(Some(Aggregate::Mean), 3);
        let few = [ago(30, 0.1), ago(15, f64::NAN), ago(0, 0.1)];
        assert_eq!(says(mean, &few), "2 usable samples of m within 5m, 3 are needed (m is not a number)");
        assert_eq!(
            says(mean, &[ago(90, 0.1), ago(75, 0.1), ago(61, 0.1)]),
            "the newest sample of m is 1m 1s old, 1m is the limit"
        );
        let blind = [ago(90, 0.1), ago(75, 0.1), ago(61, 0.1), ago(0, f64::NAN)];
        assert_eq!(
            says(mean, &blind),
            "the newest sample of m is 1m 1s old, 1m is the limit (newer ones are of no use)"
        );
        let jumped = Sample::new(now() + MINUTE * 2, 0.1, Unit::Ratio);
        let text = says(mean, &[ago(30, 0.1), ago(15, 0.1), ago(0, 0.1), jumped]);
        assert_eq!(text, "the newest sample of m is 2m ahead of the clock here, 1m is the limit");
        // Nothing asked for, and yet nothing is made of nothing.
        assert!(says(view(Some(Aggregate::Max), 0), &[ago(0, f64::NAN)]).starts_with("0 usable samples"));
    }
}
