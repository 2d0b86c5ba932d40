//! The conformance suite, on a file of its own for each check, through two stores and through fault wrappers.

use std::sync::Arc;

use tempfile::tempdir;
use wakala_core::testing::conformance::StoreCase;
use wakala_core::testing::{Faults, FaultyStore};
use wakala_core::{ManualClock, SqliteStore};

mod one_store {
    use super::*;

    async fn make() -> StoreCase {
        let folder = tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("runs.db")).await.unwrap();
        // On the host's clock.
        StoreCase::new(store).keeping(folder)
    }
    wakala_core::store_conformance!(make);
}

mod two_stores {
    use super::*;

    async fn make() -> StoreCase {
        let folder = tempdir().unwrap();
        let clock = ManualClock::default();
        let open = async || {
            let store = SqliteStore::open(folder.path().join("runs.db")).await.unwrap();
            store.with_clock(Arc::new(clock.clone()))
        };
        StoreCase::new(open().await).with_peer(open().await).on(&clock).keeping(folder)
    }
    wakala_core::store_conformance!(make);
}

mod wrapped {
    use super::*;

    async fn make() -> StoreCase {
        let folder = tempdir().unwrap();
        let clock = ManualClock::default();
        let store = SqliteStore::open(folder.path().join("runs.db")).await.unwrap();
        let store = store.with_clock(Arc::new(clock.clone()));
        StoreCase::new(FaultyStore::new(store, &Faults::new())).on(&clock).keeping(folder)
    }
    wakala_core::store_conformance!(make);
}
