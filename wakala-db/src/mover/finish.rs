//! The end of a move: rows where the tenants are no more, slots, publications, what was written down.

use wakala_core::{ErrorKind, Result};

use super::copy;
use super::mover::{Mover, Way};
use super::observer::MoveEvent;
use super::registry::{self, Object};
use super::stream;
use crate::shards::{Epoch, ShardId};

/// What is left of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Rows that were deleted where their tenants are no more.
    pub rows_deleted: u64,
}

impl Mover {
    /// Ends the move: each tenant stays where it is, and its rows on the other shard are deleted. **This cannot be taken
    /// back.** Slots and publications go; the guards stay, and refuse whoever still comes to the wrong shard.
    ///
    /// Idempotent. After an error, or where the process dies, call it again on another mover.
    ///
    /// # Errors
    /// `Conflict` where a tenant is between the shards: hand it over, or take it back. Else what the servers say.
    pub async fn finish(mut self) -> Result<Finished> {
        self.prepare_to_end().await?;
        self.end().await
    }

    /// Ends the move before a tenant was handed over, or after all were taken back: the destination is as it was.
    ///
    /// Works where [`prepare`](Self::prepare) does not any more: where a slot was lost, or a table has changed. Idempotent.
    ///
    /// # Errors
    /// `Conflict` where a tenant is on the destination, or on its way there. Else what the servers say.
    pub async fn abort(mut self) -> Result<Finished> {
        self.prepare_to_end().await?;
        for tenant in self.tenants.ids() {
            if self.place(tenant).await? == Way::Back {
                let message = format!(
                    "tenant {tenant} was handed over to shard {}; take it back first, or finish the move",
                    self.destination.shard
                );
                return Err(self.error(ErrorKind::Conflict, "abort", message));
            }
        }
        self.end().await
    }

    async fn end(&mut self) -> Result<Finished> {
        let mut finished = Finished::default();
        let mut keep = Vec::new();
        for tenant in self.tenants.ids() {
            keep.push(self.settled_on(tenant).await?);
        }
        self.tell_directory().await?;
        // Whoever comes late finds the streams gone before the rows are: they would carry the deletion over.
        for way in [Way::There, Way::Back] {
            let link = match way {
                Way::There => self.there.take(),
                Way::Back => self.back.take(),
            };
            if let Some(link) = link {
                link.close().await;
            }
            self.drop_way(way).await?;
        }
        for (side, lost) in [(&self.source, Way::Back), (&self.destination, Way::There)] {
            let places: Vec<usize> = (0..keep.len()).filter(|place| keep[*place] == lost).collect();
            if places.is_empty() {
                continue;
            }
            let tenants = self.tenants.only(&places);
            let scope = copy::Scope { tables: &self.tables, tenants: &tenants };
            let writer = side.writer().await?;
            let told = std::sync::atomic::AtomicU64::new(finished.rows_deleted);
            let deleted = copy::wipe(&writer, self.holder()?, scope, &|_, _, rows| {
                let rows = told.fetch_add(rows, std::sync::atomic::Ordering::Relaxed) + rows;
                self.tell(MoveEvent::Wiped { rows });
            })
            .await?;
            finished.rows_deleted += deleted;
        }
        let source = self.source.number();
        for (place, tenant) in self.tenants.ids().iter().enumerate() {
            if keep[place] == Way::There {
                registry::no_longer_expected(&self.destination.client, self.holder()?, tenant, source)
                    .await?;
            }
        }
        for side in [&self.destination, &self.source] {
            registry::forget(&side.client, self.holder()?).await?;
        }
        self.tell(MoveEvent::Finished);
        Ok(finished)
    }

    /// Where the process that handed a tenant over died before the directory knew.
    async fn tell_directory(&self) -> Result<()> {
        for tenant in &self.spec.tenants {
            let (source, destination) = self.owners(tenant.as_str()).await?;
            let owners = [(self.source.shard, source), (self.destination.shard, destination)];
            let owner = owners.into_iter().find_map(|(shard, owner)| {
                owner
                    .filter(|owner| owner.state == registry::OwnerState::Owned)
                    .map(|owner| (shard, owner.epoch))
            });
            if let Some((shard, epoch)) = owner {
                match self.flip(tenant, shard, Epoch::new(epoch)?).await {
                    // Whoever deleted the tenant there does not keep the move from ending.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// Where a tenant is, and neither on its way.
    async fn settled_on(&self, tenant: &str) -> Result<Way> {
        let place = self.place(tenant).await?;
        let (source, destination) = self.owners(tenant).await?;
        let owner = if place == Way::There { source } else { destination };
        if owner.is_none_or(|owner| owner.state != registry::OwnerState::Owned) {
            let message = format!("tenant {tenant} is between the shards; hand it over, or take it back");
            return Err(self.error(ErrorKind::Conflict, "finish", message));
        }
        Ok(place)
    }

    async fn drop_way(&self, way: Way) -> Result<()> {
        let (from, _) = self.side(way);
        let (name, holder) = (self.name(way), self.holder()?);
        stream::drop_slot(&from.client, &name).await?;
        registry::strike(&from.client, holder, Object::Slot, &name).await?;
        stream::drop_publication(&from.client, &name).await?;
        registry::strike(&from.client, holder, Object::Publication, &name).await
    }

    /// Which shard serves a tenant.
    ///
    /// # Errors
    /// What the servers say; `Conflict` where both say so.
    pub async fn shard_of(&self, tenant: &str) -> Result<ShardId> {
        Ok(match self.place(tenant).await? {
            Way::There => self.source.shard,
            Way::Back => self.destination.shard,
        })
    }
}
