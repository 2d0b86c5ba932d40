//! What goes wrong in one schedule, and at which call.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::calls::{Call, Kind};
use crate::testing::Fault;
use crate::{Error, Result};

/// What somebody does about a run whose process is gone.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Goes on with it once its lease has lapsed.
    Resume,
    /// Goes on with it at once, by force.
    Force,
    /// Takes everything back once its lease has lapsed.
    Revert,
    /// Abandons it once its lease has lapsed.
    Abandon,
}

/// When a process that was suspended goes on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// While the one that took over is at work.
    Soon,
    /// Once the one that took over is at its end.
    Late,
}

/// What goes wrong at one call.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The process is gone before the call is made.
    CrashBefore(Then),
    /// The process is gone once the call was made, before it has the answer.
    CrashAfter(Then),
    /// The call fails.
    Fail(Fault),
    /// The process is suspended before the call. Another one takes the run over once its lease has lapsed; then the first
    /// one goes on.
    StaleBefore(Back),
    /// The same, with the call made and its answer delayed.
    StaleAfter(Back),
    /// From this call on, and for that time, the sources of metrics cannot be asked.
    Dark(Duration),
    /// From this call on, and for that time, the sources of metrics have no data, then or later.
    Silent(Duration),
    /// Somebody lets the run pause, and go on ten minutes later.
    Pause,
    /// Somebody ends the run and keeps what it did.
    CancelKeep,
    /// Somebody ends the run and has it take back what it did.
    CancelRevert,
    /// Somebody ends the run and leaves everything as it is.
    Abandon,
}

const FAULTS: [(&str, Fault); 6] = [
    ("retryable", Fault::Retryable { after: None }),
    ("rejected", Fault::Rejected),
    ("answer-lost", Fault::AnswerLost),
    ("request-lost", Fault::RequestLost),
    ("hang", Fault::Hang),
    ("hang-after-effect", Fault::HangAfterEffect),
];

const THENS: [(&str, Then); 4] =
    [("", Then::Resume), ("/force", Then::Force), ("/revert", Then::Revert), ("/abandon", Then::Abandon)];

impl Trouble {
    /// What can go wrong at a call of that kind, each once.
    pub(super) fn all_at(kind: Kind) -> Vec<Self> {
        use Trouble::{CrashAfter, CrashBefore, Dark, Fail, Silent, StaleAfter, StaleBefore};
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let faults = FAULTS.map(|(_, fault)| Fail(fault));
        let stale = [
            StaleBefore(Back::Soon),
            StaleBefore(Back::Late),
            StaleAfter(Back::Soon),
            StaleAfter(Back::Late),
        ];
        match kind {
            Kind::StoreWrite => {
                [[CrashBefore(Then::Resume), CrashAfter(Then::Resume)].as_slice(), &stale, &faults].concat()
            }
            Kind::StoreRenew => vec![
                CrashBefore(Then::Resume),
                StaleBefore(Back::Soon),
                Fail(Fault::RequestLost),
                Fail(Fault::Rejected),
                Fail(Fault::Hang),
            ],
            Kind::StoreRead => vec![Fail(Fault::Retryable { after: None }), Fail(Fault::Hang)],
            Kind::Mail => Vec::new(),
            Kind::StepWrite => [
                [
                    CrashBefore(Then::Resume),
                    CrashAfter(Then::Resume),
                    CrashBefore(Then::Revert),
                    CrashAfter(Then::Revert),
                    CrashAfter(Then::Abandon),
                ]
                .as_slice(),
                &faults,
            ]
            .concat(),
            Kind::StepRead => {
                [[CrashBefore(Then::Resume), CrashAfter(Then::Resume)].as_slice(), &stale, &faults].concat()
            }
            Kind::Guard => vec![
                CrashBefore(Then::Resume),
                StaleBefore(Back::Soon),
                Fail(Fault::RequestLost),
                Fail(Fault::Hang),
                Dark(minutes(2)),
                Dark(minutes(20)),
                Silent(minutes(2)),
                Silent(minutes(20)),
            ],
        }
    }

    fn random(rng: &mut ChaCha8Rng) -> Self {
        let then = match below(rng, 10) {
            0..5 => Then::Resume,
            5..8 => Then::Force,
            8 => Then::Revert,
            _ => Then::Abandon,
        };
        let span = Duration::from_secs(10 * (1 + below(rng, 120)));
        let back = if below(rng, 2) == 0 { Back::Soon } else { Back::Late };
        match below(rng, 20) {
            0..3 => Self::CrashBefore(then),
            3..6 => Self::CrashAfter(then),
            6 => Self::StaleBefore(back),
            7 => Self::StaleAfter(back),
            8 => Self::Dark(span),
            9 => Self::Silent(span),
            10 => Self::Pause,
            11 => match below(rng, 6) {
                0..2 => Self::CancelKeep,
                2..5 => Self::CancelRevert,
                _ => Self::Abandon,
            },
            _ => Self::Fail(FAULTS[usize::try_from(below(rng, 6)).unwrap_or(0)].1),
        }
    }

