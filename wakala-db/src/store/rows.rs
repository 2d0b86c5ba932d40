//! Rows, and the numbers in them.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use wakala_core::store::{self, LeaseState, RunHead};
use wakala_core::{Error, ResourceKey, Result};

use crate::error::Call;

/// A row, whose odd values are errors of the call.
#[derive(Debug)]
pub(super) struct Columns {
    call: Call,
    row: Row,
}

impl Columns {
    pub(super) fn new(call: Call, row: Row) -> Self {
        Self { call, row }
    }

    pub(super) fn get<'a, T: FromSql<'a>>(&'a self, column: &str) -> Result<T> {
        self.row.try_get(column).map_err(|error| self.call.odd_answer(error))
    }

    pub(super) fn text(&self, column: &str) -> Result<&str> {
        self.get(column)
    }

    /// A number that is never below zero.
    pub(super) fn count(&self, column: &str) -> Result<u64> {
        number(self, self.get(column)?)
    }

    /// The error for a resource that another run holds.
    pub(super) fn taken(&self) -> Result<Error> {
        let (resource, holder) = (self.text("name")?.into(), self.text("holder")?.into());
        Ok(store::taken(self.call.operation, &resource, &holder))
    }
}

/// A number of the server's, which has no unsigned ones.
pub(super) fn number(columns: &Columns, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| columns.call.odd_answer(value))
}

/// A number for the server. One that it cannot have is none that was given out, as is -1.
pub(super) fn place(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(-1)
}

pub(super) fn key_texts(resources: &[ResourceKey]) -> Vec<&str> {
    resources.iter().map(ResourceKey::as_str).collect()
}

/// What a [`RunHead`] is read from, in the table of runs.
pub(super) fn head_columns(schema: &str) -> String {
    format!(
        "run, epoch, length, closed, owner, \
         (extract(epoch FROM lapses_at - clock_timestamp()) * 1000000)::bigint AS time_left, \
         ARRAY(SELECT resource FROM {schema}.claim WHERE claim.run = run.run ORDER BY place) AS resources"
    )
}

pub(super) fn read_head(columns: &Columns) -> Result<RunHead> {
    let resources: Vec<&str> = columns.get("resources")?;
    let owner: Option<String> = columns.get("owner")?;
    let lease = match (owner, columns.get::<Option<i64>>("time_left")?) {
        (None, _) => LeaseState::Free,
        (Some(owner), Some(left)) if left > 0 => {
            LeaseState::Held { owner, left: Duration::from_micros(number(columns, left)?) }
        }
        (Some(owner), _) => LeaseState::Lapsed { owner },
    };
    Ok(RunHead::new(
        columns.text("run")?.into(),
        resources.into_iter().map(ResourceKey::from).collect(),
        lease,
        columns.count("epoch")?,
        columns.count("length")?,
        columns.get("closed")?,
    ))
}
