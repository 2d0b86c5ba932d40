//! What every [`RunStore`] must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Common, common_case, must};
use crate::store::{Lease, LeaseState, LeaseTerms, Line, NewRun, Release, RunHead, Takeover};
use crate::{Error, ErrorKind, ResourceKey, Result, Retry, RunId, RunStore};

mod journal;
mod leases;
mod mail;
mod runs;
mod takeover;

pub use journal::{
    appends_need_the_lease, concurrent_appends_have_one_winner, keeps_lines_in_order,
    lines_come_back_as_written, wrong_place_conflicts,
};
pub use leases::{
    lapsed_lease_frees_nothing, lapsed_lease_still_writes, lease_is_held_for_its_time,
    release_gives_up_what_it_says, release_is_for_the_latest_lease, release_repeats, renewal_counts_from_now,
};
pub use mail::{
    concurrent_mail_gets_places_of_its_own, mail_comes_back_as_sent, mail_is_numbered_without_gaps,
    mail_needs_no_lease,
};
pub use runs::{
    concurrent_creates_have_one_winner, existing_run_conflicts, heads_tell_how_runs_stand,
    lists_runs_by_name, overlapping_claims_conflict_by_name, refused_creates_leave_nothing,
    resources_are_a_set, supersedes_all_or_nothing, supersedes_and_fences, unknown_run_is_not_found,
};
pub use takeover::{
    acquire_reopens, acquire_replaces_claims_or_nothing, concurrent_claims_have_one_winner,
    concurrent_takeovers_have_one_winner, epochs_count_owners, former_owners_are_fenced,
    held_lease_is_taken_by_force, lapsed_lease_is_taken,
};

/// The time to live of leases that are to last longer than any check.
const LONG: Duration = Duration::from_secs(3600);

/// How often the state of a lease that is about to lapse is read.
const POLL: Duration = Duration::from_millis(50);

/// A store to check. It must be empty when a check begins.
///
/// Some checks wait until a lease has lapsed. Where the store has its time from a
/// [`ManualClock`](crate::ManualClock), [`on`](Self::on) that clock no time passes in reality; any other store gets
/// leases of 300 ms.
#[derive(Debug)]
pub struct StoreCase {
    common: Common,
    handles: Vec<Arc<dyn RunStore>>,
    /// How often a handle was asked for.
    calls: AtomicUsize,
    brief: Duration,
}

common_case!(StoreCase);

impl StoreCase {
    /// Checks `store`.
    pub fn new(store: impl RunStore) -> Self {
        Self::shared(Arc::new(store))
    }

    /// Checks a store that others hold too.
    pub fn shared(store: Arc<dyn RunStore>) -> Self {
        Self {
            common: Common::new(),
            handles: vec![store],
            calls: AtomicUsize::new(0),
            brief: Duration::from_millis(300),
        }
    }

    /// Another handle on the same runs, as a second process has one: calls go now to one, now to another.
    #[must_use]
    pub fn with_peer(mut self, peer: impl RunStore) -> Self {
        self.handles.push(Arc::new(peer));
        self
    }

    /// How long the leases last that a check sees lapse, on the store's clock; 300 ms as given. Raise it where the store
    /// counts in coarser steps.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.brief = ttl;
        self
    }

    fn store(&self) -> &dyn RunStore {
        // An order without period (Thue-Morse), lest a check that does the same with two runs in turn gives each a handle.
        let turn = self.calls.fetch_add(1, Ordering::Relaxed).count_ones() as usize;
        self.handles[turn % self.handles.len()].as_ref()
    }

    async fn make(&self, run: &str, resources: &[&str], ttl: Duration, old: &[&str]) -> Result<Lease> {
        let new = NewRun {
            run: run.into(),
            resources: keys(resources),
            terms: terms(&format!("maker of {run}"), ttl),
            first: line(run, 0),
            supersedes: old.iter().copied().map(RunId::from).collect(),
        };
        self.store().create(new).await
    }

    /// Makes a run whose lease outlasts the check.
    async fn create(&self, run: &str, resources: &[&str]) -> Result<Lease> {
        self.make(run, resources, LONG, &[]).await
    }

    /// Makes a run and waits until its lease, 1, has lapsed.
    async fn create_lapsed(&self, run: &str, resources: &[&str]) {
        must(self.make(run, resources, self.brief, &[]).await, "create");
        self.wait_for_lapse(run).await;
    }

    /// Makes a run that nobody drives.
    async fn create_free(&self, run: &str, resources: &[&str]) {
        must(self.create(run, resources).await, "create");
        must(self.release(run, 1, Release::Lease).await, "release");
    }

    async fn wait_for_lapse(&self, run: &str) {
        let clock = self.common.cx.clock();
        let start = clock.monotonic();
        clock.sleep(self.brief).await;
        loop {
            let lease = self.head(run).await.lease;
            if matches!(lease, LeaseState::Lapsed { .. }) {
                return;
            }
            let waited = clock.monotonic().saturating_sub(start);
            let brief = self.brief;
            assert!(waited < self.common.limit, "a lease of {brief:?} is {lease:?} after {waited:?}");
            clock.sleep(POLL).await;
        }
    }

    async fn append(&self, run: &str, epoch: u64, seq: u64) -> Result<()> {
        self.store().append(&run.into(), epoch, line(run, seq)).await
    }

    async fn acquire(&self, run: &str, resources: &[&str], owner: &str, takeover: Takeover) -> Result<Lease> {
        self.store().acquire(&run.into(), &keys(resources), &terms(owner, LONG), takeover).await
    }

    async fn renew(&self, run: &str, epoch: u64, ttl: Duration) -> Result<()> {
        self.store().renew(&run.into(), epoch, ttl).await
    }

    async fn release(&self, run: &str, epoch: u64, what: Release) -> Result<()> {
        self.store().release(&run.into(), epoch, what).await
    }

    async fn lines(&self, run: &str) -> Vec<Line> {
        must(self.store().load(&run.into()).await, "load").lines
    }

    async fn places(&self, run: &str) -> Vec<u64> {
        self.lines(run).await.iter().map(|line| line.seq).collect()
    }

    async fn head(&self, run: &str) -> RunHead {
        must(self.store().load(&run.into()).await, "load").head
    }

    async fn heads(&self) -> Vec<RunHead> {
        must(self.store().list().await, "list")
    }

    async fn runs(&self) -> Vec<RunId> {
        self.heads().await.into_iter().map(|head| head.run).collect()
    }

    /// How a run stands, without what changes as time goes by.
    async fn standing(&self, run: &str) -> Standing {
        Standing::of(self.head(run).await)
    }
}