    /// The same in a milder form, for schedules that are made smaller.
    pub(super) fn milder(self) -> Option<Self> {
        let shorter = |span: Duration| (span > Duration::from_secs(20)).then(|| span / 2);
        match self {
            Self::CrashBefore(Then::Resume)
            | Self::CrashAfter(Then::Resume)
            | Self::StaleBefore(Back::Late)
            | Self::Fail(_)
            | Self::Pause
            | Self::CancelKeep
            | Self::CancelRevert
            | Self::Abandon => None,
            Self::CrashBefore(_) => Some(Self::CrashBefore(Then::Resume)),
            Self::CrashAfter(_) => Some(Self::CrashAfter(Then::Resume)),
            Self::StaleBefore(Back::Soon) | Self::StaleAfter(Back::Late) => {
                Some(Self::StaleBefore(Back::Late))
            }
            Self::StaleAfter(Back::Soon) => Some(Self::StaleBefore(Back::Soon)),
            Self::Dark(span) => shorter(span).map(Self::Dark),
            Self::Silent(span) => shorter(span).map(Self::Silent),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = |then: &Then| THENS.iter().find(|(_, known)| known == then).map_or("", |(name, _)| name);
        match self {
            Self::CrashBefore(what) => write!(f, "crash-before{}", then(what)),
            Self::CrashAfter(what) => write!(f, "crash-after{}", then(what)),
            Self::Fail(Fault::Retryable { .. }) => f.write_str("retryable"),
            Self::Fail(fault) => f.write_str(
                FAULTS.iter().find(|(_, known)| known == fault).map_or("rejected", |(name, _)| name),
            ),
            Self::StaleBefore(Back::Late) => f.write_str("stale-before"),
            Self::StaleAfter(Back::Late) => f.write_str("stale-after"),
            Self::StaleBefore(Back::Soon) => f.write_str("stale-before/soon"),
            Self::StaleAfter(Back::Soon) => f.write_str("stale-after/soon"),
            Self::Dark(span) => write!(f, "dark={}s", span.as_secs()),
            Self::Silent(span) => write!(f, "silent={}s", span.as_secs()),
            Self::Pause => f.write_str("pause"),
            Self::CancelKeep => f.write_str("cancel-keep"),
            Self::CancelRevert => f.write_str("cancel-revert"),
            Self::Abandon => f.write_str("abandon"),
        }
    }
}

impl FromStr for Trouble {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::invalid("parse", format!("{text} is nothing that can go wrong"));
        if let Some((_, fault)) = FAULTS.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Fail(*fault));
        }
        for (crash, make) in
            [("crash-before", Self::CrashBefore as fn(Then) -> Self), ("crash-after", Self::CrashAfter)]
        {
            if let Some(rest) = text.strip_prefix(crash) {
                return THENS
                    .iter()
                    .find(|(name, _)| *name == rest)
                    .map(|(_, then)| make(*then))
                    .ok_or_else(unknown);
            }
        }
        if let Some((name, span)) = text.split_once('=') {
            let seconds = span.trim_end_matches('s').parse().map_err(|_| unknown())?;
            return match name {
                "dark" => Ok(Self::Dark(Duration::from_secs(seconds))),
                "silent" => Ok(Self::Silent(Duration::from_secs(seconds))),
                _ => Err(unknown()),
            };
        }
        match text {
            "stale-before" => Ok(Self::StaleBefore(Back::Late)),
            "stale-after" => Ok(Self::StaleAfter(Back::Late)),
            "stale-before/soon" => Ok(Self::StaleBefore(Back::Soon)),
            "stale-after/soon" => Ok(Self::StaleAfter(Back::Soon)),
            "pause" => Ok(Self::Pause),
            "cancel-keep" => Ok(Self::CancelKeep),
            "cancel-revert" => Ok(Self::CancelRevert),
            "abandon" => Ok(Self::Abandon),
            _ => Err(unknown()),
        }
    }
}

/// How many calls after a first trouble a second one is tried at.
const NEXT: u64 = 12;

/// What goes wrong at which call, counted from 1 over all calls of steps, guards and the store.
///
/// Its text can be read back: `12:crash-after 40:answer-lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    troubles: Vec<(u64, Trouble)>,
}

