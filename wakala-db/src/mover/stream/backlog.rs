//! What lies far behind, in bulk.
//!
//! The protocol makes a system call for each change, which is what a consumer that is far behind waits for. The server's
//! own function gives the same messages several times as fast, and late: all of a piece at once. So a long backlog is read
//! by it piece by piece, and the protocol goes on where the last piece ends. Nothing is consumed: the slot moves by what is
//! confirmed and by nothing else, as ever.

use bytes::{Buf, Bytes};
use tokio::time::Instant;
use tokio_postgres::types::PgLsn;

use super::failure::{Failure, ServerError};
use super::wire::{TextRow, Wire};
use super::worker::{Item, Shared, Timing};
use crate::config::quoted;
use crate::mover::tenant::literal;

/// How a backlog is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bulk {
    /// Less of the log than this is left to the protocol, in bytes.
    pub(crate) worth: u64,
    /// How much of the log the first piece has; each is twice the one before it.
    pub(crate) first: u64,
    /// And the last ones, in bytes.
    pub(crate) most: u64,
    /// Each piece is decoded from where the slot must begin, which an old transaction may hold back. Farther than this
    /// from there, the protocol is cheaper.
    pub(crate) far: u64,
}

impl Default for Bulk {
    fn default() -> Self {
        const MB: u64 = 1 << 20;
        Self { worth: 2 * MB, first: 8 * MB, most: 64 * MB, far: 1024 * MB }
    }
}

/// What is read.
pub(super) struct Source {
    pub(super) slot: String,
    pub(super) publication: String,
    pub(super) binary: bool,
    pub(super) from: PgLsn,
    pub(super) bulk: Bulk,
}

impl Source {
    /// The command by which the protocol begins.
    pub(super) fn command(&self, at: PgLsn) -> String {
        format!(
            "START_REPLICATION SLOT {} LOGICAL {at} (proto_version '1', publication_names {}, messages 'true', \
             binary '{}')",
            quoted(&self.slot),
            literal(&quoted(&self.publication)),
            self.binary,
        )
    }
}

/// Why it is over.
pub(super) enum Ended {
    /// The consumer wants no more.
    Closed,
    /// The protocol is to go on: at the first transaction that was committed there or later.
    GoOn(PgLsn),
}

/// Reads until the backlog is short.
pub(super) async fn read(
    wire: &mut Wire,
    shared: &Shared,
    timing: Timing,
    source: &Source,
) -> Result<Ended, Failure> {
    let from = u64::from(source.from);
    let mut reader = Reader { wire, shared, timing, source, rows: Rows::after(from) };
    let mut size = source.bulk.first;
    let mut confirmed = from;
    reader.query("SET statement_timeout = 0").await?;
    reader.query("SET jit = off").await?;
    loop {
        if shared.confirmed() > confirmed {
            confirmed = shared.confirmed();
            // What is durable at the consumer need not be decoded once more.
            let sql = format!(
                "SELECT pg_catalog.pg_replication_slot_advance({}, '{}')",
                literal(&source.slot),
                PgLsn::from(confirmed)
            );
            reader.query(&sql).await?;
        }
        let at = reader.rows.after;
        let (end, begin) = reader.place().await?;
        if end.saturating_sub(at) <= source.bulk.worth || at.saturating_sub(begin) > source.bulk.far {
            return Ok(Ended::GoOn(at.into()));
        }
        let upto = end.min(at + size);
        if !reader.piece(upto).await? {
            return Ok(Ended::Closed);
        }
        // The function gives out every transaction whose commit begins before `upto`, and may give out one that begins
        // behind it, where a page of the log ends in between. The protocol begins with those at a place or later.
        let after = upto.max(reader.rows.last.map_or(0, |commit| commit + 1));
        size = (size * 2).min(source.bulk.most);
        reader.rows = Rows::after(after);
        shared.put(&mut vec![Item::At(upto)]);
    }
}

struct Reader<'a> {
    wire: &'a mut Wire,
    shared: &'a Shared,
    timing: Timing,
    source: &'a Source,
    rows: Rows,
}

