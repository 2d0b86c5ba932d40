//! Reaching both shards, and what is to be known before anything is made.

use std::sync::Arc;

use wakala_core::{ErrorKind, Result};

use super::connect::ShardAccess;
use super::discover;
use super::mover::Mover;
use super::observer::{MoveObserver, NoMoveObserver};
use super::side::Side;
use super::spec::{MoveOptions, MoveSpec};
use super::tenant::Tenants;
use crate::shards::Directory;

impl Mover {
    /// Reaches both shards and looks at their tables; changes nothing.
    ///
    /// # Errors
    /// `InvalidConfig` with everything that keeps the tables from being moved, one line each; `Unavailable`, `Denied`
    /// where a shard cannot be reached.
    pub async fn open(
        spec: MoveSpec,
        source: ShardAccess,
        destination: ShardAccess,
        directory: Directory,
    ) -> Result<Self> {
        let id = spec.id.as_str();
        let (source, destination) = futures::try_join!(
            Side::open(id, spec.source, source),
            Side::open(id, spec.destination, destination)
        )?;
        let scope = discover::Scope {
            tenant_column: spec.tenant_column.clone(),
            schemas: spec.schemas.clone(),
            without: Vec::new(),
        };
        let (catalog, other) = futures::try_join!(
            discover::discover(&source.client, &scope),
            discover::discover(&destination.client, &scope)
        )?;
        catalog.accepted()?;
        other.accepted()?;
        let ids: Vec<String> = spec.tenants.iter().map(ToString::to_string).collect();
        let tenants = Tenants::new(catalog.tenant_type, &ids)?;
        let mover = Self {
            tables: Arc::from(catalog.tables.clone()),
            tenants,
            spec,
            options: MoveOptions::default(),
            directory,
            observer: Arc::new(NoMoveObserver),
            source,
            destination,
            catalog,
            holder: None,
            there: None,
            back: None,
        };
        if mover.catalog.fingerprint != other.fingerprint {
            let message = "the tables of the two shards are not the same";
            return Err(mover.error(ErrorKind::InvalidConfig, "open", message));
        }
        Ok(mover)
    }

    /// With other limits.
    #[must_use]
    pub fn with_options(mut self, options: MoveOptions) -> Self {
        self.options = options;
        self
    }

    /// With somebody who hears of it.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn MoveObserver>) -> Self {
        self.observer = observer;
        self
    }
}