impl Schedule {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self::default()
    }

    /// The same, with something that goes wrong at a call. At each call goes wrong one thing only: the last one named.
    #[must_use]
    pub fn with(mut self, point: u64, trouble: Trouble) -> Self {
        self.troubles.retain(|(known, _)| *known != point);
        self.troubles.push((point, trouble));
        self.troubles.sort_by_key(|(point, _)| *point);
        self
    }

    /// What goes wrong, in order.
    pub fn troubles(&self) -> &[(u64, Trouble)] {
        &self.troubles
    }

    /// One schedule for each thing that can go wrong at each call of a run.
    pub(super) fn singles(calls: &[Kind]) -> Vec<Self> {
        let at = |(point, kind): (u64, &Kind)| {
            Trouble::all_at(*kind).into_iter().map(move |trouble| Self::calm().with(point, trouble))
        };
        (1..).zip(calls).flat_map(at).collect()
    }

    /// One schedule for each call that changes the world: its process is gone right after it.
    pub(super) fn lost_effects(calls: &[Kind]) -> Vec<Self> {
        let writes = (1..).zip(calls).filter(|(_, kind)| **kind == Kind::StepWrite);
        writes.map(|(point, _)| Self::calm().with(point, Trouble::CrashAfter(Then::Resume))).collect()
    }

    /// One schedule for each thing that can go wrong at the next calls after what goes wrong in this one, where `calls` are
    /// those that are made then.
    pub(super) fn and_then(&self, calls: &[Kind]) -> Vec<Self> {
        let last = self.troubles.last().map_or(0, |(point, _)| *point);
        (1..)
            .zip(calls)
            .filter(|(point, _)| (last + 1..=last + NEXT).contains(point))
            .flat_map(|(point, kind)| {
                Trouble::all_at(*kind).into_iter().map(move |trouble| self.clone().with(point, trouble))
            })
            .collect()
    }

    /// Two to five things that go wrong somewhere within `calls` calls and a little later.
    pub(super) fn random(seed: u64, calls: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut schedule = Self::calm();
        for _ in 0..2 + below(&mut rng, 4) {
            // Close together as often as far apart: troubles meet each other where the first is still felt.
            let point = match schedule.troubles.last() {
                Some((last, _)) if below(&mut rng, 2) == 0 => last + 1 + below(&mut rng, 40),
                _ => 1 + below(&mut rng, calls + calls / 3),
            };
            schedule = schedule.with(point, Trouble::random(&mut rng));
        }
        schedule
    }

    /// Schedules in which a little less goes wrong.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let without = (0..self.troubles.len()).map(|place| {
            let mut troubles = self.troubles.clone();
            troubles.remove(place);
            Self { troubles }
        });
        let milder = (0..self.troubles.len()).filter_map(|place| {
            let mut troubles = self.troubles.clone();
            troubles[place].1 = troubles[place].1.milder()?;
            Some(Self { troubles })
        });
        without.chain(milder).collect()
    }
}

fn below(rng: &mut ChaCha8Rng, limit: u64) -> u64 {
    // The bias of the remainder is of no matter here.
    rng.next_u64() % limit.max(1)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.troubles.is_empty() {
            return f.write_str("calm");
        }
        for (place, (point, trouble)) in self.troubles.iter().enumerate() {
            let space = if place == 0 { "" } else { " " };
            write!(f, "{space}{point}:{trouble}")?;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == "calm" {
            return Ok(Self::calm());
        }
        text.split_whitespace().try_fold(Self::calm(), |schedule, word| {
            let (point, trouble) = word.split_once(':').ok_or_else(|| {
                Error::invalid(
                    "parse",
                    format!("{word} is no call with what goes wrong there, such as 12:hang"),
                )
            })?;
            let point = point
                .parse()
                .map_err(|_| Error::invalid("parse", format!("{point} is no number of a call")))?;
            Ok(schedule.with(point, trouble.parse()?))
        })
    }
}

impl Call<'_> {
    /// Whether a process may be suspended at the call for others to take over meanwhile: a call that changes the world
    /// and is on its way already is beyond what a lease can keep back.
    pub(super) fn is_fair_for_stale(self) -> bool {
        self.kind() != Kind::StepWrite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_they_are_written() {
        for seed in 0..500 {
            let schedule = Schedule::random(seed, 300);
            assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule);
            assert!((1..=5).contains(&schedule.troubles().len()), "{schedule}");
        }
        assert_eq!("calm".parse::<Schedule>().unwrap(), Schedule::calm());
        for wrong in ["12", "x:hang", "3:hung", "3:crash-before/never", "4:dark=xs"] {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        assert_eq!(Schedule::random(7, 300), Schedule::random(7, 300));
        assert_ne!(Schedule::random(7, 300), Schedule::random(8, 300));
    }

    #[test]
    fn smaller_schedules_come_to_an_end() {
        let mut schedule = Schedule::random(3, 300);
        for _ in 0..100 {
            let Some(smaller) = schedule.smaller().into_iter().next_back() else { break };
            schedule = smaller;
        }
        assert!(schedule.smaller().is_empty(), "{schedule}");
    }
}
