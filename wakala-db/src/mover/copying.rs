//! The copy, and catching up with what happened meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wakala_core::{ErrorKind, Result};

use super::copy::{Chunk, Chunks, Copied, Copier, Watch};
use super::link::{Ended, Link, Until};
use super::mover::{Mover, Way};
use super::observer::{CopyProgress, MoveEvent};
use super::rate::CopyRate;
use super::snapshot::Snapshot;
use super::spec::MoveMethod;
use super::stream;

/// Between two looks at the changes, about this many times the bytes of a chunk are copied on each stream.
const CHUNKS_A_TURN: u64 = 8;

/// A rate, and what it allows.
#[derive(Debug)]
struct Budget {
    since: Instant,
    bytes: AtomicU64,
    rate: CopyRate,
}

impl Budget {
    /// How long to wait after so many bytes more.
    fn spend(&self, bytes: u64) -> Option<Duration> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.rate.spend(bytes)
    }

    fn rate(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64 / self.since.elapsed().as_secs_f64().max(1e-3)
    }
}

#[derive(Debug)]
struct Turn<'a> {
    chunks: &'a Chunks,
    budget: &'a Budget,
}

impl Watch for Turn<'_> {
    fn acceptable(&self, snapshot: &Snapshot) -> bool {
        self.chunks.acceptable(snapshot)
    }

    fn moved(&self, bytes: u64) -> Option<Duration> {
        self.budget.spend(bytes)
    }

    fn copied(&self, _: &Chunk, _: &Copied) {}
}

impl Budget {
    fn new(rate: CopyRate) -> Self {
        Self { since: Instant::now(), bytes: AtomicU64::new(0), rate }
    }
}

impl Mover {
    /// Copies what is not copied yet, and applies what happened meanwhile, until the destination has all that is committed
    /// on the source but for what is committed just now. Nobody is held up.
    ///
    /// Stopped, it ends after the chunks that it is at; called again, it goes on. After an error, open another mover.
    ///
    /// # Errors
    /// - `Cancelled`: stopped.
    /// - `InsufficientCapacity`: the source has to keep more of its log than its
    ///   [budget](super::MoveOptions::log_budget_bytes). Abort the move, or raise the budget.
    /// - `Conflict`: another process took the move over; a row is not as the stream says; a table has changed.
    /// - `Unavailable`: a connection was lost.
    pub async fn copy(&mut self, stop: &CancellationToken) -> Result<()> {
        self.prepare().await?;
        if self.options.method == MoveMethod::Frozen {
            // It is copied while it stands still.
            return Ok(());
        }
        let budget = Budget::new(self.rate.clone());
        let mut sessions = Vec::new();
        let (mut copying, mut catching_up) = (Duration::ZERO, Duration::ZERO);
        loop {
            self.check_budget().await?;
            if stop.is_cancelled() {
                return Err(self.error(
                    ErrorKind::Cancelled,
                    "copy",
                    "stopped; it goes on where it is when called again",
                ));
            }
            let begun = Instant::now();
            let copied = self.copy_turn(&budget, &mut sessions).await?;
            let between = Instant::now();
            // Also where nothing was: what is in the stream may want a chunk copied again.
            self.catch_up().await?;
            copying += between - begun;
            catching_up += between.elapsed();
            let progress = self.progress(&budget).await?;
            self.tell(MoveEvent::Copied(CopyProgress { copying, catching_up, ..progress }));
            if !copied && self.link(Way::There)?.chunks.missing().next().is_none() {
                break;
            }
        }
        self.link(Way::There)?.chunks.caught_up();
        self.tell(MoveEvent::CaughtUp);
        Ok(())
    }

    /// Copies the next chunks, and applies nothing; false where there are none.
    async fn copy_turn(&mut self, budget: &Budget, sessions: &mut Vec<(Client, Client)>) -> Result<bool> {
        let streams = self.options.streams.max(1);
        let most = self.options.chunk_bytes * CHUNKS_A_TURN * u64::try_from(streams).unwrap_or(1);
        let mut bytes = 0;
        let next: Vec<Chunk> = self
            .link(Way::There)?
            .chunks
            .missing()
            .take_while(|chunk| {
                bytes += chunk.estimate;
                bytes <= most.max(chunk.estimate)
            })
            .cloned()
            .collect();
        if next.is_empty() {
            return Ok(false);
        }
        let open = async || futures::try_join!(self.source.reader(), self.destination.writer());
        let more = streams.min(next.len()).saturating_sub(sessions.len());
        sessions.extend(futures::future::try_join_all((0..more).map(|_| open())).await?);
        let pairs: Vec<_> = sessions.iter().map(|(source, destination)| (source, destination)).collect();
        let chunks = &self.there.as_ref().expect("prepared").chunks;
        let turn = Turn { chunks, budget };
        let copier = Copier { holder: self.holder()?, scope: self.scope() };
        let copied = copier.copy(&pairs, &next, &turn).await?;
        let chunks = &mut self.link(Way::There)?.chunks;
        for (chunk, copied) in copied {
            chunks.set_copied(chunk, copied)?;
        }
        Ok(true)
    }

