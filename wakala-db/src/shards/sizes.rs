//! How much of a shard each tenant takes.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_postgres::types::Type;
use wakala_core::{Error, Result};

use super::directory::Directory;
use super::ids::{ShardId, TenantId};
use super::rebalance::TenantLoad;
use crate::client::Client;
use crate::config::quoted;
use crate::error::Call;

/// As long as one table may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(600);
/// What is read of one table unless said otherwise.
const READ: u64 = 1 << 30;

/// Measures how much of a shard each tenant takes, by the tables that hold tenants' rows.
///
/// What a table takes on the disk, with its indexes, its partitions and what is stored apart, is divided among its tenants
/// by the sizes of their rows. Of a table larger than [`with_most_read`](Self::with_most_read) a random part of the blocks
/// is read, so small tenants are estimated roughly, or missed; large ones, which matter to a plan, are not. Nothing is
/// locked beyond what reading locks.
///
/// The role needs `SELECT` on the tables.
#[derive(Clone, Debug)]
pub struct ShardSizes {
    client: Client,
    tables: Vec<Table>,
    most_read: u64,
}

#[derive(Clone, Debug)]
struct Table {
    name: String,
    tenant: String,
}

impl ShardSizes {
    /// Of the shard that the pool leads to; no tables yet.
    pub fn new(pool: Pool) -> Self {
        Self { client: Client { pool, limit: LIMIT }, tables: Vec::new(), most_read: READ }
    }

    /// A table with a column that has the tenant's id. Names are taken as they are, in upper or lower case.
    #[must_use]
    pub fn with_table(mut self, schema: &str, table: &str, tenant: &str) -> Self {
        let name = format!("{}.{}", quoted(schema), quoted(table));
        self.tables.push(Table { name, tenant: quoted(tenant) });
        self
    }

    /// How many bytes of one table are read, about; 1 GiB unless said otherwise.
    #[must_use]
    pub fn with_most_read(mut self, bytes: u64) -> Self {
        self.most_read = bytes.max(1);
        self
    }

    /// How long one table may take; 10 minutes unless said otherwise.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.client.limit = limit;
        self
    }

    /// The bytes of each tenant that has rows, over all tables.
    ///
    /// # Errors
    /// `InvalidConfig` for a table or a column that does not exist, or an id that no tenant can have; `Denied` where the
    /// role may not read a table; `DeadlineExceeded` where one takes too long.
    pub async fn measure(&self) -> Result<BTreeMap<TenantId, u64>> {
        let mut sizes = BTreeMap::new();
        for table in &self.tables {
            for (tenant, bytes) in self.table(table).await? {
                *sizes.entry(tenant).or_insert(0) += bytes;
            }
        }
        Ok(sizes)
    }

    async fn table(&self, table: &Table) -> Result<Vec<(TenantId, u64)>> {
        let Table { name, tenant } = table;
        let call = Call { operation: "measure", subject: format!("table {name}"), writes: false };
        // A table without partitions has no tree.
        let sql = "SELECT coalesce(sum(pg_total_relation_size(part)), 0)::bigint, \
                   coalesce(sum(pg_relation_size(part)), 0)::bigint FROM \
                   (SELECT $1::text::regclass UNION SELECT relid FROM pg_partition_tree($1::text::regclass)) t (part)";
        let row = self.client.row(&call, sql, &[(name, Type::TEXT)]).await?;
        let odd = |error: tokio_postgres::Error| call.odd_answer(error);
        let (total, rows): (i64, i64) = (row.try_get(0).map_err(odd)?, row.try_get(1).map_err(odd)?);
        let percent = 100.0 * self.most_read as f64 / (rows.max(1) as f64);
        let sample =
            if percent < 100.0 { format!(" TABLESAMPLE SYSTEM ({percent:.6})") } else { String::new() };
        let sql = format!(
            "SELECT tenant, ceil(bytes * $1::bigint / sum(bytes) OVER ())::bigint FROM \
             (SELECT {tenant}::text AS tenant, sum(pg_column_size(t.*))::numeric AS bytes FROM {name} t{sample} \
              WHERE {tenant} IS NOT NULL GROUP BY 1) AS sizes"
        );
        let rows = self.client.rows(&call, &sql, &[(&total, Type::INT8)]).await?;
        let read = |row: &tokio_postgres::Row| -> Result<(TenantId, u64)> {
            let (id, bytes): (String, i64) = (row.try_get(0).map_err(odd)?, row.try_get(1).map_err(odd)?);
            Ok((id.try_into()?, u64::try_from(bytes).map_err(|_| call.odd_answer(bytes))?))
        };
        rows.iter().map(read).collect()
    }
}

impl Directory {
    /// What [`plan_moves`](crate::plan_moves) needs: every tenant of the directory with what its own shard has of it. Rows
    /// that another shard has of it, after a move that is not cleaned up yet, do not count.
    ///
    /// # Errors
    /// `InvalidConfig` where a shard with tenants was not measured: such a plan would take it to be empty. Those of the
    /// server.
    pub async fn loads(&self, sizes: &BTreeMap<ShardId, BTreeMap<TenantId, u64>>) -> Result<Vec<TenantLoad>> {
        let mut loads: Vec<TenantLoad> = Vec::new();
        loop {
            let page = self.placements(loads.last().map(|load| &load.tenant), 10_000).await?;
            if page.is_empty() {
                return Ok(loads);
            }
            for placement in page {
                let Some(shard) = sizes.get(&placement.shard) else {
                    let message = "it has tenants and was not measured; measure all shards";
                    return Err(Error::invalid("loads", message).on(format!("shard {}", placement.shard)));
                };
                let bytes = shard.get(&placement.tenant).copied().unwrap_or(0);
                loads.push(TenantLoad::new(placement.tenant, placement.shard, bytes));
            }
        }
    }
}
