//! The chunks of a move, as the destination keeps them.
//!
//! A row without `row_count` was never copied: there is nothing of the chunk on the destination. One without `snapshot`
//! is to be copied, and where it has a `row_count`, what was copied before is still there.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::chunks::{Chunk, Copied};
use super::key::ChunkKey;
use super::session::Scope;
use crate::error::Call;
use crate::mover::holder::Holder;
use crate::mover::tenant::literal;

fn call(operation: &'static str, move_id: &str, writes: bool) -> Call {
    Call { operation, subject: format!("the chunks of move {move_id}"), writes }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: Option<i64>) -> u64 {
    number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

/// Stores the plan, in a transaction of its own. Chunks that are copied are those that were found empty.
///
/// # Errors
/// `Conflict` where there is a plan already, or the move is another process's by now.
pub(crate) async fn save(client: &Client, holder: &Holder, scope: Scope<'_>, chunks: &[Chunk]) -> Result<()> {
    let call = call("plan", &holder.move_id, true);
    let failed = |error| call.failed(error);
    client.batch_execute("BEGIN").await.map_err(failed)?;
    holder.enter(client).await?;
    for chunks in chunks.chunks(1000) {
        let ids: Vec<i32> = chunks.iter().map(|chunk| chunk.id).collect();
        let relations: Vec<String> = chunks.iter().map(|chunk| scope.tables[chunk.table].quoted()).collect();
        let tenants: Vec<&str> =
            chunks.iter().map(|chunk| scope.tenants.ids()[chunk.tenant].as_str()).collect();
        let text = |key: Option<ChunkKey>| key.map(|key| key.to_string());
        let lowers: Vec<_> = chunks.iter().map(|chunk| text(chunk.lower)).collect();
        let uppers: Vec<_> = chunks.iter().map(|chunk| text(chunk.upper)).collect();
        let copied = |chunk: &Chunk| chunk.copied.as_ref().map(|copied| copied.snapshot.to_string());
        let snapshots: Vec<_> = chunks.iter().map(copied).collect();
        let rows: Vec<_> =
            chunks.iter().map(|chunk| chunk.copied.as_ref().map(|copied| signed(copied.rows))).collect();
        let bytes: Vec<_> = chunks.iter().map(|chunk| signed(chunk.estimate)).collect();
        client
            .query_typed(
                "INSERT INTO wakala_shard.move_chunk
                    (move_id, chunk, relation, tenant_id, lower, upper, snapshot, row_count, byte_count)
                 SELECT $1, c.* FROM unnest($2, $3, $4, $5, $6, $7, $8, $9) AS c",
                &[
                    (&holder.move_id, Type::TEXT),
                    (&ids, Type::INT4_ARRAY),
                    (&relations, Type::TEXT_ARRAY),
                    (&tenants, Type::TEXT_ARRAY),
                    (&lowers, Type::TEXT_ARRAY),
                    (&uppers, Type::TEXT_ARRAY),
                    (&snapshots, Type::TEXT_ARRAY),
                    (&rows, Type::INT8_ARRAY),
                    (&bytes, Type::INT8_ARRAY),
                ],
            )
            .await
            .map_err(failed)?;
    }
    client.batch_execute("COMMIT").await.map_err(failed)
}

/// The chunks as they were planned, and what is copied of them; none where nothing was planned yet.
///
/// # Errors
/// `Unexpected` where they are of other tables or tenants.
pub(crate) async fn load(client: &Client, move_id: &str, scope: Scope<'_>) -> Result<Vec<Chunk>> {
    let call = call("load", move_id, false);
    let rows = client
        .query_typed(
            "SELECT chunk, relation, tenant_id, lower, upper, snapshot, row_count, byte_count
             FROM wakala_shard.move_chunk WHERE move_id = $1 ORDER BY chunk",
            &[(&move_id, Type::TEXT)],
        )
        .await
        .map_err(|error| call.failed(error))?;
    let names: Vec<String> = scope.tables.iter().map(super::super::table::Table::quoted).collect();
    let odd = |id: i32, what: &str| {
        Error::new(ErrorKind::Unexpected, "load", format!("{what}; was the registry changed, or the plan?"))
            .on(format!("chunk {id} of move {move_id}"))
            .with_retry(Retry::Never)
    };
    let mut chunks = Vec::with_capacity(rows.len());
    for row in rows {
        let id: i32 = row.get(0);
        let (relation, tenant): (&str, &str) = (row.get(1), row.get(2));
        let table = names.iter().position(|name| name == relation);
        let tenant = scope.tenants.ids().iter().position(|id| id == tenant);
        let (Some(table), Some(tenant)) = (table, tenant) else {
            return Err(odd(id, "it is of a table or a tenant that is not moved"));
        };
        let kind = scope.tables[table].chunk_by.map(|(_, kind)| kind);
        let bound = |text: Option<&str>| match (text, kind) {
            (None, _) => Ok(None),
            (Some(text), Some(kind)) => ChunkKey::parse(text, kind).map(Some),
            (Some(_), None) => Err(odd(id, "it is a range of a table that has none")),
        };
        let snapshot: Option<&str> = row.get(5);
        let copied = match snapshot {
            None => None,
            Some(snapshot) => Some(Copied {
                snapshot: snapshot.parse()?,
                rows: unsigned(row.get(6)),
                bytes: unsigned(row.get(7)),
            }),
        };
        let (lower, upper) = (bound(row.get(3))?, bound(row.get(4))?);
        chunks.push(Chunk { id, table, tenant, lower, upper, estimate: unsigned(row.get(7)), copied });
    }
    Ok(chunks)
}

/// The statement by which a chunk is to be copied again: for the transaction that stores how far the stream was applied.
/// Fails where there is no such chunk.
pub(crate) fn forget(holder: &Holder, chunk: i32) -> String {
    format!(
        "WITH forgotten AS (UPDATE wakala_shard.move_chunk SET snapshot = NULL, row_count = coalesce(row_count, 0)
             WHERE move_id = {} AND chunk = {chunk} RETURNING chunk)
         SELECT 1 / count(*) FROM forgotten",
        literal(&holder.move_id)
    )
}

