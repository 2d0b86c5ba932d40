//! Many changes made few: of each row, what the batch does to it in the end.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::mover::change::{Op, Row, Value};
use crate::mover::table::Table;

/// A change as it was pushed: the place of its table, and what happened.
pub(super) type Pushed = (usize, Op);

/// What is written in one go. The stages of a plan follow each other.
#[derive(Debug)]
pub(super) enum Stage<'a> {
    /// The net effect of a part of the changes.
    Together { part: Range<usize>, changes: Vec<Changes<'a>> },
    /// Changes whose net effect is not to be had from them alone, or contradicts itself: one by one, as they came.
    OneByOne { part: Range<usize> },
}

/// The net changes of one table.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) table: usize,
    /// The keys, in the order of the table's key.
    pub(super) deletes: Vec<Vec<&'a Value>>,
    /// By the columns that are known, which are all or all but those stored out of line: for each row the key, then the
    /// known other columns.
    pub(super) updates: BTreeMap<Vec<bool>, Vec<Vec<&'a Value>>>,
    /// All columns.
    pub(super) inserts: Vec<Vec<&'a Value>>,
}

/// The columns of a row that are known.
type Known<'a> = Vec<Option<&'a Value>>;

/// What became of a row, as far as the batch has been read.
#[derive(Debug)]
enum Net<'a> {
    /// It was not there, and is.
    Inserted(Known<'a>),
    /// It was there, and is, with other values.
    Updated(Known<'a>),
    /// It was there, and is not.
    Deleted,
    /// It was there, was deleted, and is there anew.
    Replaced(Known<'a>),
    /// It was not there, came, and went.
    Passed,
}

/// Why a change does not join those before it.
#[derive(Debug, PartialEq, Eq)]
enum Apart {
    /// It needs a value that only the server has: it stands alone.
    Alone,
    /// It contradicts what was before, so the server shall say what is wrong.
    Contradiction,
}

#[derive(Default)]
struct Batch<'a> {
    places: HashMap<(usize, Vec<&'a Value>), usize>,
    /// In the order in which they were first touched.
    rows: Vec<(usize, Vec<&'a Value>, Net<'a>)>,
}

/// What the changes do together, in stages.
pub(super) fn plan<'a>(tables: &[Table], pushed: &'a [Pushed]) -> Vec<Stage<'a>> {
    let mut stages = Vec::new();
    let mut batch = Batch::default();
    let mut start = 0;
    for (place, (table, op)) in pushed.iter().enumerate() {
        match batch.take(&tables[*table], *table, op) {
            Ok(()) => continue,
            Err(Apart::Alone) => {
                stages.extend(std::mem::take(&mut batch).finish(tables, start..place));
                stages.push(Stage::OneByOne { part: place..place + 1 });
            }
            Err(Apart::Contradiction) => {
                batch = Batch::default();
                stages.push(Stage::OneByOne { part: start..place + 1 });
            }
        }
        start = place + 1;
    }
    stages.extend(batch.finish(tables, start..pushed.len()));
    stages
}

impl<'a> Batch<'a> {
    fn take(&mut self, table: &Table, place: usize, op: &'a Op) -> Result<(), Apart> {
        match op {
            Op::Insert(row) => {
                let row = known(row);
                if row.iter().any(Option::is_none) {
                    return Err(Apart::Contradiction);
                }
                self.insert(table, place, row)
            }
            Op::Delete(row) => {
                let key = key_of(table, &known(row))?;
                let net = match self.net(place, &key) {
                    None | Some(Net::Updated(_) | Net::Replaced(_)) => Net::Deleted,
                    Some(Net::Inserted(_)) => Net::Passed,
                    Some(Net::Deleted | Net::Passed) => return Err(Apart::Contradiction),
                };
                self.put(place, key, net);
                Ok(())
            }
            Op::Update { old, new } => {
                let row = filled(new, old.as_ref());
                let to = key_of(table, &row)?;
                let from = old.as_ref().map_or(Ok(to.clone()), |old| key_of(table, &known(old)))?;
                if from == to { self.update(place, to, row) } else { self.move_to(table, place, from, row) }
            }
        }
    }

