//! The directory: which shard has which tenant.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::OnceCell;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};
use wakala_core::{Error, ErrorKind, Result};

use super::ids::{Epoch, Placement, Shard, ShardId, State, TenantId};
use super::legacy::Existing;
use crate::client::{Client, Failed, Value};
use crate::config::SchemaName;
use crate::error::Call;
use crate::schema::Migrations;

pub(super) const MIGRATIONS: Migrations =
    Migrations { versions: "directory_version", scripts: &[include_str!("migrations/0001_directory.sql")] };

/// As long as a call may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(10);
/// The most placements of one page.
const LONGEST_PAGE: usize = 10_000;

const SHARD_COLUMNS: &str = "s.shard, s.host, s.port, s.database, s.active, s.weight";
const TENANT_COLUMNS: &str = "t.tenant, t.shard, t.epoch, t.state, t.moving_to";

/// Which shard has which tenant, and where the shards are, in tables of one Postgres database.
///
/// It follows the moves: a tenant's rows are moved first, and what a shard itself says about its tenants counts where the
/// two differ for a moment. Every change names the epoch that it found, so that of two changes one is refused, and a
/// repeat of one that was made already is a success: after an answer that was lost, call again.
///
/// Each call is one transaction; it works directly and through a PgBouncer in transaction mode. Works with PostgreSQL 12
/// and later. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Directory {
    pub(super) client: Client,
    pub(super) schema: SchemaName,
    legacy: Option<Arc<Existing>>,
    checked: Arc<OnceCell<()>>,
}

impl Directory {
    /// A directory in a schema of the pool's database; nothing is asked of the server yet.
    pub fn new(pool: Pool, schema: SchemaName) -> Self {
        let client = Client { pool, limit: LIMIT };
        Self { client, schema, legacy: None, checked: Arc::default() }
    }

