//! Run stores that are broken in one way each.

use async_trait::async_trait;
use wakala_core::testing::conformance::store;
use wakala_core::{Entry, Error, ErrorKind, MemoryStore, ResourceKey, Result, RunId, RunStore};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    AcceptsAnyPlace,
    ClaimsNothingAgain,
    ClaimsOneByOne,
    ClaimsWithoutNames,
    ListsNewestFirst,
    LoadsNewestFirst,
    LooksBeforeItAppends,
    LooksBeforeItCreates,
    OverwritesRuns,
    ReleasesEverybody,
    UnknownIsEmpty,
}

#[derive(Debug)]
struct Broken {
    store: MemoryStore,
    defect: Defect,
}

fn broken(defect: Defect) -> Broken {
    Broken { store: MemoryStore::new(), defect }
}

#[async_trait]
impl RunStore for Broken {
    async fn create(&self, run: &RunId, resources: &[ResourceKey], first: Entry) -> Result<()> {
        match self.defect {
            Defect::OverwritesRuns => match self.store.create(run, resources, first).await {
                Err(_) if self.store.load(run).await.is_ok() => Ok(()),
                other => other,
            },
            Defect::ClaimsOneByOne => {
                self.store.create(run, &[], first).await?;
                for end in 1..=resources.len() {
                    self.store.claim(run, &resources[..end]).await?;
                }
                Ok(())
            }
            Defect::ClaimsWithoutNames => self
                .store
                .create(run, resources, first)
                .await
                .map_err(|error| Error::new(error.kind(), "create", "somebody else holds it")),
            Defect::LooksBeforeItCreates => {
                let free = self.store.list().await?.is_empty();
                tokio::task::yield_now().await;
                if free {
                    self.store.create(run, &[], first).await
                } else {
                    self.store.create(run, resources, first).await
                }
            }
            _ => self.store.create(run, resources, first).await,
        }
    }

    async fn claim(&self, run: &RunId, resources: &[ResourceKey]) -> Result<()> {
        if self.defect == Defect::ClaimsNothingAgain {
            return Ok(());
        }
        self.store.claim(run, resources).await
    }

    async fn append(&self, run: &RunId, entry: Entry) -> Result<()> {
        match self.defect {
            Defect::AcceptsAnyPlace => Ok(()),
            Defect::LooksBeforeItAppends => {
                let next = self.store.load(run).await?.len() as u64;
                tokio::task::yield_now().await;
                if entry.seq == next {
                    let _ = self.store.append(run, entry).await;
                    return Ok(());
                }
                Err(Error::new(ErrorKind::Conflict, "append", "wrong place"))
            }
            _ => self.store.append(run, entry).await,
        }
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        match self.defect {
            Defect::LoadsNewestFirst => {
                let mut entries = self.store.load(run).await?;
                entries.reverse();
                Ok(entries)
            }
            Defect::UnknownIsEmpty => Ok(self.store.load(run).await.unwrap_or_default()),
            _ => self.store.load(run).await,
        }
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        let mut runs = self.store.list().await?;
        if self.defect == Defect::ListsNewestFirst {
            runs.reverse();
        }
        Ok(runs)
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        if self.defect == Defect::ReleasesEverybody {
            for run in self.store.list().await? {
                self.store.release(&run).await?;
            }
        }
        self.store.release(run).await
    }
}

fails!(newest_first, store::keeps_entries_in_order, broken(Defect::LoadsNewestFirst), "an entry changed");
fails!(
    any_place,
    store::wrong_place_conflicts,
    broken(Defect::AcceptsAnyPlace),
    "an entry at 0 where 2 is next"
);
fails!(
    two_writers,
    store::concurrent_appends_have_one_winner,
    broken(Defect::LooksBeforeItAppends),
    "4 of 4 writers got place 1"
);
fails!(
    overwriting,
    store::existing_run_conflicts,
    broken(Defect::OverwritesRuns),
    "a second run of the same name"
);
fails!(
    nameless_holder,
    store::overlapping_claims_conflict_by_name,
    broken(Defect::ClaimsWithoutNames),
    "the error must name the holder"
);
fails!(
    piecemeal_claims,
    store::failed_claims_leave_nothing,
    broken(Defect::ClaimsOneByOne),
    "a run was made although its claim was refused"
);
fails!(
    two_holders,
    store::concurrent_creates_have_one_winner,
    broken(Defect::LooksBeforeItCreates),
    "4 of 4 runs got the same resource"
);
fails!(
    generous_release,
    store::release_frees_and_repeats,
    broken(Defect::ReleasesEverybody),
    "a claim of what was claimed since was accepted"
);
fails!(
    forgotten_claim,
    store::claims_again,
    broken(Defect::ClaimsNothingAgain),
    "a claim of what was claimed again"
);
fails!(
    made_up_run,
    store::unknown_run_is_not_found,
    broken(Defect::UnknownIsEmpty),
    "loading an unknown run was accepted"
);
fails!(unordered, store::lists_runs_by_name, broken(Defect::ListsNewestFirst), "runs are not listed by name");
