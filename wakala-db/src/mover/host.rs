//! A mover that is at home in this process: it does one thing at a time, and follows in between.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::checks::Verification;
use super::connect::ShardAccess;
use super::facts::MoveFacts;
use super::finish::Finished;
use super::hand_over::HandOver;
use super::mover::Mover;
use super::observer::{CopyProgress, MoveEvent, MoveObserver, NoMoveObserver};
use super::open::MovePreview;
use super::rate::CopyRate;
use super::registry;
use super::spec::{MoveOptions, MoveSpec};
use crate::shards::{Directory, TenantId};

/// After a lost connection, at first and at most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// One thing that a host does for a move. Each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveJob {
    /// See [`Mover::abort`].
    Abort,
    /// See [`Mover::copy`].
    Copy,
    /// See [`Mover::finish`].
    Finish,
    /// Takes a move that has begun over, and follows: see [`Mover::follow`]. Nothing where it has not begun.
    Follow,
    /// See [`Mover::hand_over`].
    HandOver(TenantId),
    /// See [`Mover::prepare`].
    Prepare,
    /// See [`Mover::take_back`].
    TakeBack(TenantId),
    /// See [`Mover::verify_and_note`]; under this name.
    Verify(String),
}

impl fmt::Display for MoveJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abort => f.write_str("abort"),
            Self::Copy => f.write_str("copy"),
            Self::Finish => f.write_str("finish"),
            Self::Follow => f.write_str("follow"),
            Self::HandOver(tenant) => write!(f, "hand over tenant {tenant}"),
            Self::Prepare => f.write_str("prepare"),
            Self::TakeBack(tenant) => write!(f, "take back tenant {tenant}"),
            Self::Verify(pass) => write!(f, "verify ({pass})"),
        }
    }
}

/// What a host is at. What the shards say is in [`MoveFacts`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HostStatus {
    /// What it does now.
    pub job: Option<MoveJob>,
    /// Whether changes flow from shard to shard.
    pub following: bool,
    /// Whether the copy waits until somebody lets it go on.
    pub paused: bool,
    /// How far the copy is, as was last told in this process.
    pub progress: Option<CopyProgress>,
    /// What last went wrong.
    pub last_error: Option<String>,
}

/// What a job gave.
#[derive(Clone, Debug)]
enum Done {
    Finished(Finished),
    Handed(HandOver),
    Nothing,
    Verified(Verification),
}

/// An error for everybody who waits.
#[derive(Clone, Debug)]
struct Failed {
    kind: ErrorKind,
    retry: Retry,
    text: String,
}

impl Failed {
    fn of(error: &Error) -> Self {
        Self { kind: error.kind(), retry: error.retry(), text: error.chain() }
    }

    fn error(self, spec: &MoveSpec) -> Error {
        Error::new(self.kind, "move", self.text).on(format!("move {}", spec.id)).with_retry(self.retry)
    }
}

#[derive(Debug)]
struct Task {
    job: MoveJob,
    stop: CancellationToken,
    outcome: watch::Sender<Option<Result<Done, Failed>>>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Arc<Task>>,
    current: Option<Arc<Task>>,
    spawned: bool,
    status: HostStatus,
}

#[derive(Debug)]
struct Shared {
    spec: MoveSpec,
    source: ShardAccess,
    destination: ShardAccess,
    directory: Directory,
    options: MoveOptions,
    rate: CopyRate,
    observer: Arc<dyn MoveObserver>,
    state: Mutex<State>,
    called: Notify,
    paused: watch::Sender<bool>,
    /// The host is dropped.
    ended: CancellationToken,
}

/// Drives one move in a task of this process: does [jobs](MoveJob) one after the other, and lets changes flow between the
/// shards while it has none.
///
/// Clones hold the same host. It keeps nothing that is not on the shards, so a host in another process goes on where
/// this one was; the first job that it is given takes the move over, and this one then stops. Until it is given a job it
/// touches nothing. A connection that was lost is made again. With the last clone its task ends, after what it is at.
///
/// It needs to be called within a tokio runtime.
#[derive(Clone, Debug)]
pub struct MoveHost(Arc<Owned>);

#[derive(Debug)]
struct Owned(Arc<Shared>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.ended.cancel();
    }
}

/// Stops a copy that nobody waits for any more.
struct StopOnDrop(Option<Arc<Task>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.stop.cancel();
        }
    }
}

impl MoveHost {
    /// A host of the move; nothing is done yet.
    pub fn new(
        spec: MoveSpec,
        source: ShardAccess,
        destination: ShardAccess,
        directory: Directory,
        options: MoveOptions,
    ) -> Self {
        Self::with_observer(spec, source, destination, directory, options, Arc::new(NoMoveObserver))
    }

