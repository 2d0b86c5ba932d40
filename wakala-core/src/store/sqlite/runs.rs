//! The calls of a run store, each a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::database::Database;
use super::error::Stop;
use super::lease::{Stored, millis, millis_since_1970};
use super::presence::Presence;
use crate::store::{
    Lease, LeaseState, LeaseTerms, Letter, Line, NewRun, Release, RunHead, StoredRun, Takeover, driven,
    exists, fenced, given_back, out_of_place, taken, unknown,
};
use crate::{ResourceKey, Result, RunId};

impl Database {
    pub(super) fn create(&mut self, new: &NewRun, now: SystemTime) -> Result<Lease> {
        const CALL: &str = "create";
        let process = self.process(CALL)?;
        self.write(CALL, |db, _| {
            let NewRun { run, resources, terms, first, supersedes } = new;
            if find(db, run)?.is_some() {
                return Err(exists(CALL, run).into());
            }
            if first.seq != 0 {
                return Err(out_of_place(CALL, run, first.seq, 0).into());
            }
            for old in supersedes {
                find(db, old)?.ok_or_else(|| unknown(CALL, old))?;
            }
            check_free(db, CALL, resources, &supersedes.iter().collect::<Vec<_>>())?;
            for old in supersedes {
                db.execute("UPDATE runs SET epoch = epoch + 1 WHERE run = ?1", [old.as_str()])?;
                free(db, old)?;
                claim(db, old, &[])?;
            }
            db.execute("INSERT INTO runs (run, epoch, length, closed) VALUES (?1, 1, 0, 0)", [run.as_str()])?;
            hold(db, run, terms, &process, now)?;
            claim(db, run, resources)?;
            insert(db, run, 0, first)?;
            Ok(Lease { epoch: 1 })
        })
    }

    pub(super) fn acquire(
        &mut self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
        now: SystemTime,
    ) -> Result<Lease> {
        const CALL: &str = "acquire";
        let process = self.process(CALL)?;
        self.write(CALL, |db, presence| {
            let found = find(db, run)?.ok_or_else(|| unknown(CALL, run))?;
            let lease = found.lease(now, presence);
            if let (LeaseState::Held { owner, left }, Takeover::Lapsed) = (lease, takeover) {
                return Err(driven(CALL, run, &owner, left).into());
            }
            check_free(db, CALL, resources, &[run])?;
            db.execute("UPDATE runs SET epoch = epoch + 1, closed = 0 WHERE run = ?1", [run.as_str()])?;
            hold(db, run, terms, &process, now)?;
            claim(db, run, resources)?;
            Ok(Lease { epoch: found.epoch + 1 })
        })
    }

    pub(super) fn renew(&mut self, run: &RunId, epoch: u64, ttl: Duration, now: SystemTime) -> Result<()> {
        const CALL: &str = "renew";
        let process = self.process(CALL)?;
        self.write(CALL, |db, _| {
            let owner = find(db, run)?.ok_or_else(|| unknown(CALL, run))?.driven_under(CALL, run, epoch)?;
            hold(db, run, &LeaseTerms { owner, ttl }, &process, now)
        })
    }

    pub(super) fn release(&mut self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        const CALL: &str = "release";
        self.write(CALL, |db, _| {
            let found = find(db, run)?.ok_or_else(|| unknown(CALL, run))?;
            if found.epoch != epoch {
                return Err(fenced(CALL, run, epoch, found.epoch).into());
            }
            free(db, run)?;
            if what >= Release::Resources {
                claim(db, run, &[])?;
            }
            if what == Release::Closed {
                db.execute("UPDATE runs SET closed = 1 WHERE run = ?1", [run.as_str()])?;
            }
            Ok(())
        })
    }

