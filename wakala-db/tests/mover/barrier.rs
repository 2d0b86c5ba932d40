//! Holds a mover at one instant.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wakala_db::{MoveEvent, MoveObserver, MoveOptions, Mover};

use crate::rig::Rig;

/// A row more, and how many there are.
pub(crate) const INSERT: &str = "INSERT INTO entry (tenant_id, account, amount, about)
    SELECT 2, min(id), 77, '{\"kind\": \"late\"}' FROM account WHERE tenant_id = 2";
pub(crate) const LATE: &str = "SELECT count(*) FROM entry WHERE tenant_id = 2 AND amount = 77";

/// 400 rows of tenant 2 with values that are stored apart from them, for a rig with the tables of a site.
pub(crate) const FILL_THINGS: &str = "
    INSERT INTO thing (tenant_id, id, revision, note)
        SELECT 2, n, n, (SELECT string_agg(md5((random() + i)::text || n), '') FROM generate_series(1, 300) AS i)
        FROM generate_series(1, 400) AS n;
    ANALYZE";
/// What they come to.
pub(crate) const THINGS: &str = "
    SELECT count(*) || ' ' || sum(id) || ' ' || sum(revision) || ' ' || sum(hashtext(note)::bigint) FROM thing";

/// Holds the mover within an event until it is told to go on.
#[derive(Debug)]
pub(crate) struct Barrier {
    at: fn(&MoveEvent) -> bool,
    reached: Notify,
    go_on: AtomicBool,
    /// How often it went on to the next such event.
    again: AtomicUsize,
    events: Mutex<Vec<MoveEvent>>,
}

impl MoveObserver for Barrier {
    fn on_event(&self, event: &MoveEvent) {
        self.events.lock().unwrap().push(event.clone());
        if (self.at)(event) && !self.go_on.load(Ordering::SeqCst) {
            let turn = self.again.load(Ordering::SeqCst);
            self.reached.notify_one();
            // Others of the runtime's tasks go on meanwhile.
            tokio::task::block_in_place(|| {
                while !self.go_on.load(Ordering::SeqCst) && self.again.load(Ordering::SeqCst) == turn {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            });
        }
    }
}

impl Barrier {
    pub(crate) fn at(at: fn(&MoveEvent) -> bool) -> Arc<Self> {
        Arc::new(Self {
            at,
            reached: Notify::new(),
            go_on: AtomicBool::new(false),
            again: AtomicUsize::new(0),
            events: Mutex::default(),
        })
    }

    /// The mover is held.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    /// It is held no more, now and later.
    pub(crate) fn go_on(&self) {
        self.go_on.store(true, Ordering::SeqCst);
    }

    /// It goes on to the next event of the kind.
    pub(crate) fn again(&self) {
        self.again.fetch_add(1, Ordering::SeqCst);
    }

    /// Of how many chunks it told first that they are copied, and of how many.
    pub(crate) fn progress(&self) -> (usize, usize) {
        let events = self.events.lock().unwrap();
        let progress = events.iter().find_map(|event| match event {
            MoveEvent::Copied(progress) => Some((progress.chunks, progress.chunks_total)),
            _ => None,
        });
        progress.unwrap()
    }
}

/// The machine of the tests is shared.
pub(crate) fn patient() -> MoveOptions {
    let mut options = MoveOptions::default();
    options.lag_budget = Duration::from_secs(5);
    options
}

/// A move of tenant 2 that has come so far.
pub(crate) async fn copied(rig: &Rig, name: &str) -> Mover {
    let mut mover = rig.mover(name, &[2]).await.with_options(patient());
    mover.copy(&CancellationToken::new()).await.unwrap();
    mover
}