    fn net(&self, table: usize, key: &[&'a Value]) -> Option<&Net<'a>> {
        // The key is looked up as it is stored, so it has to be one.
        self.places.get(&(table, key.to_vec())).map(|at| &self.rows[*at].2)
    }

    fn put(&mut self, table: usize, key: Vec<&'a Value>, net: Net<'a>) {
        match self.places.get(&(table, key.clone())) {
            Some(at) => self.rows[*at].2 = net,
            None => {
                self.places.insert((table, key.clone()), self.rows.len());
                self.rows.push((table, key, net));
            }
        }
    }

    fn insert(&mut self, table: &Table, place: usize, row: Known<'a>) -> Result<(), Apart> {
        let key = key_of(table, &row)?;
        let net = match self.net(place, &key) {
            None | Some(Net::Passed) => Net::Inserted(row),
            Some(Net::Deleted) => Net::Replaced(row),
            Some(Net::Inserted(_) | Net::Updated(_) | Net::Replaced(_)) => return Err(Apart::Contradiction),
        };
        self.put(place, key, net);
        Ok(())
    }

    fn update(&mut self, place: usize, key: Vec<&'a Value>, row: Known<'a>) -> Result<(), Apart> {
        let at = self.places.get(&(place, key.clone())).copied();
        match at.map(|at| &mut self.rows[at].2) {
            None => self.put(place, key, Net::Updated(row)),
            Some(Net::Inserted(before) | Net::Updated(before) | Net::Replaced(before)) => over(before, row),
            Some(Net::Deleted | Net::Passed) => return Err(Apart::Contradiction),
        }
        Ok(())
    }

    /// The row goes to another key: deleted here, inserted there, which takes that all of its values are known.
    fn move_to(
        &mut self,
        table: &Table,
        place: usize,
        from: Vec<&'a Value>,
        row: Known<'a>,
    ) -> Result<(), Apart> {
        let (before, left) = match self.net(place, &from) {
            None => (None, Net::Deleted),
            Some(Net::Inserted(before)) => (Some(before), Net::Passed),
            Some(Net::Updated(before) | Net::Replaced(before)) => (Some(before), Net::Deleted),
            Some(Net::Deleted | Net::Passed) => return Err(Apart::Contradiction),
        };
        let mut whole = before.cloned().unwrap_or_else(|| vec![None; row.len()]);
        over(&mut whole, row);
        if whole.iter().any(Option::is_none) {
            return Err(Apart::Alone);
        }
        self.put(place, from, left);
        self.insert(table, place, whole)
    }

    fn finish(self, tables: &[Table], part: Range<usize>) -> Option<Stage<'a>> {
        if part.is_empty() {
            return None;
        }
        let mut changes: Vec<Changes<'a>> = Vec::new();
        let mut places: HashMap<usize, usize> = HashMap::new();
        for (table, key, net) in self.rows {
            let at = *places.entry(table).or_insert_with(|| {
                changes.push(Changes {
                    table,
                    deletes: Vec::new(),
                    updates: BTreeMap::new(),
                    inserts: Vec::new(),
                });
                changes.len() - 1
            });
            let of_table = &mut changes[at];
            match net {
                Net::Inserted(row) => of_table.inserts.push(row.into_iter().flatten().collect()),
                Net::Updated(row) => {
                    let is_known = row.iter().map(Option::is_some).collect();
                    let others =
                        row.into_iter().enumerate().filter(|(at, _)| !tables[table].key.contains(at));
                    let values = key.into_iter().chain(others.filter_map(|(_, value)| value)).collect();
                    of_table.updates.entry(is_known).or_default().push(values);
                }
                Net::Deleted => of_table.deletes.push(key),
                Net::Replaced(row) => {
                    of_table.deletes.push(key);
                    of_table.inserts.push(row.into_iter().flatten().collect());
                }
                Net::Passed => {}
            }
        }
        Some(Stage::Together { part, changes })
    }
}

/// The values that the stream carries.
pub(super) fn known(row: &Row) -> Known<'_> {
    row.iter().map(|value| (*value != Value::Unchanged).then_some(value)).collect()
}

/// The new row, with what is not changed out of the old one, where that has it.
pub(super) fn filled<'a>(new: &'a Row, old: Option<&'a Row>) -> Known<'a> {
    // What is stored out of line is not null; a null of the old row is a column that is not of the identity.
    let of_old = |at| {
        let value: Option<&'a Value> = old.and_then(|old| old.get(at));
        value.filter(|value| matches!(value, Value::Binary(_) | Value::Text(_)))
    };
    let with_place = known(new).into_iter().enumerate();
    with_place.map(|(at, value)| value.or_else(|| of_old(at))).collect()
}

/// The later values, where they are known, over the earlier ones.
fn over<'a>(before: &mut Known<'a>, row: Known<'a>) {
    for (place, value) in before.iter_mut().zip(row) {
        if value.is_some() {
            *place = value;
        }
    }
}

fn key_of<'a>(table: &Table, row: &Known<'a>) -> Result<Vec<&'a Value>, Apart> {
    let value = |at: &usize| row.get(*at).copied().flatten().filter(|value| **value != Value::Null);
    table.key.iter().map(value).collect::<Option<_>>().ok_or(Apart::Contradiction)
}
