//! Change by change, in the order of the source.

use tokio_postgres::error::DbError;
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::Applier;
use super::coalesce::{self, Pushed};
use super::encode::Param;
use super::flight::{Failure, Flight, Leg};
use super::sql::{Deed, Form};
use super::statements::Shape;
use crate::error::Call;
use crate::mover::change::{Op, Value};
use crate::mover::table::Table;

/// How many may be under way.
const WINDOW: usize = 256;

impl Applier {
    /// Executes the changes in the open transaction.
    ///
    /// # Errors
    /// `Conflict`, not to be repeated, where one does not hit exactly one row.
    pub(super) async fn replay(&mut self, pushed: &[Pushed]) -> Result<()> {
        let tables = self.tables.clone();
        let call = self.call(false);
        self.replays += 1;
        tracing::debug!(
            changes = pushed.len(),
            replays = self.replays,
            "the order of the changes matters; they are applied one by one"
        );
        for window in pushed.chunks(WINDOW) {
            let mut steps = Vec::with_capacity(window.len());
            for (table, op) in window {
                let Some(step) = step(*table, &tables[*table], op) else {
                    return Err(conflict(&call, &tables[*table], op, "the stream lacks a value of it"));
                };
                steps.push(step);
            }
            let shapes: Vec<Shape> = steps.iter().map(|(shape, _)| shape.clone()).collect();
            self.statements.prepare(&self.client, &tables, shapes.into_iter(), &call).await?;
            let client = &self.client;
            let mut flight = Flight::new();
            for (place, (shape, parameters)) in steps.into_iter().enumerate() {
                let statement = self.statements.of(&shape);
                let request = async move {
                    match client.execute_raw(statement, parameters).await {
                        Ok(1) => Ok(()),
                        Ok(rows) => Err(Failure::Count(rows)),
                        Err(error) => Err(Failure::Client(error)),
                    }
                };
                flight.send(Leg::Rows(place), request).await;
            }
            if let Err((leg, failure)) = flight.land().await {
                let Leg::Rows(place) = leg else { return Err(self.failed(failure, &call)) };
                let (table, op) = &window[place];
                return Err(self.explained(failure, &call, &tables[*table], op));
            }
        }
        Ok(())
    }

    fn explained(&self, failure: Failure, call: &Call, table: &Table, op: &Op) -> Error {
        match failure {
            Failure::Count(0) => conflict(call, table, op, "the row is not there"),
            Failure::Count(rows) => conflict(call, table, op, &format!("there are {rows} such rows")),
            Failure::Client(error) => match error.as_db_error().filter(|answer| is_conflict(answer)) {
                Some(answer) => {
                    let why = answer.detail().unwrap_or_else(|| answer.message()).trim_end_matches('.');
                    let constraint = answer.constraint().unwrap_or("a constraint");
                    conflict(call, table, op, &format!("{constraint} is in the way: {why}"))
                }
                None => self.failed(Failure::Client(error), call),
            },
            failure @ Failure::Ours(_) => self.failed(failure, call),
        }
    }
}

/// A unique or an exclusion constraint, or a table's check: one shard has what the other has not.
fn is_conflict(answer: &DbError) -> bool {
    answer.code().code().starts_with("23")
}

/// The statement for one change, with its parameters. `None` where the change lacks values that it needs.
fn step(place: usize, table: &Table, op: &Op) -> Option<(Shape, Vec<Param>)> {
    let (deed, values) = match op {
        Op::Insert(row) => (Deed::Insert, row.iter().collect()),
        Op::Delete(row) => {
            (Deed::Delete, table.key.iter().map(|at| row.get(*at)).collect::<Option<Vec<_>>>()?)
        }
        Op::Update { old, new } => {
            let row = coalesce::filled(new, old.as_ref());
            let key = |at: &usize| match old {
                Some(old) => old.get(*at),
                None => row.get(*at).copied().flatten(),
            };
            let key = table.key.iter().map(key).collect::<Option<Vec<_>>>()?;
            let known: Vec<bool> = row.iter().map(Option::is_some).collect();
            let moves = table.key.iter().zip(&key).any(|(at, value)| row[*at] != Some(*value));
            // What no update may name: in a key it may be left out where the key stays.
            let unnameable = (0..row.len()).any(|at| {
                known[at] && table.columns[at].identity_always && (moves || !table.key.contains(&at))
            });
            let deed = match (moves, unnameable) {
                (_, true) => Deed::Reinsert(known),
                (true, false) => Deed::Rekey(known),
                (false, false) => Deed::Update(known),
            };
            let with_key = !matches!(deed, Deed::Update(_));
            let rest = row.iter().enumerate().filter(|(at, _)| with_key || !table.key.contains(at));
            (deed, key.iter().copied().chain(rest.filter_map(|(_, value)| *value)).collect())
        }
    };
    let parameters = values.into_iter().map(Param::one).collect::<Option<Vec<_>>>()?;
    Some((Shape { table: place, deed, form: Form::Plain }, parameters))
}

fn conflict(call: &Call, table: &Table, op: &Op, why: &str) -> Error {
    let (verb, row) = match op {
        Op::Insert(row) => ("an insert has to insert one row", row),
        Op::Update { old: Some(row), .. } | Op::Update { old: None, new: row } => {
            ("an update has to hit exactly one row", row)
        }
        Op::Delete(row) => ("a delete has to hit exactly one row", row),
    };
    let key = table.key.iter().map(|at| {
        let column = &table.columns[*at];
        format!(
            "{}={}",
            column.name,
            row.get(*at).map_or_else(String::new, |value| shown(value, &column.type_name))
        )
    });
    let key = key.collect::<Vec<_>>().join(", ");
    let message = format!(
        "{verb}, but {why}; the shards have diverged: find out who wrote there, then abandon the move or repeat it"
    );
    Error::new(ErrorKind::Conflict, call.operation, message)
        .on(format!("{}, {table} ({key})", call.subject))
        .with_retry(Retry::Never)
}

/// A value of a key, for people.
fn shown(value: &Value, kind: &str) -> String {
    let bytes = match value {
        Value::Null => return "null".to_owned(),
        Value::Unchanged => return "(unchanged)".to_owned(),
        Value::Text(bytes) => return String::from_utf8_lossy(bytes).into_owned(),
        Value::Binary(bytes) => bytes,
    };
    let number = || -> Option<String> {
        Some(match kind {
            "smallint" => i16::from_be_bytes(bytes.as_ref().try_into().ok()?).to_string(),
            "integer" => i32::from_be_bytes(bytes.as_ref().try_into().ok()?).to_string(),
            "bigint" => i64::from_be_bytes(bytes.as_ref().try_into().ok()?).to_string(),
            "uuid" => uuid::Uuid::from_slice(bytes).ok()?.hyphenated().to_string(),
            _ if kind == "text" || kind.starts_with("character varying") => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            _ => return None,
        })
    };
    number()
        .unwrap_or_else(|| bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")))
}
