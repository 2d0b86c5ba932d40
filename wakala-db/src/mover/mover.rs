//! The mover: two shards, the two ways between them, and what is to be done next.

use std::sync::Arc;

use tokio_postgres::types::{PgLsn, ToSql, Type};
use wakala_core::{Error, ErrorKind, Result};

use super::apply::Applier;
use super::copy::{Chunk, Chunks, Copied, Scope};
use super::discover::Catalog;
use super::holder::Holder;
use super::link::{Link, Parts};
use super::observer::{MoveEvent, MoveObserver};
use super::rate::CopyRate;
use super::registry::{self, Owner, OwnerState};
use super::side::Side;
use super::snapshot::Snapshot;
use super::spec::{MoveOptions, MoveSpec};
use super::stream::{self, ChangeStream};
use super::table::{Format, Table};
use super::tenant::Tenants;
use crate::error::Call;
use crate::shards::Directory;

/// How long the reader of a stream may take to end.
const READER_ENDS_MS: i64 = 10_000;

/// Which way rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the destination to the source, for tenants that were handed over.
    Back,
    /// From the source to the destination.
    There,
}

/// Drives one move.
///
/// It holds nothing that is not on the two shards or in the directory: dropped or killed at any instant, another one
/// goes on where it was. Every method is idempotent and finds out by itself what is done already. Two at once are safe:
/// the later one takes the move over, and the earlier one can write nothing any more.
///
/// While it exists and none of its methods runs, changes wait in the logs of the shards: call [`follow`](Self::follow)
/// in between, and [`finish`](Self::finish) or [`abort`](Self::abort) in the end, or the shards keep their logs for
/// ever.
#[derive(Debug)]
pub struct Mover {
    pub(super) spec: MoveSpec,
    pub(super) options: MoveOptions,
    pub(super) rate: CopyRate,
    pub(super) directory: Directory,
    pub(super) observer: Arc<dyn MoveObserver>,
    pub(super) source: Side,
    pub(super) destination: Side,
    pub(super) tables: Arc<[Table]>,
    pub(super) tenants: Tenants,
    pub(super) catalog: Catalog,
    /// Of the destination.
    pub(super) other: Catalog,
    /// Since this process drives the move.
    pub(super) holder: Option<Holder>,
    pub(super) there: Option<Link>,
    pub(super) back: Option<Link>,
}

impl Mover {
    pub(super) fn side(&self, way: Way) -> (&Side, &Side) {
        match way {
            Way::There => (&self.source, &self.destination),
            Way::Back => (&self.destination, &self.source),
        }
    }

    pub(super) fn holder(&self) -> Result<&Holder> {
        self.holder
            .as_ref()
            .ok_or_else(|| self.error(ErrorKind::Unexpected, "drive", "this process does not drive it"))
    }

    pub(super) fn link(&mut self, way: Way) -> Result<&mut Link> {
        let link = match way {
            Way::There => &mut self.there,
            Way::Back => &mut self.back,
        };
        link.as_mut().ok_or_else(|| {
            let message = match way {
                Way::There => "it is not prepared",
                Way::Back => "there is no way back any more: its slot was lost, or was never made",
            };
            Error::new(ErrorKind::Conflict, "follow", message).on(format!("move {}", self.spec.id))
        })
    }

