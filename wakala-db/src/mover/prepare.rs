//! Taking a move over, and making what it needs: each thing once, whoever began it.

use std::collections::HashMap;

use tokio_postgres::types::PgLsn;
use wakala_core::{ErrorKind, Result};

use super::copy;
use super::holder::Holder;
use super::install;
use super::mover::{Mover, Way};
use super::observer::MoveEvent;
use super::registry::{self, Entry, Object, OwnerState};
use super::side::Side;
use super::spec::MoveMethod;
use super::stream;
use crate::error::Call;
use crate::shards::ShardId;

/// How many placements are read at once.
const PAGE: usize = 1000;

impl Mover {
    /// Takes the move over and makes what it needs, where that is not done: guards on the tables, what the shards know
    /// of their tenants, a publication and a slot, the plan of the copy. Writers are held up for as long as it takes to
    /// put a trigger on a table that nobody is writing to.
    ///
    /// After an error, or where the process dies, [`abort`](Self::abort) takes away what was made; the guards stay, since
    /// they are what keeps a tenant's rows on one shard.
    ///
    /// # Errors
    /// - `NotFound`: the directory does not know a tenant.
    /// - `Conflict`: a tenant is not on the source; the destination has rows of it; another process took the move over;
    ///   another move has the tenant; a shard was failed over; the source no longer has its changes.
    /// - `Denied`, `Unavailable`, `InvalidConfig`: what the servers say.
    pub async fn prepare(&mut self) -> Result<()> {
        if self.holder.is_some() {
            return Ok(());
        }
        let begun = registry::is_known(&self.destination.client, self.spec.id.as_str()).await?;
        if !begun {
            self.check_placed().await?;
        }
        self.check_tables(begun).await?;
        self.prepare_to_end().await?;
        install::guard(&mut self.source.client, &self.tables).await?;
        install::guard(&mut self.destination.client, &self.tables).await?;
        self.make_known().await?;
        if self.options.method == MoveMethod::Frozen {
            if !begun {
                self.refuse_strangers().await?;
            }
            self.tell(MoveEvent::Prepared);
            return Ok(());
        }
        self.prepare_there().await?;
        if self.anybody_moved().await? {
            self.open_back().await?;
        }
        self.tell(MoveEvent::Prepared);
        Ok(())
    }

    /// Whether the tenants are where they shall come from, as the directory says, and no other move has them; the shards
    /// make sure of it later.
    async fn check_placed(&self) -> Result<()> {
        for side in [&self.source, &self.destination] {
            let (id, tenants) = (self.spec.id.as_str(), self.tenants.ids());
            if let Some(other) = registry::other_move(&side.client, id, tenants).await? {
                let message = format!("move {other} has one of its tenants; finish that first");
                return Err(self.error(ErrorKind::Conflict, "prepare", message));
            }
        }
        for tenant in &self.spec.tenants {
            let refused = |kind, message| Err(self.error(kind, "prepare", message));
            match self.directory.find(tenant).await? {
                Some(found) if found.shard == self.source.shard => {}
                Some(found) if found.shard == self.destination.shard => {
                    let message = format!("tenant {tenant} is on shard {} already", found.shard);
                    return refused(ErrorKind::Conflict, message);
                }
                Some(found) => {
                    let message =
                        format!("tenant {tenant} is on shard {}, not on {}", found.shard, self.source.shard);
                    return refused(ErrorKind::Conflict, message);
                }
                None => {
                    let message = format!("the directory does not know tenant {tenant}; register it first");
                    return refused(ErrorKind::NotFound, message);
                }
            }
        }
        Ok(())
    }

    /// As much as is needed to end it.
    pub(super) async fn prepare_to_end(&mut self) -> Result<()> {
        if self.holder.is_some() {
            return Ok(());
        }
        install::install(&mut self.source).await?;
        install::install(&mut self.destination).await?;
        self.take().await?;
        self.tell(MoveEvent::Taken);
        Ok(())
    }

