//! One statement: a connection, a time limit, another try where it gave way to others.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row};
use wakala_core::{Error, Result};

use crate::error::{Call, gave_way};

/// How often a statement is sent that the server rolls back for the sake of others.
const ATTEMPTS: u32 = 5;

/// A value and its type. The type goes with the statement, which so needs neither a name nor a round trip to be
/// prepared: a PgBouncer in transaction mode gives each statement another connection.
pub(crate) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// A pool, and how long a call may take.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) pool: Pool,
    pub(crate) limit: Duration,
}

impl Client {
    /// The rows of one statement, which is a transaction of its own.
    pub(crate) async fn rows(&self, call: &Call, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let until = Instant::now() + self.limit;
        let mut attempt = 1;
        loop {
            let connection = self.connection(call, until).await?;
            let answer = timeout_at(until, connection.query_typed(sql, values)).await;
            match answer {
                Ok(Ok(rows)) => {
                    connection.give_back();
                    return Ok(rows);
                }
                Ok(Err(error)) => {
                    // A broken one is found out by the pool.
                    connection.give_back();
                    if !gave_way(&error) {
                        return Err(call.failed(error));
                    }
                    if attempt == ATTEMPTS {
                        return Err(call.gave_up(error, ATTEMPTS));
                    }
                    tracing::debug!(operation = call.operation, attempt, %error, "gave way to another transaction");
                    attempt += 1;
                }
                Err(_) => return Err(call.no_answer_within(self.limit)),
            }
        }
    }

    /// The only row of a statement that has one.
    pub(crate) async fn row(&self, call: &Call, sql: &str, values: &[Value<'_>]) -> Result<Row> {
        self.rows(call, sql, values).await?.pop().ok_or_else(|| call.odd_answer("without a row"))
    }

    /// Several statements in one transaction; any failure leaves nothing of them.
    pub(crate) async fn transaction<T>(
        &self,
        call: &Call,
        work: impl AsyncFnOnce(&tokio_postgres::Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T> {
        // Whatever is the default of the role.
        self.transaction_at(call, IsolationLevel::ReadCommitted, work).await
    }

    /// The same in another isolation level.
    pub(crate) async fn transaction_at<T>(
        &self,
        call: &Call,
        isolation: IsolationLevel,
        work: impl AsyncFnOnce(&tokio_postgres::Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T> {
        let until = Instant::now() + self.limit;
        let mut connection = self.connection(call, until).await?;
        let done = timeout_at(until, async {
            let transaction = connection
                .build_transaction()
                .isolation_level(isolation)
                .read_only(false)
                .start()
                .await
                .map_err(|error| call.failed(error))?;
            let value = work(&transaction).await.map_err(|failed| match failed {
                Failed::Client(error) => call.failed(error),
                Failed::Ours(error) => error,
            })?;
            transaction.commit().await.map_err(|error| call.failed(error))?;
            Ok(value)
        });
        let answer = done.await;
        match answer {
            Ok(answer) => {
                connection.give_back();
                answer
            }
            Err(_) => Err(call.no_answer_within(self.limit)),
        }
    }

    pub(crate) async fn connection(&self, call: &Call, until: Instant) -> Result<Connection> {
        match timeout_at(until, self.pool.get()).await {
            Ok(Ok(object)) => Ok(Connection(Some(object))),
            Ok(Err(error)) => Err(call.no_connection(error)),
            Err(_) => Err(call.no_connection_within(self.limit)),
        }
    }
}

/// Why a transaction is not committed.
#[derive(Debug)]
pub(crate) enum Failed {
    Client(tokio_postgres::Error),
    Ours(Error),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Client(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// A connection that goes back to the pool only where its statement was answered: the next one to have it would wait
/// for that answer first. Dropped before, by a time limit or because the caller was, it is closed.
#[derive(Debug)]
pub(crate) struct Connection(Option<Object>);

impl Connection {
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl std::ops::Deref for Connection {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.0.as_ref().expect("taken by give_back and drop only")
    }
}

impl std::ops::DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        self.0.as_mut().expect("taken by give_back and drop only")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
