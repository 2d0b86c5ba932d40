//! The messages of `pgoutput`, version 1 of its protocol, as events.

use std::collections::HashMap;

use bytes::{Buf, Bytes, TryGetError};
use tokio_postgres::types::PgLsn;
use wakala_core::{Error, ErrorKind, Retry};

use super::shape::Shape;
use crate::mover::change::{Event, Op, Row, Value};

/// Why a message cannot be understood.
#[derive(Debug, PartialEq, Eq)]
enum Odd {
    /// It ends too early, or has a value that there is not.
    Malformed(&'static str),
    /// A table is no longer what it was when the stream was opened.
    Changed(String),
}

impl From<TryGetError> for Odd {
    fn from(_: TryGetError) -> Self {
        Self::Malformed("it ends too early")
    }
}

/// Which table a relation of the server's is, and where the columns are that it sends.
#[derive(Debug)]
struct Relation {
    table: usize,
    width: usize,
    /// Of each column that is sent; `None` for a generated one.
    places: Vec<Option<usize>>,
}

/// Makes events of messages, which must come in the order in which the server sent them.
#[derive(Debug)]
pub(super) struct Decoder {
    shapes: Vec<Shape>,
    /// By the server's number. It sends one anew whenever it may have changed. `Err` has the name of a table that is none
    /// of ours: partitions are described like their root, but no row is theirs.
    relations: HashMap<u32, Result<Relation, String>>,
    inside: bool,
}

impl Decoder {
    pub(super) fn new(shapes: Vec<Shape>) -> Self {
        Self { shapes, relations: HashMap::new(), inside: false }
    }

    /// Whether a transaction has begun, but not ended.
    pub(super) fn is_inside(&self) -> bool {
        self.inside
    }

    /// `None` for a message that says nothing to the consumer.
    ///
    /// # Errors
    /// `Conflict` where a table has changed, `Unexpected` where the message is malformed. There is no going on after
    /// either.
    pub(super) fn decode(&mut self, message: Bytes) -> Result<Option<Event>, Error> {
        let kind = message.first().copied().map_or('?', char::from);
        self.event(message).map_err(|odd| match odd {
            Odd::Malformed(why) => Error::new(
                ErrorKind::Unexpected,
                "decode",
                format!("{why}; this version does not know it, so the stream cannot be read"),
            )
            .on(format!("pgoutput message {kind:?}"))
            .with_retry(Retry::Never),
            Odd::Changed(what) => Error::new(
                ErrorKind::Conflict,
                "decode",
                format!("{what}; tables must stay as they are while tenants move: give the move up, and begin a new one"),
            )
            .on("change stream")
            .with_retry(Retry::Never),
        })
    }

    fn event(&mut self, mut message: Bytes) -> Result<Option<Event>, Odd> {
        let message = &mut message;
        let event = match message.try_get_u8()? {
            b'B' => {
                if self.inside {
                    return Err(Odd::Malformed("a transaction begins within another"));
                }
                let commit = PgLsn::from(message.try_get_u64()?);
                let _time = message.try_get_u64()?;
                let xid = message.try_get_u32()?;
                self.inside = true;
                Event::Begin { xid, commit }
            }
            b'C' => {
                self.must_be_inside()?;
                let _flags = message.try_get_u8()?;
                let commit = PgLsn::from(message.try_get_u64()?);
                let end = PgLsn::from(message.try_get_u64()?);
                let _time = message.try_get_u64()?;
                self.inside = false;
                Event::Commit { commit, end }
            }
            b'I' => {
                let relation = self.relation(message)?;
                expect(message, b'N')?;
                Event::Change { table: relation.table, op: Op::Insert(tuple(relation, message)?) }
            }
            b'U' => {
                let relation = self.relation(message)?;
                let old = match message.first() {
                    Some(b'K' | b'O') => {
                        message.advance(1);
                        Some(tuple(relation, message)?)
                    }
                    _ => None,
                };
                expect(message, b'N')?;
                Event::Change {
                    table: relation.table,
                    op: Op::Update { old, new: tuple(relation, message)? },
                }
            }
            b'D' => {
                let relation = self.relation(message)?;
                match message.try_get_u8()? {
                    b'K' | b'O' => {}
                    _ => return Err(Odd::Malformed("it has no old row")),
                }
                Event::Change { table: relation.table, op: Op::Delete(tuple(relation, message)?) }
            }
            b'M' => {
                let transactional = message.try_get_u8()? & 1 == 1;
                if transactional != self.inside {
                    return Err(Odd::Malformed(
                        "it is out of its transaction, or within one that is not its own",
                    ));
                }
                let _at = message.try_get_u64()?;
                let prefix = text(message)?;
                let length = message.try_get_u32()?;
                Event::Message { prefix, content: take(message, length)? }
            }
            b'R' => {
                let (number, relation) = self.describe(message)?;
                self.relations.insert(number, relation);
                return Ok(None);
            }
            b'T' => {
                return Err(Odd::Changed(
                    "a TRUNCATE is in the stream, which its publication should not publish".to_owned(),
                ));
            }
            // Where a transaction came from, and types of columns: their numbers are in the relation.
            b'O' | b'Y' => return Ok(None),
            _ => return Err(Odd::Malformed("it is of no kind that was asked for")),
        };
        if message.has_remaining() {
            Err(Odd::Malformed("it goes on after its end"))
        } else {
            Ok(Some(event))
        }
    }

