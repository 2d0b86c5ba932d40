//! Postgres and PgBouncer for wakala, one cargo feature a subject; without one nothing of Postgres is compiled.
//!
//! | feature | what |
//! |---|---|
//! | `metrics` | `PostgresMetrics` and `PgBouncerMetrics`: what guards can be made of |
//! | `mover` | `Mover`: tenants go from shard to shard while they are in use, and back |
//! | `pgbouncer` | `PgBouncerPools`: keys of `pgbouncer.ini`, read back from every process; `ConnectionBudget` |
//! | `run-store` | `PostgresStore`: runs recorded in Postgres, for a team |
//! | `shards` | `Directory`: which shard has which tenant; `propose`, `plan_moves`: where they belong; `Router`: for applications |
//!
//! # A tour
//!
//! Any host of the team records its runs in one database, sees those of the others, and can take one over when its host
//! is gone:
//!
//! ```no_run
//! # #[cfg(feature = "run-store")]
//! # async fn run(pool: deadpool_postgres::Pool) -> wakala_core::Result<()> {
//! use std::sync::Arc;
//!
//! use wakala_core::{Engine, RunStore};
//! use wakala_db::PostgresStore;
//!
//! // A pool of your own, with TLS as your site has it; directly or through a PgBouncer in transaction mode.
//! let store = PostgresStore::new(pool);
//! // Once for each version, by whoever may create tables; the others need only `store_permissions`.
//! store.migrate().await?;
//!
//! for head in store.list().await? {
//!     println!("{}: {:?}", head.run, head.lease);
//! }
//! let engine = Engine::new().with_store(Arc::new(store));
//! # drop(engine);
//! # Ok(())
//! # }
//! ```
//!
//! # Who retries
//!
//! The engine. Below it, only what Postgres itself rolled back for the sake of another transaction (`40001`, `40P01`) is
//! sent again, a few times. Each error says by [`Error::retry`](wakala_core::Error::retry) what may be done: where no
//! connection was to be had nothing was sent, and a refusal of the server's has changed nothing; a connection that broke,
//! or an answer that did not come in time, leaves the fate of a write open.
//!
//! Applications have no engine, so their `Router` tries a transaction again itself, for two seconds unless said otherwise,
//! after what has certainly had no effect: a refusal by a shard that does not have the tenant, `40001`, `40P01`, or no
//! connection. It alone sleeps in between. A commit without an answer is never repeated.

#[cfg(any(feature = "run-store", feature = "shards"))]
mod client;
#[cfg(feature = "client")]
mod config;
#[cfg(feature = "client")]
mod error;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "mover")]
mod mover;
#[cfg(feature = "client")]
mod permissions;
#[cfg(feature = "pgbouncer")]
mod pgbouncer;
#[cfg(any(feature = "run-store", feature = "shards"))]
mod schema;
#[cfg(feature = "shards")]
mod shards;
#[cfg(feature = "run-store")]
mod store;

#[cfg(feature = "client")]
pub use config::SchemaName;
#[cfg(feature = "metrics")]
pub use metrics::{PgBouncerMetrics, PostgresMetrics};
#[cfg(feature = "mover")]
pub use mover::{
    CopyProgress, CopyRate, Finished, HandOver, HostStatus, MoveEvent, MoveFacts, MoveHost, MoveId, MoveJob,
    MoveMethod, MoveObserver, MoveOptions, MovePreview, MoveSpec, Mover, NoMoveObserver, ShardAccess,
    TableSize, TenantFacts, TenantPlace, TenantSize, Verification, VerifiedTable,
};
#[cfg(feature = "metrics")]
pub use permissions::metrics_permissions;
#[cfg(any(feature = "run-store", feature = "shards"))]
pub use permissions::migration_permissions;
#[cfg(feature = "client")]
pub use permissions::sql_grants;
#[cfg(feature = "run-store")]
pub use permissions::store_permissions;
#[cfg(feature = "shards")]
pub use permissions::{directory_permissions, router_permissions};
#[cfg(feature = "pgbouncer")]
pub use pgbouncer::{
    BudgetReport, ConfigHome, ConnectionBudget, Console, ConsoleRow, FileHome, IniProblem, PgBouncerIni,
    PgBouncerPools, PgBouncerVersion, PoolBudget, PoolChange, PoolDemand, PoolDifference, PoolMode,
    PoolUsers, PoolValues, ServerBudget, ServerLimit,
};
#[cfg(feature = "shards")]
pub use shards::{
    Abort, Directory, Epoch, Existing, Goal, MovePlan, Placement, PlannedMove, PlannedShard, Routed, Router,
    Shard, ShardId, ShardLoad, ShardSizes, State, TakenOver, TenantId, TenantLoad, plan_moves, propose,
};
#[cfg(feature = "run-store")]
pub use store::PostgresStore;
