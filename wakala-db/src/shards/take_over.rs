//! What was sharded before the directory.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Transaction};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::directory::Directory;
use super::ids::{Shard, ShardId};
use super::legacy::Existing;
use crate::client::Failed;
use crate::error::Call;

/// How often it is tried where somebody else changes the directory meanwhile.
const ATTEMPTS: u32 = 5;
/// The most lines of what is wrong.
const LONGEST_LIST: usize = 50;

/// What [`Directory::take_over`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TakenOver {
    /// Shards that are new in the directory.
    pub shards: u64,
    /// Tenants that are new in the directory.
    pub tenants: u64,
    /// Tenants that the directory had already.
    pub known: u64,
}

impl Directory {
    /// Takes over the shards and tenants of tables that were there before, which stay as they are. All or nothing, from
    /// one snapshot; a repeat adds what has come since.
    ///
    /// A tenant that the directory has moved already, which is one of a later epoch than the first, is left alone. The
    /// role must be able to read both tables.
    ///
    /// # Errors
    /// `InvalidConfig` with everything that is wrong in one list, a line each: tenants without an id or a shard, or with
    /// one that no shard has (the remainder of a hash with a sign gives those from -2 to 0), or on an inactive shard, or
    /// there twice; shards that no client could find, or two that are the same database; and what contradicts the
    /// directory. Correct the tables, and call it again. `Conflict` where others changed the directory meanwhile, again
    /// and again.
    pub async fn take_over(&self, existing: &Existing) -> Result<TakenOver> {
        let subject = format!("table {}", existing.tenants_sql());
        let call = Call { operation: "take_over", subject, writes: true };
        self.check().await?;
        let mut attempt = 1;
        loop {
            let work = async |transaction: &Transaction<'_>| {
                self.take_over_within(transaction, &call, existing).await
            };
            let answer = self.client.transaction_at(&call, IsolationLevel::RepeatableRead, work).await;
            match answer {
                // The snapshot was older than what somebody else has done.
                Err(error)
                    if error.kind() == ErrorKind::Conflict
                        && matches!(error.retry(), Retry::Safe { .. })
                        && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn take_over_within(
        &self,
        transaction: &Transaction<'_>,
        call: &Call,
        existing: &Existing,
    ) -> Result<TakenOver, Failed> {
        let mut wrong = Problems::default();
        let shards = read_shards(transaction, existing, &mut wrong).await?;
        // What no table of ours takes is not offered to it: the server's refusal would end the list.
        let new_shards =
            if wrong.0.is_empty() { self.add_shards(transaction, &shards, &mut wrong).await? } else { 0 };
        look_at_labels(transaction, existing, &shards, &mut wrong).await?;
        look_at_ids(transaction, existing, &mut wrong).await?;
        self.look_at_known(transaction, existing, &mut wrong).await?;
        wrong.into_result(call)?;

        let tenants = existing.tenants_query();
        let insert = format!(
            "WITH old AS ({tenants}), new AS (INSERT INTO {} (tenant, shard, epoch, state) \
             SELECT tenant, shard::integer, 1, 'active' FROM old ON CONFLICT DO NOTHING RETURNING 1) \
             SELECT (SELECT count(*) FROM new), (SELECT count(*) FROM old)",
            self.table("tenant")
        );
        let rows = transaction.query_typed(&insert, &[]).await?;
        let counts = rows.first().ok_or_else(|| call.odd_answer("without a row"))?;
        let count = |place| -> Result<u64, Failed> {
            let number: i64 = counts.try_get(place)?;
            Ok(u64::try_from(number).map_err(|_| call.odd_answer(number))?)
        };
        let (new, all) = (count(0)?, count(1)?);
        Ok(TakenOver { shards: new_shards, tenants: new, known: all.saturating_sub(new) })
    }

    /// Adds the shards that the directory does not have, and compares the others.
    async fn add_shards(
        &self,
        transaction: &Transaction<'_>,
        shards: &BTreeMap<i32, Shard>,
        wrong: &mut Problems,
    ) -> Result<u64, Failed> {
        let table = self.table("shard");
        let insert = format!(
            "INSERT INTO {table} (shard, host, port, database, active) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT DO NOTHING RETURNING 1"
        );
        let lookup = format!(
            "SELECT shard, host, port, database FROM {table} \
             WHERE (shard = $1 OR (host, port, database) = ($2, $3, $4)) \
             AND (shard, host, port, database) <> ($1, $2, $3, $4)"
        );
        let mut new = 0;
        for shard in shards.values() {
            let values = [
                (&shard.id.get() as _, Type::INT4),
                (&shard.host as _, Type::TEXT),
                (&i32::from(shard.port) as _, Type::INT4),
                (&shard.database as _, Type::TEXT),
                (&shard.active as _, Type::BOOL),
            ];
            if !transaction.query_typed(&insert, &values).await?.is_empty() {
                new += 1;
                continue;
            }
            for row in transaction.query_typed(&lookup, &values[..4]).await? {
                let (id, host): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
                let (port, database): (i32, String) = (row.try_get(2)?, row.try_get(3)?);
                wrong.add(format!("{shard} is shard {id} ({host}:{port}/{database}) in the directory"));
            }
        }
        Ok(new)
    }

    /// What the directory has otherwise, and has not moved itself.
    async fn look_at_known(
        &self,
        transaction: &Transaction<'_>,
        existing: &Existing,
        wrong: &mut Problems,
    ) -> Result<(), Failed> {
        let sql = format!(
            "WITH old AS ({}) SELECT old.shard, new.shard::text, count(*), min(old.tenant), max(old.tenant) \
             FROM old JOIN {} new USING (tenant) \
             WHERE new.epoch = 1 AND old.shard <> new.shard::text GROUP BY 1, 2 ORDER BY 1, 2",
            existing.tenants_query(),
            self.table("tenant")
        );
        for row in transaction.query_typed(&sql, &[]).await? {
            let (old, new): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let some = Tenants::of(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
            wrong.add(format!("{some} on shard {old} here, and on shard {new} in the directory"));
        }
        Ok(())
    }
}

async fn read_shards(
    transaction: &Transaction<'_>,
    existing: &Existing,
    wrong: &mut Problems,
) -> Result<BTreeMap<i32, Shard>, Failed> {
    let mut shards = BTreeMap::<i32, Shard>::new();
    let sql = format!("{} ORDER BY 1", existing.shards_query());
    for row in transaction.query_typed(&sql, &[]).await? {
        let text = |place: usize| row.try_get::<_, Option<String>>(place);
        let name = text(0)?.unwrap_or_else(|| "NULL".to_owned());
        let Some(id) = name.parse().ok().and_then(|number| ShardId::new(number).ok()) else {
            wrong.add(format!("shard {name}: shards are numbered from 1"));
            continue;
        };
        let host = text(1)?.unwrap_or_default();
        // What the servers listen at; the column's default in the runbook, which an explicit NULL evades.
        let Some(port) = text(2)?.and_then(|port| port.parse().ok()) else {
            wrong.add(format!("shard {id}: its port is no number from 1 to 65535"));
            continue;
        };
        let active = match text(4)?.as_deref() {
            Some("true" | "t" | "yes" | "1") => true,
            Some("false" | "f" | "no" | "0") => false,
            other => {
                let said = other.unwrap_or("NULL");
                wrong.add(format!("shard {id}: whether it is active is {said:?}, neither true nor false"));
                continue;
            }
        };
        let shard = Shard::new(id, host, port, text(3)?.unwrap_or_default()).with_active(active);
        if let Err(error) = shard.check("take_over") {
            wrong.add(error.to_string().trim_start_matches("take_over on ").to_owned());
        }
        if let Some(twin) = shards.values().find(|other| other.same_place(&shard)) {
            wrong.add(format!("{shard} and shard {} are the same database", twin.id));
        }
        if shards.insert(id.get(), shard).is_some() {
            wrong.add(format!("shard {id} is there more than once"));
        }
    }
    Ok(shards)
}

async fn look_at_labels(
    transaction: &Transaction<'_>,
    existing: &Existing,
    shards: &BTreeMap<i32, Shard>,
    wrong: &mut Problems,
) -> Result<(), Failed> {
    let sql = format!(
        "SELECT shard, count(*), min(tenant), max(tenant) FROM ({}) old GROUP BY shard ORDER BY length(shard), shard",
        existing.tenants_query()
    );
    for row in transaction.query_typed(&sql, &[]).await? {
        let label: Option<String> = row.try_get(0)?;
        let some = Tenants::of(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let Some(label) = label else {
            wrong.add(format!("{some} without a shard"));
            continue;
        };
        // "+1" and "01" are numbers to us and to no client that compares texts.
        let number = label.parse::<i32>().ok().filter(|number| number.to_string() == label);
        match number.and_then(|number| shards.get(&number)) {
            None => wrong.add(format!("{some} on shard {label}, and there is no such shard")),
            Some(shard) if !shard.active => wrong.add(format!("{some} on {shard}, which is inactive")),
            Some(_) => {}
        }
    }
    Ok(())
}

async fn look_at_ids(
    transaction: &Transaction<'_>,
    existing: &Existing,
    wrong: &mut Problems,
) -> Result<(), Failed> {
    let tenants = existing.tenants_query();
    let sql = format!(
        "SELECT count(*) FILTER (WHERE tenant IS NULL), \
         count(*) FILTER (WHERE octet_length(tenant) NOT BETWEEN 1 AND 200) FROM ({tenants}) old"
    );
    for row in transaction.query_typed(&sql, &[]).await? {
        let (without, odd): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if without > 0 {
            wrong.add(format!("{without} rows without a tenant's id"));
        }
        if odd > 0 {
            wrong.add(format!("{odd} rows whose tenant's id is empty or has more than 200 bytes"));
        }
    }
    let sql = format!(
        "SELECT count(*), min(tenant), max(tenant) FROM \
         (SELECT tenant FROM ({tenants}) old WHERE tenant IS NOT NULL GROUP BY tenant HAVING count(*) > 1) twice"
    );
    for row in transaction.query_typed(&sql, &[]).await? {
        let count: i64 = row.try_get(0)?;
        if count > 0 {
            wrong.add(format!(
                "{} in more than one row",
                Tenants::of(count, row.try_get(1)?, row.try_get(2)?)
            ));
        }
    }
    Ok(())
}

/// Some tenants, for people.
struct Tenants {
    count: i64,
    first: String,
    last: String,
}

impl Tenants {
    fn of(count: i64, first: Option<String>, last: Option<String>) -> Self {
        let shown = |id: Option<String>| id.unwrap_or_else(|| "NULL".to_owned()).chars().take(60).collect();
        Self { count, first: shown(first), last: shown(last) }
    }
}

impl Display for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, first, last } = self;
        match count {
            1 => write!(f, "1 tenant ({first})"),
            2 => write!(f, "2 tenants ({first}, {last})"),
            _ => write!(f, "{count} tenants ({first} .. {last})"),
        }
    }
}

/// Everything that is wrong.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    fn into_result(self, call: &Call) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut message = format!("{} things are wrong; correct them and call it again", self.0.len());
        for problem in self.0.iter().take(LONGEST_LIST) {
            write!(message, "\n  {problem}").expect("a String takes all text");
        }
        if let Some(more) = self.0.len().checked_sub(LONGEST_LIST).filter(|more| *more > 0) {
            write!(message, "\n  and {more} more").expect("a String takes all text");
        }
        Err(Error::invalid(call.operation, message).on(&call.subject))
    }
}
