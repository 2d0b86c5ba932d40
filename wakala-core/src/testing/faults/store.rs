//! A run store whose calls fail by a script.

use std::sync::Arc;

use async_trait::async_trait;

use super::Faults;
use crate::{Entry, ResourceKey, Result, RunId, RunStore};

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
    async fn create(&self, run: &RunId, resources: &[ResourceKey], first: Entry) -> Result<()> {
        self.faults.call("create", run.as_str(), self.inner.create(run, resources, first)).await
    }

    async fn claim(&self, run: &RunId, resources: &[ResourceKey]) -> Result<()> {
        self.faults.call("claim", run.as_str(), self.inner.claim(run, resources)).await
    }

    async fn append(&self, run: &RunId, entry: Entry) -> Result<()> {
        self.faults.call("append", run.as_str(), self.inner.append(run, entry)).await
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.faults.call("load", run.as_str(), self.inner.load(run)).await
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        self.faults.call("list", "store", self.inner.list()).await
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        self.faults.call("release", run.as_str(), self.inner.release(run)).await
    }
}
