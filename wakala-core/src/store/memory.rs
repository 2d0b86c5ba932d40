//! Runs in memory: for tests, simulations and runs that one process sees to their end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Entry, RunStore};
use crate::{Error, ErrorKind, ResourceKey, Result, RunId};

/// Keeps runs in memory. They are gone with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    runs: BTreeMap<RunId, Vec<Entry>>,
    claims: Vec<(ResourceKey, RunId)>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so the data is whole even where the flag says otherwise.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn claim(&mut self, run: &RunId, resources: &[ResourceKey]) -> Result<()> {
        let taken = self
            .claims
            .iter()
            .find(|(key, holder)| holder != run && resources.iter().any(|r| r.overlaps(key)));
        if let Some((key, holder)) = taken {
            return Err(Error::new(
                ErrorKind::Conflict,
                "claim",
                format!("run {holder} works on it; wait for its end, or stop or revert it first"),
            )
            .on(key));
        }
        self.claims.retain(|(_, holder)| holder != run);
        self.claims.extend(resources.iter().map(|key| (key.clone(), run.clone())));
        Ok(())
    }

    fn entries(&mut self, operation: &'static str, run: &RunId) -> Result<&mut Vec<Entry>> {
        self.runs
            .get_mut(run)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, "this store has no such run").on(run))
    }
}

#[async_trait]
impl RunStore for MemoryStore {
    async fn create(&self, run: &RunId, resources: &[ResourceKey], first: Entry) -> Result<()> {
        let mut state = self.state();
        if state.runs.contains_key(run) {
            return Err(
                Error::new(ErrorKind::Conflict, "create", "the run exists; choose another name").on(run)
            );
        }
        state.claim(run, resources)?;
        state.runs.insert(run.clone(), vec![first]);
        Ok(())
    }

    async fn claim(&self, run: &RunId, resources: &[ResourceKey]) -> Result<()> {
        let mut state = self.state();
        state.entries("claim", run)?;
        state.claim(run, resources)
    }

    async fn append(&self, run: &RunId, entry: Entry) -> Result<()> {
        let mut state = self.state();
        let entries = state.entries("append", run)?;
        let next = entries.len() as u64;
        if entry.seq != next {
            let message =
                format!("entry {} comes where {next} is next: another process writes this run", entry.seq);
            return Err(Error::new(ErrorKind::Conflict, "append", message).on(run));
        }
        entries.push(entry);
        Ok(())
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        self.state().entries("load", run).cloned()
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        Ok(self.state().runs.keys().cloned().collect())
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        self.state().claims.retain(|(_, holder)| holder != run);
        Ok(())
    }
}
