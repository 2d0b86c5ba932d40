//! Writes the changes of the other shard to this one: many of its transactions in one, and exactly.
//!
//! Exactly: an insert inserts one row, an update or a delete hits one. Where that is not so, both shards have diverged;
//! nothing is put right silently, all stops.
//!
//! A batch is first reduced to what it does to each row in the end (`coalesce`), which is then written table by table:
//! deletes, updates, inserts. Rows go to the server as one array for each column, many inserts by COPY. The statements
//! are prepared, count their rows on the server and fail there, so that a small batch travels in one round trip: BEGIN,
//! the lease, the rows, the progress, COMMIT. Should the order within the batch have mattered (two rows that exchange
//! the values of a unique column), the batch is undone and written again, change by change in the order of the source.
//!
//! Every commit waits for the disk (`synchronous_commit` is raised to `on` where it is less): what [`commit`] has
//! answered may be confirmed to the slot, and a token that is applied stays applied.
//!
//! [`commit`]: Applier::commit

mod coalesce;
mod encode;
mod flight;
mod replay;
mod sql;
mod statements;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Statement};
use wakala_core::{Error, ErrorKind, Result, Retry};

use self::coalesce::Pushed;
use self::flight::{Failure, Flight, Leg};
use self::statements::Statements;
use super::change::{Op, Value};
use super::holder::Holder;
use super::table::Table;
use crate::error::Call;

/// How the session is to be. The values of the stream are in these forms, where they are text; functions in defaults,
/// generated columns and indexes find no more than `pg_catalog`; and rows are always looked up by their keys, since
/// statistics may be missing or old.
const SESSION: &str = "
SET session_replication_role = replica;
SET idle_in_transaction_session_timeout = '30s';
SET lock_timeout = '30s';
SET statement_timeout = 0;
SET search_path = '';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET xmloption = content;
SET plan_cache_mode = force_generic_plan;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET jit = off;
SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
    WHERE pg_catalog.current_setting('synchronous_commit') IN ('off', 'local')";

/// After how many rows, or how long, plans are made anew: a table that was empty has grown, by this or by the copy.
const ROWS_OF_A_PLAN: usize = 20_000;
const AGE_OF_A_PLAN: Duration = Duration::from_secs(10);

/// What a value takes besides its bytes.
const VALUE_BYTES: usize = size_of::<Value>();

/// What the next call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No transaction is open.
    Idle,
    Open,
    /// Something failed or was given up half-way: only `rollback`.
    Broken,
}

/// The writer to one shard, over a connection of its own.
///
/// The buffer takes about what [`buffered_bytes`](Self::buffered_bytes) says, and writing it twice as much again for a
/// while: flush at a few megabytes. A transaction of the source may be spread over any number of flushes.
///
/// The server ends the session where an open transaction is given nothing for 30 seconds.
///
/// After an error, or where a call was given up before its end, only [`rollback`](Self::rollback) is of use; it forgets
/// what was pushed since the last commit. The caller begins again from the progress that the shard has.
pub(crate) struct Applier {
    client: Client,
    holder: Holder,
    tables: Arc<[Table]>,
    statements: Statements,
    progress: Statement,
    buffer: Vec<Pushed>,
    bytes: usize,
    state: State,
    /// Rows written since plans were made, and when that was.
    planned_rows: usize,
    planned: Instant,
    /// Batches that had to be written change by change.
    replays: u64,
}

