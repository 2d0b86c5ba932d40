//! The admin console of one PgBouncer process, which takes the simple protocol only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Connect, PoolError};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::instance::{Instance, Shown};
use crate::error::Call;

/// The database under which PgBouncer itself can be asked.
const CONSOLE: &str = "pgbouncer";

/// One console, and the connection to it that is kept between looks.
pub(super) struct Console {
    pub(super) name: String,
    config: Config,
    connect: Arc<dyn Connect>,
    kept: Mutex<Option<Connection>>,
    made: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    /// Differs where the process may be another one.
    number: u64,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Console {
    pub(super) fn new(name: String, mut config: Config, connect: Arc<dyn Connect>) -> Self {
        config.dbname(CONSOLE);
        Self { name, config, connect, kept: Mutex::default(), made: AtomicU64::new(0) }
    }

    /// Asks once; on a connection that was lost meanwhile, once more on another one.
    pub(super) async fn look(&self, operation: &'static str, limit: Duration) -> Result<Instance> {
        let call = Call { operation, subject: format!("pgbouncer {}", self.name), writes: false };
        let until = Instant::now() + limit;
        // Taken out: one whose answers are not waited for would give them to the next look.
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(connection) = kept.filter(|connection| !connection.client.is_closed()) {
            match self.ask(&call, connection, until, limit).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                outcome => return outcome,
            }
        }
        let client = match timeout_at(until, self.connect.connect(&self.config)).await {
            // The task that was started with it ends with it.
            Ok(Ok((client, _))) => client,
            Ok(Err(error)) => return Err(refusal(&call, error)),
            Err(_) => return Err(call.no_connection_within(limit)),
        };
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.ask(&call, Connection { client, number }, until, limit).await
    }

    async fn ask(
        &self,
        call: &Call,
        connection: Connection,
        until: Instant,
        limit: Duration,
    ) -> Result<Instance> {
        let tables = async {
            let client = &connection.client;
            // One after the other: several in one string are not answered as several.
            let pools = show(call, client, "SHOW POOLS").await?;
            let databases = show(call, client, "SHOW DATABASES").await?;
            let users = show(call, client, "SHOW USERS").await?;
            let stats = show(call, client, "SHOW STATS").await?;
            let shown = Shown { pools, databases, users, stats };
            Instance::read(call, (connection.number, Instant::now()), &shown)
        };
        match timeout_at(until, tables).await {
            Ok(outcome) => {
                *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                outcome
            }
            Err(_) => Err(call.no_answer_within(limit)),
        }
    }
}

/// The console tells by these words alone that a user may log in to other databases only.
fn refusal(call: &Call, error: tokio_postgres::Error) -> Error {
    if error.as_db_error().is_some_and(|answer| answer.message() == "not allowed") {
        let message = "the user may not use the console; add it to stats_users in pgbouncer.ini";
        return Error::new(ErrorKind::Denied, call.operation, message)
            .on(&call.subject)
            .with_retry(Retry::Never)
            .with_source(error);
    }
    call.no_connection(PoolError::Backend(error))
}

async fn show(call: &Call, client: &Client, sql: &'static str) -> Result<Table> {
    let answer = client.simple_query(sql).await.map_err(|error| call.failed(error))?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let names = row.columns().iter().map(tokio_postgres::SimpleColumn::name).enumerate();
            Some(
                names
                    .filter_map(|(place, name)| Some((name.to_owned(), row.get(place)?.to_owned())))
                    .collect(),
            )
        }
        _ => None,
    });
    Ok(Table { sql, rows: rows.collect() })
}

/// The answer to one SHOW. Its columns are found by name: their order and number are another in each version.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) sql: &'static str,
    pub(super) rows: Vec<BTreeMap<String, String>>,
}

impl Table {
    pub(super) fn rows<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = Cells<'a>> {
        self.rows.iter().map(move |row| Cells { call, sql: self.sql, row })
    }
}

/// One row of it.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    call: &'a Call,
    sql: &'static str,
    row: &'a BTreeMap<String, String>,
}

impl<'a> Cells<'a> {
    /// A column that some versions lack; `None` too where it is NULL or empty.
    pub(super) fn optional(&self, column: &str) -> Option<&'a str> {
        // Some numbers come with blanks before them.
        self.row.get(column).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    pub(super) fn text(&self, column: &str) -> Result<&'a str> {
        self.optional(column)
            .ok_or_else(|| self.call.odd_answer(format!("{} without the column {column}", self.sql)))
    }

    pub(super) fn number(&self, column: &str) -> Result<f64> {
        let text = self.text(column)?;
        text.parse()
            .map_err(|_| self.call.odd_answer(format!("{} with {text:?} for the number {column}", self.sql)))
    }

    /// The same for a column that some versions lack, where nothing is counted then.
    pub(super) fn optional_number(&self, column: &str) -> Result<f64> {
        if self.optional(column).is_some() { self.number(column) } else { Ok(0.0) }
    }
}