    fn must_be_inside(&self) -> Result<(), Odd> {
        if self.inside { Ok(()) } else { Err(Odd::Malformed("it is outside of a transaction")) }
    }

    fn relation(&self, message: &mut Bytes) -> Result<&Relation, Odd> {
        self.must_be_inside()?;
        let number = message.try_get_u32()?;
        match self.relations.get(&number) {
            Some(Ok(relation)) => Ok(relation),
            Some(Err(name)) => Err(Odd::Changed(format!(
                "the stream has rows of table {name}, which was renamed, or put into the publication"
            ))),
            None => Err(Odd::Malformed("its relation was not described")),
        }
    }

    fn describe(&self, message: &mut Bytes) -> Result<(u32, Result<Relation, String>), Odd> {
        let number = message.try_get_u32()?;
        // The schema pg_catalog is sent as nothing.
        let schema = match text(message)? {
            schema if schema.is_empty() => "pg_catalog".to_owned(),
            schema => schema,
        };
        let name = text(message)?;
        let _identity = message.try_get_u8()?;
        let place = self.shapes.iter().position(|shape| shape.schema == schema && shape.name == name);
        let Some(table) = place else { return Ok((number, Err(format!("{schema}.{name}")))) };
        let shape = &self.shapes[table];
        let changed = |what: String| Odd::Changed(format!("table {schema}.{name} has changed: {what}"));
        let count = message.try_get_u16()?;
        let mut places = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let _flags = message.try_get_u8()?;
            let column = text(message)?;
            let kind = (message.try_get_u32()?, message.try_get_i32()?);
            if shape.generated.contains(&column) {
                places.push(None);
                continue;
            }
            let Some(place) = shape.columns.iter().position(|known| known.name == column) else {
                return Err(changed(format!("column {column} is new")));
            };
            if shape.columns[place].kind != kind {
                return Err(changed(format!("column {column} is of another type")));
            }
            if places.contains(&Some(place)) {
                return Err(Odd::Malformed("it has a column twice"));
            }
            places.push(Some(place));
        }
        let missing = shape.columns.iter().enumerate().find(|(place, _)| !places.contains(&Some(*place)));
        if let Some((_, column)) = missing {
            return Err(changed(format!("column {} is gone", column.name)));
        }
        if message.has_remaining() {
            return Err(Odd::Malformed("it goes on after its end"));
        }
        Ok((number, Ok(Relation { table, width: shape.columns.len(), places })))
    }
}

fn tuple(relation: &Relation, message: &mut Bytes) -> Result<Row, Odd> {
    if usize::from(message.try_get_u16()?) != relation.places.len() {
        return Err(Odd::Malformed("its row has not as many columns as the table"));
    }
    let mut row = vec![Value::Null; relation.width];
    for place in &relation.places {
        let value = match message.try_get_u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            form @ (b't' | b'b') => {
                let length = message.try_get_u32()?;
                let bytes = take(message, length)?;
                if form == b't' { Value::Text(bytes) } else { Value::Binary(bytes) }
            }
            _ => return Err(Odd::Malformed("it has a value of no known form")),
        };
        if let Some(place) = place {
            row[*place] = value;
        }
    }
    Ok(row)
}

fn expect(message: &mut Bytes, mark: u8) -> Result<(), Odd> {
    if message.try_get_u8()? == mark { Ok(()) } else { Err(Odd::Malformed("it has no new row")) }
}

fn take(message: &mut Bytes, length: u32) -> Result<Bytes, Odd> {
    match usize::try_from(length) {
        Ok(length) if length <= message.len() => Ok(message.split_to(length)),
        _ => Err(Odd::Malformed("it ends too early")),
    }
}

fn text(message: &mut Bytes) -> Result<String, Odd> {
    let end =
        message.iter().position(|byte| *byte == 0).ok_or(Odd::Malformed("it has a text without an end"))?;
    let text = message.split_to(end);
    message.advance(1);
    String::from_utf8(text.into()).map_err(|_| Odd::Malformed("it has a text that is not UTF-8"))
}
