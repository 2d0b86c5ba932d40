//! Whether both sides have the same rows, while they change.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use wakala_core::{ErrorKind, Result};

use super::copying::marker;
use super::link::Until;
use super::mover::{Mover, Way};
use super::observer::MoveEvent;
use super::registry::one;
use super::snapshot::Snapshot;
use super::verify;
use crate::error::Call;

/// How often a snapshot is taken that turns out to be of no use.
const ATTEMPTS: u32 = 50;

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// By table.
    pub tables: Vec<VerifiedTable>,
}

/// One table of a [`Verification`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTable {
    /// The table.
    pub table: String,
    /// How many rows of the tenants there are, where they are served.
    pub rows: u64,
    /// What differs, tenant by tenant; empty where all is the same.
    pub differences: Vec<String>,
}

impl Verification {
    /// Whether all rows are the same.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.differences.is_empty())
    }

    /// How many rows were compared.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

impl Mover {
    /// Compares every row of every tenant on both shards, each table as of one instant, while writers go on: with a
    /// tenant that was handed over, the rows that the source was brought by the way back.
    ///
    /// The sums are of two independent hashes of whole rows and of their number. What differs is an answer, not an error.
    ///
    /// # Errors
    /// As of [`copy`](Self::copy); `Conflict` where so much was committed that no instant was found.
    pub async fn verify(&mut self) -> Result<Verification> {
        self.prepare().await?;
        self.copy_again().await?;
        let mut ways = Vec::new();
        for tenant in self.tenants.ids() {
            ways.push(self.place(tenant).await?);
        }
        let mut found = Verification::default();
        for table in 0..self.tables.len() {
            let mut of_table =
                VerifiedTable { table: self.tables[table].to_string(), rows: 0, differences: Vec::new() };
            for way in [Way::There, Way::Back] {
                let of_way = ways.iter().enumerate().filter(|(_, of_tenant)| **of_tenant == way);
                let tenants: Vec<usize> = of_way.map(|(place, _)| place).collect();
                if !tenants.is_empty() {
                    self.compare(table, &tenants, way, &mut of_table).await?;
                }
            }
            self.tell(MoveEvent::Verified { table: of_table.table.clone(), rows: of_table.rows });
            found.tables.push(of_table);
        }
        Ok(found)
    }

    async fn compare(
        &mut self,
        table: usize,
        tenants: &[usize],
        way: Way,
        found: &mut VerifiedTable,
    ) -> Result<()> {
        let (from, to) = self.side(way);
        let (from, to) = futures::try_join!(from.reader(), to.reader())?;
        self.align(&from, &to, way).await?;
        let stop = CancellationToken::new();
        let scope = super::copy::Scope { tables: &self.tables.clone(), tenants: &self.tenants.clone() };
        let digests = async {
            let both = futures::try_join!(
                verify::digests(&from, scope, table, tenants),
                verify::digests(&to, scope, table, tenants)
            );
            stop.cancel();
            both
        };
        let link = self.link(way)?;
        let (digests, followed) = tokio::join!(digests, link.run(Until::Stopped(&stop)));
        let (ours, theirs) = digests?;
        followed?;
        for ((tenant, ours), theirs) in tenants.iter().zip(&ours).zip(&theirs) {
            found.rows += u64::try_from(ours.rows).unwrap_or(0);
            if ours != theirs {
                let first = verify::first_difference(&from, &to, scope, table, *tenant).await?;
                found.differences.push(format!(
                    "tenant {}: {} rows on shard {}, {} on shard {}: {first}",
                    scope.tenants.ids()[*tenant],
                    ours.rows,
                    self.side(way).0.shard,
                    theirs.rows,
                    self.side(way).1.shard,
                ));
            }
        }
        Ok(())
    }

    /// Puts both sessions into snapshots of the same instant.
    async fn align(&mut self, from: &Client, to: &Client, way: Way) -> Result<()> {
        let call = Call { operation: "align", subject: format!("move {}", self.spec.id), writes: false };
        let begin = async |client: &Client| {
            client
                .batch_execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_current_snapshot()",
                )
                .await
                .map_err(|error| call.failed(error))
        };
        for _ in 0..ATTEMPTS {
            begin(from).await?;
            let row = one(&call, from.query_typed("SELECT pg_current_snapshot()::text", &[]).await)?;
            let snapshot: Snapshot =
                row.try_get::<_, &str>(0).map_err(|error| call.failed(error))?.parse()?;
            let marker = marker();
            self.side(way).0.mark(&marker).await?;
            let aligned = self.link(way)?.align(snapshot, &marker, async || begin(to).await).await?;
            if aligned.is_some() {
                return Ok(());
            }
            from.batch_execute("ROLLBACK").await.map_err(|error| call.failed(error))?;
            if self.link(way)?.needs_copy() {
                self.copy_for_token().await?;
            }
        }
        let message = "so much is committed that no instant could be compared; try again at a quieter time";
        Err(self.error(ErrorKind::Conflict, "verify", message))
    }

    /// As [`verify`](Self::verify), and writes the answer down on the destination under the name of the pass, where
    /// [`MoveFacts::checks`](super::MoveFacts::checks) finds it.
    ///
    /// # Errors
    /// As of [`verify`](Self::verify).
    pub async fn verify_and_note(&mut self, pass: &str) -> Result<Verification> {
        let found = self.verify().await?;
        self.write_down(pass, &found).await?;
        Ok(found)
    }

    /// Writes down what was compared, on the destination.
    async fn write_down(&self, pass: &str, found: &Verification) -> Result<()> {
        let call = Call { operation: "write_check", subject: format!("move {}", self.spec.id), writes: true };
        let sql = "INSERT INTO wakala_shard.move_check (move_id, pass, relation, row_count, equal)
             SELECT move_id, $3, $4, $5, $6 FROM wakala_shard.move WHERE move_id = $1 AND lease = $2
             ON CONFLICT (move_id, pass, relation) DO UPDATE
                 SET row_count = excluded.row_count, equal = excluded.equal, made = clock_timestamp()
             RETURNING 1";
        let holder = self.holder()?;
        for table in &found.tables {
            let (rows, equal) = (i64::try_from(table.rows).unwrap_or(i64::MAX), table.differences.is_empty());
            let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
                (&holder.move_id, Type::TEXT),
                (&holder.lease, Type::INT8),
                (&pass, Type::TEXT),
                (&table.table, Type::TEXT),
                (&rows, Type::INT8),
                (&equal, Type::BOOL),
            ];
            one(&call, self.destination.client.query_typed(sql, &values).await).map(drop)?;
        }
        Ok(())
    }
}
