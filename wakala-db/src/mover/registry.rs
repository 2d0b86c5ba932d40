//! What both shards know of a move: who drives it, how far it is, what it made.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{Client, Row};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::holder::Holder;
use super::tenant::literal;
use crate::error::Call;

/// How long a mover that is taken over from may still hold the row of the move before its sessions are ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long its sessions have to end then.
const LET_GO: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A move, as it is written down on a shard.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) move_id: &'a str,
    /// `source` or `destination`.
    pub(crate) role: &'static str,
    pub(crate) other: i32,
    pub(crate) tenants: &'a [String],
    /// Of the other shard.
    pub(crate) server: &'a Server,
}

/// By what a server, and its history, are known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) system_identifier: String,
    pub(crate) timeline: i32,
}

impl Server {
    pub(crate) async fn read(client: &Client, shard: i32) -> Result<Self> {
        let call = Call { operation: "identify", subject: format!("shard {shard}"), writes: false };
        let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()),
             ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer";
        let row = one(&call, client.query_typed(sql, &[]).await)?;
        let read = || Ok(Self { system_identifier: row.try_get(0)?, timeline: row.try_get(1)? });
        read().map_err(|error| call.failed(error))
    }
}

/// Whether a shard knows of a move; also one that has no schema yet.
pub(crate) async fn is_known(client: &Client, move_id: &str) -> Result<bool> {
    let call = Call { operation: "read_move", subject: format!("move {move_id}"), writes: false };
    let sql = "SELECT to_regclass('wakala_shard.move') IS NOT NULL";
    let row = one(&call, client.query_typed(sql, &[]).await)?;
    Ok(row.try_get(0).map_err(|error| call.failed(error))? && lease(client, move_id).await? > 0)
}

/// Another move that has one of the tenants; also on a shard that has no schema yet.
pub(crate) async fn other_move(client: &Client, move_id: &str, tenants: &[String]) -> Result<Option<String>> {
    let call = Call { operation: "read_moves", subject: format!("move {move_id}"), writes: false };
    let sql = "SELECT to_regclass('wakala_shard.move') IS NOT NULL";
    let row = one(&call, client.query_typed(sql, &[]).await)?;
    if !row.try_get::<_, bool>(0).map_err(|error| call.failed(error))? {
        return Ok(None);
    }
    let sql = "SELECT min(move_id) FROM wakala_shard.move WHERE move_id <> $1 AND tenants && $2";
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&move_id, Type::TEXT), (&tenants, Type::TEXT_ARRAY)];
    let row = one(&call, client.query_typed(sql, &values).await)?;
    row.try_get(0).map_err(|error| call.failed(error))
}

/// The lease of a move on a shard; 0 where the move is not known.
pub(crate) async fn lease(client: &Client, move_id: &str) -> Result<i64> {
    let call = Call { operation: "read_lease", subject: format!("move {move_id}"), writes: false };
    let sql = "SELECT coalesce((SELECT lease FROM wakala_shard.move WHERE move_id = $1), 0)";
    let row = one(&call, client.query_typed(sql, &[(&move_id, Type::TEXT)]).await)?;
    row.try_get(0).map_err(|error| call.failed(error))
}

/// Takes the move over under a lease, or makes it. Waits a moment for transactions of a former mover, and ends its sessions.
///
/// # Errors
/// `Conflict` where another process took it over meanwhile, where another move has one of the tenants, where the other
/// shard is another server than it was, or where the move was another one.
pub(crate) async fn take(client: &mut Client, entry: &Entry<'_>, lease: i64) -> Result<()> {
    let call = Call { operation: "take_move", subject: format!("move {}", entry.move_id), writes: true };
    match try_take(client, &call, entry, lease).await {
        Err(Failure::Busy) => {
            end_former(client, &call, entry.move_id).await?;
            try_take(client, &call, entry, lease).await.map_err(|failure| failure.in_words(&call))?;
        }
        done => done.map_err(|failure| failure.in_words(&call))?,
    }
    end_former(client, &call, entry.move_id).await
}

