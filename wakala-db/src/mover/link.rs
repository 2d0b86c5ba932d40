//! One direction of a move: what happens on one shard is applied to the other, in the order of its commits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::apply::Applier;
use super::change::{Event, Op, Row, Value};
use super::copy::{Action, Chunks, forget};
use super::holder::Holder;
use super::snapshot::Snapshot;
use super::stream::ChangeStream;
use super::table::Table;
use super::tenant::literal;

/// What is buffered before it is written, in bytes.
const BATCH: usize = 4 << 20;
/// What is written before it is made durable, though more waits already, in bytes: a crash repeats at most that.
const LONG: usize = 64 << 20;
/// The log that passes without anything of the move before that is written down, in bytes.
const IDLE: u64 = 1 << 20;
/// What is held back of transactions that a snapshot does not see, in bytes.
const HELD: usize = 8 << 20;

/// What comes before a token goes with it where it comes in this time.
const TOKEN: Duration = Duration::from_millis(10);

/// Where [`Link::run`] ends.
#[derive(Debug)]
pub(crate) enum Until<'a> {
    /// This marker was seen, and all before it is durable on the other side.
    Marker(&'a str),
    /// The other side is the tenant's owner in this epoch; or somebody says that no token comes.
    Token { tenant: &'a str, epoch: i64, stopped: &'a CancellationToken },
    /// Somebody else says so.
    Stopped(&'a CancellationToken),
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Reached,
    /// A chunk must be copied again before the tenant can be handed over. All before its token is durable.
    NeedsCopy,
    /// Before it got there, since somebody said so.
    Stopped,
}

/// The text of a token.
#[derive(Clone, Debug, Deserialize)]
struct Token {
    #[serde(rename = "move")]
    move_id: String,
    tenant: String,
    epoch: i64,
    shard: i32,
    /// How far they were used.
    sequences: BTreeMap<String, i64>,
}

#[derive(Debug)]
struct Transaction {
    xid: u32,
    /// A mover's own: it came from where it would go.
    own: bool,
    /// Applied before this process began.
    known: bool,
    /// Not seen by the snapshot that is aligned to.
    held: bool,
}

/// What comes behind a snapshot.
///
/// Progress is one place in the stream, so what is applied is always a beginning of it. Commits become visible in almost
/// the order in which they are in the stream, and not quite: where the snapshot sees a transaction behind one that it does
/// not see, it is torn, and another must be taken.
#[derive(Debug)]
struct Hold {
    snapshot: Snapshot,
    events: VecDeque<Event>,
    bytes: usize,
    torn: bool,
}

/// The stream of one shard, and who applies it to the other.
#[derive(Debug)]
pub(crate) struct Link {
    holder: Holder,
    to: i32,
    stream: ChangeStream,
    applier: Applier,
    tables: Arc<[Table]>,
    /// A session on the shard that the stream is of.
    probe: Client,
    /// What is copied.
    pub(crate) chunks: Chunks,
    /// The end of the last transaction that is durable on the other side.
    applied: PgLsn,
    /// The end of the last one that was handed to the applier.
    seen: PgLsn,
    /// Whether something between the two is to be written: rows, or statements.
    dirty: bool,
    /// Of this, in bytes.
    written: usize,
    also: Vec<String>,
    /// The one that came in part.
    transaction: Option<Transaction>,
    /// Those that came and are not delivered.
    tokens: Vec<Token>,
    /// The end of the transaction of these.
    token: PgLsn,
    markers: Vec<String>,
    hold: Option<Hold>,
    /// What was held back, and comes before all else.
    ahead: VecDeque<Event>,
}

/// What a link is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) holder: Holder,
    /// The shard that is written to.
    pub(crate) to: i32,
    pub(crate) stream: ChangeStream,
    pub(crate) applier: Applier,
    pub(crate) probe: Client,
    pub(crate) tables: Arc<[Table]>,
    pub(crate) chunks: Chunks,
    /// How far the stream is applied.
    pub(crate) applied: PgLsn,
}

