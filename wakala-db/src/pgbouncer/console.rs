//! The admin console of one PgBouncer, which takes the simple protocol only.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ConfigConnectImpl, Connect};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::PgBouncerVersion;
use crate::error::Call;

/// The database under which PgBouncer itself can be asked.
const CONSOLE: &str = "pgbouncer";

/// How long one call may take, a new connection included.
const LIMIT: Duration = Duration::from_secs(5);

/// The admin console of one PgBouncer process. Cheap to clone; clones share one connection.
///
/// The console takes the simple protocol only: a prepared statement, such as a connection pool's check or a driver's
/// `query`, ends the connection. So it is reached through this and not through a pool of connections. The connection is
/// made at the first call and kept; a call that finds it lost makes a new one, once.
///
/// Calls are one after the other. Each ends within [the limit](Self::with_limit), also where nothing answers. All are
/// idempotent, and a dropped one leaves nothing behind.
#[derive(Clone)]
pub struct Console {
    name: Arc<str>,
    config: Config,
    connect: Arc<dyn Connect>,
    limit: Duration,
    client: Arc<Mutex<Option<Client>>>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("name", &self.name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pgbouncer {}", self.name)
    }
}

impl Console {
    /// The console at the host and port of `config`, as its user, who must be one of `admin_users`; for reading, one of
    /// `stats_users` sees most. Whatever database it names is replaced. Nothing is sent yet.
    pub fn new(config: Config) -> Self {
        Self::with_tls(config, NoTls)
    }

    /// The same over TLS.
    pub fn with_tls<T>(mut config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        config.dbname(CONSOLE);
        let name = address(&config).into();
        let connect = Arc::new(ConfigConnectImpl { tls });
        Self { name, config, connect, limit: LIMIT, client: Arc::default() }
    }

