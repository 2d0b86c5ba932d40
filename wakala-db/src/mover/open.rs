//! Reaching both shards, and what is to be known before anything is made.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::{ErrorKind, Result};

use super::connect::ShardAccess;
use super::discover;
use super::mover::Mover;
use super::observer::{MoveObserver, NoMoveObserver};
use super::rate::CopyRate;
use super::side::Side;
use super::spec::{MoveMethod, MoveOptions, MoveSpec};
use super::tenant::Tenants;
use crate::shards::{Directory, TenantId};

/// How long a preview may look at rows.
const LOOKING: Duration = Duration::from_secs(10);

/// What is known of a move before it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovePreview {
    /// Which way rows go.
    pub method: MoveMethod,
    /// What keeps it from being done, each with what to do about it. Empty where it can be done.
    pub refusals: Vec<String>,
    /// What whoever approves it should know.
    pub warnings: Vec<String>,
    /// What it has to carry.
    pub tables: Vec<TableSize>,
    /// The same by tenant, in the order of the move.
    pub tenants: Vec<TenantSize>,
}

impl MovePreview {
    /// About how many bytes travel.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }

    /// How many rows there are now.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// What the tenants of a move have in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// How many rows.
    pub rows: u64,
    /// About how many bytes.
    pub bytes: u64,
}

/// What a tenant of a move has in all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSize {
    /// The tenant.
    pub tenant: TenantId,
    /// How many rows.
    pub rows: u64,
    /// About how many bytes.
    pub bytes: u64,
}

impl Mover {
    /// Reaches both shards and looks at their tables; changes nothing.
    ///
    /// # Errors
    /// `InvalidConfig` where a tenant's id is not of the column's type; `Unavailable`, `Denied` where a shard cannot be
    /// reached.
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
        let ids: Vec<String> = spec.tenants.iter().map(ToString::to_string).collect();
        let tenants = Tenants::new(catalog.tenant_type, &ids)?;
        let mover = Self {
            tables: Arc::from(catalog.tables.clone()),
            tenants,
            spec,
            options: MoveOptions::default(),
            rate: CopyRate::default(),
            directory,
            observer: Arc::new(NoMoveObserver),
            source,
            destination,
            catalog,
            other,
            holder: None,
            there: None,
            back: None,
        };
        Ok(mover)
    }

    /// All that speaks against the move, and what it has to carry; changes nothing. Takes a few seconds.
    ///
    /// A move that has begun says of itself that it is in its own way: ask before.
    ///
    /// # Errors
    /// Those of the connections; what is the matter with the shards is data.
    pub async fn preview(&self) -> Result<MovePreview> {
        let scope = self.scope_of_discovery();
        let question = discover::Question {
            scope: &scope,
            tenants: self.tenants.ids(),
            room: discover::Room::default(),
            limit: LOOKING,
            stream: self.options.method == MoveMethod::Online,
        };
        let found = discover::preflight(&self.source.client, &self.destination.client, &question).await?;
        let mut tables: Vec<TableSize> = self
            .tables
            .iter()
            .map(|table| TableSize { table: table.to_string(), rows: 0, bytes: 0 })
            .collect();
        let of_tenant = |tenant: &TenantId| TenantSize { tenant: tenant.clone(), rows: 0, bytes: 0 };
        let mut tenants: Vec<TenantSize> = self.spec.tenants.iter().map(of_tenant).collect();
        for size in &found.sizes {
            if let Some(table) = tables.get_mut(size.table) {
                table.rows += size.rows;
                table.bytes += size.bytes;
            }
            if let Some(tenant) = tenants.get_mut(size.tenant) {
                tenant.rows += size.rows;
                tenant.bytes += size.bytes;
            }
        }
        let lines = |findings: &[discover::Finding]| findings.iter().map(ToString::to_string).collect();
        Ok(MovePreview {
            method: self.options.method,
            refusals: lines(&found.findings.refusals),
            warnings: lines(&found.findings.warnings),
            tables,
            tenants,
        })
    }

    fn scope_of_discovery(&self) -> discover::Scope {
        discover::Scope {
            tenant_column: self.spec.tenant_column.clone(),
            schemas: self.spec.schemas.clone(),
            without: Vec::new(),
        }
    }

    /// Whether rows can go from one side to the other as the tables are now.
    ///
    /// # Errors
    /// `InvalidConfig` with everything that speaks against it, one line each.
    pub(super) async fn check_tables(&self, begun: bool) -> Result<()> {
        let mut refusals = Vec::new();
        if !begun {
            refusals = self.preview().await?.refusals;
        } else if self.catalog.fingerprint != self.other.fingerprint {
            refusals.push(
                "the tables of the two shards are no longer the same; make them so, or abort".to_owned(),
            );
        }
        if refusals.is_empty() {
            return Ok(());
        }
        Err(self.error(ErrorKind::InvalidConfig, "prepare", refusals.join("\n")))
    }

    /// With other limits.
    #[must_use]
    pub fn with_options(mut self, options: MoveOptions) -> Self {
        self.rate.set(options.copy_bytes_per_second);
        self.options = options;
        self
    }

    /// At a rate that can be changed while it copies.
    #[must_use]
    pub fn with_rate(mut self, rate: CopyRate) -> Self {
        self.rate = rate;
        self
    }

    /// With somebody who hears of it.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn MoveObserver>) -> Self {
        self.observer = observer;
        self
    }
}
