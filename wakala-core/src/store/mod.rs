//! Where runs are recorded.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Error, ErrorKind, ResourceKey, Result, RunId};

mod entry;
mod memory;
mod record;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use entry::{Damage, Entry, Journal};
pub use memory::MemoryStore;
pub use record::{EffectKnown, Failure, Record, Unwind};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

/// One line of a journal as a store keeps it.
///
/// Stores do not look into it: a run of a newer version stays readable to the store of an older one, and the hash is that
/// of the very bytes that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the run, from 0, without gaps.
    pub seq: u64,
    /// The entry as JSON text.
    pub body: String,
    /// Hash of this line and all before it, in hexadecimal.
    pub hash: String,
}

/// What somebody wants who drives a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The process that drives the run: `host-1/4711`.
    pub owner: String,
    /// How long the lease lasts without being renewed.
    pub ttl: Duration,
}

/// The right to drive a run. Whoever holds a later epoch of the same run has fenced this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Counts the owners of the run, from 1.
    pub epoch: u64,
}

/// Who may drive a run, as the store knows it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Nobody drives it, and nobody is meant to: its last owner gave the lease back.
    Free,
    /// Somebody drives it.
    Held {
        /// The process.
        owner: String,
        /// Time until it lapses, unless it is renewed.
        left: Duration,
    },
    /// Its owner is gone or silent. The run still holds its resources, and somebody must decide about it.
    Lapsed {
        /// The process.
        owner: String,
    },
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its name.
    pub run: RunId,
    /// What it takes for itself: a set, in which keys may overlap each other.
    pub resources: Vec<ResourceKey>,
    /// Who drives it.
    pub terms: LeaseTerms,
    /// Its first line.
    pub first: Line,
    /// The runs that it takes over from: their claims become free for it, and their owners are fenced.
    pub supersedes: Vec<RunId>,
}

/// Whether a lease may be taken from an owner that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Only a lease that is free or has lapsed.
    Lapsed,
    /// Also one that is held: somebody knows that its owner is gone, or wants it to stop.
    Forced,
}

/// What a run gives up when a pass over it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// The lease only: its resources stay claimed, since somebody must decide about the run first.
    Lease,
    /// Its resources too: others may use them. Something is still owed.
    Resources,
    /// All of it: nothing is left to do.
    Closed,
}

/// A run in a list.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHead {
    /// The run.
    pub run: RunId,
    /// What it holds now.
    pub resources: Vec<ResourceKey>,
    /// Who drives it.
    pub lease: LeaseState,
    /// The epoch of its last lease.
    pub epoch: u64,
    /// How many lines its journal was given.
    pub length: u64,
    /// Whether nothing is left to do.
    pub closed: bool,
}

impl RunHead {
    /// A run as a store knows it.
    pub fn new(
        run: RunId,
        resources: Vec<ResourceKey>,
        lease: LeaseState,
        epoch: u64,
        length: u64,
        closed: bool,
    ) -> Self {
        Self { run, resources, lease, epoch, length, closed }
    }
}

/// A run with its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// What the store knows about the run.
    pub head: RunHead,
    /// Its journal, in order.
    pub lines: Vec<Line>,
}

/// A request in a run's mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its place in the mailbox, from 1, without gaps.
    pub number: u64,
    /// The request as JSON text.
    pub body: String,
}

