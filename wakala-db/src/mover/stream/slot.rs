//! Slots and publications: made, looked at, removed.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::failure::Failure;
use super::wire::{Secure, Wire};
use crate::config::quoted;
use crate::error::Call;
use crate::mover::registry::one;
use crate::mover::snapshot::Snapshot;
use crate::mover::table::Table;
use crate::mover::tenant::{Tenants, literal};

/// How long a process that holds a slot has to let go of it, once it was told to end.
const LET_GO: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// How long a statement may take to look which publications its table is in.
const STATEMENTS: Duration = Duration::from_secs(1);
/// How long what the log has may not be seen.
const SHOWN: Duration = Duration::from_secs(60);
/// How long the server has to hang up.
const PARTING: Duration = Duration::from_secs(5);

/// What the server says of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotFacts {
    /// From here on the log is kept; `None` where it is lost.
    pub(crate) restart_lsn: Option<PgLsn>,
    /// Up to here the consumer has everything.
    pub(crate) confirmed_flush: Option<PgLsn>,
    /// `reserved`, `extended`, `unreserved` (may be lost at the next checkpoint) or `lost`.
    pub(crate) wal_status: Option<String>,
    /// The process that reads it.
    pub(crate) active_pid: Option<i32>,
    /// Of the log that is kept for it, in bytes.
    pub(crate) retained_bytes: Option<i64>,
    /// Why it can never be read again, where that is so.
    pub(crate) invalidation: Option<String>,
}

/// Makes a slot whose changes begin at the position that is returned; whatever snapshot is taken from now on sees all
/// before it. It waits for all transactions that are open, also those of other databases of the server: the caller sets
/// the limit. Not idempotent, so that a slot is never taken for one that was made before. `client` is a session on the
/// database, in no transaction.
///
/// # Errors
/// `Conflict` where there is one of the name, `InvalidConfig` where `wal_level` is too low, `Unavailable` where
/// `max_replication_slots` is reached, `Denied` without REPLICATION.
pub(crate) async fn create_slot(
    config: &Config,
    tls: Option<&dyn Secure>,
    client: &Client,
    name: &str,
) -> Result<PgLsn> {
    let failed = |failure: Failure| failure.into_error(name);
    let mut wire = Wire::connect(config, tls).await.map_err(failed)?;
    // It shows what is before the beginning, until the next command on this connection.
    let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput", quoted(name));
    let rows = wire.query(&command).await.map_err(failed)?;
    let odd = || failed(Failure::Protocol("an odd answer to CREATE_REPLICATION_SLOT".into()));
    let mut row = rows.into_iter().next().ok_or_else(odd)?.into_iter().skip(1).flatten();
    let at = row.next().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
    let exported = row.next().ok_or_else(odd)?;
    let before = shown(client, name, &exported).await?;
    wire.close(PARTING).await;
    seen(client, name, &before).await?;
    Ok(at)
}

/// What a snapshot that another session holds sees.
async fn shown(client: &Client, name: &str, exported: &str) -> Result<Snapshot> {
    let call = Call { operation: "create_slot", subject: format!("slot {name}"), writes: true };
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
         SELECT pg_catalog.pg_current_snapshot(); COMMIT",
        literal(exported)
    );
    let answer = client.simple_query(&sql).await.map_err(|error| call.failed(error))?;
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    text.ok_or_else(|| call.odd_answer("no snapshot"))?.parse()
}