/// Locks chunks, and says of each whether anything of it may be on the destination.
pub(super) async fn lock(client: &Client, holder: &Holder, chunks: &[Chunk]) -> Result<Vec<bool>> {
    let call = call("copy", &holder.move_id, false);
    let ids: Vec<i32> = chunks.iter().map(|chunk| chunk.id).collect();
    let rows = client
        .query_typed(
            "SELECT chunk, row_count IS NULL AND snapshot IS NULL FROM wakala_shard.move_chunk
             WHERE move_id = $1 AND chunk = ANY ($2) ORDER BY chunk FOR UPDATE",
            &[(&holder.move_id, Type::TEXT), (&ids, Type::INT4_ARRAY)],
        )
        .await
        .map_err(|error| call.failed(error))?;
    let fresh: Vec<i32> = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    if rows.len() != ids.len() {
        return Err(call.odd_answer(format!("{} of {} planned chunks", rows.len(), ids.len())));
    }
    Ok(ids.iter().map(|id| !fresh.contains(id)).collect())
}

/// Chunks are copied, once the present transaction is committed.
pub(super) async fn store(client: &Client, holder: &Holder, copies: &[(i32, Copied)]) -> Result<()> {
    let call = call("copy", &holder.move_id, false);
    let ids: Vec<i32> = copies.iter().map(|(id, _)| *id).collect();
    let snapshots: Vec<String> = copies.iter().map(|(_, copied)| copied.snapshot.to_string()).collect();
    let rows: Vec<i64> = copies.iter().map(|(_, copied)| signed(copied.rows)).collect();
    let bytes: Vec<i64> = copies.iter().map(|(_, copied)| signed(copied.bytes)).collect();
    client
        .query_typed(
            "UPDATE wakala_shard.move_chunk AS m SET snapshot = c.s, row_count = c.r, byte_count = c.b
             FROM unnest($2, $3, $4, $5) AS c (id, s, r, b) WHERE m.move_id = $1 AND m.chunk = c.id",
            &[
                (&holder.move_id, Type::TEXT),
                (&ids, Type::INT4_ARRAY),
                (&snapshots, Type::TEXT_ARRAY),
                (&rows, Type::INT8_ARRAY),
                (&bytes, Type::INT8_ARRAY),
            ],
        )
        .await
        .map_err(|error| call.failed(error))?;
    Ok(())
}