impl Link {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { holder, to, stream, applier, probe, tables, chunks, applied } = parts;
        Self {
            holder,
            to,
            stream,
            applier,
            tables,
            probe,
            chunks,
            applied,
            seen: applied,
            dirty: false,
            written: 0,
            also: Vec::new(),
            transaction: None,
            tokens: Vec::new(),
            token: applied,
            markers: Vec::new(),
            hold: None,
            ahead: VecDeque::new(),
        }
    }

    /// Applies what comes until `until`. After an error the link is of no use any more; nothing is half applied.
    ///
    /// Not to be dropped before it ends, but by way of [`Until::Stopped`]. After [`Ended::NeedsCopy`], to be called again
    /// once the chunks are copied.
    pub(crate) async fn run(&mut self, until: Until<'_>) -> Result<Ended> {
        self.markers.clear();
        if let Some(ended) = self.hand_over(&until).await? {
            return Ok(ended);
        }
        while let Some(event) = self.next(&until).await? {
            let ends = matches!(event, Event::Commit { .. });
            self.handle(event).await?;
            if !ends {
                continue;
            }
            if let Some(reached) = self.at_boundary(&until).await? {
                return Ok(reached);
            }
        }
        Ok(Ended::Stopped)
    }

    /// What comes next; `None` where somebody says that it is over.
    async fn next(&mut self, until: &Until<'_>) -> Result<Option<Event>> {
        if let Some(event) = self.ahead.pop_front() {
            return Ok(Some(event));
        }
        if let Some(event) = self.stream.ready() {
            return event.map(Some);
        }
        if self.transaction.is_some() {
            // A part of a transaction is not made durable: progress is the end of one, and after a crash the part would
            // be applied once more. What is missing of it is on its way.
            return self.stream.next().await.map(Some);
        }
        if self.dirty
            && matches!(until, Until::Token { .. })
            // The token is on its way: a commit now would only keep it waiting.
            && let Ok(event) = tokio::time::timeout(TOKEN, self.stream.next()).await
        {
            return event.map(Some);
        }
        // Nothing waits, so this is the moment to make durable what came.
        self.write().await?;
        match until {
            Until::Stopped(stopped) | Until::Token { stopped, .. } => tokio::select! {
                biased;
                () = stopped.cancelled() => Ok(None),
                event = self.stream.next() => event.map(Some),
            },
            Until::Marker(_) => self.stream.next().await.map(Some),
        }
    }

    /// Between two transactions: whether it is over.
    async fn at_boundary(&mut self, until: &Until<'_>) -> Result<Option<Ended>> {
        if let Some(ended) = self.hand_over(until).await? {
            return Ok(Some(ended));
        }
        if let Until::Marker(marker) = until
            && self.markers.iter().any(|seen| seen == marker)
        {
            self.write().await?;
            return Ok(Some(Ended::Reached));
        }
        if let Until::Stopped(stopped) | Until::Token { stopped, .. } = until
            && stopped.is_cancelled()
        {
            self.write().await?;
            return Ok(Some(Ended::Stopped));
        }
        if self.written >= LONG {
            self.write().await?;
        }
        Ok(None)
    }

    /// Delivers the tokens that came. Nothing behind them is looked at before: what is written down as applied must not
    /// be behind a token that is not.
    async fn hand_over(&mut self, until: &Until<'_>) -> Result<Option<Ended>> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        if self.must_copy_first() {
            // Durable before the copy begins, which would wait for rows that are written and not committed.
            self.write().await?;
            return Ok(Some(Ended::NeedsCopy));
        }
        let tokens = self.deliver().await?;
        let expected = |token: &Token| {
            matches!(until, Until::Token { tenant, epoch, .. }
                if token.tenant == *tenant && token.epoch == *epoch)
        };
        Ok(tokens.iter().any(expected).then_some(Ended::Reached))
    }

    /// Whether a tenant that is handed over has rows that are to be copied again.
    fn must_copy_first(&self) -> bool {
        let ids = self.chunks.tenants().ids();
        self.tokens.iter().any(|token| {
            let place = ids.iter().position(|id| *id == token.tenant);
            place.is_some_and(|place| self.chunks.missing().any(|chunk| chunk.tenant == place))
        })
    }

    /// Makes the other shard the owner of the tenants whose tokens came, with all that came before them.
    async fn deliver(&mut self) -> Result<Vec<Token>> {
        let tokens = std::mem::take(&mut self.tokens);
        for token in &tokens {
            for (name, used) in &token.sequences {
                self.also.push(format!("SELECT wakala_shard.raise_sequence({}, {used})", literal(name)));
            }
            self.also.push(format!(
                "SELECT wakala_shard.receive({}, {})",
                literal(&token.tenant),
                token.epoch
            ));
        }
        self.seen = self.seen.max(self.token);
        self.dirty = true;
        self.write().await?;
        Ok(tokens)
    }

    /// Before the fence: what the session that writes is about to execute first.
    pub(crate) async fn rehearse(&self) -> Result<()> {
        self.applier.rehearse().await
    }

    async fn handle(&mut self, event: Event) -> Result<()> {
        if let (Some(hold), Event::Begin { xid, .. }) = (&mut self.hold, &event) {
            let seen = hold.snapshot.sees(*xid);
            hold.torn |= seen && !hold.events.is_empty();
            if !seen || !hold.events.is_empty() {
                self.transaction = Some(Transaction { xid: *xid, own: false, known: false, held: true });
            }
        }
        if self.transaction.as_ref().is_some_and(|transaction| transaction.held) {
            return self.keep(event);
        }
        match event {
            Event::Begin { xid, commit } => {
                // A transaction that had ended before where the other side stands is there already.
                let known = commit < self.applied;
                self.transaction = Some(Transaction { xid, own: false, known, held: false });
            }
            Event::Message { prefix, content } => self.message(&prefix, &content)?,
            Event::Change { table, op } => self.change(table, op).await?,
            Event::Commit { end, .. } => {
                self.transaction = None;
                if self.tokens.is_empty() {
                    self.seen = self.seen.max(end);
                } else {
                    self.token = end;
                }
            }
            Event::Idle { at } => {
                // Nothing of ours up to here: the slot need not keep it. Written down before it is confirmed like all
                // else, or the next process would find the slot ahead of what it knows. Rarely: what is written down is
                // in the log of the other shard, which may have a stream to here.
                let far = u64::from(at).saturating_sub(u64::from(self.applied)) > IDLE;
                if self.transaction.is_none() && self.hold.is_none() && far && at >= self.seen {
                    self.seen = at;
                    self.dirty = true;
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, prefix: &str, content: &Bytes) -> Result<()> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        match prefix {
            "wakala.own" => transaction.own = true,
            "wakala.marker" => self.markers.push(String::from_utf8_lossy(content).into_owned()),
            "wakala.token" if !transaction.known => {
                let token: Token = serde_json::from_slice(content).map_err(|error| {
                    Error::new(
                        ErrorKind::Unexpected,
                        "read_token",
                        "the stream has a token that cannot be read",
                    )
                    .on(format!("move {}", self.holder.move_id))
                    .with_source(error)
                })?;
                if token.move_id == self.holder.move_id && token.shard == self.to {
                    self.tokens.push(token);
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn change(&mut self, table: usize, op: Op) -> Result<()> {
        let Some(transaction) = &self.transaction else { return Ok(()) };
        if transaction.own || transaction.known {
            return Ok(());
        }
        match self.chunks.judge(&self.tables[table], table, op, transaction.xid)? {
            Action::Apply(op) => {
                self.applier.push(table, op);
                self.dirty = true;
            }
            Action::Drop => {}
            Action::Recopy(chunk) => {
                self.also.push(forget(&self.holder, chunk));
                self.dirty = true;
            }
        }
        if self.applier.buffered_bytes() >= BATCH {
            self.written += self.applier.buffered_bytes();
            self.applier.flush().await?;
        }
        Ok(())
    }

    /// Keeps an event that comes behind the snapshot.
    fn keep(&mut self, event: Event) -> Result<()> {
        if matches!(event, Event::Commit { .. }) {
            self.transaction = None;
        }
        // The markers of held transactions say how far the stream is all the same.
        if let Event::Message { prefix, content } = &event
            && prefix == "wakala.marker"
        {
            self.markers.push(String::from_utf8_lossy(content).into_owned());
        }
        let hold = self.hold.as_mut().expect("only then is a transaction held back");
        hold.bytes += size(&event);
        if hold.bytes > 8 * HELD {
            let message =
                "one transaction that was committed just now is too large to be held back; try again later";
            return Err(Error::new(ErrorKind::Conflict, "align", message)
                .on(format!("move {}", self.holder.move_id))
                .with_retry(Retry::Safe { after: None }));
        }
        hold.events.push_back(event);
        Ok(())
    }

    /// Brings the other side to exactly what `snapshot` sees, and calls `then`; what came in between is the first that
    /// comes afterwards. The marker was written after the snapshot was taken. `None` where the snapshot is of no use, or
    /// where a chunk [must be copied](Self::needs_copy) before anything else.
    pub(crate) async fn align<T>(
        &mut self,
        snapshot: Snapshot,
        marker: &str,
        then: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        self.hold = Some(Hold { snapshot, events: VecDeque::new(), bytes: 0, torn: false });
        let ended = self.run(Until::Marker(marker)).await?;
        let of_use = |hold: &Hold| ended == Ended::Reached && !hold.torn && hold.bytes <= HELD;
        let value = if self.hold.as_ref().is_some_and(of_use) { Some(then().await?) } else { None };
        if let Some(mut hold) = self.hold.take() {
            hold.events.append(&mut self.ahead);
            self.ahead = hold.events;
        }
        Ok(value)
    }

    /// Whether a token came for which a chunk must be copied first.
    pub(crate) fn needs_copy(&self) -> bool {
        !self.tokens.is_empty() && self.must_copy_first()
    }

    /// Makes durable on the other side what was seen, and lets the slot know.
    async fn write(&mut self) -> Result<()> {
        if self.dirty {
            self.settle().await?;
            self.applier.commit(self.seen, &std::mem::take(&mut self.also)).await?;
            self.applied = self.seen;
            self.dirty = false;
            self.written = 0;
            self.stream.confirm(self.applied);
        }
        Ok(())
    }

    /// What was left out because its chunk is to be copied yet must be in that copy, also where another process makes it:
    /// so it must be visible before the progress says that it is dealt with. A commit is in the stream a moment before.
    async fn settle(&mut self) -> Result<()> {
        while !self.chunks.is_settled() {
            let snapshot = Snapshot::current(&self.probe).await?;
            self.chunks.settled(&snapshot);
            if !self.chunks.is_settled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    /// Lets go of the slot.
    pub(crate) async fn close(self) {
        self.stream.close().await;
    }
}

/// About how much memory an event takes.
fn size(event: &Event) -> usize {
    let row = |row: &Row| {
        row.iter()
            .map(|value| {
                size_of::<Value>()
                    + match value {
                        Value::Binary(bytes) | Value::Text(bytes) => bytes.len(),
                        Value::Null | Value::Unchanged => 0,
                    }
            })
            .sum::<usize>()
    };
    let inner = match event {
        Event::Change { op: Op::Insert(new) | Op::Delete(new), .. } => row(new),
        Event::Change { op: Op::Update { old, new }, .. } => old.as_ref().map_or(0, row) + row(new),
        Event::Message { content, .. } => content.len(),
        Event::Begin { .. } | Event::Commit { .. } | Event::Idle { .. } => 0,
    };
    size_of::<Event>() + inner
}
