//! What an exploration found.

use std::fmt;
use std::time::Duration;

use super::{Law, Schedule};

/// How many lines of a timeline are shown from its beginning and from its end.
const SHOWN: usize = 160;

/// A schedule in which something was broken that must hold.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Violation {
    /// What was broken.
    pub law: Law,
    /// How.
    pub what: String,
    /// The schedule as it was found.
    pub found: Schedule,
    /// The seed of a schedule that came of chance.
    pub seed: Option<u64>,
    /// The smallest schedule found that breaks the same law.
    pub schedule: Schedule,
    /// What happened in it, in virtual time: calls by number and process, and what the journal was given.
    pub timeline: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.law, self.what)?;
        if let Some(seed) = self.seed {
            writeln!(f, "  seed      {seed}: {}", self.found)?;
        }
        writeln!(f, "  schedule  {}", self.schedule)?;
        writeln!(f, "  again     .replay(\"{}\")", self.schedule)?;
        writeln!(f, "  timeline")?;
        let lines = self.timeline.len();
        for (place, line) in self.timeline.iter().enumerate() {
            if place == SHOWN && lines > 2 * SHOWN {
                writeln!(f, "    ... {} lines ...", lines - 2 * SHOWN)?;
            }
            if place < SHOWN || place + SHOWN >= lines {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

/// What an exploration tried, and what it found. `Display` is for people.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Exploration {
    /// The playbook.
    pub playbook: String,
    /// How many calls a run without trouble makes until it was taken back twice.
    pub calls: usize,
    /// How long that takes in virtual time.
    pub took: Duration,
    /// Schedules in which one call of the planning goes wrong.
    pub planning: usize,
    /// Schedules in which one call of the run goes wrong: every one.
    pub single: usize,
    /// Schedules in which a process is gone right after a call that changes the world, and one of the next calls goes wrong
    /// too, that of whoever goes on with the run.
    pub double: usize,
    /// Schedules of chance, in which several things go wrong.
    pub random: usize,
    /// The seed of the first of them; the next one has the next seed.
    pub seed: u64,
    /// How many things went wrong in all of them.
    pub troubles: u64,
    /// How many schedules broke something.
    pub failed: usize,
    /// The first of each kind, made small.
    pub violations: Vec<Violation>,
    /// How long all of it took on the host.
    pub elapsed: Duration,
}

impl Exploration {
    /// How many schedules were played.
    pub fn schedules(&self) -> usize {
        self.planning + self.single + self.double + self.random
    }

    /// Panics with all that was found, where something was.
    ///
    /// # Panics
    /// Where something was broken.
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

impl fmt::Display for Exploration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { playbook, calls, planning, single, double, random, seed, troubles, failed, .. } = self;
        let took = humantime::format_duration(Duration::from_secs(self.took.as_secs()));
        let elapsed = self.elapsed.as_secs_f64();
        writeln!(
            f,
            "{playbook}: {} schedules in {elapsed:.1} s ({planning} of planning, {single} with one trouble, {double} with a \
             second one right after it, {random} of chance from seed {seed}), {troubles} troubles, {failed} schedules broke something",
            self.schedules()
        )?;
        writeln!(f, "a run without trouble, taken back twice: {calls} calls, {took}")?;
        for violation in &self.violations {
            writeln!(f, "\n{violation}")?;
        }
        Ok(())
    }
}
