//! The move for servers without a stream of changes: the tenant stands still while it is copied.

use std::time::Instant;

use tokio_postgres::types::Type;
use wakala_core::{ErrorKind, Result, Retry};

use super::copy::{self, Chunk, Chunks, Copied, Copier, Scope, Watch};
use super::hand_over::{FENCE_PAUSE, Fenced, HandOver};
use super::mover::{Mover, Way};
use super::observer::MoveEvent;
use super::registry::{self, OwnerState, one};
use super::snapshot::Snapshot;
use super::verify;
use crate::error::Call;
use crate::shards::{Epoch, TenantId};

/// The chunks of a tenant are numbered from its place times this.
const CHUNKS_A_TENANT: i32 = 1_000_000;

/// Nobody changes what is copied, so every snapshot will do.
struct Still;

impl Watch for Still {
    fn acceptable(&self, _: &Snapshot) -> bool {
        true
    }

    fn moved(&self, _: u64) -> Option<std::time::Duration> {
        None
    }

    fn copied(&self, _: &Chunk, _: &Copied) {}
}

impl Mover {
    /// Fence, copy, compare, open. Resumed, it goes on with the chunks that are missing: the fence holds meanwhile.
    pub(super) async fn hand_over_frozen(&mut self, tenant: &TenantId, place: usize) -> Result<HandOver> {
        let begun = Instant::now();
        let mut pause = None;
        for attempt in 1.. {
            let giver = self.owner_on(&self.source, tenant).await?;
            let taker = self.owner_on(&self.destination, tenant).await?;
            match (giver.state, taker.state) {
                (_, OwnerState::Owned) => {
                    let (shard, epoch) = (self.destination.shard, Epoch::new(taker.epoch)?);
                    self.flip(tenant, shard, epoch).await?;
                    return Ok(HandOver { shard, epoch, pause });
                }
                (OwnerState::Owned, _) => {
                    self.tell(MoveEvent::Fencing { tenant: tenant.to_string(), attempt });
                    if let Fenced::GaveWay = self.fence_only(tenant, giver.epoch).await? {
                        self.tell(MoveEvent::FenceGaveWay { tenant: tenant.to_string() });
                        if attempt >= self.options.fence_attempts {
                            return Err(self.never_alone(tenant, self.source.shard, attempt));
                        }
                        tokio::time::sleep(FENCE_PAUSE).await;
                    }
                }
                (OwnerState::Gone, _) if giver.shard == self.destination.number() => {
                    self.copy_still(place).await?;
                    self.compare_still(tenant, place).await?;
                    self.open_frozen(tenant, giver.epoch).await?;
                    let took = begun.elapsed();
                    pause = Some(took);
                    let shard = self.destination.shard;
                    self.tell(MoveEvent::Opened { tenant: tenant.to_string(), shard, pause: took });
                }
                _ => return Err(self.nobody_serves(tenant, &giver, &taker, Way::There)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn copy_still(&self, place: usize) -> Result<()> {
        let tenants = self.tenants.only(&[place]);
        let scope = Scope { tables: &self.tables, tenants: &tenants };
        let first = i32::try_from(place).unwrap_or(i32::MAX).saturating_mul(CHUNKS_A_TENANT);
        let of_tenant = |chunk: &Chunk| (first..first.saturating_add(CHUNKS_A_TENANT)).contains(&chunk.id);
        let mut chunks: Vec<Chunk> =
            copy::load(&self.destination.client, self.spec.id.as_str(), self.scope()).await?;
        chunks.retain(of_tenant);
        for chunk in &mut chunks {
            chunk.tenant = 0;
        }
        if chunks.is_empty() {
            chunks = copy::plan(&self.source.reader().await?, scope, self.options.chunk_bytes).await?;
            for chunk in &mut chunks {
                chunk.id += first;
            }
            copy::save(&self.destination.client, self.holder()?, scope, &chunks).await?;
        }
        let chunks = Chunks::new(tenants.clone(), chunks)?;
        let missing: Vec<Chunk> = chunks.missing().cloned().collect();
        let mut sessions = Vec::new();
        for _ in 0..self.options.streams.max(1).min(missing.len()) {
            sessions.push(futures::try_join!(self.source.reader(), self.destination.writer())?);
        }
        let pairs: Vec<_> = sessions.iter().map(|(source, destination)| (source, destination)).collect();
        let copier = Copier { holder: self.holder()?, scope };
        if !missing.is_empty() {
            copier.copy(&pairs, &missing, &Still).await?;
        }
        Ok(())
    }

    async fn compare_still(&self, tenant: &TenantId, place: usize) -> Result<()> {
        let (source, destination) = futures::try_join!(self.source.reader(), self.destination.reader())?;
        let of_tenant = [place];
        for table in 0..self.tables.len() {
            let (ours, theirs) = futures::try_join!(
                verify::digests(&source, self.scope(), table, &of_tenant),
                verify::digests(&destination, self.scope(), table, &of_tenant)
            )?;
            if ours != theirs {
                let first =
                    verify::first_difference(&source, &destination, self.scope(), table, place).await?;
                let message = format!(
                    "tenant {tenant} is fenced, and its rows in table {} are not the same on both shards: {first}. Take it \
                     back, and it is served by shard {} again",
                    self.tables[table], self.source.shard
                );
                return Err(self.error(ErrorKind::Conflict, "verify", message));
            }
            let rows = ours.iter().map(|digest| u64::try_from(digest.rows).unwrap_or(0)).sum();
            self.tell(MoveEvent::Verified { table: self.tables[table].to_string(), rows });
        }
        Ok(())
    }

    async fn open_frozen(&self, tenant: &TenantId, epoch: i64) -> Result<()> {
        let call = Call { operation: "open", subject: format!("tenant {tenant}"), writes: true };
        let mut used = Vec::new();
        for name in self.sequences() {
            let sql = format!("SELECT last_value FROM {name}");
            let row = one(&call, self.source.client.query_typed(&sql, &[]).await)?;
            used.push((name, row.try_get::<_, i64>(0).map_err(|error| call.failed(error))?));
        }
        let session = self.destination.connect().await?;
        let failed = |error| call.failed(error);
        session.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await.map_err(failed)?;
        self.holder()?.enter(&session).await?;
        for (name, value) in &used {
            session
                .query_typed(
                    "SELECT wakala_shard.raise_sequence($1, $2)",
                    &[(name, Type::TEXT), (value, Type::INT8)],
                )
                .await
                .map_err(failed)?;
        }
        let id = tenant.as_str();
        session
            .query_typed("SELECT wakala_shard.receive($1, $2)", &[(&id, Type::TEXT), (&epoch, Type::INT8)])
            .await
            .map_err(failed)?;
        session.batch_execute("COMMIT").await.map_err(failed)
    }

    /// A tenant that was fenced, and never opened on the destination, is the source's again. The destination is made unable
    /// to open it first.
    pub(super) async fn take_back_frozen(&self, tenant: &TenantId) -> Result<HandOver> {
        let (source, destination) = (&self.source, &self.destination);
        let giver = self.owner_on(source, tenant).await?;
        let taker = self.owner_on(destination, tenant).await?;
        if taker.state == OwnerState::Owned {
            let message = format!(
                "shard {} serves tenant {tenant} already, and a frozen copy leaves no way back; move it back by another move",
                destination.shard
            );
            return Err(self.error(ErrorKind::Conflict, "take_back", message).with_retry(Retry::Never));
        }
        let epoch = if giver.state == OwnerState::Owned { giver.epoch } else { giver.epoch + 1 };
        if giver.state != OwnerState::Owned {
            for (side, state, shard) in [(destination, "gone", source), (source, "owned", source)] {
                registry::set_owner(
                    &side.client,
                    self.holder()?,
                    tenant.as_str(),
                    epoch,
                    shard.number(),
                    state,
                )
                .await?;
            }
        }
        let epoch = Epoch::new(epoch)?;
        self.flip(tenant, source.shard, epoch).await?;
        Ok(HandOver { shard: source.shard, epoch, pause: None })
    }
}