/// Waits until a transaction that is in the log before the slot begins can be seen. It is in the log a moment before, and
/// where it waits for a synchronous standby, a long one. A copy that does not see it would not have it, and neither would
/// the stream.
async fn seen(client: &Client, name: &str, before: &Snapshot) -> Result<()> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !Snapshot::current(client).await?.sees_all_of(before) {
        if begun.elapsed() > SHOWN {
            let message = "the server does not show transactions that its log has; do they wait for a synchronous standby?";
            return Err(Error::new(ErrorKind::Unavailable, "create_slot", message)
                .on(format!("slot {name}"))
                .with_retry(Retry::Safe { after: None }));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

/// Removes a slot of a move. Whoever still reads it, which only a mover does that was taken over from, is ended first.
/// Idempotent.
///
/// # Errors
/// `Conflict` where it is not let go of within ten seconds (safe to retry), or is none of ours (another output plugin);
/// `Denied` where the process that reads it may not be ended.
pub(crate) async fn drop_slot(client: &Client, name: &str) -> Result<()> {
    let call = Call { operation: "drop_slot", subject: format!("slot {name}"), writes: true };
    let until = Instant::now() + LET_GO;
    loop {
        let rows = client
            .query_typed(
                "SELECT plugin = 'pgoutput', active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
                &[(&name, Type::NAME)],
            )
            .await
            .map_err(|error| call.failed(error))?;
        let Some(row) = rows.first() else { return Ok(()) };
        let ours: Option<bool> = row.try_get(0).map_err(|error| call.failed(error))?;
        let reader: Option<i32> = row.try_get(1).map_err(|error| call.failed(error))?;
        if ours != Some(true) {
            return Err(conflict(
                &call,
                Retry::Never,
                "it is not of a move, whose slots are of pgoutput; left as it is",
            ));
        }
        let (sql, gone) = match reader {
            // Only while it still reads this slot.
            Some(_) => (
                "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = $1 AND active_pid IS NOT NULL",
                false,
            ),
            None => ("SELECT pg_catalog.pg_drop_replication_slot($1)", true),
        };
        match client.query_typed(sql, &[(&name, Type::NAME)]).await {
            Ok(_) if gone => return Ok(()),
            Ok(_) => {}
            // Somebody else dropped it first; or began to read it.
            Err(error) if code(&error) == "42704" => return Ok(()),
            Err(error) if code(&error) == "55006" => {}
            Err(error) => return Err(call.failed(error)),
        }
        if Instant::now() >= until {
            let message = "the process that reads it was told to end, and has not let go of it; try again";
            return Err(conflict(&call, Retry::Safe { after: None }, message));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the server says of a slot; `None` where there is none.
///
/// # Errors
/// By kind as the server's.
pub(crate) async fn slot_facts(client: &Client, name: &str) -> Result<Option<SlotFacts>> {
    let call = Call { operation: "slot_facts", subject: format!("slot {name}"), writes: false };
    // The reason has columns of its own since 16 and 17; a row as JSON has what there is.
    let rows = client
        .query_typed(
            "SELECT s.restart_lsn, s.confirmed_flush_lsn, s.wal_status, s.active_pid, \
                    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint, \
                    coalesce(j.row ->> 'invalidation_reason', \
                        CASE WHEN (j.row ->> 'conflicting')::boolean THEN 'conflicting' END, \
                        CASE WHEN s.wal_status = 'lost' THEN 'wal_removed' END) \
             FROM pg_catalog.pg_replication_slots AS s, LATERAL (SELECT pg_catalog.to_jsonb(s) AS row) AS j \
             WHERE s.slot_name = $1",
            &[(&name, Type::NAME)],
        )
        .await
        .map_err(|error| call.failed(error))?;
    let Some(row) = rows.first() else { return Ok(None) };
    let read = || {
        Ok(SlotFacts {
            restart_lsn: row.try_get(0)?,
            confirmed_flush: row.try_get(1)?,
            wal_status: row.try_get(2)?,
            active_pid: row.try_get(3)?,
            retained_bytes: row.try_get(4)?,
            invalidation: row.try_get(5)?,
        })
    };
    read().map(Some).map_err(|error| call.failed(error))
}

/// Makes a publication of the rows of some tenants. Where the server cannot filter rows (before 15, or where a tenant
/// column has a collation of its own), it is of the rows of all tenants, and the answer is `false`: whoever reads it
/// looks at the tenant in any case.
///
/// # Errors
/// `Conflict` where there is one of the name, `Denied` where the role does not own the tables, `InvalidConfig` where a
/// table is gone.
pub(crate) async fn create_publication(
    client: &Client,
    name: &str,
    tables: &[Table],
    tenants: &Tenants,
) -> Result<bool> {
    let call = Call { operation: "create_publication", subject: format!("publication {name}"), writes: true };
    let row = client
        .query_typed("SELECT pg_catalog.current_setting('server_version_num')::integer", &[])
        .await
        .map_err(|error| call.failed(error))?;
    let version: i32 = match row.first() {
        Some(row) => row.try_get(0).map_err(|error| call.failed(error))?,
        None => return Err(call.odd_answer("without a row")),
    };
    if version >= 150_000 {
        match client.batch_execute(&publication(name, tables, Some(tenants))).await {
            Ok(()) => return Ok(true),
            Err(error) if code(&error) == "0A000" => {
                tracing::info!(publication = name, %error, "the server does not filter its rows");
            }
            Err(error) => return Err(call.failed(error)),
        }
    }
    client.batch_execute(&publication(name, tables, None)).await.map_err(|error| call.failed(error))?;
    Ok(false)
}

fn publication(name: &str, tables: &[Table], tenants: Option<&Tenants>) -> String {
    let of = |table: &Table| match tenants {
        Some(tenants) => {
            let ids: Vec<String> = (0..tenants.ids().len()).map(|place| tenants.literal(place)).collect();
            let tenant = quoted(&table.columns[table.tenant].name);
            // IN would cast each of several ids for a varchar column, which a publication takes for no simple expression.
            format!("{} WHERE ({tenant} = ANY (ARRAY[{}]))", table.quoted(), ids.join(", "))
        }
        None => table.quoted(),
    };
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete', publish_via_partition_root = true)",
        quoted(name),
        tables.iter().map(of).collect::<Vec<_>>().join(", "),
    )
}

/// Removes a publication. Idempotent.
///
/// Whoever changes a row looks which publications its table is in, and then looks up each of them: one that goes in
/// between is an error of that statement ("cache lookup failed for publication"), whosever row it is. So its tables leave
/// it first, and it goes when no statement is at work that may still know it of them.
///
/// # Errors
/// `Denied` where it is another role's.
pub(crate) async fn drop_publication(client: &Client, name: &str) -> Result<()> {
    let call = Call { operation: "drop_publication", subject: format!("publication {name}"), writes: true };
    let failed = |error| call.failed(error);
    let tables = "SELECT pg_catalog.string_agg(pg_catalog.format('ONLY %I.%I', n.nspname, c.relname), ', ') \
         FROM pg_catalog.pg_publication AS p \
             JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid \
             JOIN pg_catalog.pg_class AS c ON c.oid = r.prrelid \
             JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE p.pubname = $1";
    let rows = client.query_typed(tables, &[(&name, Type::NAME)]).await.map_err(failed)?;
    let tables: Option<String> = rows.first().map_or(Ok(None), |row| row.try_get(0)).map_err(failed)?;
    if let Some(tables) = tables {
        let sql = format!("ALTER PUBLICATION {} DROP TABLE {tables}", quoted(name));
        client.batch_execute(&sql).await.map_err(failed)?;
        let sql = "SELECT pg_catalog.clock_timestamp()::pg_catalog.text";
        let row = one(&call, client.query_typed(sql, &[]).await)?;
        wait_for_statements(client, &call, row.try_get(0).map_err(failed)?).await?;
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quoted(name));
    client.batch_execute(&sql).await.map_err(failed)
}

/// Until the statements that were at work at that time have ended, or have had all the time in the world for what they do
/// first.
async fn wait_for_statements(client: &Client, call: &Call, since: &str) -> Result<()> {
    // Who waits for a lock or for a client is not in the midst of a look at the catalog.
    let sql = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
         WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND state = 'active' \
             AND backend_type = 'client backend' AND coalesce(wait_event_type, '') NOT IN ('Client', 'Lock') \
             AND query_start <= $1::pg_catalog.text::pg_catalog.timestamptz";
    let begun = Instant::now();
    loop {
        // Without the right to see what others do, this is all the time that they have.
        tokio::time::sleep(POLL / 2).await;
        let row = one(call, client.query_typed(sql, &[(&since, Type::TEXT)]).await)?;
        let left: i64 = row.try_get(0).map_err(|error| call.failed(error))?;
        if left == 0 || begun.elapsed() > STATEMENTS {
            return Ok(());
        }
    }
}

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

fn conflict(call: &Call, retry: Retry, message: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, call.operation, message).on(&call.subject).with_retry(retry)
}
