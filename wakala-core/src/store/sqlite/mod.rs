//! Runs in an SQLite file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Lease, LeaseTerms, Letter, Line, NewRun, Release, RunHead, RunStore, StoredRun, Takeover};
use crate::{Clock, Error, ErrorKind, ResourceKey, Result, Retry, RunId, SystemClock};

mod database;
mod error;
mod lease;
mod place;
mod presence;
mod runs;
mod schema;

use database::Database;

/// Keeps runs in an SQLite file on a local disk, for the processes of one host.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> wakala_core::Result<()> {
/// use wakala_core::{RunStore, SqliteStore};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("runs.db");
/// let store = SqliteStore::open(&path).await?;
/// assert!(store.list().await?.is_empty());
/// # Ok(()) }
/// ```
///
/// # What is promised
///
/// - What was answered with `Ok` is on the disk (write-ahead log, `synchronous = FULL`): it outlasts the process and the
///   host's power.
/// - Lines and letters are only ever added; the database itself refuses to change or delete them, also for those who
///   open it with other programs.
/// - A call whose future is dropped is carried out nevertheless, unless it was never polled. Dropping the store waits for
///   the calls under way.
/// - Any number of processes, and of stores in one process, may share the file. A call waits up to 5 seconds for the
///   others' writes.
///
/// SQLite keeps `-wal` and `-shm` files beside the database while it is open, and after a crash: they are part of it. Copy
/// it with `sqlite3 runs.db ".backup copy.db"`. Files named `-owner-…` tell whose process is alive; one that is left over is
/// removed by the next process that drives a run.
///
/// # Leases
///
/// A lease lapses when its time is over on the host's clock, and at once when the process that took or renewed it last is
/// gone (or has dropped its store): each store that drives runs holds a lock on a file of its own, which the operating
/// system gives back whatever way a process ends. A process that hangs keeps its lease for its time.
///
/// Where the host's clock is set forward, leases lapse early; their owners renew them, unless somebody took them over.
/// Where it is set back, a lease may last for twice its time; one that was taken farther in the future than it lasts
/// counts as lapsed. Neither lets two owners write: a lapsed lease is taken under a later epoch, and lines of former
/// epochs are refused, whatever any clock says.
///
/// # Errors
///
/// | what happened | kind | retry |
/// |---|---|---|
/// | the disk is full, or fails, or another process keeps the database locked | `Unavailable` | `Safe` |
/// | the same while a change was made durable: it may be found later, by the next process to open the file | `Unavailable` | `ObserveFirst` |
/// | the file may not be written | `Denied` | `Never` |
/// | the file is damaged, was removed or replaced while it was open, or somebody changed its tables | `Unexpected` | `Never` |
pub struct SqliteStore {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    worker: Worker,
}

/// The thread that has the connection. Ends, with all that was asked of it done, when it is dropped.
struct Worker {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&mut Database) + Send>;

impl SqliteStore {
    /// Opens the store at `path`, and makes it, readable and writable by its owner only, where there is none.
    ///
    /// The folder must exist, on a local disk. May be repeated, and called by several processes at once.
    ///
    /// # Errors
    /// `InvalidConfig` where the folder does not exist, the path is on a network file system, the file is the database
    /// of another program, is empty, or was written by a later version; `Denied` where it may not be read and written;
    /// `Unexpected` where it is damaged; `Unavailable` where the disk fails or another process keeps it locked.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let (opened, answer) = oneshot::channel();
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = {
            let path = path.clone();
            move || match Database::open(&path) {
                Ok(mut database) => {
                    // Nobody listens where the future was dropped; then no job comes either.
                    let _ = opened.send(Ok(()));
                    queue.into_iter().for_each(|job| job(&mut database));
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("wakala-sqlite".to_owned()).spawn(work).map_err(|e| {
            Error::new(ErrorKind::Unavailable, "open", "no thread can be started for it")
                .with_retry(Retry::Safe { after: None })
                .on(subject(&path))
                .with_source(e)
        })?;
        let worker = Worker { jobs: Some(jobs), thread: Some(thread) };
        answer.await.unwrap_or_else(|_| Err(thread_ended("open", &path)))?;
        Ok(Self { path, clock: Arc::new(SystemClock::new()), worker })
    }

    /// Measures leases by `clock`'s wall time in place of the host's. All who share the file must have the same.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where it is, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the thread make a call, with the time at which it begins.
    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&mut Database, SystemTime) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answered, answer) = oneshot::channel();
        let clock = self.clock.clone();
        let job: Job = Box::new(move |database| {
            // Nobody listens where the future was dropped; the call is made all the same.
            let _ = answered.send(call(database, clock.now()));
        });
        let jobs = self.worker.jobs.as_ref().expect("there until it is dropped");
        jobs.send(job).map_err(|_| thread_ended(operation, &self.path))?;
        answer.await.unwrap_or_else(|_| Err(thread_ended(operation, &self.path)))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).field("clock", &self.clock).finish()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It panicked before, which the call that it happened in has told.
            let _ = thread.join();
        }
    }
}

fn subject(path: &Path) -> String {
    format!("run store {}", path.display())
}

fn thread_ended(operation: &'static str, path: &Path) -> Error {
    let message = "the store's thread has ended, which is an error in wakala; open the store again";
    Error::new(ErrorKind::Unexpected, operation, message).on(subject(path))
}

#[async_trait]
impl RunStore for SqliteStore {
    async fn create(&self, new: NewRun) -> Result<Lease> {
        self.call("create", move |database, now| database.create(&new, now)).await
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease> {
        let (run, resources, terms) = (run.clone(), resources.to_vec(), terms.clone());
        self.call("acquire", move |database, now| database.acquire(&run, &resources, &terms, takeover, now))
            .await
    }

    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()> {
        let run = run.clone();
        self.call("renew", move |database, now| database.renew(&run, epoch, ttl, now)).await
    }

    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        let run = run.clone();
        self.call("release", move |database, _| database.release(&run, epoch, what)).await
    }

    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()> {
        let run = run.clone();
        self.call("append", move |database, _| database.append(&run, epoch, &line)).await
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        let run = run.clone();
        self.call("load", move |database, now| database.load(&run, now)).await
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        self.call("list", |database, now| database.list(now)).await
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        let run = run.clone();
        self.call("send", move |database, _| database.send(&run, &body)).await
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        let run = run.clone();
        self.call("mail", move |database, _| database.mail(&run, after)).await
    }
}