/// Ends the sessions of whoever drove the move before: one that is frozen holds a slot that is to be read, and one that
/// comes back must not make or drop one.
async fn end_former(client: &Client, call: &Call, move_id: &str) -> Result<()> {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()";
    let until = Instant::now() + LET_GO;
    loop {
        let left = client.query_typed(sql, &[(&application(move_id), Type::TEXT)]).await;
        let left: i64 = one(call, left)?.try_get(0).map_err(|error| call.failed(error))?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Failure::Busy.in_words(call));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The name that the sessions of a move have.
pub(crate) fn application(move_id: &str) -> String {
    format!("wakala move {move_id}")
}

enum Failure {
    /// A former mover is in the middle of a transaction.
    Busy,
    Client(tokio_postgres::Error),
    Ours(Error),
}

impl Failure {
    fn in_words(self, call: &Call) -> Error {
        match self {
            Self::Busy => {
                let message =
                    "its former mover holds a transaction open and cannot be ended; end its sessions";
                Error::new(ErrorKind::Conflict, call.operation, message)
                    .on(&call.subject)
                    .with_retry(Retry::Safe { after: None })
            }
            Self::Client(error) => call.failed(error),
            Self::Ours(error) => error,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code().is_some_and(|code| code.code() == "55P03") { Self::Busy } else { Self::Client(error) }
    }
}

async fn try_take(client: &mut Client, call: &Call, entry: &Entry<'_>, lease: i64) -> Result<(), Failure> {
    let conflict = |message: String| {
        Failure::Ours(Error::new(ErrorKind::Conflict, call.operation, message).on(&call.subject))
    };
    let work = client.transaction().await?;
    work.batch_execute(&format!(
        "SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock(hashtextextended('wakala moves', 0))",
        PATIENCE.as_millis()
    ))
    .await?;
    let sql = "SELECT move_id FROM wakala_shard.move WHERE move_id <> $1 AND tenants && $2 LIMIT 1";
    let others =
        work.query_typed(sql, &[(&entry.move_id, Type::TEXT), (&entry.tenants, Type::TEXT_ARRAY)]).await?;
    if let Some(other) = others.first() {
        let other: String = other.try_get(0)?;
        return Err(conflict(format!("move {other} has one of its tenants; finish that first")));
    }
    let sql = "INSERT INTO wakala_shard.move AS m
         (move_id, lease, role, other, tenants, system_identifier, timeline)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (move_id) DO UPDATE SET lease = excluded.lease WHERE m.lease < excluded.lease
         RETURNING role, other, tenants, system_identifier, timeline";
    let rows = work
        .query_typed(
            sql,
            &[
                (&entry.move_id, Type::TEXT),
                (&lease, Type::INT8),
                (&entry.role, Type::TEXT),
                (&entry.other, Type::INT4),
                (&entry.tenants, Type::TEXT_ARRAY),
                (&entry.server.system_identifier, Type::TEXT),
                (&entry.server.timeline, Type::INT4),
            ],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Err(conflict("another process took it over".to_owned()));
    };
    let (role, other, tenants): (String, i32, Vec<String>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if role != entry.role || other != entry.other || tenants != entry.tenants {
        return Err(conflict(format!(
            "it is another move on this shard ({role}, with shard {other}, {} tenants); give this one another name",
            tenants.len()
        )));
    }
    let known = Server { system_identifier: row.try_get(3)?, timeline: row.try_get(4)? };
    if known != *entry.server {
        return Err(conflict(format!(
            "shard {other} is another server than when the move began, or was failed over ({known:?} then, {:?} now): \
             what was copied may hold what it lost; abort the move and begin again",
            entry.server
        )));
    }
    work.commit().await?;
    Ok(())
}

/// How far the stream of the other shard is applied here.
pub(crate) async fn applied(client: &Client, move_id: &str) -> Result<Option<PgLsn>> {
    let call = Call { operation: "read_applied", subject: format!("move {move_id}"), writes: false };
    let sql = "SELECT applied FROM wakala_shard.move WHERE move_id = $1";
    let row = one(&call, client.query_typed(sql, &[(&move_id, Type::TEXT)]).await)?;
    row.try_get(0).map_err(|error| call.failed(error))
}

/// Sets where the stream of the other shard begins, unless it is set.
pub(crate) async fn begins_at(client: &Client, holder: &Holder, at: PgLsn) -> Result<()> {
    let call = Call { operation: "set_beginning", subject: format!("move {}", holder.move_id), writes: true };
    let sql = "UPDATE wakala_shard.move SET applied = $3 WHERE move_id = $1 AND lease = $2 RETURNING 1";
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&holder.move_id, Type::TEXT), (&holder.lease, Type::INT8), (&at, Type::PG_LSN)];
    one(&call, client.query_typed(sql, &values).await).map(drop)
}

/// What was copied is of no use any more: neither the plan nor the progress.
pub(crate) async fn forget_copy(client: &Client, holder: &Holder) -> Result<()> {
    let call = Call { operation: "forget_copy", subject: format!("move {}", holder.move_id), writes: true };
    let sql = "WITH mine AS (UPDATE wakala_shard.move SET applied = NULL WHERE move_id = $1 AND lease = $2
             RETURNING move_id),
         chunks AS (DELETE FROM wakala_shard.move_chunk WHERE move_id IN (SELECT move_id FROM mine))
         SELECT 1 FROM mine";
    one(&call, client.query_typed(sql, &[(&holder.move_id, Type::TEXT), (&holder.lease, Type::INT8)]).await)
        .map(drop)
}