    /// Names it in errors and plans; its address, as given.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Says how long one call may take, a new connection included; 5 seconds as given.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rows of `SHOW <what>`: `POOLS`, `STATS`, `DATABASES`, `CONFIG`, `LISTS`, `VERSION`. Reads only.
    ///
    /// # Errors
    /// `Unavailable` and `DeadlineExceeded` where it does not answer, `Denied` where the user may not. `InvalidConfig` for
    /// what is not one word.
    pub async fn show(&self, what: &str) -> Result<Vec<ConsoleRow>> {
        if what.is_empty() || !what.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let message = format!("{what:?} is not one word; SHOW takes one, such as POOLS");
            return Err(Error::invalid("show", message).on(self));
        }
        let rows = self.run("show", &format!("SHOW {what}"), false).await?;
        Ok(rows
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let columns = row.columns().iter().enumerate();
                    let value = |index| row.get(index).map(str::to_owned);
                    Some(ConsoleRow(columns.map(|(i, c)| (c.name().to_owned(), value(i))).collect()))
                }
                _ => None,
            })
            .collect())
    }

    /// The version of the process.
    ///
    /// # Errors
    /// As for [`show`](Self::show); `Unexpected` where it does not say.
    pub async fn version(&self) -> Result<PgBouncerVersion> {
        let rows = self.show("VERSION").await?;
        let text = rows.first().and_then(|row| row.text("version")).unwrap_or_default();
        text.parse().map_err(|_| {
            let message = format!("it answered {text:?} for its version; is it a PgBouncer?");
            Error::new(ErrorKind::Unexpected, "version", message).on(self)
        })
    }

    /// Tells it to read its configuration file, and the files that this names, again.
    ///
    /// That it answers says nothing about the file: versions before 1.25 take the lines before the first wrong one,
    /// reset what comes after, and answer that all is well. Look at `SHOW CONFIG` and `SHOW DATABASES`.
    ///
    /// # Errors
    /// As for [`show`](Self::show). `InvalidConfig` where a version that says so found the file wrong: part of it may be
    /// in force.
    pub async fn reload(&self) -> Result<()> {
        self.run("reload", "RELOAD", true).await.map(drop)
    }

    async fn run(&self, operation: &'static str, sql: &str, writes: bool) -> Result<Vec<SimpleQueryMessage>> {
        let call = Call { operation, subject: self.to_string(), writes };
        let until = Instant::now() + self.limit;
        let Ok(mut kept) = timeout_at(until, self.client.lock()).await else {
            return Err(self.not_begun(&call, "other calls to it took all the time"));
        };
        // Taken out, so that a call that is dropped midway takes its connection with it: the next one would get its answer.
        if let Some(client) = kept.take().filter(|client| !client.is_closed()) {
            match timeout_at(until, client.simple_query(sql)).await {
                Ok(Ok(rows)) => {
                    *kept = Some(client);
                    return Ok(rows);
                }
                // It was lost while it lay idle, most likely; all that is sent here may be sent twice.
                Ok(Err(error)) if error.as_db_error().is_none() => {}
                Ok(Err(error)) => {
                    *kept = Some(client).filter(|client| !client.is_closed());
                    return Err(self.refused(&call, error));
                }
                Err(_) => return Err(call.no_answer_within(self.limit)),
            }
        }
        let client = match timeout_at(until, self.connect.connect(&self.config)).await {
            Ok(Ok((client, _driver))) => client,
            Ok(Err(error)) => {
                return Err(denied(&call, &error)
                    .unwrap_or_else(|| call.no_connection(deadpool_postgres::PoolError::Backend(error))));
            }
            Err(_) => {
                return Err(self.not_begun(&call, "no connection; is the process up, and its address right?"));
            }
        };
        match timeout_at(until, client.simple_query(sql)).await {
            Ok(Ok(rows)) => {
                *kept = Some(client);
                Ok(rows)
            }
            Ok(Err(error)) => Err(self.refused(&call, error)),
            Err(_) => Err(call.no_answer_within(self.limit)),
        }
    }

    /// Nothing was sent within the limit.
    fn not_begun(&self, call: &Call, why: &str) -> Error {
        let message = format!("nothing was sent within {:?}: {why}", self.limit);
        let error = Error::new(ErrorKind::DeadlineExceeded, call.operation, message).on(self);
        error.with_retry(Retry::Safe { after: None })
    }

    fn refused(&self, call: &Call, error: tokio_postgres::Error) -> Error {
        if let Some(denied) = denied(call, &error) {
            return denied;
        }
        match error.as_db_error() {
            Some(answer) if *answer.code() == SqlState::CONFIG_FILE_ERROR => {
                let words = answer.message().trim_end_matches('.');
                let message =
                    format!("it found its configuration wrong ({words}); part of it may be in force");
                Error::new(ErrorKind::InvalidConfig, call.operation, message)
                    .on(self)
                    .with_retry(Retry::ObserveFirst)
                    .with_source(error)
            }
            _ => call.failed(error),
        }
    }
}

/// The console says who may not as it says everything: by words.
fn denied(call: &Call, error: &tokio_postgres::Error) -> Option<Error> {
    const WORDS: [&str; 3] = ["admin access needed", "not allowed", "password authentication failed"];
    let answer = error.as_db_error()?;
    let words = answer.message();
    // "SASL authentication failed" is what a wrong password gets, and `no more connections allowed` is another matter.
    let told = WORDS.iter().any(|known| words.contains(known)) || words == "SASL authentication failed";
    if !told || words.starts_with("no more") {
        return None;
    }
    let message = format!("{words}; log in as one of admin_users, with its password");
    Some(Error::new(ErrorKind::Denied, call.operation, message).on(&call.subject).with_source(answer.clone()))
}

fn address(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => config.get_hostaddrs().first().map_or_else(|| "localhost".to_owned(), ToString::to_string),
    };
    format!("{host}:{}", config.get_ports().first().copied().unwrap_or(5432))
}

/// A row of the console's answer, by the names of its columns: these, and not their order, are the same in all versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleRow(BTreeMap<String, Option<String>>);

impl ConsoleRow {
    /// The column's text; `None` where there is no such column, or nothing in it.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    /// The column's number; `None` where it is none.
    pub fn number(&self, column: &str) -> Option<u64> {
        self.text(column)?.parse().ok()
    }

    /// Whether there is such a column.
    pub fn has(&self, column: &str) -> bool {
        self.0.contains_key(column)
    }
}
