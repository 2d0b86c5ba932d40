//! The task that keeps the connection: reads ahead within a bound, and answers the server whatever the consumer does.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend::CopyData;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::{self, Ended, Source};
use super::failure::{Failure, ServerError};
use super::wire::Wire;

/// What is read ahead at most, and one read of the socket more. The consumer takes all of it at once, so that there may
/// be twice as much; a single message that is larger comes on top.
pub(super) const READ_AHEAD: usize = 3 * 1024 * 1024;
/// What a message takes beside its bytes.
const OVERHEAD: usize = 96;
/// Confirmations are sent at most so often.
const PACE: Duration = Duration::from_millis(5);
/// How long the server has to hang up.
const PARTING: Duration = Duration::from_secs(5);

/// What the server sent, in order.
#[derive(Debug)]
pub(super) enum Item {
    Data(Bytes),
    /// All before this position was sent.
    At(u64),
}

impl Item {
    fn weight(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len() + OVERHEAD,
            Self::At(_) => OVERHEAD,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    weight: usize,
    end: Option<Failure>,
}

/// What the task and the consumer share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    readable: Notify,
    writable: Notify,
    /// To be told to the server, or to hang up.
    told: Notify,
    confirmed: AtomicU64,
    closing: AtomicBool,
}

impl Shared {
    pub(super) fn new(confirmed: u64) -> Self {
        Self {
            queue: Mutex::default(),
            readable: Notify::new(),
            writable: Notify::new(),
            told: Notify::new(),
            confirmed: AtomicU64::new(confirmed),
            closing: AtomicBool::new(false),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that came, where `into` is empty. What made the stream end is given out once, after all else.
    pub(super) fn take(&self, into: &mut VecDeque<Item>) -> Option<Failure> {
        let mut queue = self.queue();
        std::mem::swap(&mut queue.items, into);
        let was_full = queue.weight >= READ_AHEAD;
        queue.weight = 0;
        if was_full {
            self.writable.notify_one();
        }
        if into.is_empty() { queue.end.take() } else { None }
    }

    pub(super) async fn readable(&self) {
        self.readable.notified().await;
    }

    pub(super) fn confirm(&self, at: u64) {
        if self.confirmed.fetch_max(at, Ordering::AcqRel) < at {
            self.told.notify_one();
        }
    }

    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }

    /// There is room again.
    pub(super) async fn writable(&self) {
        self.writable.notified().await;
    }

    /// Something was confirmed, or all is to end.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.told.notify_one();
    }

    /// In bytes.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.queue().weight
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue().weight >= READ_AHEAD
    }

    pub(super) fn put(&self, items: &mut Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let mut queue = self.queue();
        for item in items.drain(..) {
            if let (Item::At(at), Some(Item::At(last))) = (&item, queue.items.back_mut()) {
                *last = *at;
                continue;
            }
            queue.weight += item.weight();
            queue.items.push_back(item);
        }
        drop(queue);
        self.readable.notify_one();
    }
}

/// How often the server hears of us, and how long it may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    interval: Duration,
    silence: Duration,
}

impl Timing {
    /// By the server's `wal_sender_timeout`, which is off where it is zero. An answer that it asks for may be behind data
    /// that nobody reads, so it gets some unasked.
    pub(super) fn of(timeout: Duration, silence: Option<Duration>) -> Self {
        const LONGEST: Duration = Duration::from_secs(5);
        let silence = silence.unwrap_or_else(|| (timeout * 2).max(Duration::from_secs(120)));
        let by_timeout = if timeout.is_zero() { LONGEST } else { timeout / 4 };
        Self { interval: by_timeout.min(LONGEST).min(silence / 4), silence }
    }

    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    /// What takes longer than that is a server that is gone without a word.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let ended = tokio::time::timeout(self.silence, work).await;
        ended.unwrap_or_else(|_| Err(Failure::Silent(self.silence)))
    }
}