    pub(super) fn append(&mut self, run: &RunId, epoch: u64, line: &Line) -> Result<()> {
        const CALL: &str = "append";
        self.write(CALL, |db, _| {
            let found = find(db, run)?.ok_or_else(|| unknown(CALL, run))?;
            let length = found.length;
            found.driven_under(CALL, run, epoch)?;
            match i64::try_from(line.seq) {
                Ok(seq) if line.seq == length => insert(db, run, seq, line),
                _ => Err(out_of_place(CALL, run, line.seq, length).into()),
            }
        })
    }

    pub(super) fn load(&mut self, run: &RunId, now: SystemTime) -> Result<StoredRun> {
        const CALL: &str = "load";
        self.read(CALL, |db, presence| {
            let found = find(db, run)?.ok_or_else(|| unknown(CALL, run))?;
            let resources = db
                .prepare("SELECT resource FROM claims WHERE run = ?1 ORDER BY resource")?
                .query_map([run.as_str()], resource)?
                .collect::<Result<_, _>>()?;
            let lines = db
                .prepare("SELECT seq, body, hash FROM lines WHERE run = ?1 ORDER BY seq")?
                .query_map([run.as_str()], line)?
                .collect::<Result<_, _>>()?;
            Ok(StoredRun { head: found.head(run.clone(), resources, now, presence), lines })
        })
    }

    pub(super) fn list(&mut self, now: SystemTime) -> Result<Vec<RunHead>> {
        self.read("list", |db, presence| {
            let mut claims: BTreeMap<RunId, Vec<ResourceKey>> = BTreeMap::new();
            for (run, resource) in all_claims(db)? {
                claims.entry(run).or_default().push(resource);
            }
            // Texts are compared as bytes, as names are.
            let mut statement = db.prepare(&format!("{RUN}, run FROM runs ORDER BY run"))?;
            let mut rows = statement.query([])?;
            let mut heads = Vec::new();
            while let Some(row) = rows.next()? {
                let run = RunId::from(row.get::<_, String>(7)?);
                let resources = claims.remove(&run).unwrap_or_default();
                heads.push(Found::read(row)?.head(run, resources, now, presence));
            }
            Ok(heads)
        })
    }

    pub(super) fn send(&mut self, run: &RunId, body: &str) -> Result<u64> {
        const CALL: &str = "send";
        self.write(CALL, |db, _| {
            find(db, run)?.ok_or_else(|| unknown(CALL, run))?;
            let last: u64 = db.query_one(
                "SELECT COALESCE(MAX(number), 0) FROM letters WHERE run = ?1",
                [run.as_str()],
                |row| unsigned(row, 0),
            )?;
            let number = last + 1;
            db.execute(
                "INSERT INTO letters (run, number, body) VALUES (?1, ?2, ?3)",
                params![run.as_str(), i64::try_from(number).unwrap_or(i64::MAX), body],
            )?;
            Ok(number)
        })
    }

    pub(super) fn mail(&mut self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        const CALL: &str = "mail";
        self.read(CALL, |db, _| {
            find(db, run)?.ok_or_else(|| unknown(CALL, run))?;
            let letters = db
                .prepare("SELECT number, body FROM letters WHERE run = ?1 AND number > ?2 ORDER BY number")?
                .query_map(params![run.as_str(), i64::try_from(after).unwrap_or(i64::MAX)], |row| {
                    Ok(Letter { number: unsigned(row, 0)?, body: row.get(1)? })
                })?
                .collect::<Result<_, _>>()?;
            Ok(letters)
        })
    }
}

/// A row of `runs`, without its name.
struct Found {
    epoch: u64,
    length: u64,
    closed: bool,
    lease: Option<Stored>,
}

/// The columns that [`Found::read`] takes.
const RUN: &str = "SELECT epoch, length, closed, owner, process, renewed, ttl";

