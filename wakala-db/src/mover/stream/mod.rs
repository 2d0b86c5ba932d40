//! Reads the changes of a shard, from the write-ahead log by way of a replication slot.
//!
//! Why by the replication protocol, and why by this code: `docs/why-changes-come-by-the-replication-protocol.md`.

mod backlog;
mod failure;
mod pgoutput;
mod shape;
mod slot;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Config;
use tokio_postgres::types::PgLsn;
use wakala_core::{Error, ErrorKind, Result, Retry};

pub(crate) use self::backlog::Bulk;
use self::failure::{Failure, START_OVER};
use self::pgoutput::Decoder;
pub(crate) use self::slot::{create_publication, create_slot, drop_publication, drop_slot, slot_facts};
pub(crate) use self::wire::Secure;
use self::wire::Wire;
use self::worker::{Item, Shared, Timing};
use super::change::Event;
use super::table::Table;
use super::tenant::literal;

/// How long an attempt to open a stream may take, where the configuration has no `connect_timeout`.
const OPENING: Duration = Duration::from_secs(30);

/// How a stream is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Values in the binary form of their types; those whose type has none come as text all the same.
    pub(crate) binary: bool,
    /// After how long without a word of the server's, though it was asked, its connection counts as lost. Unless given,
    /// twice its `wal_sender_timeout`, and two minutes at least.
    pub(crate) silence: Option<Duration>,
    /// What lies far behind when the stream is opened.
    pub(crate) bulk: Bulk,
}

/// Which server a stream comes from, as it said when the stream was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) system_identifier: String,
    pub(crate) timeline: i32,
    /// The end of its log at that time.
    pub(crate) flushed: PgLsn,
}

/// The committed changes of a shard to some of its tables, in the order of commits.
///
/// A task of its own keeps the connection and answers the server, so that a consumer may be busy for as long as it likes;
/// it needs a tokio runtime whose threads are not all blocked meanwhile. It reads at most 8 MB ahead (or one message,
/// where that is larger), and then lets the server wait. Dropping the stream ends the task and the connection; the
/// server lets go of the slot a moment later, [`close`](Self::close) waits for that.
pub(crate) struct ChangeStream {
    slot: String,
    source: Source,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    decoder: Decoder,
    ahead: VecDeque<Item>,
    failed: bool,
}

impl fmt::Debug for ChangeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, source, failed, .. } = self;
        f.debug_struct("ChangeStream")
            .field("slot", slot)
            .field("source", source)
            .field("failed", failed)
            .finish()
    }
}