    async fn take(&mut self) -> Result<()> {
        let id = self.spec.id.as_str();
        let known = [&self.source.client, &self.destination.client];
        let lease = known[0];
        let lease = registry::lease(lease, id).await?.max(registry::lease(known[1], id).await?) + 1;
        let holder = Holder { move_id: id.to_owned(), lease };
        let (source, destination) = (&mut self.source, &mut self.destination);
        let ids = self.tenants.ids();
        let entry = |role, other: &Side| (role, other.number(), other.server.clone());
        let (there, here) = (entry("source", destination), entry("destination", source));
        for (side, (role, other, server)) in [(source, there), (destination, here)] {
            let entry = Entry { move_id: id, role, other, tenants: ids, server: &server };
            registry::take(&mut side.client, &entry, lease).await?;
        }
        self.holder = Some(holder);
        Ok(())
    }

    /// Makes the schema `wakala_shard` on both shards and lets them know whom they serve, as the directory says: what a
    /// [`Router`](crate::Router) needs before any move. Nobody is held up, and no table is touched. Idempotent.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`: what the servers say.
    pub async fn install(&mut self) -> Result<()> {
        install::install(&mut self.source).await?;
        install::install(&mut self.destination).await?;
        let owners = self.known_owners().await?;
        let none = Vec::new();
        for side in [&self.source, &self.destination] {
            let served = owners.get(&side.shard).unwrap_or(&none);
            registry::register(&side.client, side.number(), served).await?;
        }
        Ok(())
    }

