//! Proves a runbook: runs a playbook with something going wrong at every single call, and with many things going wrong at
//! once, and checks that what the engine promises holds each time.
//!
//! A [`Scene`] is a fresh world in virtual time with a playbook on it. [`explore`] plans and runs the playbook once as it
//! is; takes it back, twice; and then does all of that again for each call that was made of a step, a guard or the
//! store, and for each thing that can go wrong there: the process is gone before the call, or after it; the call fails in
//! one of six [ways](crate::testing::Fault); the process is suspended, another one takes the run over, and then the first one goes on;
//! the sources of metrics go dark. Whoever finds the run orphaned or held goes on with it. Then come schedules of chance,
//! in which two to five such things happen, and people let the run pause or stop.
//!
//! In every schedule the [laws](Law) are checked. One that breaks a law is made as small as it can be, and shown with its
//! seed and its timeline; [`Explore::replay`] plays it again.
//!
//! ```
//! use std::sync::Arc;
//! use serde_json::json;
//! use wakala_core::testing::FakeTarget;
//! use wakala_core::testing::explore::{Scene, explore};
//! use wakala_core::{ManualClock, Playbook, ScaleUp, step};
//!
//! let found = explore(|| {
//!     let api = FakeTarget::new("api", 10);
//!     let scale = ScaleUp::to(Arc::new(api.clone()), 50).step("scale");
//!     let playbook = Playbook::builder("spike").then(step(scale)).build().unwrap();
//!     Scene::new(&ManualClock::default(), playbook, move || [("scale".to_owned(), json!(api.size()))].into())
//! });
//! found.assert_clean();
//! println!("{found}");
//! ```
//!
//! # What is out of its reach
//!
//! The steps are called as they are, so what goes wrong within one call of a step, between two calls of its provider, is
//! seen only where the world of the scene lets it go wrong. A process is not suspended while a call of its own that changes
//! the world is under way: such a call may arrive after somebody else took the run over, and no lease keeps it back.
//! People who change by hand what the steps change are a matter of the steps, and of
//! [`conformance`](crate::testing::conformance::step).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::lock;
use crate::Approval;

mod calls;
mod drive;
mod ends;
mod invariants;
mod law;
mod points;
mod report;
mod scene;
mod schedule;
mod shrink;
mod turns;
mod wraps;

pub use law::Law;
pub use report::{Exploration, Violation};
pub use scene::{Blackout, Scene, Snapshot};
pub use schedule::{Back, Schedule, Then, Trouble};

use drive::{Setting, play};
use invariants::Breach;

/// How many violations are made small and shown.
const SHOWN: usize = 80;

/// The name of every explored run.
const RUN: &str = "explored";

/// Explores as [`Explore::new`] does: every schedule with one trouble, and 1000 of chance.
pub fn explore(make: impl Fn() -> Scene + Sync) -> Exploration {
    Explore::new(make).run()
}

/// An exploration to be run.
pub struct Explore<'a> {
    make: Box<dyn Fn() -> Scene + Sync + 'a>,
    single: bool,
    random: usize,
    seed: u64,
    threads: usize,
}

