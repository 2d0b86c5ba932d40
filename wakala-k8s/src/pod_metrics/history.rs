//! What earlier scrapes left: something to measure growth from, and the samples of the last while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use wakala_core::{ErrorKind, Retry, Sample};

use super::scrape::Scrape;

/// How many earlier scrapes are kept whole: enough for one that is between one and one and a half windows old.
const BASES: usize = 4;
/// Samples kept of each metric.
const SAMPLES: usize = 1024;

/// The scrapes of one workload.
#[derive(Debug)]
pub(crate) struct History {
    bases: VecDeque<Arc<Scrape>>,
    /// By the metric's place in the declaration.
    samples: Vec<VecDeque<Sample>>,
    pub(crate) newest: Option<Newest>,
}

/// How the newest scrape ended.
#[derive(Debug)]
pub(crate) struct Newest {
    pub(crate) ended: Instant,
    pub(crate) outcome: Result<Seen, Failed>,
}

/// A scrape, and what it is measured from.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) scrape: Arc<Scrape>,
    pub(crate) base: Option<Arc<Scrape>>,
}

/// An error, for those who wait for the same scrape.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) kind: ErrorKind,
    pub(crate) retry: Retry,
    pub(crate) text: String,
}

/// Between which ages a scrape may be measured from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

impl History {
    pub(crate) fn new(metrics: usize) -> Self {
        Self { bases: VecDeque::new(), samples: vec![VecDeque::new(); metrics], newest: None }
    }

    /// Takes a new scrape in, and finds the newest earlier one that is old enough to measure growth from.
    pub(crate) fn push(&mut self, scrape: Arc<Scrape>, window: Window) -> Seen {
        self.forget(scrape.begun, window);
        let age = |base: &Scrape| scrape.begun.saturating_duration_since(base.begun);
        let base = self.bases.iter().rev().find(|base| age(base) >= window.least).cloned();
        // The last one gives way to the new one where it is too near to the one before it to be of use later.
        if let [.., before, last] = self.bases.make_contiguous()
            && last.begun.saturating_duration_since(before.begun) < window.least / 2
        {
            self.bases.pop_back();
        }
        self.bases.push_back(Arc::clone(&scrape));
        if self.bases.len() > BASES {
            self.bases.pop_front();
        }
        Seen { scrape, base }
    }

    /// The oldest scrape that growth may be measured from some time later.
    pub(crate) fn oldest(&mut self, now: Instant, window: Window) -> Option<Arc<Scrape>> {
        self.forget(now, window);
        self.bases.front().cloned()
    }

    fn forget(&mut self, now: Instant, window: Window) {
        self.bases.retain(|base| now.saturating_duration_since(base.begun) <= window.most);
    }

    /// Notes a metric's sample, unless it is the one noted last.
    pub(crate) fn note(&mut self, metric: usize, sample: &Sample) {
        let samples = &mut self.samples[metric];
        if samples.back().is_none_or(|last| last.time < sample.time) {
            samples.push_back(sample.clone());
        }
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// A metric's samples since `begin`, oldest first.
    pub(crate) fn since(&self, metric: usize, begin: SystemTime) -> Vec<Sample> {
        self.samples[metric].iter().filter(|sample| sample.time >= begin).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use wakala_core::Unit;

    use super::*;

    const WINDOW: Window = Window { least: Duration::from_secs(8), most: Duration::from_secs(60) };

    fn scrape(begun: Instant) -> Arc<Scrape> {
        Arc::new(Scrape {
            begun,
            time: SystemTime::UNIX_EPOCH,
            expected: 0,
            pods: HashMap::new(),
            failures: BTreeMap::new(),
        })
    }

    /// How old what each scrape is measured from was, for scrapes that many seconds after the first.
    fn ages(seconds: impl IntoIterator<Item = u64>) -> Vec<Option<u64>> {
        let (start, mut history) = (Instant::now(), History::new(0));
        let age = |seconds| {
            let begun = start + Duration::from_secs(seconds);
            let base = history.push(scrape(begun), WINDOW).base;
            assert!(history.bases.len() <= BASES);
            base.map(|base| (begun - base.begun).as_secs())
        };
        seconds.into_iter().map(age).collect()
    }

    #[test]
    fn growth_is_measured_from_the_newest_scrape_that_is_old_enough() {
        assert_eq!(ages([0, 7, 8, 20]), [None, None, Some(8), Some(12)]);
        assert_eq!(ages([0, 30, 60]), [None, Some(30), Some(30)]);
        assert_eq!(ages([0, 60, 121]), [None, Some(60), None], "nor from one that is too old");
    }

    #[test]
    fn frequent_scrapes_have_something_to_be_measured_from() {
        for step in 1..8 {
            let ages = ages((0..200).step_by(step));
            let first = ages.iter().position(Option::is_some).unwrap();
            assert!(first <= 8usize.div_ceil(step), "every {step} s: {ages:?}");
            assert!(
                ages[first..].iter().all(|age| age.is_some_and(|age| (8..=16).contains(&age))),
                "{ages:?}"
            );
        }
    }

    #[test]
    fn samples_are_kept_in_order_once_and_not_for_ever() {
        let mut history = History::new(2);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for seconds in 0..2000 {
            let sample = Sample::new(at(seconds), 1.0, Unit::Ratio);
            history.note(1, &sample);
            history.note(1, &sample);
        }
        let times = |begin| history.since(1, at(begin)).iter().map(|sample| sample.time).collect::<Vec<_>>();
        assert_eq!(times(1998), [at(1998), at(1999)]);
        assert_eq!(times(0).len(), SAMPLES);
        assert_eq!(history.since(0, at(0)), []);
    }
}
