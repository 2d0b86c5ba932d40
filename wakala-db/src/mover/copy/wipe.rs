//! Deletes the rows of tenants from a shard.

use std::fmt::Write;

use tokio_postgres::{Client, SimpleQueryMessage};
use wakala_core::Result;

use super::session::Scope;
use crate::error::Call;
use crate::mover::holder::Holder;

/// How many rows a transaction deletes: long ones hold back vacuum and what reads the log.
const PIECE: u32 = 5_000;

/// Deletes the rows of all tenants of the move from all its tables, the last table first, in pieces, on a connection
/// [for writing](super::for_writing): no trigger fires, and no foreign key is looked at. Tells how many rows of which
/// table and tenant are gone, piece by piece; returns how many it deleted.
///
/// Idempotent. What an error leaves is deleted by a repeat, on another connection.
///
/// # Errors
/// `Conflict` where the move is another process's by now.
pub(crate) async fn wipe(
    client: &Client,
    holder: &Holder,
    scope: Scope<'_>,
    deleted: &(dyn Fn(usize, usize, u64) + Sync),
) -> Result<u64> {
    let mut total = 0;
    for table in (0..scope.tables.len()).rev() {
        for tenant in 0..scope.tenants.ids().len() {
            let wiper = Wiper { client, holder, scope, table, tenant };
            let mut last = None;
            loop {
                let (gone, bound) = wiper.piece(last.as_deref()).await?;
                total += gone;
                if gone > 0 {
                    deleted(table, tenant, gone);
                }
                if bound.is_none() {
                    break;
                }
                last = bound;
            }
        }
    }
    Ok(total)
}

struct Wiper<'a> {
    client: &'a Client,
    holder: &'a Holder,
    scope: Scope<'a>,
    table: usize,
    tenant: usize,
}

impl Wiper<'_> {
    /// Deletes the rows whose chunk key follows `last`, about [`PIECE`] of them, and says up to where; `None` where none
    /// are left. What was deleted before is not looked at again, as long as it may take to be vacuumed.
    async fn piece(&self, last: Option<&str>) -> Result<(u64, Option<String>)> {
        let table = &self.scope.tables[self.table];
        let subject = format!("tenant {}, table {table}", self.scope.tenants.ids()[self.tenant]);
        let call = Call { operation: "wipe", subject, writes: true };
        let failed = |error| call.failed(error);
        self.client.batch_execute("BEGIN").await.map_err(failed)?;
        self.holder.enter(self.client).await?;
        let (name, rows) = (table.quoted(), self.scope.rows(self.table, self.tenant, None, None));
        let (delete, bound) = match table.chunk_by {
            Some((by, _)) => {
                let key = crate::config::quoted(&table.columns[by].name);
                let mut rows = rows;
                if let Some(last) = last {
                    write!(rows, " AND {key} > '{last}'").expect("a string takes it");
                }
                let sql =
                    format!("SELECT {key} FROM {name} WHERE {rows} ORDER BY {key} OFFSET {PIECE} LIMIT 1");
                let bound = first(&self.client.simple_query(&sql).await.map_err(failed)?);
                if let Some(bound) = &bound {
                    write!(rows, " AND {key} <= '{bound}'").expect("a string takes it");
                }
                (format!("DELETE FROM {name} WHERE {rows}"), bound)
            }
            None => {
                // A row version is found by where it lies; in a partitioned table, that is in one of its parts.
                let sql = format!(
                    "DELETE FROM {name} AS t USING
                        (SELECT tableoid AS part, ctid AS place FROM {name} WHERE {rows} LIMIT {PIECE}) AS piece
                     WHERE t.ctid = piece.place AND t.tableoid = piece.part"
                );
                (sql, None)
            }
        };
        let gone = self.client.execute_typed(&delete, &[]).await.map_err(failed)?;
        self.client.batch_execute("COMMIT").await.map_err(failed)?;
        let more = table.chunk_by.is_none() && gone > 0;
        Ok((gone, bound.or_else(|| more.then(String::new))))
    }
}

fn first(answer: &[SimpleQueryMessage]) -> Option<String> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}