impl Reader<'_> {
    async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, Failure> {
        self.timing.within(self.wire.query(sql)).await
    }

    /// The end of the log, and where the slot is decoded from.
    async fn place(&mut self) -> Result<(u64, u64), Failure> {
        let sql = format!(
            "SELECT pg_catalog.pg_current_wal_flush_lsn(), coalesce(restart_lsn, '0/0') \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            literal(&self.source.slot)
        );
        let rows = self.query(&sql).await?;
        let mut row = rows.into_iter().flatten().flatten();
        let mut lsn = || row.next().and_then(|text| text.parse::<PgLsn>().ok()).map(u64::from);
        match (lsn(), lsn()) {
            (Some(end), Some(begin)) => Ok((end, begin)),
            // Where the slot is gone, the protocol has the words for it.
            _ => Ok((0, 0)),
        }
    }

    /// Passes on what was committed before `upto`; false where the consumer wants no more.
    async fn piece(&mut self, upto: u64) -> Result<bool, Failure> {
        let Source { slot, publication, binary, .. } = self.source;
        let sql = format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, '{}', NULL, 'proto_version', '1', \
             'publication_names', {}, 'messages', 'true', 'binary', '{binary}')) TO STDOUT (FORMAT binary)",
            literal(slot),
            PgLsn::from(upto),
            literal(&quoted(publication)),
        );
        self.timing.within(self.wire.ask(&sql)).await?;
        let mut heard = Instant::now();
        loop {
            if self.pass_on()? {
                return Ok(true);
            }
            let full = self.shared.is_full();
            tokio::select! {
                filled = self.wire.fill(), if !full => {
                    filled?;
                    heard = Instant::now();
                }
                () = self.shared.writable(), if full => heard = Instant::now(),
                () = self.shared.told() => {
                    if self.shared.is_closing() {
                        return Ok(false);
                    }
                }
                () = tokio::time::sleep_until(heard + self.timing.silence()), if !full => {
                    return Err(Failure::Silent(self.timing.silence()));
                }
            }
        }
    }

    /// Whether that was all of the piece.
    fn pass_on(&mut self) -> Result<bool, Failure> {
        let mut items = Vec::new();
        let mut read = || {
            while let Some(frame) = self.wire.buffered()? {
                match frame.tag {
                    b'd' => self.rows.read(frame.body, &mut items)?,
                    b'E' => return Err(ServerError::parse(&frame.body).into()),
                    b'H' | b'c' | b'C' | b'N' | b'S' => {}
                    b'Z' => return Ok(true),
                    tag => return Err(Failure::unexpected(tag, "a backlog")),
                }
            }
            Ok(false)
        };
        let outcome = read();
        self.shared.put(&mut items);
        outcome
    }
}

/// The rows of a piece: one column of the binary form of COPY. A piece begins where the slot is, so there is more in it
/// than is new.
#[derive(Debug)]
struct Rows {
    /// What was committed before this was passed on already.
    after: u64,
    /// Whether the header has come.
    begun: bool,
    /// Whether the transaction that these rows are of is not new.
    known: bool,
    /// Where the last transaction was committed.
    last: Option<u64>,
}

impl Rows {
    fn after(after: u64) -> Self {
        Self { after, begun: false, known: false, last: None }
    }

    fn read(&mut self, mut body: Bytes, items: &mut Vec<Item>) -> Result<(), Failure> {
        const HEADER: usize = 19;
        let odd = || Failure::Protocol("an odd row of a backlog".into());
        if !self.begun {
            if body.len() < HEADER {
                return Err(odd());
            }
            body.advance(HEADER);
            self.begun = true;
        }
        while body.has_remaining() {
            match body.try_get_i16().map_err(|_| odd())? {
                -1 => return Ok(()),
                1 => {}
                _ => return Err(odd()),
            }
            let length = body.try_get_i32().ok().and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length <= body.len()).ok_or_else(odd)?;
            let message = body.split_to(length);
            // A transaction begins with where it was committed. What a table looks like is said once, in any of them.
            let (kind, rest) = message.split_first().ok_or_else(odd)?;
            if *kind == b'B' {
                let commit = rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or_else(odd)?;
                self.known = commit < self.after;
                self.last = Some(commit);
            }
            if !self.known || matches!(kind, b'R' | b'Y') {
                items.push(Item::Data(message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(after: u64, pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, Failure> {
        let (mut rows, mut items) = (Rows::after(after), Vec::new());
        for piece in pieces {
            rows.read(Bytes::copy_from_slice(piece), &mut items)?;
        }
        Ok(items
            .into_iter()
            .map(|item| match item {
                Item::Data(data) => data.to_vec(),
                Item::At(_) => unreachable!("rows only"),
            })
            .collect())
    }

    #[test]
    fn rows_come_with_and_without_the_header_and_each_once() {
        let header = &b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..];
        let row = |message: &[u8]| {
            let length = i32::try_from(message.len()).unwrap().to_be_bytes();
            [&b"\0\x01"[..], &length, message].concat()
        };
        let begin = |commit: u64| [&b"B"[..], &commit.to_be_bytes(), b"rest"].concat();
        let one = [header, &row(&begin(7))].concat();
        let all = [&one[..], &row(b"R"), &row(b"I1"), &row(b"C"), &row(&begin(8)), &row(b"I2"), b"\xff\xff"];
        let found = |after| read(after, &all).unwrap();
        assert_eq!(
            found(7),
            [begin(7), b"R".to_vec(), b"I1".to_vec(), b"C".to_vec(), begin(8), b"I2".to_vec()]
        );
        assert_eq!(found(8), [b"R".to_vec(), begin(8), b"I2".to_vec()]);
        assert_eq!(found(9), [b"R".to_vec()]);
        assert_eq!(read(0, &[&[header, b"\xff\xff"].concat()]).unwrap(), Vec::<Vec<u8>>::new());
        for cut in 0..one.len() {
            // The header alone is no error: the rows may come in the next message.
            assert_eq!(read(0, &[&one[..cut]]).is_ok(), cut == header.len(), "{cut}");
        }
        read(0, &[&[header, b"\0\x01\xff\xff\xff\xff"].concat()]).unwrap_err();
        read(0, &[&[header, &row(b"B123")].concat()]).unwrap_err();
    }
}