impl fmt::Debug for Applier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applier")
            .field("holder", &self.holder)
            .field("state", &self.state)
            .field("buffered", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

impl Applier {
    /// Makes the session what it has to be, and looks the tables up.
    ///
    /// # Errors
    /// `Denied` where the role may not set `session_replication_role`; `NotFound` where a table or a column is missing.
    pub(crate) async fn open(client: Client, holder: Holder, tables: Arc<[Table]>) -> Result<Self> {
        let call = Call { operation: "open_applier", subject: subject(&holder), writes: false };
        client.batch_execute(SESSION).await.map_err(|error| call.failed(error))?;
        let statements = Statements::read(&client, &tables, &call).await?;
        let progress = sql::counted(
            "UPDATE wakala_shard.move AS m SET applied = $1 WHERE m.move_id = $2 AND m.lease = $3 \
             AND (m.applied IS NULL OR m.applied <= $1)",
            "1",
        );
        let types = [Type::PG_LSN, Type::TEXT, Type::INT8];
        let progress = client.prepare_typed(&progress, &types).await.map_err(|error| call.failed(error))?;
        Ok(Self {
            client,
            holder,
            tables,
            statements,
            progress,
            buffer: Vec::new(),
            bytes: 0,
            state: State::Idle,
            planned_rows: 0,
            planned: Instant::now(),
            replays: 0,
        })
    }

    /// Takes a change to be written. Only what was judged to be applied, in the order of the source.
    pub(crate) fn push(&mut self, table: usize, op: Op) {
        self.bytes += weight(&op);
        self.buffer.push((table, op));
    }

    /// About how much memory the buffer takes.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    /// Writes what is buffered, in the open transaction; begins one where none is.
    ///
    /// # Errors
    /// `Conflict`, not to be repeated, where a change does not hit exactly one row: its table and key are named. Else
    /// what the server says. Nothing is committed in any case.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        let (pushed, before) = self.start(false)?;
        self.write(&pushed, before, None).await?;
        self.state = State::Open;
        Ok(())
    }

    /// Writes what is buffered, notes the progress, executes the statements of `also` and commits: all or nothing. To be
    /// called where a transaction of the source has ended. In one round trip where the batch is small and no
    /// transaction is open.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush). Where the connection is lost, it may have been committed
    /// ([`Retry::ObserveFirst`]): `wakala_shard.move.applied` tells.
    pub(crate) async fn commit(&mut self, applied: PgLsn, also: &[String]) -> Result<()> {
        let (pushed, before) = self.start(true)?;
        self.write(&pushed, before, Some(Finale { applied, also })).await?;
        self.state = State::Idle;
        Ok(())
    }

    /// Has the server plan how a tenant is received, which takes longer than to do it: for nobody's tenant.
    ///
    /// # Errors
    /// `Unavailable` where the connection is lost.
    pub(crate) async fn rehearse(&self) -> Result<()> {
        let sql = "DO $$BEGIN PERFORM wakala_shard.receive('', 0); \
            EXCEPTION WHEN SQLSTATE 'WK004' THEN NULL; END$$";
        match self.state {
            State::Idle => {
                self.client.batch_execute(sql).await.map_err(|error| self.call(false).failed(error))
            }
            State::Open | State::Broken => Ok(()),
        }
    }

    /// Undoes what was not committed, and forgets what is buffered.
    ///
    /// # Errors
    /// `Unavailable` where the connection is lost; nothing of it will be committed then either, but see
    /// [`commit`](Self::commit).
    #[cfg(test)]
    pub(crate) async fn rollback(&mut self) -> Result<()> {
        self.buffer = Vec::new();
        self.bytes = 0;
        self.state = State::Broken;
        let call = self.call(false);
        self.client.batch_execute("ROLLBACK").await.map_err(|error| call.failed(error))?;
        self.state = State::Idle;
        Ok(())
    }

    /// Takes the buffer. Until the call has succeeded, whose end may never come, the state is `Broken`.
    fn start(&mut self, committing: bool) -> Result<(Vec<Pushed>, State)> {
        let before = std::mem::replace(&mut self.state, State::Broken);
        if before == State::Broken {
            let message =
                "an earlier call failed or was given up; roll back, and begin again from its progress";
            let call = self.call(committing);
            return Err(Error::new(ErrorKind::Conflict, call.operation, message)
                .on(call.subject)
                .with_retry(Retry::Never));
        }
        self.bytes = 0;
        Ok((std::mem::take(&mut self.buffer), before))
    }

    /// `committing`: whether a lost answer leaves open whether it has happened.
    fn call(&self, committing: bool) -> Call {
        let operation = if committing { "commit_changes" } else { "apply_changes" };
        Call { operation, subject: subject(&self.holder), writes: committing }
    }

    async fn send_begin<'a>(&'a self, flight: &mut Flight<'a>) {
        self.send_sql(flight, Leg::Frame, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await;
        let enter = async { self.holder.enter(&self.client).await.map_err(Failure::Ours) };
        flight.send(Leg::Frame, enter).await;
    }

    async fn send_finale<'a>(&'a self, flight: &mut Flight<'a>, finale: &Finale<'a>) {
        let applied = finale.applied;
        let progress = async move {
            let parameters: [&(dyn ToSql + Sync); 3] = [&applied, &self.holder.move_id, &self.holder.lease];
            let counted = self.client.execute(&self.progress, &parameters).await;
            counted.map(drop).map_err(Failure::Client)
        };
        flight.send(Leg::Frame, progress).await;
        for (place, statement) in finale.also.iter().enumerate() {
            self.send_sql(flight, Leg::Also(place), statement).await;
        }
        self.send_sql(flight, Leg::Frame, "COMMIT").await;
    }

    async fn send_sql<'a>(&'a self, flight: &mut Flight<'a>, leg: Leg, statement: &'a str) {
        let request = async { self.client.batch_execute(statement).await.map_err(Failure::Client) };
        flight.send(leg, request).await;
    }

    fn failed(&self, failure: Failure, call: &Call) -> Error {
        match failure {
            Failure::Ours(error) => error,
            Failure::Client(error) => call.failed(error),
            Failure::Count(rows) => call.odd_answer(format!("a count of {rows}")),
        }
    }
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug)]
struct Finale<'a> {
    applied: PgLsn,
    also: &'a [String],
}

fn subject(holder: &Holder) -> String {
    format!("move {}", holder.move_id)
}

fn weight(op: &Op) -> usize {
    let row = |row: &[Value]| {
        row.iter()
            .map(|value| match value {
                Value::Binary(bytes) | Value::Text(bytes) => VALUE_BYTES + bytes.len(),
                Value::Null | Value::Unchanged => VALUE_BYTES,
            })
            .sum::<usize>()
    };
    let values = match op {
        Op::Insert(new) => row(new),
        Op::Update { old, new } => old.as_deref().map_or(0, row) + row(new),
        Op::Delete(old) => row(old),
    };
    values + size_of::<Pushed>()
}
