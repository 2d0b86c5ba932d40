//! Tables that were there before: their names, and the label that old clients read.

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use wakala_core::Result;

use super::ids::{ShardId, TenantId};
use crate::client::Failed;
use crate::config::quoted;
use crate::error::Call;

/// The tables of a schema that shards its tenants already: `tenants(tenant_id, shard_id)` and
/// `shard_config(shard_id, host, port, database, active)` in `public` unless said otherwise.
///
/// Names are taken as they are, in upper or lower case. Columns may be of any type whose text says what is meant:
/// numbers, UUIDs or text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    schema: String,
    tenants: String,
    tenant: String,
    label: String,
    shards: String,
    columns: [String; 5],
}

impl Default for Existing {
    fn default() -> Self {
        let columns = ["shard_id", "host", "port", "database", "active"].map(str::to_owned);
        Self {
            schema: "public".to_owned(),
            tenants: "tenants".to_owned(),
            tenant: "tenant_id".to_owned(),
            label: "shard_id".to_owned(),
            shards: "shard_config".to_owned(),
            columns,
        }
    }
}

impl Existing {
    /// The schema of both tables, in the directory's database.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// The table of tenants, and its columns of the id and of the shard's number.
    #[must_use]
    pub fn with_tenants(
        mut self,
        table: impl Into<String>,
        id: impl Into<String>,
        shard: impl Into<String>,
    ) -> Self {
        self.tenants = table.into();
        self.tenant = id.into();
        self.label = shard.into();
        self
    }

    /// The table of shards.
    #[must_use]
    pub fn with_shards(mut self, table: impl Into<String>) -> Self {
        self.shards = table.into();
        self
    }

    /// The columns of the table of shards: number, host, port, database, and whether it is active.
    #[must_use]
    pub fn with_shard_columns(mut self, columns: [&str; 5]) -> Self {
        self.columns = columns.map(str::to_owned);
        self
    }

    /// The table of tenants, as SQL has it.
    pub(super) fn tenants_sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.tenants))
    }

    /// The query of each tenant's id and label, as texts named `tenant` and `shard`.
    pub(super) fn tenants_query(&self) -> String {
        let (tenant, label) = (quoted(&self.tenant), quoted(&self.label));
        format!(
            r#"SELECT {tenant}::text COLLATE "C" AS tenant, {label}::text AS shard FROM {}"#,
            self.tenants_sql()
        )
    }

    /// The query of the shards: five texts each.
    pub(super) fn shards_query(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{}::text", quoted(column))).collect();
        format!("SELECT {} FROM {}.{}", columns.join(", "), quoted(&self.schema), quoted(&self.shards))
    }

    /// Writes the tenant's label, where it has a row. Its index is used: the id is brought to the column's own type.
    pub(super) async fn label(
        &self,
        transaction: &Transaction<'_>,
        call: &Call,
        tenant: &TenantId,
        shard: ShardId,
    ) -> Result<(), Failed> {
        let types = "SELECT (SELECT format_type(atttypid, atttypmod) FROM pg_attribute \
                     WHERE attrelid = $1::text::regclass AND attname = wanted AND NOT attisdropped) \
                     FROM unnest(ARRAY[$2::text, $3::text]) WITH ORDINALITY AS names (wanted, place) ORDER BY place";
        let table = self.tenants_sql();
        let text = |value| (value, Type::TEXT);
        let rows = transaction
            .query_typed(types, &[text(&table as _), text(&self.tenant as _), text(&self.label as _)])
            .await?;
        let mut found = Vec::new();
        for row in &rows {
            let column: Option<String> = row.try_get(0)?;
            found.push(column.ok_or_else(|| {
                let message = format!(
                    "{table} has not both of the columns {:?} and {:?}; correct the names that with_legacy_column was \
                     given",
                    self.tenant, self.label
                );
                wakala_core::Error::invalid(call.operation, message).on(&call.subject)
            })?);
        }
        let [id, number] = found.as_slice() else { return Err(call.odd_answer("without two types").into()) };
        let sql = format!(
            "UPDATE {table} SET {label} = CAST($2::text AS {number}) WHERE {tenant} = CAST($1::text AS {id}) \
             AND {label} IS DISTINCT FROM CAST($2::text AS {number}) RETURNING 1",
            label = quoted(&self.label),
            tenant = quoted(&self.tenant),
        );
        let number = shard.to_string();
        transaction.query_typed(&sql, &[text(&tenant.as_str() as _), text(&number as _)]).await?;
        Ok(())
    }
}