impl Found {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let lease = match row.get(3)? {
            None => None,
            Some(owner) => {
                Some(Stored { owner, process: row.get(4)?, renewed: row.get(5)?, ttl: row.get(6)? })
            }
        };
        Ok(Self { epoch: unsigned(row, 0)?, length: unsigned(row, 1)?, closed: row.get(2)?, lease })
    }

    fn lease(&self, now: SystemTime, presence: &Presence) -> LeaseState {
        self.lease.clone().map_or(LeaseState::Free, |lease| lease.state(now, presence))
    }

    fn head(self, run: RunId, resources: Vec<ResourceKey>, now: SystemTime, presence: &Presence) -> RunHead {
        RunHead::new(run, resources, self.lease(now, presence), self.epoch, self.length, self.closed)
    }

    /// The owner, where that epoch is the latest and was not given back.
    fn driven_under(self, call: &'static str, run: &RunId, epoch: u64) -> Result<String> {
        if self.epoch != epoch {
            return Err(fenced(call, run, epoch, self.epoch));
        }
        self.lease.map(|lease| lease.owner).ok_or_else(|| given_back(call, run, epoch))
    }
}

fn find(db: &Transaction<'_>, run: &RunId) -> rusqlite::Result<Option<Found>> {
    // Asked before every write.
    let mut statement = db.prepare_cached(&format!("{RUN} FROM runs WHERE run = ?1"))?;
    statement.query_row([run.as_str()], Found::read).optional()
}

fn hold(
    db: &Transaction<'_>,
    run: &RunId,
    terms: &LeaseTerms,
    process: &str,
    now: SystemTime,
) -> Result<(), Stop> {
    db.execute(
        "UPDATE runs SET owner = ?2, process = ?3, renewed = ?4, ttl = ?5 WHERE run = ?1",
        params![run.as_str(), terms.owner, process, millis_since_1970(now), millis(terms.ttl)],
    )?;
    Ok(())
}

fn free(db: &Transaction<'_>, run: &RunId) -> Result<(), Stop> {
    db.execute(
        "UPDATE runs SET owner = NULL, process = NULL, renewed = NULL, ttl = NULL WHERE run = ?1",
        [run.as_str()],
    )?;
    Ok(())
}

/// Puts `resources` in place of what the run holds.
fn claim(db: &Transaction<'_>, run: &RunId, resources: &[ResourceKey]) -> Result<(), Stop> {
    db.execute("DELETE FROM claims WHERE run = ?1", [run.as_str()])?;
    for resource in resources.iter().collect::<BTreeSet<_>>() {
        db.execute("INSERT INTO claims (resource, run) VALUES (?1, ?2)", [resource.as_str(), run.as_str()])?;
    }
    Ok(())
}

/// Fails where another run, that is not in `except`, holds one of `resources`.
fn check_free(
    db: &Transaction<'_>,
    call: &'static str,
    resources: &[ResourceKey],
    except: &[&RunId],
) -> Result<(), Stop> {
    // All of them: few runs hold something at a time, and what overlaps is said in one place only.
    for (holder, key) in all_claims(db)? {
        if !except.contains(&&holder) && resources.iter().any(|resource| resource.overlaps(&key)) {
            return Err(taken(call, &key, &holder).into());
        }
    }
    Ok(())
}

fn all_claims(db: &Transaction<'_>) -> rusqlite::Result<Vec<(RunId, ResourceKey)>> {
    db.prepare("SELECT resource, run FROM claims ORDER BY resource")?
        .query_map([], |row| Ok((RunId::from(row.get::<_, String>(1)?), resource(row)?)))?
        .collect()
}

fn insert(db: &Transaction<'_>, run: &RunId, seq: i64, line: &Line) -> Result<(), Stop> {
    // The run's length follows by a trigger.
    db.prepare_cached("INSERT INTO lines (run, seq, body, hash) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![run.as_str(), seq, line.body, line.hash])?;
    Ok(())
}

fn line(row: &Row<'_>) -> rusqlite::Result<Line> {
    Ok(Line { seq: unsigned(row, 0)?, body: row.get(1)?, hash: row.get(2)? })
}

fn resource(row: &Row<'_>) -> rusqlite::Result<ResourceKey> {
    row.get::<_, String>(0).map(ResourceKey::from)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