    /// How long one call may take, the wait for a connection included; 10 s unless said otherwise.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.client.limit = limit;
        self
    }

    /// Keeps the column that old clients read, `tenants.shard_id`, in step: [`register`](Self::register) and
    /// [`flip`](Self::flip) write it in their own transaction, where the tenant has a row there.
    ///
    /// For as long as there are such clients. They see a move late, as everyone with a stale answer does; only the shards
    /// themselves keep them from writing to the old place.
    #[must_use]
    pub fn with_legacy_column(mut self, existing: Existing) -> Self {
        self.legacy = Some(Arc::new(existing));
        self
    }

    /// The schema that it is in.
    pub fn schema(&self) -> &SchemaName {
        &self.schema
    }

    /// Makes the schema and its tables, or brings them up to date; nothing to do where they are. All or nothing, and
    /// safe while others do the same.
    ///
    /// Whoever calls it owns what it makes. Others need [`directory_permissions`](crate::directory_permissions), and
    /// those who only look tenants up [`router_permissions`](crate::router_permissions). The SQL is in the folder
    /// `src/shards/migrations` of this crate, for those who rather apply it themselves.
    ///
    /// # Errors
    /// `Denied` where the role may not create them; `Unsupported` where a later version of this crate has made them.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATIONS.migrate(&self.client, &self.schema).await
    }

    /// Looks whether the tables are there, and of the version that this crate needs. The first call does the same.
    ///
    /// # Errors
    /// `InvalidConfig` where [`migrate`](Self::migrate) must be called first; `Unsupported` where a later version of this
    /// crate has made them; `Denied` where the role may not read them.
    pub async fn check(&self) -> Result<()> {
        self.checked.get_or_try_init(|| MIGRATIONS.check(&self.client, &self.schema)).await.copied()
    }

    /// A new shard. A repeat with the same shard is a success.
    ///
    /// # Errors
    /// `InvalidConfig` for a shard without host, port or database, or with a weight outside 1 to 1000; `Conflict` where
    /// the number is another shard's, or the database is a shard already.
    pub async fn add_shard(&self, shard: &Shard) -> Result<()> {
        shard.check("add_shard")?;
        let call = write("add_shard", shard);
        let insert = format!(
            "INSERT INTO {} (shard, host, port, database, active, weight) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT DO NOTHING RETURNING 1",
            self.table("shard")
        );
        let lookup = format!(
            "SELECT {SHARD_COLUMNS} FROM {} s WHERE s.shard = $1 OR (s.host, s.port, s.database) = ($2, $3, $4)",
            self.table("shard")
        );
        let columns = ShardColumns::of(shard);
        self.change(&call, async |transaction| {
            if !transaction.query_typed(&insert, &columns.values()).await?.is_empty() {
                return Ok(());
            }
            let found = transaction.query_typed(&lookup, &columns.values()[..4]).await?;
            match read_shard(&call, found.first().ok_or_else(|| changed_meanwhile(&call))?)? {
                same if same == *shard => Ok(()),
                other => {
                    let message =
                        format!("there is {other} already; take another number, or call update_shard");
                    Err(Error::new(ErrorKind::Conflict, call.operation, message).on(&call.subject).into())
                }
            }
        })
        .await
    }

    /// Gives the shard of that number this address, weight and activity. Idempotent; the last to write counts.
    ///
    /// Its tenants stay where they are: one that is made inactive keeps them until they are moved. Routers learn a new
    /// address when what they have cached lapses.
    ///
    /// # Errors
    /// `InvalidConfig` as for [`add_shard`](Self::add_shard); `NotFound` without such a shard; `Conflict` where the
    /// database is another shard's.
    pub async fn update_shard(&self, shard: &Shard) -> Result<()> {
        shard.check("update_shard")?;
        let call = write("update_shard", shard);
        let update = format!(
            "UPDATE {} SET host = $2, port = $3, database = $4, active = $5, weight = $6 WHERE shard = $1 RETURNING 1",
            self.table("shard")
        );
        let columns = ShardColumns::of(shard);
        self.check().await?;
        let updated = self.client.rows(&call, &update, &columns.values()).await?;
        if updated.is_empty() { Err(no_shard(&call, shard.id)) } else { Ok(()) }
    }

    /// All shards, in the order of their numbers.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn shards(&self) -> Result<Vec<Shard>> {
        let call = read("shards", format!("schema {}", self.schema));
        let sql = format!("SELECT {SHARD_COLUMNS} FROM {} s ORDER BY s.shard", self.table("shard"));
        self.check().await?;
        let rows = self.client.rows(&call, &sql, &[]).await?;
        rows.iter().map(|row| read_shard(&call, row)).collect()
    }

    /// A new tenant, which has no rows anywhere yet; [`propose`](crate::propose) says which shard suits. A repeat finds
    /// the tenant there and is a success.
    ///
    /// # Errors
    /// `NotFound` without such a shard; `Conflict` where the shard is inactive, or another has the tenant.
    pub async fn register(&self, tenant: &TenantId, shard: ShardId) -> Result<Placement> {
        let call = write("register", format!("tenant {tenant}"));
        // The lock keeps the shard from being made inactive meanwhile.
        let lookup =
            format!("SELECT {SHARD_COLUMNS} FROM {} s WHERE s.shard = $1 FOR SHARE", self.table("shard"));
        let insert = format!(
            "INSERT INTO {} (tenant, shard, epoch, state) VALUES ($1, $2, 1, 'active') ON CONFLICT DO NOTHING",
            self.table("tenant")
        );
        self.change(&call, async |transaction| {
            if let Some(found) = self.placement(transaction, &call, tenant).await? {
                return if found.shard == shard {
                    Ok(found)
                } else {
                    Err(is_elsewhere(&call, &found).into())
                };
            }
            let found = transaction.query_typed(&lookup, &[(&shard.get(), Type::INT4)]).await?;
            let found = read_shard(&call, found.first().ok_or_else(|| no_shard(&call, shard))?)?;
            if !found.active {
                return Err(inactive(&call, &found).into());
            }
            let id = tenant.as_str();
            transaction.query_typed(&insert, &[(&id, Type::TEXT), (&shard.get(), Type::INT4)]).await?;
            let made =
                self.placement(transaction, &call, tenant).await?.ok_or_else(|| changed_meanwhile(&call))?;
            if made.shard != shard {
                return Err(is_elsewhere(&call, &made).into());
            }
            if let Some(existing) = &self.legacy {
                existing.label(transaction, &call, tenant, shard).await?;
            }
            Ok(made)
        })
        .await
    }

    /// Where the tenant is; `None` where it is not registered.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn find(&self, tenant: &TenantId) -> Result<Option<Placement>> {
        Ok(self.locate(tenant).await?.map(|(placement, _)| placement))
    }

    /// Where the tenant is, and where that shard is.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn locate(&self, tenant: &TenantId) -> Result<Option<(Placement, Shard)>> {
        let call = read("locate", format!("tenant {tenant}"));
        let sql = format!(
            "SELECT {TENANT_COLUMNS}, {SHARD_COLUMNS} FROM {} t JOIN {} s USING (shard) WHERE t.tenant = $1",
            self.table("tenant"),
            self.table("shard")
        );
        self.check().await?;
        let rows = self.client.rows(&call, &sql, &[(&tenant.as_str(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((read_placement(&call, row)?, read_shard_at(&call, row, 5)?)))
    }

    /// The placements after `after` in the order of the tenants' ids, byte by byte; at most `limit`, which is cut to
    /// 10 000. The last of a page is where the next one begins; an empty one is the end.
    ///
    /// Pages are not of one moment: what changes between two of them may be seen or not.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn placements(&self, after: Option<&TenantId>, limit: usize) -> Result<Vec<Placement>> {
        let call = read("placements", format!("schema {}", self.schema));
        let sql = format!(
            "SELECT {TENANT_COLUMNS} FROM {} t WHERE t.tenant > $1 ORDER BY t.tenant LIMIT $2",
            self.table("tenant")
        );
        let limit = i64::try_from(limit.min(LONGEST_PAGE)).expect("a page has at most 10 000");
        let after = after.map_or("", TenantId::as_str);
        self.check().await?;
        let rows = self.client.rows(&call, &sql, &[(&after, Type::TEXT), (&limit, Type::INT8)]).await?;
        rows.iter().map(|row| read_placement(&call, row)).collect()
    }

    /// Says that the shard `to` has the tenant since `epoch`, for whoever has moved its rows; it is active then.
    ///
    /// Happens only where the directory still has the owner of epoch `from`. A repeat is a success, and changes nothing,
    /// for as long as `to` is the owner since `epoch`. It does not ask whether `to` is active: the rows are there.
    ///
    /// # Errors
    /// `InvalidConfig` where `epoch` is not later than `from`; `NotFound` without the tenant or the shard; `Conflict`
    /// where the directory has any other owner, and then nothing has changed.
    pub async fn flip(&self, tenant: &TenantId, from: Epoch, to: ShardId, epoch: Epoch) -> Result<Placement> {
        let call = write("flip", format!("tenant {tenant}"));
        if epoch <= from {
            let message = format!("epoch {epoch} is not later than {from}; a new owner needs a later one");
            return Err(Error::invalid(call.operation, message).on(&call.subject));
        }
        let update = format!(
            "UPDATE {} SET shard = $2, epoch = $3, state = 'active', moving_to = NULL, changed_at = clock_timestamp() \
             WHERE tenant = $1",
            self.table("tenant")
        );
        self.change(&call, async |transaction| {
            let found = self.locked(transaction, &call, tenant).await?;
            if (found.shard, found.epoch) == (to, epoch) {
                return Ok(found);
            }
            if found.epoch != from {
                return Err(out_of_date(&call, &found, from).into());
            }
            self.lock_shard(transaction, &call, to).await?;
            let (id, number, since) = (tenant.as_str(), to.get(), epoch.get());
            let values: [Value<'_>; 3] = [(&id, Type::TEXT), (&number, Type::INT4), (&since, Type::INT8)];
            transaction.query_typed(&update, &values).await?;
            if let Some(existing) = &self.legacy {
                existing.label(transaction, &call, tenant, to).await?;
            }
            Ok(Placement { shard: to, epoch, state: State::Active, ..found })
        })
        .await
    }

    /// Says what happens to a tenant, of which the directory has the owner of `epoch`: that a move has begun, or that it
    /// was given up. A repeat is a success.
    ///
    /// # Errors
    /// `InvalidConfig` for a move to where it is; `NotFound` without the tenant or the shard; `Conflict` where the
    /// directory has another owner, where a move to another shard has begun, or the shard is inactive; then nothing has
    /// changed.
    pub async fn set_state(&self, tenant: &TenantId, epoch: Epoch, state: State) -> Result<Placement> {
        let call = write("set_state", format!("tenant {tenant}"));
        let update = format!(
            "UPDATE {} SET state = $2, moving_to = $3, changed_at = clock_timestamp() WHERE tenant = $1",
            self.table("tenant")
        );
        self.change(&call, async |transaction| {
            let found = self.locked(transaction, &call, tenant).await?;
            if found.epoch != epoch {
                return Err(out_of_date(&call, &found, epoch).into());
            }
            let (word, to) = match (found.state, state) {
                (now, wanted) if now == wanted => return Ok(found),
                (_, State::Active) => ("active", None),
                (State::Moving { .. }, State::Moving { .. }) => {
                    let message = format!("it is {} already; end that move first", found.state);
                    return Err(conflict(&call, message).into());
                }
                (State::Active, State::Moving { to }) if to == found.shard => {
                    let message = format!("shard {to} has it already; name another shard");
                    return Err(Error::invalid(call.operation, message).on(&call.subject).into());
                }
                (State::Active, State::Moving { to }) => {
                    let shard = self.lock_shard(transaction, &call, to).await?;
                    if !shard.active {
                        return Err(inactive(&call, &shard).into());
                    }
                    ("moving", Some(to.get()))
                }
            };
            let values: [Value<'_>; 3] =
                [(&tenant.as_str(), Type::TEXT), (&word, Type::TEXT), (&to, Type::INT4)];
            transaction.query_typed(&update, &values).await?;
            Ok(Placement { state, ..found })
        })
        .await
    }

    pub(super) fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.schema.quoted())
    }

    async fn change<T>(
        &self,
        call: &Call,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T> {
        self.check().await?;
        self.client.transaction(call, work).await
    }

    async fn placement(
        &self,
        transaction: &Transaction<'_>,
        call: &Call,
        tenant: &TenantId,
    ) -> Result<Option<Placement>, Failed> {
        let sql = format!("SELECT {TENANT_COLUMNS} FROM {} t WHERE t.tenant = $1", self.table("tenant"));
        let rows = transaction.query_typed(&sql, &[(&tenant.as_str(), Type::TEXT)]).await?;
        Ok(rows.first().map(|row| read_placement(call, row)).transpose()?)
    }

    /// The placement, which nobody else changes until the end of the transaction.
    async fn locked(
        &self,
        transaction: &Transaction<'_>,
        call: &Call,
        tenant: &TenantId,
    ) -> Result<Placement, Failed> {
        let sql =
            format!("SELECT {TENANT_COLUMNS} FROM {} t WHERE t.tenant = $1 FOR UPDATE", self.table("tenant"));
        let rows = transaction.query_typed(&sql, &[(&tenant.as_str(), Type::TEXT)]).await?;
        let row = rows.first().ok_or_else(|| unknown_tenant(call))?;
        Ok(read_placement(call, row)?)
    }

    async fn lock_shard(
        &self,
        transaction: &Transaction<'_>,
        call: &Call,
        shard: ShardId,
    ) -> Result<Shard, Failed> {
        let sql =
            format!("SELECT {SHARD_COLUMNS} FROM {} s WHERE s.shard = $1 FOR SHARE", self.table("shard"));
        let rows = transaction.query_typed(&sql, &[(&shard.get(), Type::INT4)]).await?;
        Ok(read_shard(call, rows.first().ok_or_else(|| no_shard(call, shard))?)?)
    }
}

/// A shard as values of a statement.
struct ShardColumns<'a> {
    shard: &'a Shard,
    id: i32,
    port: i32,
    weight: i32,
}

