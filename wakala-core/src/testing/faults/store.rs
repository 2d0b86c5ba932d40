//! A run store whose calls fail by a script.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Faults;
use crate::store::{Lease, LeaseTerms, Letter, Line, NewRun, Release, RunHead, StoredRun, Takeover};
use crate::{ResourceKey, Result, RunId, RunStore};

/// A run store whose methods fail by a script. Clones are the same store.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn RunStore>,
    faults: Faults,
}

impl FaultyStore {
    /// Wraps `store`.
    pub fn new(store: impl RunStore, faults: &Faults) -> Self {
        Self::shared(Arc::new(store), faults)
    }

    /// Wraps a store that others hold too.
    pub fn shared(store: Arc<dyn RunStore>, faults: &Faults) -> Self {
        Self { inner: store, faults: faults.clone() }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RunStore for FaultyStore {
    async fn create(&self, new: NewRun) -> Result<Lease> {
        let run = new.run.clone();
        self.faults.call("create", run.as_str(), self.inner.create(new)).await
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease> {
        let call = self.inner.acquire(run, resources, terms, takeover);
        self.faults.call("acquire", run.as_str(), call).await
    }

    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()> {
        self.faults.call("renew", run.as_str(), self.inner.renew(run, epoch, ttl)).await
    }

    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        self.faults.call("release", run.as_str(), self.inner.release(run, epoch, what)).await
    }

    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()> {
        self.faults.call("append", run.as_str(), self.inner.append(run, epoch, line)).await
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        self.faults.call("load", run.as_str(), self.inner.load(run)).await
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        self.faults.call("list", "store", self.inner.list()).await
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        self.faults.call("send", run.as_str(), self.inner.send(run, body)).await
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        self.faults.call("mail", run.as_str(), self.inner.mail(run, after)).await
    }
}
