//! The connections of a copy, and the conditions by which rows are chosen.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::chunks::Chunk;
use super::key::ChunkKey;
use crate::error::Call;
use crate::mover::snapshot::Snapshot;
use crate::mover::table::Table;
use crate::mover::tenant::Tenants;

/// What a move is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) tables: &'a [Table],
    pub(crate) tenants: &'a Tenants,
}

/// Nothing that a role or a database says may change how values read, cut a copy short, or hide rows from it.
const SETTINGS: &str = "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; \
    SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmloption = 'content'; \
    SET row_security = off; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; ";

/// Makes a connection one that reads rows. Names of objects within values are whole.
///
/// # Errors
/// `Unavailable` where the connection is lost.
pub(crate) async fn for_reading(client: &Client) -> Result<()> {
    let call = Call { operation: "copy", subject: "the session of the source".to_owned(), writes: false };
    let sql = format!("{SETTINGS} SET search_path = pg_catalog, pg_temp");
    client.batch_execute(&sql).await.map_err(|error| call.failed(error))
}

/// Makes a connection one that writes rows as they are: without triggers and foreign keys, in an order of its own.
///
/// # Errors
/// `Denied` for a role that may not set `session_replication_role`.
pub(crate) async fn for_writing(client: &Client) -> Result<()> {
    let call =
        Call { operation: "copy", subject: "the session of the destination".to_owned(), writes: false };
    let sql = format!("{SETTINGS} SET session_replication_role = replica");
    client.batch_execute(&sql).await.map_err(|error| call.failed(error))
}

impl Scope<'_> {
    /// For errors and messages.
    pub(super) fn subject(&self, chunk: &Chunk) -> String {
        let (table, tenant) = (&self.tables[chunk.table], &self.tenants.ids()[chunk.tenant]);
        match (chunk.lower, chunk.upper) {
            (None, None) => format!("tenant {tenant}, table {table}"),
            (Some(lower), None) => format!("tenant {tenant}, table {table} from {lower}"),
            (None, Some(upper)) => format!("tenant {tenant}, table {table} before {upper}"),
            (Some(lower), Some(upper)) => {
                format!("tenant {tenant}, table {table} from {lower} before {upper}")
            }
        }
    }

    /// The condition for the rows of a chunk.
    pub(super) fn rows_of(&self, chunk: &Chunk) -> String {
        self.rows(chunk.table, chunk.tenant, chunk.lower, chunk.upper)
    }

    /// The condition for the rows of a tenant in a table, from `lower` on and before `upper`.
    pub(crate) fn rows(
        &self,
        table: usize,
        tenant: usize,
        lower: Option<ChunkKey>,
        upper: Option<ChunkKey>,
    ) -> String {
        let table = &self.tables[table];
        let column = |place: usize| crate::config::quoted(&table.columns[place].name);
        let mut sql = format!("{} = {}", column(table.tenant), self.tenants.literal(tenant));
        if let Some((by, _)) = table.chunk_by {
            for (sign, bound) in [(">=", lower), ("<", upper)] {
                if let Some(bound) = bound {
                    sql = format!("{sql} AND {} {sign} {}", column(by), bound.literal());
                }
            }
        }
        sql
    }
}

/// A snapshot that a read-only transaction of the source is in, and a place in its log that is behind all it sees.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: Snapshot,
    behind: String,
}

/// How long a source may show no snapshot that will do, or keep what it shows from its disk.
const PATIENCE: Duration = Duration::from_secs(60);

impl View {
    /// Begins a transaction whose snapshot will do.
    ///
    /// # Errors
    /// `Unavailable` where none does within a minute.
    pub(crate) async fn open(client: &Client, acceptable: impl Fn(&Snapshot) -> bool) -> Result<Self> {
        let call = Call { operation: "snapshot", subject: "the source".to_owned(), writes: false };
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            // What a snapshot sees has its record in the log: it is written before it can be seen.
            let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                SELECT pg_current_snapshot(), pg_current_wal_insert_lsn()";
            let answer = client.simple_query(sql).await.map_err(|error| call.failed(error))?;
            let row = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let (Some(snapshot), Some(behind)) =
                (row.and_then(|row| row.get(0)), row.and_then(|row| row.get(1)))
            else {
                return Err(call.odd_answer("no snapshot"));
            };
            let view = Self { snapshot: snapshot.parse()?, behind: behind.to_owned() };
            if acceptable(&view.snapshot) {
                return Ok(view);
            }
            client.batch_execute("ROLLBACK").await.map_err(|error| call.failed(error))?;
            if begun.elapsed() > PATIENCE {
                let message = "its snapshots do not show transactions that its log has; \
                    does it wait for a synchronous standby?";
                return Err(late(&call, message));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Ends the transaction, and waits until all that it saw would survive a crash of the source.
    ///
    /// Writers may commit without a wait for the disk (`synchronous_commit = off`). Others see that at once, and after a
    /// crash it may never have been.
    ///
    /// # Errors
    /// `Unavailable` where that takes longer than a minute.
    pub(crate) async fn close(&self, client: &Client) -> Result<()> {
        let call = Call { operation: "snapshot", subject: "the source".to_owned(), writes: false };
        client.batch_execute("COMMIT").await.map_err(|error| call.failed(error))?;
        let begun = Instant::now();
        let look = format!("SELECT pg_current_wal_flush_lsn() >= '{}'::pg_lsn", self.behind);
        let mut pause = Duration::from_millis(1);
        loop {
            let answer = client.simple_query(&look).await.map_err(|error| call.failed(error))?;
            let flushed = answer.iter().any(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
                _ => false,
            });
            if flushed {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(late(&call, "its log does not reach its disk; look at the disk"));
            }
            if pause >= Duration::from_millis(4) {
                // Where nobody else writes, the log writer may sleep for seconds: a commit that waits wakes it.
                let flush = "BEGIN; SET LOCAL synchronous_commit = local; \
                    SELECT pg_logical_emit_message(true, 'wakala.flush', ''); COMMIT";
                client.batch_execute(flush).await.map_err(|error| call.failed(error))?;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

fn late(call: &Call, message: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, call.operation, message)
        .on(&call.subject)
        .with_retry(Retry::Safe { after: None })
}