impl ChangeStream {
    /// Begins to read at `from`: at the first transaction that was committed there or later. All before it is durable at
    /// the consumer, and confirmed by this call. Zero stands for wherever the slot is.
    ///
    /// `tables` are all of those of the publication. They are compared with the server's now, and whenever the stream
    /// describes one.
    ///
    /// # Errors
    /// - `NotFound`: there is no such slot.
    /// - `Conflict`, safe to retry: another process reads it. `Conflict`, never to be retried: the slot is not what it
    ///   was (invalidated, or made anew, or already past `from`, or `from` is after the end of the log: the server
    ///   is an older copy of itself), or a table has changed.
    /// - `Unavailable`, `Denied`, `InvalidConfig`: no connection, no privilege, `wal_level` too low.
    pub(crate) async fn open(
        config: &Config,
        tls: Option<&dyn Secure>,
        slot: &str,
        publication: &str,
        tables: &[Table],
        from: PgLsn,
        options: Options,
    ) -> Result<Self> {
        let limit = config.get_connect_timeout().copied().filter(|limit| !limit.is_zero()).unwrap_or(OPENING);
        let opening = Self::begin(config, tls, slot, publication, tables, from, options);
        tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::DeadlineExceeded,
                "change_stream",
                format!("not opened within {limit:?}; is the server up?"),
            )
            .on(format!("slot {slot}"))
            .with_retry(Retry::Safe { after: None }))
        })
    }

    async fn begin(
        config: &Config,
        tls: Option<&dyn Secure>,
        slot: &str,
        publication: &str,
        tables: &[Table],
        from: PgLsn,
        options: Options,
    ) -> Result<Self> {
        let failed = |failure: Failure| failure.into_error(slot);
        let mut wire = Wire::connect(config, tls).await.map_err(failed)?;
        let source = identify(&mut wire).await.map_err(failed)?;
        let timing = slot_is_ready(&mut wire, slot, from, &source, options).await?;
        let mut shapes = Vec::with_capacity(tables.len());
        for table in tables {
            shapes.push(shape::shape(&mut wire, table).await.map_err(failed)??);
        }
        let behind = u64::from(source.flushed).saturating_sub(from.into());
        let backlog = backlog::Source {
            slot: slot.to_owned(),
            publication: publication.to_owned(),
            binary: options.binary,
            from,
            bulk: options.bulk,
        };
        let backlog = if u64::from(from) != 0 && behind > options.bulk.worth {
            Some(backlog)
        } else {
            wire.begin_stream(&backlog.command(from)).await.map_err(failed)?;
            None
        };
        let shared = Arc::new(Shared::new(from.into()));
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move { worker::run(wire, &shared, timing, backlog).await }
        });
        let decoder = Decoder::new(shapes);
        Ok(Self {
            slot: slot.to_owned(),
            source,
            shared,
            task,
            decoder,
            ahead: VecDeque::new(),
            failed: false,
        })
    }

    #[cfg(test)]
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The next event. Dropped before it is ready, it has taken none.
    ///
    /// # Errors
    /// All that came before an error is given out first; after it, the stream must be opened again.
    /// - `Unavailable`, safe to retry: the connection ended, or the server says nothing any more.
    /// - `Conflict`, never to be retried: a table has changed, or the slot's log is gone.
    /// - `NotFound`: the publication is gone.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready() {
                return event;
            }
            self.shared.readable().await;
        }
    }

    /// The next event, where it came already; does not wait.
    ///
    /// # Errors
    /// As of [`next`](Self::next).
    pub(crate) fn ready(&mut self) -> Option<Result<Event>> {
        if self.failed {
            return Some(Err(Error::new(
                ErrorKind::Unavailable,
                "change_stream",
                "the stream has ended before; open it again",
            )
            .on(format!("slot {}", self.slot))
            .with_retry(Retry::Safe { after: None })));
        }
        loop {
            let Some(item) = self.ahead.pop_front() else {
                let end = self.shared.take(&mut self.ahead);
                if !self.ahead.is_empty() {
                    continue;
                }
                self.failed = end.is_some();
                return end.map(|failure| Err(failure.into_error(&self.slot)));
            };
            match item {
                Item::Data(message) => match self.decoder.decode(message) {
                    Ok(None) => {}
                    Ok(Some(event)) => return Some(Ok(event)),
                    Err(error) => {
                        self.failed = true;
                        return Some(Err(error));
                    }
                },
                // Within a transaction it says nothing that its end does not say.
                Item::At(at) if !self.decoder.is_inside() => return Some(Ok(Event::Idle { at: at.into() })),
                Item::At(_) => {}
            }
        }
    }

    /// All before `durable` will not be needed again: the server may remove it. Take the `end` of a `Commit`, or the `at`
    /// of an `Idle` where everything before it is durable. Never goes back. The server hears of it within milliseconds,
    /// unless it is lost on the way: then it sends again what came after what it heard of last.
    pub(crate) fn confirm(&mut self, durable: PgLsn) {
        self.shared.confirm(durable.into());
    }

    /// Ends the connection in order, the last confirmation included, and waits (five seconds at most) until the server
    /// has let go of the slot.
    pub(crate) async fn close(mut self) {
        self.shared.close();
        // It only fails by a panic, which the runtime has shown already.
        let _ended = (&mut self.task).await;
    }

    /// What is read ahead, in bytes.
    #[cfg(test)]
    fn read_ahead(&self) -> usize {
        self.shared.weight()
    }
}

impl Drop for ChangeStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn identify(wire: &mut Wire) -> Result<Source, Failure> {
    let odd = || Failure::Protocol("an odd answer to IDENTIFY_SYSTEM".into());
    let row = wire.query("IDENTIFY_SYSTEM").await?.into_iter().next().ok_or_else(odd)?;
    let mut row = row.into_iter().flatten();
    let system_identifier = row.next().ok_or_else(odd)?;
    let timeline = row.next().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    let flushed = row.next().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    Ok(Source { system_identifier, timeline, flushed })
}

/// Whether the slot has all from `from` on. The server itself would begin later without a word.
async fn slot_is_ready(
    wire: &mut Wire,
    slot: &str,
    from: PgLsn,
    source: &Source,
    options: Options,
) -> Result<Timing> {
    let failed = |failure: Failure| failure.into_error(slot);
    let conflict = |why: String| {
        Error::new(ErrorKind::Conflict, "change_stream", format!("{why}{START_OVER}"))
            .on(format!("slot {slot}"))
            .with_retry(Retry::Never)
    };
    let sql = format!(
        "SELECT coalesce(s.confirmed_flush_lsn, '0/0')::pg_catalog.text, \
                (SELECT t.setting FROM pg_catalog.pg_settings AS t WHERE t.name = 'wal_sender_timeout') \
         FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = {}",
        literal(slot),
    );
    let rows = wire.query(&sql).await.map_err(failed)?;
    // Where there is none, the server says so when the stream is begun.
    let Some(row) = rows.into_iter().next() else { return Ok(Timing::of(Duration::ZERO, options.silence)) };
    let odd = || failed(Failure::Protocol("an odd row of pg_replication_slots".into()));
    let mut row = row.into_iter().flatten();
    let confirmed: PgLsn = row.next().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    let timeout = row.next().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    if from > source.flushed {
        let end = source.flushed;
        return Err(conflict(format!(
            "the server's log ends at {end}, before {from} that was read already: it is an older copy of itself"
        )));
    }
    if u64::from(from) != 0 && confirmed > from {
        return Err(conflict(format!(
            "the slot goes on at {confirmed} only, and {from} is wanted: it was made anew, or read by somebody else"
        )));
    }
    Ok(Timing::of(Duration::from_millis(timeout), options.silence))
}