    /// One whose events somebody hears.
    pub fn with_observer(
        spec: MoveSpec,
        source: ShardAccess,
        destination: ShardAccess,
        directory: Directory,
        options: MoveOptions,
        observer: Arc<dyn MoveObserver>,
    ) -> Self {
        let shared = Shared {
            spec,
            source,
            destination,
            directory,
            rate: CopyRate::new(options.copy_bytes_per_second),
            options,
            observer,
            state: Mutex::default(),
            called: Notify::new(),
            paused: watch::Sender::new(false),
            ended: CancellationToken::new(),
        };
        Self(Arc::new(Owned(Arc::new(shared))))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// What is moved.
    pub fn spec(&self) -> &MoveSpec {
        &self.shared().spec
    }

    /// Where the tenants are.
    pub fn source(&self) -> &ShardAccess {
        &self.shared().source
    }

    /// Where they shall be.
    pub fn destination(&self) -> &ShardAccess {
        &self.shared().destination
    }

    /// How it is moved.
    pub fn options(&self) -> &MoveOptions {
        &self.shared().options
    }

    /// How fast the copy may go; can be changed at any time.
    pub fn copy_rate(&self) -> &CopyRate {
        &self.shared().rate
    }

    /// What the host is at.
    pub fn status(&self) -> HostStatus {
        let mut status = self.shared().state().status.clone();
        status.paused = *self.shared().paused.borrow();
        status
    }

    /// How the move stands on the shards. Reads only, and takes nothing over.
    ///
    /// # Errors
    /// As of [`MoveFacts::read`].
    pub async fn facts(&self) -> Result<MoveFacts> {
        let shared = self.shared();
        MoveFacts::read(&shared.spec, &shared.source, &shared.destination, &shared.directory).await
    }

    /// As [`Mover::preview`]. Reads only, and takes nothing over.
    ///
    /// # Errors
    /// As of [`Mover::open`] and [`Mover::preview`].
    pub async fn preview(&self) -> Result<MovePreview> {
        self.shared().open().await?.preview().await
    }

    /// Holds the copy after the chunks that it is at, until [`resume`](Self::resume). Changes go on to flow.
    pub fn pause(&self) {
        self.shared().paused.send_replace(true);
    }

    /// Lets the copy go on.
    pub fn resume(&self) {
        self.shared().paused.send_replace(false);
    }

    /// Begins a job without waiting for it; one that is under way or waits already is not begun again.
    pub fn begin(&self, job: MoveJob) {
        self.shared().enqueue(job);
    }

    /// Does a job, or waits for the one that is under way.
    ///
    /// Dropped while it waits, a [copy](MoveJob::Copy) stops after the chunks that it is at; all other jobs go on.
    ///
    /// # Errors
    /// Those of the job; `Cancelled` where the copy was stopped, or the host is gone.
    pub async fn run(&self, job: MoveJob) -> Result<()> {
        self.wait(job).await.map(drop)
    }

    /// Compares all rows, and notes the answer under the name of the pass.
    ///
    /// # Errors
    /// As of [`Mover::verify`].
    pub async fn verify(&self, pass: &str) -> Result<Verification> {
        match self.wait(MoveJob::Verify(pass.to_owned())).await? {
            Done::Verified(found) => Ok(found),
            other => Err(self.odd(&other)),
        }
    }

    /// Makes the destination serve a tenant.
    ///
    /// # Errors
    /// As of [`Mover::hand_over`].
    pub async fn hand_over(&self, tenant: &TenantId) -> Result<HandOver> {
        match self.wait(MoveJob::HandOver(tenant.clone())).await? {
            Done::Handed(there) => Ok(there),
            other => Err(self.odd(&other)),
        }
    }

    /// Makes the source serve a tenant again.
    ///
    /// # Errors
    /// As of [`Mover::take_back`].
    pub async fn take_back(&self, tenant: &TenantId) -> Result<HandOver> {
        match self.wait(MoveJob::TakeBack(tenant.clone())).await? {
            Done::Handed(back) => Ok(back),
            other => Err(self.odd(&other)),
        }
    }

    /// Ends the move for good: **this cannot be taken back**.
    ///
    /// # Errors
    /// As of [`Mover::finish`].
    pub async fn finish(&self) -> Result<Finished> {
        match self.wait(MoveJob::Finish).await? {
            Done::Finished(finished) => Ok(finished),
            other => Err(self.odd(&other)),
        }
    }

    /// Ends the move before a tenant was handed over, or after all were taken back.
    ///
    /// # Errors
    /// As of [`Mover::abort`].
    pub async fn abort(&self) -> Result<Finished> {
        match self.wait(MoveJob::Abort).await? {
            Done::Finished(finished) => Ok(finished),
            other => Err(self.odd(&other)),
        }
    }

    fn odd(&self, done: &Done) -> Error {
        Error::new(ErrorKind::Unexpected, "move", format!("the job gave {done:?}"))
            .on(format!("move {}", self.spec().id))
    }

    async fn wait(&self, job: MoveJob) -> Result<Done> {
        let copies = job == MoveJob::Copy;
        let task = self.shared().enqueue(job);
        let mut outcome = task.outcome.subscribe();
        let mut guard = StopOnDrop(copies.then(|| Arc::clone(&task)));
        drop(task);
        let done = outcome.wait_for(Option::is_some).await;
        guard.0 = None;
        let gone = || {
            Error::new(ErrorKind::Cancelled, "move", "its host is gone; another one can go on")
                .on(format!("move {}", self.spec().id))
        };
        let done = done.map_err(|_| gone())?.clone();
        done.unwrap_or_else(|| unreachable!("waited for")).map_err(|failed| failed.error(self.spec()))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(self: &Arc<Self>, job: MoveJob) -> Arc<Task> {
        let mut state = self.state();
        let known = state.current.iter().chain(&state.queue).find(|task| {
            // One that is being stopped will not do it.
            task.job == job && !task.stop.is_cancelled()
        });
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let task = Arc::new(Task { job, stop: self.ended.child_token(), outcome: watch::Sender::new(None) });
        state.queue.push_back(Arc::clone(&task));
        if !std::mem::replace(&mut state.spawned, true) {
            tokio::spawn(attend(Arc::clone(self)));
        }
        self.called.notify_one();
        task
    }

    fn next(&self) -> Option<Arc<Task>> {
        let mut state = self.state();
        let task = state.queue.pop_front();
        state.current.clone_from(&task);
        state.status.job = task.as_ref().map(|task| task.job.clone());
        task
    }

    /// Returns once there is something to do, or nobody is there any more.
    async fn is_called(&self) {
        loop {
            let called = self.called.notified();
            if self.ended.is_cancelled() || !self.state().queue.is_empty() {
                return;
            }
            tokio::select! {
                () = called => {}
                () = self.ended.cancelled() => {}
            }
        }
    }

    async fn open(&self) -> Result<Mover> {
        let mover = Mover::open(
            self.spec.clone(),
            self.source.clone(),
            self.destination.clone(),
            self.directory.clone(),
        );
        Ok(mover.await?.with_options(self.options.clone()).with_rate(self.rate.clone()))
    }

    fn failed(&self, error: &Error) {
        tracing::warn!(move_id = %self.spec.id, error = error.chain(), "a move was interrupted");
        self.state().status.last_error = Some(error.chain());
    }
}

/// Keeps the progress, and passes all on.
#[derive(Debug)]
struct Ear(Arc<Shared>);

impl MoveObserver for Ear {
    fn on_event(&self, event: &MoveEvent) {
        if let MoveEvent::Copied(progress) = event {
            self.0.state().status.progress = Some(*progress);
        }
        self.0.observer.on_event(event);
    }
}

/// What goes on in the task of a host.
struct Attendant {
    shared: Arc<Shared>,
    mover: Option<Mover>,
    /// Whether changes are to flow while there is nothing to do.
    keeps: bool,
    /// Under which the shards knew this process last.
    lease: i64,
    failures: u32,
}

async fn attend(shared: Arc<Shared>) {
    let mut attendant = Attendant { shared, mover: None, keeps: false, lease: 0, failures: 0 };
    loop {
        if attendant.shared.ended.is_cancelled() {
            return;
        }
        match attendant.shared.next() {
            Some(task) => attendant.does(&task).await,
            None if attendant.keeps => attendant.follows().await,
            None => attendant.shared.is_called().await,
        }
    }
}

impl Attendant {
    async fn does(&mut self, task: &Task) {
        let done = self.job(task).await;
        match &done {
            Ok(_) => self.keeps = self.mover.is_some(),
            // It ended between two chunks, and can go on.
            Err(error) if error.kind() == ErrorKind::Cancelled => {}
            Err(error) => {
                self.shared.failed(error);
                self.mover = None;
            }
        }
        {
            let mut state = self.shared.state();
            state.current = None;
            state.status.job = None;
        }
        task.outcome.send_replace(Some(done.map_err(|error| Failed::of(&error))));
    }

    async fn job(&mut self, task: &Task) -> Result<Done> {
        let mut mover = match self.mover.take() {
            Some(mover) => mover,
            None => self.open().await?,
        };
        let done = match &task.job {
            MoveJob::Abort => return mover.abort().await.map(Done::Finished),
            MoveJob::Finish => return mover.finish().await.map(Done::Finished),
            MoveJob::Copy => self.copy(&mut mover, &task.stop).await.map(|()| Done::Nothing),
            MoveJob::Follow if !self.has_begun(&mover).await? => return Ok(Done::Nothing),
            MoveJob::Follow | MoveJob::Prepare => mover.prepare().await.map(|()| Done::Nothing),
            MoveJob::HandOver(tenant) => mover.hand_over(tenant).await.map(Done::Handed),
            MoveJob::TakeBack(tenant) => mover.take_back(tenant).await.map(Done::Handed),
            MoveJob::Verify(pass) => mover.verify_and_note(pass).await.map(Done::Verified),
        };
        if let Ok(holder) = mover.holder() {
            self.lease = holder.lease;
        }
        self.mover = Some(mover);
        done
    }

    async fn has_begun(&self, mover: &Mover) -> Result<bool> {
        let id = self.shared.spec.id.as_str();
        Ok(registry::is_known(&mover.source.client, id).await?
            || registry::is_known(&mover.destination.client, id).await?)
    }

    async fn open(&self) -> Result<Mover> {
        Ok(self.shared.open().await?.with_observer(Arc::new(Ear(Arc::clone(&self.shared)))))
    }

    /// Copies, and only follows while somebody holds it up.
    async fn copy(&self, mover: &mut Mover, stop: &CancellationToken) -> Result<()> {
        loop {
            let mut paused = self.shared.paused.subscribe();
            if *paused.borrow_and_update() {
                let resumed = async {
                    tokio::select! {
                        _ = paused.wait_for(|paused| !paused) => {}
                        () = stop.cancelled() => {}
                    }
                };
                self.follow_until(mover, resumed).await?;
            }
            let turn = stop.child_token();
            let pauses = async {
                let _ = paused.wait_for(|paused| *paused).await;
                turn.cancel();
            };
            let copied = alongside(mover.copy(&turn), pauses).await;
            match copied {
                Err(error) if error.kind() == ErrorKind::Cancelled && !stop.is_cancelled() => {}
                other => return other,
            }
        }
    }

    async fn follow_until(&self, mover: &mut Mover, until: impl Future<Output = ()>) -> Result<()> {
        let stop = CancellationToken::new();
        let ends = async {
            until.await;
            stop.cancel();
        };
        self.shared.state().status.following = true;
        let followed = alongside(mover.follow(&stop), ends).await;
        self.shared.state().status.following = false;
        followed
    }

    /// Lets changes flow until there is something to do.
    async fn follows(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(mut mover) = self.mover.take() else { return self.reopens().await };
        match self.follow_until(&mut mover, shared.is_called()).await {
            Ok(()) => {
                self.failures = 0;
                self.mover = Some(mover);
            }
            Err(error) => shared.failed(&error),
        }
    }

    /// Connects again after something went wrong, unless somebody else drives the move by now.
    async fn reopens(&mut self) {
        self.failures = self.failures.saturating_add(1);
        let pause = (PAUSE * 2_u32.saturating_pow(self.failures.min(16) - 1)).min(LONGEST_PAUSE);
        tokio::select! {
            () = self.shared.is_called() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match self.reopened().await {
            Ok(Some(mover)) => self.mover = Some(mover),
            Ok(None) => self.keeps = false,
            Err(error) => self.shared.failed(&error),
        }
    }

    async fn reopened(&mut self) -> Result<Option<Mover>> {
        let mut mover = self.open().await?;
        let id = self.shared.spec.id.as_str();
        let source = registry::lease(&mover.source.client, id).await?;
        let destination = registry::lease(&mover.destination.client, id).await?;
        if source.max(destination) > self.lease || source.max(destination) == 0 {
            tracing::info!(move_id = id, "another process drives the move by now, or it is at its end");
            return Ok(None);
        }
        mover.prepare().await?;
        self.lease = mover.holder()?.lease;
        Ok(Some(mover))
    }
}

/// Does `work` to its end, and `beside` as long as that takes: work on the shards is never cut in its middle.
async fn alongside<T>(work: impl Future<Output = T>, beside: impl Future<Output = ()>) -> T {
    let (mut work, mut beside) = (pin!(work), pin!(beside));
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = &mut beside => {}
    }
    work.await
}
