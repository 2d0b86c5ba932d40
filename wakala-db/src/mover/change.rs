//! What a change stream says.

use bytes::Bytes;
use tokio_postgres::types::PgLsn;

/// One message of a change stream, in the order of commits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A transaction follows, whole: until its `Commit` all is of it.
    Begin { xid: u32, commit: PgLsn },
    /// A row of a table, by its place in the tables given to the stream.
    Change { table: usize, op: Op },
    /// A logical message (`pg_logical_emit_message`). Of a transaction where it comes within one.
    Message { prefix: String, content: Bytes },
    /// The transaction is complete; the next begins at `end` or later.
    Commit { commit: PgLsn, end: PgLsn },
    /// Nothing to say up to here.
    Idle { at: PgLsn },
}

/// What happened to a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Insert(Row),
    /// `old` has the former key (or row) where the key changed or the identity is the full row; of an identity that is
    /// a key, only the columns of the key are not null in it.
    Update {
        old: Option<Row>,
        new: Row,
    },
    /// Only the columns of the replica identity are meant; the others are `Null`.
    Delete(Row),
}

/// The values of the columns of a [`Table`](super::table::Table), in its order.
pub(crate) type Row = Vec<Value>;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Null,
    /// Stored out of line and not changed: the stream does not carry it.
    Unchanged,
    /// As the type's send function has it.
    Binary(Bytes),
    /// As the type's output function has it.
    Text(Bytes),
}