impl<S: RunStore> From<S> for StoreCase {
    fn from(store: S) -> Self {
        Self::new(store)
    }
}

/// A [`RunHead`] without what changes as time goes by, its resources in order and each once.
#[derive(Debug, PartialEq)]
struct Standing {
    resources: Vec<ResourceKey>,
    lease: Driver,
    epoch: u64,
    length: u64,
    closed: bool,
}

#[derive(Debug, PartialEq)]
enum Driver {
    Free,
    Held(String),
    Lapsed(String),
}

impl Standing {
    fn of(head: RunHead) -> Self {
        let RunHead { mut resources, lease, epoch, length, closed, .. } = head;
        resources.sort_unstable();
        resources.dedup();
        let lease = match lease {
            LeaseState::Free => Driver::Free,
            LeaseState::Held { owner, .. } => Driver::Held(owner),
            LeaseState::Lapsed { owner } => Driver::Lapsed(owner),
        };
        Self { resources, lease, epoch, length, closed }
    }
}

fn held(owner: &str) -> Driver {
    Driver::Held(owner.to_owned())
}

fn keys(resources: &[&str]) -> Vec<ResourceKey> {
    resources.iter().copied().map(ResourceKey::from).collect()
}

fn terms(owner: &str, ttl: Duration) -> LeaseTerms {
    LeaseTerms { owner: owner.to_owned(), ttl }
}

/// A line that is the run's own, so that one which strays into another is seen.
fn line(run: &str, seq: u64) -> Line {
    Line { seq, body: format!("{{\"run\":\"{run}\",\"seq\":{seq}}}"), hash: format!("{seq:064x}") }
}

/// Texts that a store must keep as they are. A NUL character is none: JSON text has none.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        r#"{"by":"Zoë Ünal 🦓","note":"it's \"so\" \\ %s $1 ?1 :a"}"#,
        "{\"lines\":\"a\\nb\",\n\t\"tab\": 1,  \"spaces\":2}\r\n",
        "{\"b\":1,\"a\":1,\"a\":2,\"n\":1.0,\"big\":18446744073709551615,\"e\":1E400,\"u\":\"\\u00e9\\ud83e\\udd93\"}",
        "not JSON at all {",
        "  leading and trailing spaces  ",
        "null",
        "'; DROP TABLE runs; --",
        "",
    ]
    .map(str::to_owned)
    .into();
    texts.push(format!("\"{}\"", "0123456789abcdeñ".repeat(64 * 1024)));
    texts
}

/// The error, of that kind and certain that nothing happened.
#[track_caller]
fn refused<T>(answer: Result<T>, kind: ErrorKind, what: &str) -> Error {
    let Err(error) = answer else { panic!("{what} was accepted; it must be {kind:?}") };
    assert_eq!(error.kind(), kind, "{what} must be {kind:?}: {error:?}");
    assert_eq!(error.retry(), Retry::Never, "{what} would fail the same way again: {error:?}");
    error
}

#[track_caller]
fn conflicts<T>(answer: Result<T>, what: &str) {
    refused(answer, ErrorKind::Conflict, what);
}

/// A conflict whose message names who is in the way.
#[track_caller]
fn conflicts_with<T>(answer: Result<T>, name: &str, what: &str) {
    let error = refused(answer, ErrorKind::Conflict, what).to_string();
    assert!(error.contains(name), "the error must name {name}, who is in the way of {what}: {error}");
}

/// How many of the answers are good; the others must be conflicts.
#[track_caller]
fn winners<T>(answers: Vec<Result<T>>, what: &str) -> usize {
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    lost.into_iter().for_each(|answer| conflicts(answer, what));
    won.len()
}

/// Runs every check of this module, each on a store of its own.
pub async fn all<C: Into<StoreCase>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { store, __conformance_all! [make] }
}