    /// Whom each shard serves, as the directory says.
    async fn known_owners(&self) -> Result<HashMap<ShardId, Vec<(String, i64)>>> {
        let mut owners: HashMap<ShardId, Vec<(String, i64)>> = HashMap::new();
        let mut after = None;
        loop {
            let page = self.directory.placements(after.as_ref(), PAGE).await?;
            for placement in &page {
                let owner = (placement.tenant.to_string(), placement.epoch.get());
                owners.entry(placement.shard).or_default().push(owner);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.tenant.clone()),
                _ => return Ok(owners),
            }
        }
    }

    /// Both shards learn whom they serve; the destination, whom it does not serve yet.
    async fn make_known(&self) -> Result<()> {
        let owners = self.known_owners().await?;
        let none = Vec::new();
        let of = |side: &Side| owners.get(&side.shard).unwrap_or(&none);
        let destination: Vec<_> = of(&self.destination)
            .iter()
            .filter(|(tenant, _)| !self.tenants.ids().contains(tenant))
            .cloned()
            .collect();
        registry::register(&self.source.client, self.source.number(), of(&self.source)).await?;
        registry::register(&self.destination.client, self.destination.number(), &destination).await?;
        for tenant in self.tenants.ids() {
            let (source, destination) = self.owners(tenant).await?;
            match (source, destination) {
                (Some(source), destination)
                    if source.state == OwnerState::Owned
                        && destination.as_ref().is_none_or(|other| other.state != OwnerState::Owned) =>
                {
                    registry::expect(&self.destination.client, self.holder()?, tenant, &source).await?;
                }
                // It was handed over, or is just being.
                (Some(source), Some(_)) if source.shard == self.destination.number() => {}
                (source, destination) => {
                    let message = format!(
                        "tenant {tenant} is not on shard {}: the directory and the shards say so ({source:?} there, \
                         {destination:?} on shard {})",
                        self.source.shard, self.destination.shard
                    );
                    return Err(self.error(ErrorKind::Conflict, "prepare", message));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn anybody_moved(&self) -> Result<bool> {
        for tenant in self.tenants.ids() {
            let source = registry::owner(&self.source.client, tenant).await?;
            if source.is_none_or(|owner| owner.state != OwnerState::Owned) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn prepare_there(&mut self) -> Result<()> {
        let applied = match self.slot_of(Way::There).await? {
            Some(applied) => applied,
            None => {
                // What was copied is of no use without the changes since.
                let begun =
                    registry::applied(&self.destination.client, self.spec.id.as_str()).await?.is_some();
                if begun && self.anybody_moved().await? {
                    let message = format!(
                        "the changes of shard {} were lost (slot {}) after a tenant was handed over: finish the move if \
                         all are, or take them back by hand",
                        self.source.shard,
                        self.name(Way::There)
                    );
                    return Err(self.error(ErrorKind::Conflict, "prepare", message));
                }
                if begun {
                    tracing::warn!(move_id = %self.spec.id, "the slot was lost: the copy begins again");
                    self.forget_copy().await?;
                }
                self.make_slot(Way::There).await?
            }
        };
        let mut chunks = copy::load(&self.destination.client, self.spec.id.as_str(), self.scope()).await?;
        if chunks.is_empty() {
            self.refuse_strangers().await?;
            let reader = self.source.reader().await?;
            let plan = copy::plan(&reader, self.scope(), self.options.chunk_bytes).await?;
            copy::save(&self.destination.client, self.holder()?, self.scope(), &plan).await?;
            chunks = plan;
        }
        self.there = Some(self.open_link(Way::There, chunks, applied).await?);
        Ok(())
    }

    /// What is on the destination of a copy whose changes are lost.
    async fn forget_copy(&self) -> Result<()> {
        let writer = self.destination.writer().await?;
        copy::wipe(&writer, self.holder()?, self.scope(), &|_, _, _| {}).await?;
        registry::forget_copy(&self.destination.client, self.holder()?).await
    }

    /// Rows that are on the destination though nothing was copied are somebody else's.
    async fn refuse_strangers(&self) -> Result<()> {
        let list: Vec<String> =
            (0..self.tenants.ids().len()).map(|place| self.tenants.literal(place)).collect();
        for table in self.tables.iter() {
            let call = Call { operation: "prepare", subject: format!("table {table}"), writes: false };
            let column = crate::config::quoted(&table.columns[table.tenant].name);
            let sql = format!(
                "SELECT {column}::text FROM {} WHERE {column} IN ({}) LIMIT 1",
                table.quoted(),
                list.join(", ")
            );
            let rows =
                self.destination.client.query_typed(&sql, &[]).await.map_err(|error| call.failed(error))?;
            if let Some(row) = rows.first() {
                let tenant: String = row.get(0);
                let message = format!(
                    "shard {} has rows of tenant {tenant} in table {table} already; find out whose they are, and delete \
                     them or move another tenant",
                    self.destination.shard
                );
                return Err(self.error(ErrorKind::Conflict, "prepare", message));
            }
        }
        Ok(())
    }

    /// Where a way goes on; `None` where its slot is not there, or is of no use.
    pub(super) async fn slot_of(&self, way: Way) -> Result<Option<PgLsn>> {
        let (from, to) = self.side(way);
        let name = self.name(way);
        let applied = registry::applied(&to.client, self.spec.id.as_str()).await?;
        let facts = stream::slot_facts(&from.client, &name).await?;
        Ok(match (facts, applied) {
            (Some(facts), Some(applied)) if facts.invalidation.is_none() => Some(applied),
            _ => None,
        })
    }

    /// Makes the publication and the slot of a way, and says where it begins.
    pub(super) async fn make_slot(&self, way: Way) -> Result<PgLsn> {
        let (from, to) = self.side(way);
        let (name, holder) = (self.name(way), self.holder()?);
        registry::note(&from.client, holder, Object::Slot, &name).await?;
        registry::note(&from.client, holder, Object::Publication, &name).await?;
        // One that is not known to begin where the copy did is of no use.
        stream::drop_slot(&from.client, &name).await?;
        stream::drop_publication(&from.client, &name).await?;
        stream::create_publication(&from.client, &name, &self.tables, &self.tenants).await?;
        let at =
            stream::create_slot(&from.stream_config(), from.access.secure(), &from.client, &name).await?;
        registry::begins_at(&to.client, holder, at).await?;
        Ok(at)
    }

    /// The way back, where there is none: from here on what happens on the destination is kept.
    ///
    /// Made before the first fence and not in it: it waits for every transaction that is open on the destination's server.
    pub(super) async fn make_back(&mut self) -> Result<()> {
        if self.back.is_some() {
            return Ok(());
        }
        let applied = match self.slot_of(Way::Back).await? {
            Some(applied) => applied,
            None => self.make_slot(Way::Back).await?,
        };
        self.back = Some(self.open_link(Way::Back, self.all_there(), applied).await?);
        self.link(Way::Back)?.chunks.caught_up();
        self.tell(MoveEvent::WayBackReady);
        Ok(())
    }

    /// The way back of tenants that were handed over before. Where it is lost, they cannot be taken back any more; nothing
    /// else suffers.
    async fn open_back(&mut self) -> Result<()> {
        let Some(applied) = self.slot_of(Way::Back).await? else {
            tracing::error!(move_id = %self.spec.id, "the way back is lost: tenants that were moved stay where they are");
            return Ok(());
        };
        self.back = Some(self.open_link(Way::Back, self.all_there(), applied).await?);
        self.link(Way::Back)?.chunks.caught_up();
        Ok(())
    }
}