/// What a move makes beside rows: written down before it is made, struck out when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Publication,
    Slot,
}

impl Object {
    fn kind(self) -> &'static str {
        match self {
            Self::Publication => "publication",
            Self::Slot => "slot",
        }
    }
}

pub(crate) async fn note(client: &Client, holder: &Holder, object: Object, name: &str) -> Result<()> {
    let call = Call { operation: "note", subject: format!("{} {name}", object.kind()), writes: true };
    let sql = "INSERT INTO wakala_shard.move_object (move_id, kind, name)
         SELECT move_id, $3, $4 FROM wakala_shard.move WHERE move_id = $1 AND lease = $2 FOR SHARE
         ON CONFLICT (move_id, kind, name) DO UPDATE SET name = excluded.name RETURNING 1";
    one(&call, client.query_typed(sql, &values(holder, &object.kind(), &name)).await).map(drop)
}

pub(crate) async fn strike(client: &Client, holder: &Holder, object: Object, name: &str) -> Result<()> {
    let call = Call { operation: "strike", subject: format!("{} {name}", object.kind()), writes: true };
    let sql = "DELETE FROM wakala_shard.move_object AS o USING wakala_shard.move AS m
         WHERE m.move_id = $1 AND m.lease = $2 AND o.move_id = m.move_id AND o.kind = $3 AND o.name = $4";
    client
        .query_typed(sql, &values(holder, &object.kind(), &name))
        .await
        .map_err(|error| call.failed(error))
        .map(drop)
}

fn values<'a>(
    holder: &'a Holder,
    kind: &'a &'static str,
    name: &'a &'a str,
) -> [(&'a (dyn tokio_postgres::types::ToSql + Sync), Type); 4] {
    [(&holder.move_id, Type::TEXT), (&holder.lease, Type::INT8), (kind, Type::TEXT), (name, Type::TEXT)]
}

/// Who serves a tenant, as one shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) epoch: i64,
    pub(crate) shard: i32,
    pub(crate) state: OwnerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    Gone,
    Incoming,
    Owned,
}

pub(crate) async fn owner(client: &Client, tenant: &str) -> Result<Option<Owner>> {
    let call = Call { operation: "read_owner", subject: format!("tenant {tenant}"), writes: false };
    let sql = "SELECT epoch, shard, state FROM wakala_shard.owner WHERE tenant_id = $1";
    let rows = client.query_typed(sql, &[(&tenant, Type::TEXT)]).await.map_err(|error| call.failed(error))?;
    let Some(row) = rows.first() else { return Ok(None) };
    let read = || -> Result<(i64, i32, String), tokio_postgres::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
    };
    let (epoch, shard, state) = read().map_err(|error| call.failed(error))?;
    let state = match state.as_str() {
        "gone" => OwnerState::Gone,
        "incoming" => OwnerState::Incoming,
        "owned" => OwnerState::Owned,
        other => return Err(call.odd_answer(format!("{other:?} as a state"))),
    };
    Ok(Some(Owner { epoch, shard, state }))
}

/// Makes the owners of a shard known on it: those that it knows already stay as they are.
pub(crate) async fn register(client: &Client, shard: i32, tenants: &[(String, i64)]) -> Result<()> {
    let call = Call { operation: "register", subject: format!("owners on shard {shard}"), writes: true };
    for part in tenants.chunks(1000) {
        let rows: Vec<String> = part
            .iter()
            .map(|(tenant, epoch)| format!("({}, {epoch}, {shard}, 'owned')", literal(tenant)))
            .collect();
        let sql = format!(
            "INSERT INTO wakala_shard.owner (tenant_id, epoch, shard, state) VALUES {} ON CONFLICT DO NOTHING",
            rows.join(", ")
        );
        client.batch_execute(&sql).await.map_err(|error| call.failed(error))?;
    }
    Ok(())
}