/// Keeps the journals of runs, who drives which, and who holds which resource. Append-only: nothing is ever cleared.
///
/// A run's resources are claimed when it is [made](Self::create) and given back by [`release`](Self::release), so two
/// runs never work on the same thing. Who drives a run has its lease, for a time, and writes under the lease's epoch:
/// once somebody else has taken the lease, the former owner can write nothing more. A lease that lapsed frees nothing.
///
/// The store has the clock that leases are measured by: one for all that share it.
///
/// `Conflict` and `NotFound` are certain: nothing was changed, and the same call would fail again. Where it is not known
/// whether a call took effect the error says [`ObserveFirst`](crate::Retry::ObserveFirst), as it always does.
#[async_trait]
pub trait RunStore: Debug + Send + Sync + 'static {
    /// Makes a run with its first line, claims its resources and takes its lease: all or nothing.
    ///
    /// In the same moment the runs that it supersedes lose their claims and their owners are fenced: a later epoch, that
    /// nobody has.
    ///
    /// # Errors
    /// `Conflict` where the run exists, or a run that is not superseded holds an overlapping resource; the message
    /// names it. `NotFound` for an unknown superseded run.
    async fn create(&self, new: NewRun) -> Result<Lease>;

    /// Takes the lease of a run under a new epoch, and claims `resources` for it: all of them, in place of what it
    /// holds, or nothing happens. The run is no longer closed.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` where the lease is held and not to be taken by force, or another run
    /// holds an overlapping resource; the message names the holder.
    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease>;

    /// Lets the lease of that epoch last for `ttl` from now, also where it had lapsed and nobody took it.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` where the epoch is not the latest or the lease was given back.
    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()>;

    /// Gives up the lease of that epoch, and more as `what` says. May be repeated, also to give up more than before.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` where the epoch is not the latest: nothing has changed then.
    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()>;

    /// Adds the next line, also where the lease has lapsed and nobody took it.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` where the line's place is not the next one, the epoch is not the latest,
    /// or the lease was given back: somebody else writes.
    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()>;

    /// A run with all of its lines, in order, as they are: looking for damage is not the store's work.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    async fn load(&self, run: &RunId) -> Result<StoredRun>;

    /// All runs, in the order of their names' bytes.
    ///
    /// # Errors
    /// What the store says.
    async fn list(&self) -> Result<Vec<RunHead>>;

    /// Puts a request into a run's mailbox, whoever drives the run, and says which place it got.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    async fn send(&self, run: &RunId, body: String) -> Result<u64>;

    /// What came into a run's mailbox after that number; all of it after 0.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>>;
}

/// The error of a store for a resource that another run holds. For authors of stores: the words are the same everywhere.
pub fn taken(operation: &'static str, resource: &ResourceKey, holder: &RunId) -> Error {
    let message =
        format!("run {holder} holds it; wait for its end, or resume, revert, abandon or supersede it first");
    Error::new(ErrorKind::Conflict, operation, message).on(resource)
}

/// The error of a store for a run whose lease is held.
pub fn driven(operation: &'static str, run: &RunId, owner: &str, left: Duration) -> Error {
    // Whole seconds, rounded up: enough to know how long to wait.
    let left = humantime::format_duration(Duration::from_secs(left.as_secs() + 1));
    let message = format!(
        "{owner} drives it, and its lease lasts for {left} more; ask that process, wait, or take the run over by force"
    );
    Error::new(ErrorKind::Conflict, operation, message).on(format!("run {run}"))
}

/// The error of a store for an epoch that is not the latest one.
pub fn fenced(operation: &'static str, run: &RunId, epoch: u64, latest: u64) -> Error {
    let message = format!("lease {epoch} was fenced by lease {latest}: somebody took the run over");
    Error::new(ErrorKind::Conflict, operation, message).on(format!("run {run}"))
}

/// The error of a store for a lease that was given back.
pub fn given_back(operation: &'static str, run: &RunId, epoch: u64) -> Error {
    let message = format!("lease {epoch} was given back; take the run over first");
    Error::new(ErrorKind::Conflict, operation, message).on(format!("run {run}"))
}

/// The error of a store for a run that exists already.
pub fn exists(operation: &'static str, run: &RunId) -> Error {
    Error::new(ErrorKind::Conflict, operation, "it exists; choose another name").on(format!("run {run}"))
}

/// The error of a store for a run that it does not have.
pub fn unknown(operation: &'static str, run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, operation, "this store has no such run").on(format!("run {run}"))
}

/// The error of a store for a line that comes where another is next.
pub fn out_of_place(operation: &'static str, run: &RunId, seq: u64, next: u64) -> Error {
    let message = format!("entry {seq} comes where {next} is next: another process writes this run");
    Error::new(ErrorKind::Conflict, operation, message).on(format!("run {run}"))
}
