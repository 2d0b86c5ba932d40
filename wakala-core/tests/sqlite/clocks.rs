//! Clocks that jump.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tempfile::tempdir;
use wakala_core::store::{LeaseState, Takeover};
use wakala_core::{Clock, ErrorKind, RunStore, SqliteStore};

use crate::support::{Writer, terms};

const TTL: Duration = Duration::from_secs(60);

/// A clock of day that can be set.
#[derive(Clone, Debug)]
struct Settable(Arc<Mutex<SystemTime>>);

impl Settable {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))))
    }

    fn forward(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    fn back(&self, by: Duration) {
        *self.0.lock().unwrap() -= by;
    }
}

#[async_trait]
impl Clock for Settable {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

struct Set {
    clock: Settable,
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

async fn set() -> Set {
    let folder = tempdir().unwrap();
    let clock = Settable::new();
    let store = SqliteStore::open(folder.path().join("runs.db")).await.unwrap();
    let store = store.with_clock(Arc::new(clock.clone()));
    Set { clock, store, _folder: folder }
}

impl Set {
    /// How long the lease lasts yet; `None` where it has lapsed.
    async fn left(&self) -> Option<Duration> {
        match self.store.load(&"a".into()).await.unwrap().head.lease {
            LeaseState::Held { left, .. } => Some(left),
            LeaseState::Lapsed { .. } => None,
            state => panic!("{state:?}"),
        }
    }

    async fn take(&self) -> wakala_core::Result<u64> {
        let terms = terms("second", TTL);
        self.store.acquire(&"a".into(), &[], &terms, Takeover::Lapsed).await.map(|lease| lease.epoch)
    }
}

#[tokio::test]
async fn a_clock_that_goes_on_lets_a_lease_lapse_in_its_time() {
    let set = set().await;
    Writer::create(&set.store, "a", TTL).await;
    set.clock.forward(TTL - Duration::from_millis(1));
    assert_eq!(set.left().await, Some(Duration::from_millis(1)));
    assert_eq!(set.take().await.unwrap_err().kind(), ErrorKind::Conflict);
    set.clock.forward(Duration::from_millis(1));
    assert_eq!(set.left().await, None);
    assert_eq!(set.take().await.unwrap(), 2);
}

#[tokio::test]
async fn a_clock_set_forward_parts_no_owner_that_renews() {
    let set = set().await;
    let mut writer = Writer::create(&set.store, "a", TTL).await;
    set.clock.forward(TTL * 1_000);
    assert_eq!(set.left().await, None);
    writer.append().await.unwrap();
    set.store.renew(&"a".into(), 1, TTL).await.unwrap();
    assert_eq!(set.left().await, Some(TTL));
    assert_eq!(set.take().await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_clock_set_back_leaves_no_lease_for_ever_and_lets_one_owner_write() {
    let set = set().await;
    let mut writer = Writer::create(&set.store, "a", TTL).await;
    // A little: the owner stays, and never has more than its time.
    set.clock.back(TTL / 2);
    assert_eq!(set.left().await, Some(TTL));
    // By years: it has lapsed, and may be renewed or taken.
    set.clock.back(TTL * 1_000_000);
    assert_eq!(set.left().await, None);
    writer.append().await.unwrap();
    set.store.renew(&"a".into(), 1, TTL).await.unwrap();
    assert_eq!(set.left().await, Some(TTL));
    set.clock.back(TTL);
    assert_eq!(set.take().await.unwrap(), 2);
    assert_eq!(writer.append().await.unwrap_err().kind(), ErrorKind::Conflict);
    // Nor does the former owner come back when the clock does.
    set.clock.forward(TTL * 1_000_001);
    assert_eq!(writer.append().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(set.store.renew(&"a".into(), 1, TTL).await.unwrap_err().kind(), ErrorKind::Conflict);
}