/// Makes the destination refuse writes for a tenant that is on its way to it.
pub(crate) async fn expect(client: &Client, holder: &Holder, tenant: &str, from: &Owner) -> Result<()> {
    let call = Call { operation: "expect", subject: format!("tenant {tenant}"), writes: true };
    let sql = "INSERT INTO wakala_shard.owner AS o (tenant_id, epoch, shard, state)
         SELECT $3, $4, $5, 'incoming' FROM wakala_shard.move WHERE move_id = $1 AND lease = $2 FOR SHARE
         ON CONFLICT (tenant_id) DO UPDATE SET epoch = excluded.epoch, shard = excluded.shard, state = 'incoming'
             WHERE o.state <> 'owned' AND o.epoch <= excluded.epoch
         RETURNING 1";
    let rows = client
        .query_typed(
            sql,
            &[
                (&holder.move_id, Type::TEXT),
                (&holder.lease, Type::INT8),
                (&tenant, Type::TEXT),
                (&from.epoch, Type::INT8),
                (&from.shard, Type::INT4),
            ],
        )
        .await
        .map_err(|error| call.failed(error))?;
    if rows.is_empty() {
        let message = "the destination says that it serves the tenant itself, or another process drives the move; \
             compare wakala_shard.owner on both";
        return Err(Error::new(ErrorKind::Conflict, "expect", message).on(&call.subject));
    }
    Ok(())
}

/// Says who serves a tenant, in a later epoch than is known.
///
/// # Errors
/// `Conflict` where a later one is known, or another process drives the move.
pub(crate) async fn set_owner(
    client: &Client,
    holder: &Holder,
    tenant: &str,
    epoch: i64,
    shard: i32,
    state: &str,
) -> Result<()> {
    let call = Call { operation: "set_owner", subject: format!("tenant {tenant}"), writes: true };
    let sql =
        "UPDATE wakala_shard.owner AS o SET epoch = $4, shard = $5, state = $6 FROM wakala_shard.move AS m
         WHERE m.move_id = $1 AND m.lease = $2 AND o.tenant_id = $3
             AND (o.epoch < $4 OR (o.epoch, o.shard, o.state) = ($4, $5, $6))
         RETURNING 1";
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
        (&holder.move_id, Type::TEXT),
        (&holder.lease, Type::INT8),
        (&tenant, Type::TEXT),
        (&epoch, Type::INT8),
        (&shard, Type::INT4),
        (&state, Type::TEXT),
    ];
    one(&call, client.query_typed(sql, &values).await).map(drop)
}

/// A tenant that stayed where it was is not expected any more: the destination sends whoever comes there to the source.
pub(crate) async fn no_longer_expected(
    client: &Client,
    holder: &Holder,
    tenant: &str,
    source: i32,
) -> Result<()> {
    let call = Call { operation: "stop_expecting", subject: format!("tenant {tenant}"), writes: true };
    let sql = "UPDATE wakala_shard.owner AS o SET state = 'gone', shard = $4 FROM wakala_shard.move AS m
         WHERE m.move_id = $1 AND m.lease = $2 AND o.tenant_id = $3 AND o.state <> 'owned'";
    client
        .query_typed(
            sql,
            &[
                (&holder.move_id, Type::TEXT),
                (&holder.lease, Type::INT8),
                (&tenant, Type::TEXT),
                (&source, Type::INT4),
            ],
        )
        .await
        .map_err(|error| call.failed(error))
        .map(drop)
}

/// Strikes a move out, with all that was written down of it.
pub(crate) async fn forget(client: &Client, holder: &Holder) -> Result<()> {
    let call = Call { operation: "forget", subject: format!("move {}", holder.move_id), writes: true };
    let sql =
        "WITH mine AS (DELETE FROM wakala_shard.move WHERE move_id = $1 AND lease = $2 RETURNING move_id),
         chunks AS (DELETE FROM wakala_shard.move_chunk WHERE move_id IN (SELECT move_id FROM mine)),
         checks AS (DELETE FROM wakala_shard.move_check WHERE move_id IN (SELECT move_id FROM mine)),
         objects AS (DELETE FROM wakala_shard.move_object WHERE move_id IN (SELECT move_id FROM mine))
         SELECT 1 FROM mine";
    one(&call, client.query_typed(sql, &[(&holder.move_id, Type::TEXT), (&holder.lease, Type::INT8)]).await)
        .map(drop)
}

/// The only row of an answer that has one.
pub(crate) fn one(call: &Call, answer: Result<Vec<Row>, tokio_postgres::Error>) -> Result<Row> {
    let rows = answer.map_err(|error| call.failed(error))?;
    rows.into_iter().next().ok_or_else(|| {
        let message = "another process drives the move by now";
        Error::new(ErrorKind::Conflict, call.operation, message).on(&call.subject)
    })
}
