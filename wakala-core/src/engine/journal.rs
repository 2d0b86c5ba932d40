//! Writes a run's journal under its lease.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::interpreter::backoff;
use super::state::RunState;
use super::{Engine, Status};
use crate::store::{Entry, Journal as Stored, Record};
use crate::{Error, ErrorKind, Event, Result, Retry, RunId, RunInfo};

/// How often writing the run's end is tried.
const END_ATTEMPTS: u32 = 3;

/// Writes records: to the store first, then to whoever watches.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    engine: &'a Engine,
    pub(super) run: RunId,
    info: RunInfo,
    pub(super) epoch: u64,
    written: Mutex<Written>,
    /// Set once the store has failed: steps side by side must not go on where one of them found that out.
    broken: AtomicBool,
    /// Set once somebody else writes the journal.
    fenced: AtomicBool,
    /// Cancelled with either, so that nothing waits for what cannot come any more.
    trip: OnceLock<CancellationToken>,
}

#[derive(Debug)]
struct Written {
    entries: Vec<Entry>,
    tip: Option<String>,
    state: RunState,
    /// What was written last, where neither the write nor a look afterwards could tell whether it is there.
    doubt: Option<(Entry, String)>,
}

impl<'a> Journal<'a> {
    /// Goes on with what is in the store, under the lease of `epoch`.
    pub(super) fn new(engine: &'a Engine, run: &RunId, epoch: u64, stored: Stored) -> Result<Self> {
        let Stored { entries, tip, .. } = stored;
        let state = RunState::of(run, &entries)?;
        let info = RunInfo { id: run.clone(), playbook: state.plan().playbook().to_owned() };
        // A new run's first entry is written by the store itself, so it is told of here.
        if let [only] = entries.as_slice() {
            engine.observer.on_event(&info, &Event::Record(only.clone()));
        }
        Ok(Self {
            engine,
            run: run.clone(),
            info,
            epoch,
            written: Mutex::new(Written { entries, tip, state, doubt: None }),
            broken: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            trip: OnceLock::new(),
        })
    }

    /// Cancels `trip` once nothing more can be written.
    pub(super) fn trips(&self, trip: CancellationToken) {
        self.trip.get_or_init(|| trip);
    }

    /// Writes one record. After an error nothing more may be done to the world, and nothing but the run's
    /// [end](Self::end) is written.
    pub(super) async fn write(&self, record: Record) -> Result<()> {
        self.write_if(record, |_| true).await.map(drop)
    }

    /// Writes one record, unless what is written so far forbids it: asked and written in one go.
    pub(super) async fn write_if(
        &self,
        record: Record,
        allowed: impl FnOnce(&RunState) -> bool,
    ) -> Result<bool> {
        let mut written = self.written.lock().await;
        self.check()?;
        if !allowed(&written.state) {
            return Ok(false);
        }
        self.append(&mut written, record).await.map(|()| true)
    }

    /// Writes how the run ended, also where an earlier record could not be written, and tries for a while: the store
    /// may be back by now, and a run without an end can be neither believed nor taken back.
    pub(super) async fn end(&self, status: Status, reason: String) -> Result<()> {
        let mut written = self.written.lock().await;
        for attempt in 1.. {
            let record = Record::Ended { status, reason: reason.clone() };
            let Err(error) = self.append(&mut written, record).await else {
                return Ok(());
            };
            if attempt == END_ATTEMPTS
                || self.is_fenced()
                || matches!(error.retry(), Retry::Never | Retry::Exhausted)
            {
                return Err(error);
            }
            self.engine.clock.sleep(backoff(attempt)).await;
        }
        unreachable!("the last attempt returns")
    }

    async fn append(&self, written: &mut Written, record: Record) -> Result<()> {
        if self.is_fenced() {
            return Err(self.taken_over());
        }
        self.settle_doubt(written).await?;
        let entry = Entry::new(written.entries.len() as u64, self.engine.clock.now(), self.epoch, record);
        let line = entry.line(&self.run, written.tip.as_deref());
        let hash = line.hash.clone();
        let append = self.engine.store.append(&self.run, self.epoch, line);
        if let Err(error) = self.engine.ask_store("append", Some(&self.run), append).await {
            // A lost answer is looked into, as those of steps are.
            let unknown = error.retry() == Retry::ObserveFirst;
            let kept = if unknown { self.engine.last_line_is(&self.run, &hash).await } else { Ok(false) };
            match kept {
                Ok(true) => {}
                Ok(false) if error.kind() == ErrorKind::Conflict => {
                    self.fence();
                    return Err(self.taken_over().with_source(error));
                }
                kept => {
                    written.doubt = kept.is_err().then_some((entry, hash));
                    self.broken.store(true, Ordering::Relaxed);
                    self.trip();
                    return Err(self.lost().with_retry(error.retry()).with_source(error));
                }
            }
        }
        self.keep(written, entry, hash);
        Ok(())
    }

    /// Finds out what became of a line of unknown fate, before another is written in its place.
    async fn settle_doubt(&self, written: &mut Written) -> Result<()> {
        let Some((_, hash)) = &written.doubt else { return Ok(()) };
        let kept = self
            .engine
            .last_line_is(&self.run, hash)
            .await
            .map_err(|error| self.lost().with_retry(error.retry()).with_source(error))?;
        if let Some((entry, hash)) = written.doubt.take().filter(|_| kept) {
            self.keep(written, entry, hash);
        }
        Ok(())
    }

    fn keep(&self, written: &mut Written, entry: Entry, hash: String) {
        self.engine.observer.on_event(&self.info, &Event::Record(entry.clone()));
        written.state.apply(&entry);
        written.entries.push(entry);
        written.tip = Some(hash);
    }

    /// Somebody else drives the run: nothing more is written or done here.
    pub(super) fn fence(&self) {
        self.fenced.store(true, Ordering::Relaxed);
        self.broken.store(true, Ordering::Relaxed);
        self.trip();
    }

    fn trip(&self) {
        if let Some(trip) = self.trip.get() {
            trip.cancel();
        }
    }

    /// Fails where nothing more can be written.
    pub(super) fn check(&self) -> Result<()> {
        if self.is_fenced() {
            return Err(self.taken_over());
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(self.lost().with_retry(Retry::Never));
        }
        Ok(())
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    pub(super) fn taken_over(&self) -> Error {
        let message = "somebody else drives the run by now, so nothing more is done here";
        Error::new(ErrorKind::Conflict, "journal", message).on(format!("run {}", self.run))
    }

    fn lost(&self) -> Error {
        let message = "the run's journal cannot be written, so nothing more is done";
        Error::new(ErrorKind::Unavailable, "journal", message).on(format!("run {}", self.run))
    }

    pub(super) async fn entries(&self) -> Vec<Entry> {
        self.written.lock().await.entries.clone()
    }

    /// Reads something from the state as far as it is written.
    pub(super) async fn read<T>(&self, read: impl FnOnce(&RunState) -> T) -> T {
        read(&self.written.lock().await.state)
    }
}
