//! Entries of a journal: their text, their hash chain, and what is wrong with a journal that was damaged.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Line, Record, StoredRun};
use crate::RunId;

/// The version of the records' serialised form. A record of a later version is not guessed at.
const SCHEMA: u32 = 2;

/// A [`Record`] with its place and time.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the run, from 0, without gaps.
    pub seq: u64,
    /// The writer's wall time, for information.
    #[serde(with = "humantime_serde")]
    pub at: SystemTime,
    /// The writer's lease: counts the processes that drove the run, from 1.
    pub epoch: u64,
    /// The fact.
    pub record: Record,
}

impl Entry {
    /// The fact at a place and time, written under a lease.
    pub fn new(seq: u64, at: SystemTime, epoch: u64, record: Record) -> Self {
        Self { seq, at, epoch, record }
    }

    /// The line that a store keeps; `previous` is the hash of the line before, nothing for the first one.
    pub fn line(&self, run: &RunId, previous: Option<&str>) -> Line {
        #[derive(Serialize)]
        struct Body<'a> {
            schema: u32,
            #[serde(flatten)]
            entry: &'a Entry,
        }
        let body = serde_json::to_string(&Body { schema: SCHEMA, entry: self })
            .expect("a record is made of JSON values, strings and numbers only");
        let hash = chained(run, previous, &body);
        Line { seq: self.seq, body, hash }
    }
}

/// The hash of a line: of the one before it, of the run for the first, so that no line fits elsewhere.
fn chained(run: &RunId, previous: Option<&str>, body: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(previous.unwrap_or(run.as_str()));
    hash.update("\n");
    hash.update(body);
    hex(&hash.finalize())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Why a journal cannot be read to its end.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Something was changed or lost since it was written.
    Broken {
        /// The first line that is not as it was.
        seq: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A later version of wakala wrote it. Nothing is wrong with it.
    Newer {
        /// The first line that this version does not know.
        seq: u64,
        /// What is not known.
        what: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { seq, what } => {
                write!(f, "the journal is damaged from entry {seq} on: {what}; what comes before it holds")
            }
            Self::Newer { seq, what } => {
                write!(f, "a later version of wakala wrote entry {seq} ({what}); use that version")
            }
        }
    }
}

/// A journal as it was read: entries up to the first that cannot be trusted.
#[derive(Clone, Debug)]
pub struct Journal {
    /// The entries that are as they were written.
    pub entries: Vec<Entry>,
    /// The hash of the last of them.
    pub tip: Option<String>,
    /// What keeps it from being read further.
    pub damage: Option<Damage>,
}

impl Journal {
    /// Reads a stored run, and checks that each line is the one that was written, in its place.
    pub fn read(stored: &StoredRun) -> Self {
        let mut journal = Self { entries: Vec::with_capacity(stored.lines.len()), tip: None, damage: None };
        for (place, line) in (0..).zip(&stored.lines) {
            match read(&stored.head.run, journal.tip.as_deref(), place, line) {
                Ok(entry) => {
                    journal.entries.push(entry);
                    journal.tip = Some(line.hash.clone());
                }
                Err(damage) => {
                    journal.damage = Some(damage);
                    return journal;
                }
            }
        }
        let (found, written) = (stored.lines.len() as u64, stored.head.length);
        if found != written {
            let what = format!("{written} entries were written and {found} are there");
            journal.damage = Some(Damage::Broken { seq: found, what });
        }
        journal
    }
}

fn read(run: &RunId, previous: Option<&str>, place: u64, line: &Line) -> Result<Entry, Damage> {
    let broken = |what: String| Damage::Broken { seq: place, what };
    if line.seq != place {
        return Err(broken(format!("entry {} stands in its place", line.seq)));
    }
    if chained(run, previous, &line.body) != line.hash {
        return Err(broken("its hash is not that of its text and of the entries before it".to_owned()));
    }
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let head: Head = serde_json::from_str(&line.body).map_err(|e| broken(format!("it is no entry ({e})")))?;
    if head.schema > SCHEMA {
        let what = format!("schema {}, this version reads up to {SCHEMA}", head.schema);
        return Err(Damage::Newer { seq: place, what });
    }
    // The hash is right, so somebody wrote it like this: a record that a later version has and this one has not.
    serde_json::from_str(&line.body).map_err(|e| Damage::Newer { seq: place, what: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepId;
    use crate::store::{LeaseState, RunHead};

    fn stored(count: u64) -> StoredRun {
        let run = RunId::from("run-1");
        let mut lines: Vec<Line> = Vec::new();
        for seq in 0..count {
            let record = Record::Verified { step: StepId::from(format!("step-{seq}")) };
            let entry = Entry::new(seq, SystemTime::UNIX_EPOCH, 1, record);
            let previous = lines.last().map(|line| line.hash.clone());
            lines.push(entry.line(&run, previous.as_deref()));
        }
        StoredRun { head: RunHead::new(run, Vec::new(), LeaseState::Free, 1, count, false), lines }
    }

    fn damage(stored: &StoredRun) -> (usize, String) {
        let journal = Journal::read(stored);
        (journal.entries.len(), journal.damage.map(|damage| damage.to_string()).unwrap_or_default())
    }

    #[test]
    fn what_was_written_is_read() {
        let journal = Journal::read(&stored(5));
        assert_eq!((journal.entries.len(), journal.damage), (5, None));
        assert_eq!(journal.entries[3].record.to_string(), "step-3: done");
    }

    #[test]
    fn every_change_of_a_line_is_seen() {
        type Change = fn(&mut StoredRun);
        let changes: [(&str, Change); 6] = [
            ("text", |run| run.lines[2].body = run.lines[2].body.replace("step-2", "step-9")),
            ("hash", |run| run.lines[2].hash = run.lines[3].hash.clone()),
            ("removed", |run| drop(run.lines.remove(2))),
            ("swapped", |run| run.lines.swap(2, 3)),
            ("repeated", |run| run.lines[2] = run.lines[1].clone()),
            ("torn", |run| run.lines[2].body.truncate(20)),
        ];
        for (what, change) in changes {
            let mut run = stored(5);
            change(&mut run);
            let (entries, damage) = damage(&run);
            assert_eq!(entries, 2, "{what}: {damage}");
            assert!(damage.contains("damaged from entry 2 on"), "{what}: {damage}");
        }
    }

    #[test]
    fn a_lost_end_is_seen() {
        let mut run = stored(5);
        run.lines.truncate(3);
        assert_eq!(
            damage(&run),
            (3, "the journal is damaged from entry 3 on: 5 entries were written and 3 are there; what comes before \
                 it holds".to_owned())
        );
    }

    #[test]
    fn a_line_of_another_run_does_not_fit() {
        let mut run = stored(2);
        run.head.run = "run-2".into();
        assert_eq!(damage(&run).0, 0);
    }

    #[test]
    fn later_versions_are_named_and_not_guessed_at() {
        let later = |from: &str, to: &str| {
            let mut run = stored(3);
            run.lines[1].body = run.lines[1].body.replace(from, to);
            run.lines[1].hash = chained(&run.head.run, Some(&run.lines[0].hash), &run.lines[1].body);
            damage(&run)
        };
        for (from, to) in [("\"schema\":2", "\"schema\":3"), ("verified", "transmogrified")] {
            let (entries, damage) = later(from, to);
            assert_eq!(entries, 1, "{damage}");
            assert!(damage.contains("a later version of wakala wrote entry 1"), "{damage}");
        }
    }
}