impl<'a> ShardColumns<'a> {
    fn of(shard: &'a Shard) -> Self {
        Self { shard, id: shard.id.get(), port: shard.port.into(), weight: shard.weight.into() }
    }

    fn values(&self) -> [Value<'_>; 6] {
        [
            (&self.id, Type::INT4),
            (&self.shard.host, Type::TEXT),
            (&self.port, Type::INT4),
            (&self.shard.database, Type::TEXT),
            (&self.shard.active, Type::BOOL),
            (&self.weight, Type::INT4),
        ]
    }
}

fn read_shard(call: &Call, row: &Row) -> Result<Shard> {
    read_shard_at(call, row, 0)
}

fn read_shard_at(call: &Call, row: &Row, first: usize) -> Result<Shard> {
    let odd = |error: tokio_postgres::Error| call.odd_answer(error);
    let small = |place: usize| {
        let number: i32 = row.try_get(first + place).map_err(odd)?;
        u16::try_from(number).map_err(|_| call.odd_answer(number))
    };
    let id = ShardId::new(row.try_get(first).map_err(odd)?)?;
    let host: String = row.try_get(first + 1).map_err(odd)?;
    let database: String = row.try_get(first + 3).map_err(odd)?;
    let active = row.try_get(first + 4).map_err(odd)?;
    Ok(Shard::new(id, host, small(2)?, database).with_active(active).with_weight(small(5)?))
}

