//! How a move stands, read from both shards by somebody who does not drive it.

use std::collections::BTreeMap;

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use wakala_core::Result;

use super::connect::ShardAccess;
use super::registry::{self, Owner, OwnerState, one};
use super::spec::MoveSpec;
use super::stream;
use crate::error::Call;
use crate::shards::{Directory, ShardId, TenantId};

/// Where a tenant of a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantPlace {
    /// The destination serves it.
    Destination,
    /// The source serves it; also where the move has not begun.
    Source,
    /// The source gave it up and the destination has not opened it yet: nobody serves it until the move goes on.
    ToDestination,
    /// The destination gave it up and the source has not opened it yet: nobody serves it until the move goes on.
    ToSource,
}

/// How a tenant of a move stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TenantFacts {
    /// The tenant.
    pub tenant: TenantId,
    /// Who serves it, as the shards say.
    pub place: TenantPlace,
    /// Who serves it, as the directory says; `None` where it does not know the tenant.
    pub directory: Option<ShardId>,
}

/// How a move stands. Read by [`MoveFacts::read`], which neither takes the move over nor changes anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveFacts {
    /// One of the shards knows of the move.
    pub begun: bool,
    /// Both know of it, changes of the source are kept, and the copy is planned.
    pub prepared: bool,
    /// Chunks that are on the destination.
    pub chunks: u64,
    /// All chunks; 0 before the copy is planned.
    pub chunks_total: u64,
    /// Rows that are on the destination.
    pub rows: u64,
    /// Bytes of its log that the source keeps for the move; `None` where it keeps none.
    pub lag_bytes: Option<u64>,
    /// Whether all rows were the same, by the name that the pass was given.
    pub checks: BTreeMap<String, bool>,
    /// In the order of the move.
    pub tenants: Vec<TenantFacts>,
}

impl MoveFacts {
    /// Reads both shards, and the directory.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` where one cannot be read.
    pub async fn read(
        spec: &MoveSpec,
        source: &ShardAccess,
        destination: &ShardAccess,
        directory: &Directory,
    ) -> Result<Self> {
        let application = format!("wakala look at {}", spec.id);
        let (source, destination) =
            futures::try_join!(source.connect(&application), destination.connect(&application))?;
        let id = spec.id.as_str();
        let (has_source, has_destination) =
            futures::try_join!(has_schema(&source), has_schema(&destination))?;
        let mut facts = Self::default();
        let known_by_source = has_source && registry::lease(&source, id).await? > 0;
        let known_by_destination = has_destination && registry::lease(&destination, id).await? > 0;
        facts.begun = known_by_source || known_by_destination;
        let slot = stream::slot_facts(&source, &format!("wakala_{id}")).await?;
        let whole = slot.as_ref().is_some_and(|slot| slot.invalidation.is_none());
        facts.lag_bytes =
            slot.and_then(|slot| slot.retained_bytes).map(|bytes| u64::try_from(bytes).unwrap_or(0));
        if known_by_destination {
            facts.read_destination(&destination, id).await?;
        }
        facts.prepared = known_by_source && known_by_destination && whole && facts.chunks_total > 0;
        for tenant in &spec.tenants {
            let here = if has_source { registry::owner(&source, tenant.as_str()).await? } else { None };
            let there =
                if has_destination { registry::owner(&destination, tenant.as_str()).await? } else { None };
            let placement = directory.find(tenant).await?;
            facts.tenants.push(TenantFacts {
                tenant: tenant.clone(),
                place: place(spec, here.as_ref(), there.as_ref()),
                directory: placement.map(|placement| placement.shard),
            });
        }
        Ok(facts)
    }

    async fn read_destination(&mut self, client: &Client, id: &str) -> Result<()> {
        let call = Call { operation: "read_progress", subject: format!("move {id}"), writes: false };
        let sql = "SELECT count(*) FILTER (WHERE snapshot IS NOT NULL), count(*),
                 coalesce(sum(row_count) FILTER (WHERE snapshot IS NOT NULL), 0)::bigint
             FROM wakala_shard.move_chunk WHERE move_id = $1";
        let row = one(&call, client.query_typed(sql, &[(&id, Type::TEXT)]).await)?;
        let number = |place: usize| -> Result<u64> {
            let number: i64 = row.try_get(place).map_err(|error| call.failed(error))?;
            Ok(u64::try_from(number).unwrap_or(0))
        };
        (self.chunks, self.chunks_total, self.rows) = (number(0)?, number(1)?, number(2)?);
        let sql =
            "SELECT pass, bool_and(equal) FROM wakala_shard.move_check WHERE move_id = $1 GROUP BY pass";
        let rows = client.query_typed(sql, &[(&id, Type::TEXT)]).await.map_err(|error| call.failed(error))?;
        for row in rows {
            let read = || Ok((row.try_get(0)?, row.try_get(1)?));
            let (pass, equal) = read().map_err(|error| call.failed(error))?;
            self.checks.insert(pass, equal);
        }
        Ok(())
    }

    /// How a tenant stands; `None` for one that is not moved.
    pub fn tenant(&self, tenant: &TenantId) -> Option<&TenantFacts> {
        self.tenants.iter().find(|facts| facts.tenant == *tenant)
    }

    /// Whether all rows are on the destination, but for what happened since.
    pub fn is_copied(&self) -> bool {
        self.prepared && self.chunks == self.chunks_total
    }

    /// Whether all tenants are there, and the same there.
    pub fn all_at(&self, place: TenantPlace) -> bool {
        self.tenants.iter().all(|facts| facts.place == place)
    }
}

async fn has_schema(client: &Client) -> Result<bool> {
    let call = Call { operation: "read_schema", subject: "schema wakala_shard".to_owned(), writes: false };
    let sql = "SELECT to_regclass('wakala_shard.move_check') IS NOT NULL";
    let row = one(&call, client.query_typed(sql, &[]).await)?;
    row.try_get(0).map_err(|error| call.failed(error))
}

fn place(spec: &MoveSpec, source: Option<&Owner>, destination: Option<&Owner>) -> TenantPlace {
    let owned = |owner: Option<&Owner>| owner.is_some_and(|owner| owner.state == OwnerState::Owned);
    if owned(destination) {
        return TenantPlace::Destination;
    }
    let Some(here) = source.filter(|_| !owned(source)) else { return TenantPlace::Source };
    // The token is on its way: to the one that the other gave it up for.
    let given_back = destination.is_some_and(|there| {
        there.state == OwnerState::Gone && there.shard == spec.source.get() && there.epoch > here.epoch
    });
    if given_back { TenantPlace::ToSource } else { TenantPlace::ToDestination }
}
