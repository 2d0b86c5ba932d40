//! Schemas: their migrations, and whether they are those that this version knows.

use tokio_postgres::types::Type;
use wakala_core::{Error, ErrorKind, Result, Retry};

use crate::client::{Client, Failed};
use crate::config::SchemaName;
use crate::error::Call;

/// What makes the tables of one part of the crate; several parts may share a schema.
#[derive(Debug)]
pub(crate) struct Migrations {
    /// The table that counts them, made by the first.
    pub(crate) versions: &'static str,
    /// In the order in which they are applied; the version of a schema is how many it has had. Never changed once
    /// published: a schema that has had one must be the same everywhere. A new one keeps working what the version
    /// before it calls, since not all hosts change at once.
    pub(crate) scripts: &'static [&'static str],
}

impl Migrations {
    /// Brings the schema to the latest version, whoever else tries the same.
    pub(crate) async fn migrate(&self, client: &Client, schema: &SchemaName) -> Result<()> {
        let call = Call { operation: "migrate", subject: format!("schema {schema}"), writes: true };
        let quoted = schema.quoted();
        let work = async |transaction: &tokio_postgres::Transaction<'_>| -> Result<(), Failed> {
            // Held to the end of the transaction, and read committed: what follows sees what the others did.
            let name = schema.as_str();
            transaction
                .query_typed(
                    "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))::text",
                    &[(&format!("wakala migrate {name}"), Type::TEXT)],
                )
                .await?;
            let exists = transaction
                .query_typed("SELECT FROM pg_namespace WHERE nspname = $1", &[(&name, Type::TEXT)])
                .await?;
            if exists.is_empty() {
                transaction.batch_execute(&format!("CREATE SCHEMA {quoted}")).await?;
            }
            let found = self.version_within(transaction, schema).await?;
            if found > self.latest() {
                return Err(self.newer(&call, found).into());
            }
            transaction.batch_execute(&format!("SET LOCAL search_path TO {quoted}, pg_temp")).await?;
            let insert = format!("INSERT INTO {} (version) VALUES ($1)", self.versions);
            for (version, sql) in (1..).zip(self.scripts).filter(|(version, _)| *version > found) {
                transaction.batch_execute(sql).await?;
                transaction.query_typed(&insert, &[(&version, Type::INT4)]).await?;
            }
            Ok(())
        };
        client.transaction(&call, work).await
    }

    async fn version_within(
        &self,
        transaction: &tokio_postgres::Transaction<'_>,
        schema: &SchemaName,
    ) -> Result<i32, tokio_postgres::Error> {
        let table = format!("{}.{}", schema.quoted(), self.versions);
        let row = transaction.query_typed("SELECT to_regclass($1) IS NULL", &[(&table, Type::TEXT)]).await?;
        if row.first().is_none_or(|row| row.get(0)) {
            return Ok(0);
        }
        let sql = format!("SELECT coalesce(max(version), 0) FROM {table}");
        let rows = transaction.query_typed(&sql, &[]).await?;
        rows.first().map_or(Ok(0), |row| row.try_get(0))
    }

    /// Fails where the schema is not of a version that this crate can work on.
    pub(crate) async fn check(&self, client: &Client, schema: &SchemaName) -> Result<()> {
        let call = Call { operation: "check", subject: format!("schema {schema}"), writes: false };
        let sql = format!("SELECT coalesce(max(version), 0) FROM {}.{}", schema.quoted(), self.versions);
        let row = client.row(&call, &sql, &[]).await?;
        let found: i32 = row.try_get(0).map_err(|error| call.failed(error))?;
        if found > self.latest() {
            return Err(self.newer(&call, found));
        }
        if found < self.latest() {
            let message =
                format!("it has version {found}, and this program needs {}; run migrate once", self.latest());
            return Err(Error::new(ErrorKind::InvalidConfig, call.operation, message).on(&call.subject));
        }
        Ok(())
    }

    fn newer(&self, call: &Call, found: i32) -> Error {
        let message = format!(
            "a later version of wakala made it ({found}, this one knows up to {}); use that version here too",
            self.latest()
        );
        Error::new(ErrorKind::Unsupported, call.operation, message).on(&call.subject).with_retry(Retry::Never)
    }

    /// The version that this crate knows.
    fn latest(&self) -> i32 {
        i32::try_from(self.scripts.len()).expect("there are few migrations")
    }
}
