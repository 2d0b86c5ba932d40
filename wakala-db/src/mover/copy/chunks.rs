//! Which change belongs to which chunk, and what is to be done with it. No I/O.
//!
//! A chunk has the rows of one tenant in one table, or a range of them. It was copied in one snapshot: what this
//! snapshot sees is in the copy, and what it does not see is still to come. So a change is applied exactly where the
//! snapshot of its chunk does not see its transaction.
//!
//! A change to a chunk that is not copied yet is dropped, and its copy is to have it. That the stream brings a
//! transaction does not mean that a snapshot sees it already: between its record in the log and its end in the server's
//! memory there is a gap, as long as a synchronous standby likes. Therefore all transactions that the stream brought are
//! remembered until a snapshot saw them; see [`Chunks::settled`].

use std::collections::HashMap;

use wakala_core::{Error, ErrorKind, Result};

use super::key::ChunkKey;
use crate::mover::change::{Op, Row, Value};
use crate::mover::snapshot::Snapshot;
use crate::mover::table::Table;
use crate::mover::tenant::Tenants;

/// The rows of a tenant in a table, or those of them in a range of the chunk column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) id: i32,
    /// By its place in the tables of the move.
    pub(crate) table: usize,
    /// By its place in the tenants of the move.
    pub(crate) tenant: usize,
    /// Included.
    pub(crate) lower: Option<ChunkKey>,
    /// Not included.
    pub(crate) upper: Option<ChunkKey>,
    /// About how many bytes it has, as planned.
    pub(crate) estimate: u64,
    pub(crate) copied: Option<Copied>,
}

/// A copy that is durable on the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) snapshot: Snapshot,
    pub(crate) rows: u64,
    /// As they travelled.
    pub(crate) bytes: u64,
}

/// What a chunk says about a transaction that changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The copy does not have it.
    Apply,
    /// The copy will have it.
    NotYet,
    /// The copy has it.
    Seen,
}

/// What the applier does with a change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Apply(Op),
    Drop,
    /// The change cannot be applied, since the stream lacks a value: the chunk, which counts as not copied from now on,
    /// is copied again. The registry must say so in the transaction that stores how far the stream was applied.
    Recopy(i32),
}

/// All chunks of a move.
#[derive(Debug)]
pub(crate) struct Chunks {
    tenants: Tenants,
    /// By table, tenant and range.
    chunks: Vec<Chunk>,
    /// Where the chunks of a table and tenant begin and end.
    ranges: HashMap<(usize, usize), (usize, usize)>,
    by_id: HashMap<i32, usize>,
    /// Transactions of the stream that no snapshot saw so far, in its order.
    unsettled: Vec<u32>,
    caught_up: bool,
}

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// By its place in `chunks`.
    Chunk(usize),
    /// A tenant's that is not moved.
    Elsewhere,
}

impl Chunks {
    /// # Errors
    /// `Unexpected` where the chunks of a table and tenant do not cover all keys, each once.
    pub(crate) fn new(tenants: Tenants, mut chunks: Vec<Chunk>) -> Result<Self> {
        chunks.sort_by_key(|chunk| (chunk.table, chunk.tenant, chunk.lower));
        let mut ranges: HashMap<_, (usize, usize)> = HashMap::new();
        let mut by_id = HashMap::new();
        for (place, chunk) in chunks.iter().enumerate() {
            let range = ranges.entry((chunk.table, chunk.tenant)).or_insert((place, place));
            let joins = match place.checked_sub(1).filter(|before| *before >= range.0) {
                None => chunk.lower.is_none(),
                Some(before) => chunk.lower.is_some() && chunks[before].upper == chunk.lower,
            };
            let ends = chunks
                .get(place + 1)
                .is_none_or(|next| (next.table, next.tenant) != (chunk.table, chunk.tenant));
            range.1 = place + 1;
            if !joins || ends != chunk.upper.is_none() || by_id.insert(chunk.id, place).is_some() {
                return Err(unexpected("the chunks do not cover the table; was the registry changed?")
                    .on(format!("chunk {}", chunk.id)));
            }
        }
        Ok(Self { tenants, chunks, ranges, by_id, unsettled: Vec::new(), caught_up: false })
    }

    pub(crate) fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    pub(crate) fn all(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Those that are to be copied, in order.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter().filter(|chunk| chunk.copied.is_none())
    }

    /// The copy of a chunk is durable. No change may have been judged since its snapshot was taken, unless
    /// [`acceptable`](Self::acceptable) still says that it sees them.
    ///
    /// # Errors
    /// `Unexpected` where the stream brought a transaction that the copy lacks: the chunk is to be copied again.
    pub(crate) fn set_copied(&mut self, id: i32, copied: Copied) -> Result<()> {
        if !self.acceptable(&copied.snapshot) {
            return Err(unexpected("its snapshot misses changes that the stream has passed; copy it again")
                .on(format!("chunk {id}")));
        }
        let place = self.place(id)?;
        self.caught_up = false;
        self.chunks[place].copied = Some(copied);
        Ok(())
    }

    fn place(&self, id: i32) -> Result<usize> {
        self.by_id.get(&id).copied().ok_or_else(|| unexpected("there is none").on(format!("chunk {id}")))
    }

    /// Whether a copy may be made in a snapshot: it sees all that the stream brought so far.
    pub(crate) fn acceptable(&self, snapshot: &Snapshot) -> bool {
        self.unsettled.iter().all(|xid| snapshot.sees(*xid))
    }

