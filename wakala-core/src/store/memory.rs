//! Runs in memory: for tests, simulations and runs that one process sees to their end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Lease, LeaseState, LeaseTerms, Letter, Line, NewRun, Release, RunHead, RunStore, StoredRun, Takeover,
};
use crate::{Clock, ResourceKey, Result, RunId, SystemClock};

/// Keeps runs in memory. They are gone with the process.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    runs: Mutex<BTreeMap<RunId, Run>>,
}

#[derive(Debug)]
struct Run {
    lines: Vec<Line>,
    claims: Vec<ResourceKey>,
    epoch: u64,
    /// The owner, and when its lease lapses on the store's clock; `None` once it was given back.
    holder: Option<(String, Duration)>,
    closed: bool,
    mail: Vec<Letter>,
}

impl MemoryStore {
    /// An empty store whose leases are measured by the host's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// An empty store whose leases are measured by `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, runs: Mutex::default() }
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        // No code panics while it holds the lock, so the data is whole even where the flag says otherwise.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until(&self, ttl: Duration) -> Duration {
        self.clock.monotonic().saturating_add(ttl)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Run {
    /// Fails where somebody else has the lease, or nobody.
    fn check(&self, operation: &'static str, run: &RunId, epoch: u64) -> Result<()> {
        if self.epoch != epoch {
            return Err(super::fenced(operation, run, epoch, self.epoch));
        }
        if self.holder.is_none() {
            return Err(super::given_back(operation, run, epoch));
        }
        Ok(())
    }

    fn lease(&self, now: Duration) -> LeaseState {
        match &self.holder {
            None => LeaseState::Free,
            Some((owner, until)) if *until > now => {
                LeaseState::Held { owner: owner.clone(), left: *until - now }
            }
            Some((owner, _)) => LeaseState::Lapsed { owner: owner.clone() },
        }
    }

    fn head(&self, run: &RunId, now: Duration) -> RunHead {
        let length = self.lines.len() as u64;
        RunHead::new(run.clone(), self.claims.clone(), self.lease(now), self.epoch, length, self.closed)
    }
}

fn find<'r>(runs: &'r mut BTreeMap<RunId, Run>, operation: &'static str, run: &RunId) -> Result<&'r mut Run> {
    runs.get_mut(run).ok_or_else(|| super::unknown(operation, run))
}

/// Fails where another run, that is not in `except`, holds one of `resources`.
fn check_free(
    runs: &BTreeMap<RunId, Run>,
    operation: &'static str,
    resources: &[ResourceKey],
    except: &[&RunId],
) -> Result<()> {
    for (holder, run) in runs.iter().filter(|(holder, _)| !except.contains(holder)) {
        if let Some(taken) = run.claims.iter().find(|key| resources.iter().any(|r| r.overlaps(key))) {
            return Err(super::taken(operation, taken, holder));
        }
    }
    Ok(())
}

#[async_trait]
impl RunStore for MemoryStore {
    async fn create(&self, new: NewRun) -> Result<Lease> {
        let NewRun { run, resources, terms, first, supersedes } = new;
        let mut runs = self.runs();
        if runs.contains_key(&run) {
            return Err(super::exists("create", &run));
        }
        for old in &supersedes {
            find(&mut runs, "create", old)?;
        }
        check_free(&runs, "create", &resources, &supersedes.iter().collect::<Vec<_>>())?;
        for old in &supersedes {
            let old = find(&mut runs, "create", old)?;
            old.epoch += 1;
            old.holder = None;
            old.claims.clear();
        }
        let holder = Some((terms.owner, self.until(terms.ttl)));
        let made =
            Run { lines: vec![first], claims: resources, epoch: 1, holder, closed: false, mail: Vec::new() };
        runs.insert(run, made);
        Ok(Lease { epoch: 1 })
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease> {
        let (now, until) = (self.clock.monotonic(), self.until(terms.ttl));
        let mut runs = self.runs();
        let lease = find(&mut runs, "acquire", run)?.lease(now);
        if let (LeaseState::Held { owner, left }, Takeover::Lapsed) = (lease, takeover) {
            return Err(super::driven("acquire", run, &owner, left));
        }
        check_free(&runs, "acquire", resources, &[run])?;
        let run = find(&mut runs, "acquire", run)?;
        run.epoch += 1;
        run.holder = Some((terms.owner.clone(), until));
        run.claims = resources.to_vec();
        run.closed = false;
        Ok(Lease { epoch: run.epoch })
    }

    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()> {
        let until = self.until(ttl);
        let mut runs = self.runs();
        let found = find(&mut runs, "renew", run)?;
        found.check("renew", run, epoch)?;
        if let Some((_, lapses)) = &mut found.holder {
            *lapses = until;
        }
        Ok(())
    }

    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        let mut runs = self.runs();
        let found = find(&mut runs, "release", run)?;
        if found.epoch != epoch {
            return found.check("release", run, epoch);
        }
        found.holder = None;
        if what >= Release::Resources {
            found.claims.clear();
        }
        found.closed |= what == Release::Closed;
        Ok(())
    }

    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()> {
        let mut runs = self.runs();
        let found = find(&mut runs, "append", run)?;
        found.check("append", run, epoch)?;
        let next = found.lines.len() as u64;
        if line.seq != next {
            return Err(super::out_of_place("append", run, line.seq, next));
        }
        found.lines.push(line);
        Ok(())
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        let now = self.clock.monotonic();
        let mut runs = self.runs();
        let found = find(&mut runs, "load", run)?;
        Ok(StoredRun { head: found.head(run, now), lines: found.lines.clone() })
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        let now = self.clock.monotonic();
        Ok(self.runs().iter().map(|(run, found)| found.head(run, now)).collect())
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        let mut runs = self.runs();
        let found = find(&mut runs, "send", run)?;
        let number = found.mail.len() as u64 + 1;
        found.mail.push(Letter { number, body });
        Ok(number)
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        let mut runs = self.runs();
        let found = find(&mut runs, "mail", run)?;
        Ok(found.mail.iter().filter(|letter| letter.number > after).cloned().collect())
    }
}
