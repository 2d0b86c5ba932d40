//! How much a move has to carry.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use wakala_core::{ErrorKind, Result};

use super::super::table::Table;
use super::super::tenant::Tenants;
use super::read::{rows, run};
use super::{begin, end};
use crate::config::quoted;

/// So many rows of a tenant and table are weighed.
const SAMPLE: u32 = 200;
/// Past this, weighing is not worth its time.
const WEIGHING: &str = "2s";

/// Of one tenant in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// By its place in the tenants.
    pub(crate) tenant: usize,
    /// By its place in the tables.
    pub(crate) table: usize,
    /// Exact, at the time of the count.
    pub(crate) rows: u64,
    /// About: the rows times the mean of a few of them, uncompressed, without indexes. Where a few are not to be had in
    /// two seconds (no index begins with the tenant), times the mean of all rows of the table on disk.
    pub(crate) bytes: u64,
}

/// Rows and bytes of each tenant in each table, tables outermost. Reads the tenants' part of one index of each table
/// where an index begins with the tenant, else the table; whoever has no time for that gives the session a
/// `statement_timeout`.
///
/// # Errors
/// Those of the connection; `DeadlineExceeded` where the session's `statement_timeout` is too short to count.
pub(crate) async fn sizes(client: &Client, tables: &[Table], tenants: &Tenants) -> Result<Vec<Size>> {
    let mut sizes = Vec::with_capacity(tables.len() * tenants.ids().len());
    for (place, table) in tables.iter().enumerate() {
        let counts = counts(client, table, tenants).await?;
        let widths = match widths(client, table, tenants).await {
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => {
                vec![mean_width(client, table).await?; counts.len()]
            }
            answer => answer?,
        };
        for (tenant, (rows, width)) in counts.into_iter().zip(widths).enumerate() {
            let bytes = rows.saturating_mul(width);
            sizes.push(Size { tenant, table: place, rows, bytes });
        }
    }
    Ok(sizes)
}

async fn counts(client: &Client, table: &Table, tenants: &Tenants) -> Result<Vec<u64>> {
    let tenant = quoted(&table.columns[table.tenant].name);
    let ids: Vec<String> = (0..tenants.ids().len()).map(|place| tenants.literal(place)).collect();
    let sql = format!(
        "SELECT t.{tenant}::text, count(*) FROM {} t WHERE t.{tenant} IN ({}) GROUP BY t.{tenant}",
        table.quoted(),
        ids.join(", ")
    );
    begin(client).await?;
    let found = rows(client, "sizes", &sql, &[]).await;
    let found = end(client, found).await?;
    let mut counts = vec![0; tenants.ids().len()];
    for row in &found {
        let id: String = row.get(0);
        if let Some(place) = tenants.ids().iter().position(|other| *other == id) {
            counts[place] = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        }
    }
    Ok(counts)
}

/// Bytes of a mean row of each tenant; 0 where it has none.
async fn widths(client: &Client, table: &Table, tenants: &Tenants) -> Result<Vec<u64>> {
    let tenant = quoted(&table.columns[table.tenant].name);
    let sql = format!(
        "SELECT (SELECT avg(pg_column_size(s))::int8 FROM (
                SELECT {} FROM {} t WHERE t.{tenant} = k.id::{} LIMIT {SAMPLE}) AS s)
            FROM unnest($1::text[]) WITH ORDINALITY AS k (id, place) ORDER BY k.place",
        table.column_list(),
        table.quoted(),
        tenants.kind().sql(),
    );
    let ids = tenants.ids().to_vec();
    begin(client).await?;
    let found = async {
        run(client, "sizes", &format!("SET LOCAL statement_timeout = '{WEIGHING}'")).await?;
        rows(client, "sizes", &sql, &[(&ids, Type::TEXT_ARRAY)]).await
    }
    .await;
    let found = end(client, found).await?;
    let width = |row: &tokio_postgres::Row| row.get::<_, Option<i64>>(0).unwrap_or(0);
    Ok(found.iter().map(|row| u64::try_from(width(row)).unwrap_or(0)).collect())
}

/// What a row of the table takes on disk, as the statistics have it.
async fn mean_width(client: &Client, table: &Table) -> Result<u64> {
    let sql = "SELECT (sum(pg_table_size(c.oid)) / greatest(sum(c.reltuples), 1))::int8
        FROM pg_partition_tree($1::text::regclass) AS p JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf";
    let name = table.quoted();
    begin(client).await?;
    let found = rows(client, "sizes", sql, &[(&name, Type::TEXT)]).await;
    let found = end(client, found).await?;
    let width = found.first().and_then(|row| row.get::<_, Option<i64>>(0)).unwrap_or(0);
    Ok(u64::try_from(width).unwrap_or(0))
}