/// Runs until the connection ends, or is closed by the consumer. Where there is a backlog, the stream begins after it.
pub(super) async fn run(mut wire: Wire, shared: &Shared, timing: Timing, backlog: Option<Source>) {
    // Also where this is dropped or panics: the consumer must not wait for ever.
    let _end = End(shared);
    let work = async {
        if let Some(source) = backlog {
            match backlog::read(&mut wire, shared, timing, &source).await? {
                Ended::Closed => {
                    wire.close(PARTING).await;
                    return Ok(());
                }
                Ended::GoOn(at) => timing.within(wire.begin_stream(&source.command(at))).await?,
            }
        }
        let now = Instant::now();
        Worker { wire, shared, timing, received: 0, heard: now, due: now, sent: None }.stream().await
    };
    if let Err(failure) = work.await {
        shared.queue().end = Some(failure);
    }
}

struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.queue().end.get_or_insert_with(|| Failure::Io(io::ErrorKind::ConnectionAborted.into()));
        self.0.readable.notify_one();
    }
}

struct Worker<'a> {
    wire: Wire,
    shared: &'a Shared,
    timing: Timing,
    /// The end of what came.
    received: u64,
    heard: Instant,
    due: Instant,
    sent: Option<Instant>,
}

impl Worker<'_> {
    async fn stream(&mut self) -> Result<(), Failure> {
        loop {
            let full = self.shared.is_full();
            tokio::select! {
                filled = self.wire.fill(), if !full => {
                    filled?;
                    self.heard = Instant::now();
                    if self.pass_on()? {
                        self.tell().await?;
                    }
                }
                () = self.shared.writable(), if full => self.heard = Instant::now(),
                () = self.shared.told() => {
                    if self.shared.is_closing() {
                        self.tell().await?;
                        self.wire.close(PARTING).await;
                        return Ok(());
                    }
                    let earliest = self.sent.map_or(self.due, |sent| sent + PACE);
                    self.due = self.due.min(earliest);
                }
                () = tokio::time::sleep_until(self.due) => {
                    if !full && self.heard.elapsed() > self.timing.silence {
                        return Err(Failure::Silent(self.timing.silence));
                    }
                    self.tell().await?;
                }
            }
        }
    }

    /// Whether the server asks for an answer.
    fn pass_on(&mut self) -> Result<bool, Failure> {
        let mut asked = false;
        let mut items = Vec::new();
        // What came before an error counts, also where both came at once.
        let mut read = || {
            while let Some(frame) = self.wire.buffered()? {
                match frame.tag {
                    b'd' => {}
                    b'E' => return Err(ServerError::parse(&frame.body).into()),
                    b'c' => return Err(Failure::Protocol("the end of a stream that was to go on".into())),
                    b'N' | b'S' => continue,
                    tag => return Err(Failure::unexpected(tag, "a stream")),
                }
                let mut body = frame.body;
                let cut = |_| Failure::Protocol("a cut message in a stream".into());
                match body.try_get_u8().map_err(cut)? {
                    b'w' => {
                        let start = body.try_get_u64().map_err(cut)?;
                        let end = body.try_get_u64().map_err(cut)?;
                        let _time = body.try_get_u64().map_err(cut)?;
                        self.received = self.received.max(start).max(end);
                        items.push(Item::Data(body));
                    }
                    b'k' => {
                        let at = body.try_get_u64().map_err(cut)?;
                        let _time = body.try_get_u64().map_err(cut)?;
                        asked |= body.try_get_u8().map_err(cut)? != 0;
                        self.received = self.received.max(at);
                        items.push(Item::At(at));
                    }
                    kind => return Err(Failure::unexpected(kind, "the data of a stream")),
                }
            }
            Ok(())
        };
        let outcome = read();
        self.shared.put(&mut items);
        outcome.map(|()| asked)
    }

    /// What came, and what of it is durable.
    async fn tell(&mut self) -> Result<(), Failure> {
        let confirmed = self.shared.confirmed();
        let quiet = self.heard.elapsed() > self.timing.silence / 3;
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(self.received.max(confirmed));
        status.put_u64(confirmed);
        status.put_u64(confirmed);
        status.put_i64(now());
        status.put_u8(u8::from(quiet));
        let sending = self.wire.send(|out| {
            CopyData::new(status)?.write(out);
            Ok(())
        });
        self.timing.within(sending).await?;
        let now = Instant::now();
        self.sent = Some(now);
        self.due = now + self.timing.interval;
        Ok(())
    }
}

/// In the server's time: microseconds since 2000. It only shows it.
fn now() -> i64 {
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let since = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