    pub(super) fn scope(&self) -> Scope<'_> {
        Scope { tables: &self.tables, tenants: &self.tenants }
    }

    pub(super) fn error(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<String>,
    ) -> Error {
        Error::new(kind, operation, message.into()).on(format!("move {}", self.spec.id))
    }

    pub(super) fn tell(&self, event: MoveEvent) {
        self.observer.on_event(&event);
    }

    /// The name of the slot and the publication of a way, on the shard that it comes from.
    pub(super) fn name(&self, way: Way) -> String {
        match way {
            Way::There => format!("wakala_{}", self.spec.id),
            Way::Back => format!("wakala_{}_back", self.spec.id),
        }
    }

    /// Who serves a tenant, as the two sides say.
    pub(super) async fn owners(&self, tenant: &str) -> Result<(Option<Owner>, Option<Owner>)> {
        let source = registry::owner(&self.source.client, tenant).await?;
        let destination = registry::owner(&self.destination.client, tenant).await?;
        Ok((source, destination))
    }

    /// Where a tenant is, or which shard it is on its way to.
    pub(super) async fn place(&self, tenant: &str) -> Result<Way> {
        let (source, destination) = self.owners(tenant).await?;
        let owned =
            |owner: &Option<Owner>| owner.as_ref().is_some_and(|owner| owner.state == OwnerState::Owned);
        match (owned(&source), owned(&destination)) {
            (true, false) => Ok(Way::There),
            (false, true) => Ok(Way::Back),
            (false, false) => {
                // The token is on its way: to the one that the other gave it up for.
                let to_source = destination.is_some_and(|owner| {
                    owner.state == OwnerState::Gone
                        && owner.shard == self.source.number()
                        && source.as_ref().is_none_or(|source| source.epoch < owner.epoch)
                });
                Ok(if to_source { Way::There } else { Way::Back })
            }
            (true, true) => Err(self.error(
                ErrorKind::Conflict,
                "read_owner",
                format!(
                    "both shards say that they serve tenant {tenant} ({source:?}, {destination:?}); somebody \
                     changed wakala_shard.owner by hand"
                ),
            )),
        }
    }

    /// Ends the session that reads the stream of a way yet: this process holds the lease, so it is one of a former mover,
    /// which may be alive and have nothing to write that would tell it so.
    async fn free_slot(&self, way: Way) -> Result<()> {
        let (from, _) = self.side(way);
        let name = self.name(way);
        let Some(reader) = stream::slot_facts(&from.client, &name).await?.and_then(|facts| facts.active_pid)
        else {
            return Ok(());
        };
        tracing::info!(move_id = %self.spec.id, slot = name, reader, "the former reader of the stream is ended");
        let call = Call { operation: "free_slot", subject: format!("slot {name}"), writes: true };
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&reader, Type::INT4), (&READER_ENDS_MS, Type::INT8)];
        let ended = from.client.query_typed("SELECT pg_terminate_backend($1, $2)", &values).await;
        ended.map(drop).map_err(|error| call.failed(error))
    }

    /// Opens a way whose slot is there.
    pub(super) async fn open_link(&self, way: Way, chunks: Vec<Chunk>, applied: PgLsn) -> Result<Link> {
        let (from, to) = self.side(way);
        let name = self.name(way);
        self.free_slot(way).await?;
        let binary = self.tables.iter().all(|table| table.format == Format::Binary);
        let stream = ChangeStream::open(
            &from.stream_config(),
            from.access.secure(),
            &name,
            &name,
            &self.tables,
            applied,
            stream::Options { binary, ..stream::Options::default() },
        )
        .await?;
        let holder = self.holder()?.clone();
        let applier = Applier::open(to.connect().await?, holder.clone(), Arc::clone(&self.tables)).await?;
        Ok(Link::new(Parts {
            holder,
            to: to.number(),
            stream,
            applier,
            probe: from.connect().await?,
            tables: Arc::clone(&self.tables),
            chunks: Chunks::new(self.tenants.clone(), chunks)?,
            applied,
        }))
    }

    /// The chunks of a way on which every row is there already: all that comes is to be applied.
    pub(super) fn all_there(&self) -> Vec<Chunk> {
        let pairs = (0..self.tables.len())
            .flat_map(|table| (0..self.tenants.ids().len()).map(move |tenant| (table, tenant)));
        (0..)
            .zip(pairs)
            .map(|(id, (table, tenant))| Chunk {
                id,
                table,
                tenant,
                lower: None,
                upper: None,
                estimate: 0,
                copied: Some(Copied { snapshot: Snapshot::of_nothing(), rows: 0, bytes: 0 }),
            })
            .collect()
    }

    /// The tenants of the move, as the servers print them.
    pub fn tenants(&self) -> &[String] {
        self.tenants.ids()
    }

    /// What is moved.
    pub fn spec(&self) -> &MoveSpec {
        &self.spec
    }
}
