//! Run stores that break what they promise: engines that rely on them are variants that must be caught.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use wakala_core::store::{
    Journal, Lease, LeaseTerms, Letter, Line, NewRun, Release, RunHead, StoredRun, Takeover,
};
use wakala_core::{Clock, Entry, ManualClock, MemoryStore, Record, ResourceKey, Result, RunId, RunStore};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Intents reach it only with the line after them: after the effect.
    LateIntents,
    /// Whoever has had a lease once may renew it and write, also when somebody else has a later one.
    NoEpoch,
    /// It lists nothing.
    HidesRuns,
    /// Nothing is ever given back.
    KeepsAll,
    /// Whoever takes a run over finds its soak as far as if somebody had watched all the time.
    WallTimeSoaks,
    /// The second line of a journal is lost once it has ten.
    LosesLines,
}

#[derive(Debug)]
pub(crate) struct FlawedStore {
    inner: MemoryStore,
    clock: ManualClock,
    flaw: Flaw,
    held_back: Mutex<Vec<(u64, Line)>>,
}

impl FlawedStore {
    pub(crate) fn new(clock: &ManualClock, flaw: Flaw) -> Self {
        let inner = MemoryStore::with_clock(Arc::new(clock.clone()));
        Self { inner, clock: clock.clone(), flaw, held_back: Mutex::default() }
    }

    async fn latest(&self, run: &RunId, epoch: u64) -> Result<u64> {
        Ok(if self.flaw == Flaw::NoEpoch { self.inner.load(run).await?.head.epoch } else { epoch })
    }

    /// Credits an open soak with all the time since its last line.
    async fn credit(&self, run: &RunId, epoch: u64) -> Result<()> {
        let journal = Journal::read(&self.inner.load(run).await?);
        let open = journal.entries.iter().rev().find_map(|entry| match &entry.record {
            Record::SoakOpened { soak, .. } => Some(Some((soak.clone(), Duration::ZERO, entry.at))),
            Record::SoakProgress { soak, covered } => Some(Some((soak.clone(), *covered, entry.at))),
            Record::SoakClosed { .. } | Record::Unwinding { .. } | Record::Ended { .. } => Some(None),
            _ => None,
        });
        let Some(Some((soak, covered, at))) = open else { return Ok(()) };
        let now: SystemTime = self.clock.now();
        let covered = covered + now.duration_since(at).unwrap_or_default();
        let record = Record::SoakProgress { soak, covered };
        let entry = Entry::new(journal.entries.len() as u64, now, epoch, record);
        self.inner.append(run, epoch, entry.line(run, journal.tip.as_deref())).await
    }
}

#[async_trait]
impl RunStore for FlawedStore {
    async fn create(&self, new: NewRun) -> Result<Lease> {
        self.inner.create(new).await
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease> {
        let lease = self.inner.acquire(run, resources, terms, takeover).await?;
        if self.flaw == Flaw::WallTimeSoaks {
            self.credit(run, lease.epoch).await?;
        }
        Ok(lease)
    }

    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()> {
        self.inner.renew(run, self.latest(run, epoch).await?, ttl).await
    }

    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        if self.flaw == Flaw::KeepsAll { Ok(()) } else { self.inner.release(run, epoch, what).await }
    }

    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()> {
        if self.flaw == Flaw::LateIntents {
            let held_back = std::mem::take(&mut *self.held_back.lock().unwrap());
            for (epoch, line) in held_back {
                self.inner.append(run, epoch, line).await?;
            }
            if line.body.contains("\"intent\":") {
                self.held_back.lock().unwrap().push((epoch, line));
                return Ok(());
            }
        }
        self.inner.append(run, self.latest(run, epoch).await?, line).await
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        let mut stored = self.inner.load(run).await?;
        if self.flaw == Flaw::LosesLines && stored.lines.len() > 10 {
            stored.lines.remove(1);
        }
        Ok(stored)
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        if self.flaw == Flaw::HidesRuns { Ok(Vec::new()) } else { self.inner.list().await }
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        self.inner.send(run, body).await
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        self.inner.mail(run, after).await
    }
}