    /// Applies all that is committed by now.
    pub(super) async fn catch_up(&mut self) -> Result<()> {
        self.catch_up_on(Way::There).await
    }

    pub(super) async fn catch_up_on(&mut self, way: Way) -> Result<()> {
        let marker = marker();
        self.side(way).0.mark(&marker).await?;
        while self.link(way)?.run(Until::Marker(&marker)).await? == Ended::NeedsCopy {
            self.copy_for_token().await?;
        }
        Ok(())
    }

    /// The chunks of which the stream lacked a value, without the changes behind the token that waits for them: its tenant
    /// is fenced, so that its rows stay as they are meanwhile.
    pub(super) async fn copy_for_token(&mut self) -> Result<()> {
        while self.copy_turn(&Budget::new(CopyRate::default()), &mut Vec::new()).await? {}
        Ok(())
    }

    async fn check_budget(&self) -> Result<()> {
        for way in [Way::There, Way::Back] {
            let (from, _) = self.side(way);
            let Some(facts) = stream::slot_facts(&from.client, &self.name(way)).await? else { continue };
            let kept = u64::try_from(facts.retained_bytes.unwrap_or(0)).unwrap_or(0);
            if kept > self.options.log_budget_bytes {
                let message = format!(
                    "shard {} has to keep {kept} bytes of its log for slot {}, more than the budget of {}: abort the move, \
                     or raise the budget",
                    from.shard,
                    self.name(way),
                    self.options.log_budget_bytes
                );
                return Err(self.error(ErrorKind::InsufficientCapacity, "copy", message));
            }
        }
        Ok(())
    }

    async fn progress(&mut self, budget: &Budget) -> Result<CopyProgress> {
        let facts = stream::slot_facts(&self.source.client, &self.name(Way::There)).await?;
        let lag_bytes =
            facts.and_then(|facts| facts.retained_bytes).and_then(|bytes| u64::try_from(bytes).ok());
        let chunks = &self.link(Way::There)?.chunks;
        let mut progress = CopyProgress { lag_bytes: lag_bytes.unwrap_or(0), ..CopyProgress::default() };
        let mut missing = 0;
        for chunk in chunks.all() {
            progress.chunks_total += 1;
            match &chunk.copied {
                Some(copied) => {
                    progress.chunks += 1;
                    progress.rows += copied.rows;
                    progress.bytes += copied.bytes;
                }
                None => missing += chunk.estimate,
            }
        }
        progress.bytes_total = progress.bytes + missing;
        progress.bytes_per_second = budget.rate();
        if progress.bytes_per_second > 0.0 {
            progress.left = Some(Duration::from_secs_f64(missing as f64 / progress.bytes_per_second));
        }
        Ok(progress)
    }

    /// Applies what happens on either shard to the other, until stopped.
    ///
    /// # Errors
    /// As of [`copy`](Self::copy).
    pub async fn follow(&mut self, stop: &CancellationToken) -> Result<()> {
        self.prepare().await?;
        if self.options.method == MoveMethod::Frozen {
            stop.cancelled().await;
            return Ok(());
        }
        let whole = self.link(Way::There)?.chunks.missing().next().is_none();
        loop {
            let both = stop.child_token();
            let (there, back) = (&mut self.there, &mut self.back);
            futures::try_join!(follow(there.as_mut(), &both), follow(back.as_mut(), &both)).map(drop)?;
            if !self.link(Way::There)?.needs_copy() {
                break;
            }
            self.copy_for_token().await?;
        }
        // A copy that somebody stopped in its middle is theirs to go on with.
        if whole { self.copy_again().await } else { Ok(()) }
    }

    /// Copies the chunks again for which the stream lacked a value.
    pub(super) async fn copy_again(&mut self) -> Result<()> {
        while self.link(Way::There)?.chunks.missing().next().is_some() {
            self.copy(&CancellationToken::new()).await?;
        }
        Ok(())
    }
}

/// Until stopped, or until it cannot go on: then the other one need not wait for somebody to notice.
async fn follow(link: Option<&mut Link>, stop: &CancellationToken) -> Result<()> {
    if let Some(link) = link {
        let ended = link.run(Until::Stopped(stop)).await;
        if !matches!(ended, Ok(Ended::Stopped)) {
            stop.cancel();
        }
        ended?;
    }
    Ok(())
}

/// A text that no stream ever had.
pub(super) fn marker() -> String {
    Uuid::now_v7().to_string()
}