    /// A snapshot of the source sees what it sees: later ones will do, so that need not be remembered.
    ///
    /// How far the stream was applied may be stored only when nothing [is unsettled](Self::is_settled): after a crash
    /// nobody knows what was before it, and the next snapshot must see it all the same.
    pub(crate) fn settled(&mut self, snapshot: &Snapshot) {
        self.unsettled.retain(|xid| !snapshot.sees(*xid));
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// All chunks are copied, and the stream came to a place that was read after the last of the snapshots was taken.
    /// From here on everything is applied; nothing needs to be settled any more.
    pub(crate) fn caught_up(&mut self) {
        self.caught_up = self.chunks.iter().all(|chunk| chunk.copied.is_some());
        if self.caught_up {
            self.unsettled = Vec::new();
        }
    }

    fn note(&mut self, xid: u32) {
        // The changes of a transaction come together.
        if !self.caught_up && self.unsettled.last() != Some(&xid) {
            self.unsettled.push(xid);
        }
    }

    /// Which chunk a row is in; the key is that of the chunk column, where there is one.
    fn position(&self, table: usize, tenant: usize, key: Option<ChunkKey>) -> Option<usize> {
        let (from, to) = *self.ranges.get(&(table, tenant))?;
        let Some(key) = key else { return (to == from + 1).then_some(from) };
        // The first has no lower bound.
        let after =
            self.chunks[from..to].partition_point(|chunk| chunk.lower.is_none_or(|lower| lower <= key));
        Some(from + after - 1)
    }

    /// What is to be done with a change by a transaction, and remembers it.
    ///
    /// # Errors
    /// `Unexpected` where the change does not say whose row it is, or no chunk is there for it.
    pub(crate) fn judge(&mut self, table: &Table, place: usize, op: Op, xid: u32) -> Result<Action> {
        let (old, new) = match &op {
            Op::Insert(new) => (None, Some(self.place_of(table, place, new, None)?)),
            Op::Delete(old) => (Some(self.place_of(table, place, old, None)?), None),
            Op::Update { old: None, new } => {
                let place = self.place_of(table, place, new, None)?;
                (Some(place), Some(place))
            }
            Op::Update { old: Some(old), new } => (
                Some(self.place_of(table, place, old, None)?),
                Some(self.place_of(table, place, new, Some(old))?),
            ),
        };
        if [old, new].iter().flatten().any(|place| *place != Place::Elsewhere) {
            self.note(xid);
        }
        let applies =
            |place: Option<Place>| place.is_some_and(|place| self.verdict(place, xid) == Verdict::Apply);
        let (from_old, to_new) = (applies(old), applies(new));
        match op {
            Op::Insert(row) if to_new => self.insert(None, row, new),
            Op::Delete(row) if from_old => Ok(Action::Apply(Op::Delete(row))),
            Op::Insert(_) | Op::Delete(_) => Ok(Action::Drop),
            Op::Update { old, new: row } => match (from_old, to_new, old) {
                (true, true, old) => Ok(Action::Apply(Op::Update { old, new: row })),
                (true, false, Some(old)) => Ok(Action::Apply(Op::Delete(old))),
                (false, true, old) => self.insert(old, row, new),
                // Without an old row it stays where it is.
                (true, false, None) | (false, false, _) => Ok(Action::Drop),
            },
        }
    }

    /// A whole row, or its chunk once more.
    fn insert(&mut self, old: Option<Row>, mut row: Row, place: Option<Place>) -> Result<Action> {
        for (column, value) in row.iter_mut().enumerate() {
            if *value == Value::Unchanged {
                // The old row has it where the identity is the full row. Such a value is never null.
                match old.as_ref().and_then(|old| old.get(column)) {
                    Some(known @ (Value::Binary(_) | Value::Text(_))) => *value = known.clone(),
                    _ => {
                        let Some(Place::Chunk(place)) = place else {
                            return Err(unexpected("an insert belongs to no chunk"));
                        };
                        self.chunks[place].copied = None;
                        return Ok(Action::Recopy(self.chunks[place].id));
                    }
                }
            }
        }
        Ok(Action::Apply(Op::Insert(row)))
    }

    fn verdict(&self, place: Place, xid: u32) -> Verdict {
        match place {
            Place::Elsewhere => Verdict::Seen,
            Place::Chunk(place) => match &self.chunks[place].copied {
                None => Verdict::NotYet,
                Some(copied) if copied.snapshot.sees(xid) => Verdict::Seen,
                Some(_) => Verdict::Apply,
            },
        }
    }

    fn place_of(&self, table: &Table, place: usize, row: &Row, old: Option<&Row>) -> Result<Place> {
        let odd = |what: String| Err(unexpected(what).on(format!("table {table}")));
        let value = |column: usize| match row.get(column) {
            Some(Value::Unchanged) | None => old.and_then(|old| old.get(column)),
            value => value,
        };
        let tenant = match value(table.tenant) {
            Some(Value::Unchanged) | None => return odd("a change does not say whose row it is".to_owned()),
            Some(value) => self.tenants.find(value),
        };
        let Some(tenant) = tenant else { return Ok(Place::Elsewhere) };
        let key = match table.chunk_by {
            None => None,
            Some((column, kind)) => match value(column).and_then(|value| ChunkKey::of(value, kind)) {
                None => return odd(format!("a change has no {kind:?} in {}", table.columns[column].name)),
                key => key,
            },
        };
        match self.position(place, tenant, key) {
            Some(place) => Ok(Place::Chunk(place)),
            None => odd("a change belongs to no chunk; was the registry changed?".to_owned()),
        }
    }
}

fn unexpected(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unexpected, "judge", message).with_retry(wakala_core::Retry::Never)
}