fn read_placement(call: &Call, row: &Row) -> Result<Placement> {
    let odd = |error: tokio_postgres::Error| call.odd_answer(error);
    let id: String = row.try_get(0).map_err(odd)?;
    let word: &str = row.try_get(3).map_err(odd)?;
    let to: Option<i32> = row.try_get(4).map_err(odd)?;
    let state = match (word, to) {
        ("active", None) => State::Active,
        ("moving", Some(to)) => State::Moving { to: ShardId::new(to)? },
        _ => return Err(call.odd_answer(format!("state {word:?}"))),
    };
    Ok(Placement {
        tenant: id.try_into()?,
        shard: ShardId::new(row.try_get(1).map_err(odd)?)?,
        epoch: Epoch::new(row.try_get(2).map_err(odd)?)?,
        state,
    })
}

fn write(operation: &'static str, subject: impl ToString) -> Call {
    Call { operation, subject: subject.to_string(), writes: true }
}

fn read(operation: &'static str, subject: String) -> Call {
    Call { operation, subject, writes: false }
}

fn conflict(call: &Call, message: String) -> Error {
    Error::new(ErrorKind::Conflict, call.operation, message).on(&call.subject)
}

fn out_of_date(call: &Call, found: &Placement, from: Epoch) -> Error {
    let Placement { shard, epoch, .. } = found;
    conflict(
        call,
        format!("it is on shard {shard} since epoch {epoch}, not {from} any more; look it up again"),
    )
}

fn is_elsewhere(call: &Call, found: &Placement) -> Error {
    let Placement { shard, epoch, .. } = found;
    conflict(call, format!("it is on shard {shard} since epoch {epoch}; use that, or move it"))
}

fn inactive(call: &Call, shard: &Shard) -> Error {
    conflict(call, format!("{shard} is inactive; choose another, or activate it"))
}

fn changed_meanwhile(call: &Call) -> Error {
    let retry = wakala_core::Retry::Safe { after: None };
    conflict(call, "somebody else changed it meanwhile; try again".to_owned()).with_retry(retry)
}

fn no_shard(call: &Call, shard: ShardId) -> Error {
    let message = format!("the directory has no shard {shard}; add it with add_shard");
    Error::new(ErrorKind::NotFound, call.operation, message).on(&call.subject)
}

fn unknown_tenant(call: &Call) -> Error {
    let message = "the directory does not have it; register it first";
    Error::new(ErrorKind::NotFound, call.operation, message).on(&call.subject)
}