impl std::fmt::Debug for Explore<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explore")
            .field("random", &self.random)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl<'a> Explore<'a> {
    /// Every schedule with one trouble, and 1000 of chance from seed 1, on all processors. `make` makes a fresh world each
    /// time, the same one.
    pub fn new(make: impl Fn() -> Scene + Sync + 'a) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { make: Box::new(make), single: true, random: 1000, seed: 1, threads }
    }

    /// So many schedules of chance.
    #[must_use]
    pub fn with_random(mut self, schedules: usize) -> Self {
        self.random = schedules;
        self
    }

    /// The seed of the first schedule of chance.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Leaves out the schedules with one trouble.
    #[must_use]
    pub fn without_single(mut self) -> Self {
        self.single = false;
        self
    }

    /// On so many threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Plays one schedule, as a [`Violation`] shows it.
    ///
    /// # Panics
    /// Where the text is no schedule.
    pub fn replay(&self, schedule: &str) -> Exploration {
        let schedule: Schedule = schedule.parse().expect("a schedule as a violation shows it");
        let mut found = self.empty();
        match self.setting(&mut found) {
            Err(breach) => self.fail(&mut found, None, Schedule::calm(), breach),
            Ok(setting) => self.play_all(&setting, vec![(None, schedule)], &mut found),
        }
        found
    }

    /// Plays all schedules.
    pub fn run(&self) -> Exploration {
        let begun = Instant::now();
        let mut found = self.empty();
        match self.setting(&mut found) {
            Err(breach) => self.fail(&mut found, None, Schedule::calm(), breach),
            Ok(setting) => {
                let calls = setting.calm.as_ref().map(|calm| calm.calls.clone()).unwrap_or_default();
                let mut schedules = Vec::new();
                if self.single {
                    schedules.extend(Schedule::singles(&calls).into_iter().map(|schedule| (None, schedule)));
                    found.single = schedules.len();
                    for first in Schedule::lost_effects(&calls) {
                        let lost = play(&setting, &(self.make)(), &first, false);
                        let next = first.and_then(&lost.calm.calls);
                        found.double += next.len();
                        schedules.extend(next.into_iter().map(|schedule| (None, schedule)));
                    }
                }
                found.random = self.random;
                schedules.extend(
                    (self.seed..)
                        .take(self.random)
                        .map(|seed| (Some(seed), Schedule::random(seed, calls.len() as u64))),
                );
                self.play_all(&setting, schedules, &mut found);
            }
        }
        found.elapsed = begun.elapsed();
        found
    }

    fn empty(&self) -> Exploration {
        Exploration {
            playbook: (self.make)().playbook.name().to_owned(),
            calls: 0,
            took: std::time::Duration::ZERO,
            planning: 0,
            single: 0,
            double: 0,
            random: 0,
            seed: self.seed,
            troubles: 0,
            failed: 0,
            violations: Vec::new(),
            elapsed: std::time::Duration::ZERO,
        }
    }

    /// Plans with and without trouble, and runs without.
    fn setting(&self, found: &mut Exploration) -> Result<Setting, Breach> {
        let (planned, calls, breach) = drive::plan(&(self.make)(), &Schedule::calm());
        if let Some(breach) = breach {
            return Err(breach);
        }
        let plan = planned
            .map_err(|error| Breach::of(Law::CalmRun, format!("it cannot be planned: {}", error.chain())))?;
        if let Some(refusal) = plan.refusals().next() {
            return Err(Breach::of(Law::CalmRun, format!("its plan is refused: {}", refusal.text)));
        }
        for schedule in Schedule::singles(&calls) {
            // Nobody drives a run yet, so there is none to be lost.
            if schedule.troubles().iter().any(|(_, trouble)| {
                !matches!(trouble, Trouble::Fail(_) | Trouble::Dark(_) | Trouble::Silent(_))
            }) {
                continue;
            }
            found.planning += 1;
            if let (_, _, Some(breach)) = drive::plan(&(self.make)(), &schedule) {
                return Err(Breach { what: format!("{} (planned with {schedule})", breach.what), ..breach });
            }
        }
        let approval = Approval::of(&plan, "explore");
        let hash = plan.hash();
        let mut setting = Setting { plan, hash, approval, calm: None };
        let played = play(&setting, &(self.make)(), &Schedule::calm(), false);
        if let Some(breach) = played.breach {
            return Err(breach);
        }
        (found.calls, found.took) = (played.calm.calls.len(), played.calm.took);
        setting.calm = Some(played.calm);
        Ok(setting)
    }

    fn play_all(&self, setting: &Setting, schedules: Vec<(Option<u64>, Schedule)>, found: &mut Exploration) {
        let (next, failed, troubles) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        let first: Mutex<BTreeMap<(Law, String), (usize, Breach)>> = Mutex::default();
        let work = || {
            while let Some((place, (seed, schedule))) = {
                let place = next.fetch_add(1, Ordering::Relaxed);
                schedules.get(place).map(|schedule| (place, schedule))
            } {
                let played = play(setting, &(self.make)(), schedule, false);
                troubles.fetch_add(played.met as u64, Ordering::Relaxed);
                let unmet = || {
                    let what =
                        format!("{schedule} was never met by a call: is the scene the same each time?");
                    (seed.is_none() && played.met < schedule.troubles().len())
                        .then(|| Breach::of(Law::Reached, what))
                };
                if let Some(breach) = played.breach.clone().or_else(unmet) {
                    failed.fetch_add(1, Ordering::Relaxed);
                    let mut first = lock(&first);
                    // The earliest of its kind, whichever thread comes upon it.
                    let kind = (breach.law, breach.what.chars().filter(|c| !c.is_ascii_digit()).collect());
                    let kept = first.entry(kind).or_insert_with(|| (place, breach.clone()));
                    if place < kept.0 {
                        *kept = (place, breach);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(work);
            }
        });
        found.failed += failed.into_inner();
        found.troubles += troubles.into_inner();
        let mut first: Vec<_> = lock(&first).values().cloned().collect();
        first.sort_by_key(|(place, _)| *place);
        first.truncate(SHOWN);
        for (place, breach) in first {
            let (seed, schedule) = schedules[place].clone();
            let (smallest, played) = shrink::shrink(setting, &*self.make, &schedule, breach.law);
            let what = played.breach.map_or(breach.what, |breach| breach.what);
            found.violations.push(Violation {
                law: breach.law,
                what,
                found: schedule,
                seed,
                schedule: smallest,
                timeline: played.timeline,
            });
        }
    }

    fn fail(&self, found: &mut Exploration, seed: Option<u64>, schedule: Schedule, breach: Breach) {
        found.failed += 1;
        let Breach { law, what } = breach;
        let timeline = Vec::new();
        found.violations.push(Violation { law, what, found: schedule.clone(), seed, schedule, timeline });
    }
}
