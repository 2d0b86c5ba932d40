//! From a tenant to a connection on its shard, for applications.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::{Instant, timeout};
use wakala_core::{Error, ErrorKind, Result, Retry};

pub use abort::Abort;

use self::routes::{Cached, Flights, Route, Routes};
use self::shards::Shards;
use super::directory::Directory;
use super::ids::{Epoch, Shard, ShardId, TenantId};
use crate::config::SchemaName;

mod abort;
mod routes;
mod run;
mod shards;

/// Tenants whose route is kept unless said otherwise.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(100_000).expect("more than none");

#[derive(Clone, Debug)]
struct Options {
    ttl: Duration,
    patience: Duration,
    limit: Duration,
    strict_reads: bool,
    schema: SchemaName,
}

/// Takes the transactions of an application to the shard that has the tenant.
///
/// What the [`Directory`] says is kept for a while, so a transaction asks nobody but the shard, and goes on where the
/// directory is down. That is safe because the shard has the last word: its function `enter`, which a transaction of
/// [`run`](Self::run) calls first, refuses those for tenants that it does not have, and says who has them. The
/// transaction is then rolled back and run there; clients see a move as one that takes a little longer.
///
/// One pool a shard is made when first needed. Clones share everything.
///
/// ```no_run
/// # async fn example(pool: deadpool_postgres::Pool) -> wakala_core::Result<()> {
/// use deadpool_postgres::{Manager, Pool};
/// use wakala_core::Error;
/// use wakala_db::{Abort, Directory, Router, SchemaName, Shard, TenantId};
///
/// let directory = Directory::new(pool, SchemaName::default());
/// let router = Router::new(directory, |shard: &Shard| {
///     let mut config = deadpool_postgres::tokio_postgres::Config::new();
///     config.host(&shard.host).port(shard.port).dbname(&shard.database).user("app");
///     // TLS as your site has it.
///     let manager = Manager::new(config, deadpool_postgres::tokio_postgres::NoTls);
///     let pool = Pool::builder(manager).max_size(16).build();
///     pool.map_err(|error| Error::invalid("pool", "it has no runtime").with_source(error))
/// });
///
/// let tenant = TenantId::from(42);
/// let name = router
///     .run(&tenant, async |transaction| {
///         let sql = "UPDATE account SET seen_at = now() WHERE tenant_id = $1 RETURNING name";
///         let row = transaction.query_one(sql, &[&42_i64]).await?;
///         Ok(row.try_get::<_, String>(0)?)
///     })
///     .await?;
/// # drop(name);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Router {
    directory: Directory,
    options: Options,
    routes: Arc<Routes>,
    flights: Arc<Flights>,
    shards: Arc<Shards>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("directory", &self.directory)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Where to go for a tenant.
#[derive(Clone)]
#[non_exhaustive]
pub struct Routed {
    /// The pool of its shard.
    pub pool: Pool,
    /// The shard, as far as is known here.
    pub shard: ShardId,
    /// Since which owner: what the shard's function `enter` is called with.
    pub epoch: Epoch,
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Routed");
        text.field("shard", &self.shard).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Router {
    /// A router that asks `directory`, and makes the pools of shards with `pool_of`; nothing is asked yet.
    ///
    /// `pool_of` is called once for each shard that is needed, and again where its address has changed. TLS, credentials
    /// and sizes are its own. It need not connect, and must not wait.
    pub fn new(
        directory: Directory,
        pool_of: impl Fn(&Shard) -> Result<Pool> + Send + Sync + 'static,
    ) -> Self {
        let options = Options {
            ttl: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            limit: Duration::from_secs(10),
            strict_reads: true,
            schema: SchemaName::shard(),
        };
        Self {
            directory,
            options,
            routes: Arc::new(Routes::new(CAPACITY)),
            flights: Arc::default(),
            shards: Arc::new(Shards::new(pool_of)),
        }
    }

    /// Of how many tenants the route is kept, 100 000 unless said otherwise; the one that was not asked for the longest
    /// gives way. About 200 bytes each.
    #[must_use]
    pub fn with_capacity(mut self, tenants: NonZeroUsize) -> Self {
        self.routes = Arc::new(Routes::new(tenants));
        self
    }

    /// How long a route is used before the directory is asked again, 30 s unless said otherwise. A wrong one is found out
    /// at its first use, whatever this says.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = ttl;
        self
    }

    /// How long a transaction is tried again, from the first time that it was refused; 2 s unless said otherwise.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// How long each thing may take that the router itself does on a shard: a connection with the entry, the commit; 10 s
    /// unless said otherwise. The statements of the application have no limit here.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.options.limit = limit;
        self
    }

    /// Whether [`read`](Self::read) asks the shard to enter too; it does unless told not to.
    ///
    /// Without, it saves a round trip, and for as long as a stale route is kept (see [`with_ttl`](Self::with_ttl)) it may
    /// read what a tenant had before a move, or none of its rows where they are deleted already.
    #[must_use]
    pub fn with_strict_reads(mut self, strict: bool) -> Self {
        self.options.strict_reads = strict;
        self
    }

    /// The schema of the function `enter` on the shards, `wakala_shard` unless said otherwise.
    #[must_use]
    pub fn with_shard_schema(mut self, schema: SchemaName) -> Self {
        self.options.schema = schema;
        self
    }

    /// Where to go for a tenant; from memory where it is known. Many that ask for the same one at once are one question
    /// to the directory. A tenant that is not registered is asked for again after a second.
    ///
    /// For those who make transactions of their own: they must call `enter` with the epoch at the beginning, and give an
    /// error to [`redirected`](Self::redirected).
    ///
    /// # Errors
    /// `NotFound` for a tenant that is not registered, or a shard that the directory does not have; those of the directory
    /// where it must be asked; those of the maker of pools.
    pub async fn route(&self, tenant: &TenantId) -> Result<Routed> {
        let Route { shard, epoch } = self.known(tenant).await?;
        Ok(Routed { pool: self.pool(tenant, shard).await?, shard, epoch })
    }

    /// Learns from a shard's refusal where a tenant is. Whether it says something new: a later owner than the one known.
    pub fn redirected(&self, tenant: &TenantId, error: &tokio_postgres::Error) -> bool {
        abort::redirect(error).flatten().is_some_and(|route| self.learn(tenant, route))
    }

    /// Whether it is of a later owner than the one known.
    fn learn(&self, tenant: &TenantId, route: Route) -> bool {
        self.routes.learn(tenant, route, Instant::now() + self.options.ttl)
    }

    async fn known(&self, tenant: &TenantId) -> Result<Route> {
        let found = match self.routes.look(tenant, Instant::now()) {
            Cached::Fresh(found) => found,
            Cached::Missing => self.ask(tenant).await?,
            Cached::Stale(route) => match timeout(routes::GRACE, self.ask(tenant)).await {
                Ok(Ok(found)) => found,
                // The shard will say if it is wrong.
                Ok(Err(error)) => {
                    tracing::warn!(%tenant, error = %error.chain(), "the directory is away; the route is kept");
                    Some(route)
                }
                Err(_) => {
                    tracing::warn!(%tenant, "the directory is slow; the route is kept");
                    Some(route)
                }
            },
        };
        found.ok_or_else(|| {
            let message = "it is not in the directory; register it first";
            Error::new(ErrorKind::NotFound, "route", message).on(format!("tenant {tenant}"))
        })
    }

    /// Asks the directory, and keeps the answer unless something later is known.
    async fn ask(&self, tenant: &TenantId) -> Result<Option<Route>> {
        let answer = self.flights.join(tenant, || self.directory.locate(tenant)).await?;
        Ok(match answer {
            None => {
                self.routes.unknown(tenant, Instant::now());
                None
            }
            Some((placement, shard)) => {
                self.shards.note(&shard);
                self.look_around().await;
                let route = Route { shard: placement.shard, epoch: placement.epoch };
                Some(self.routes.confirm(tenant, route, Instant::now() + self.options.ttl))
            }
        })
    }

    /// Learns of all shards once, so that a refusal by one can be followed also when the directory is away.
    async fn look_around(&self) {
        if let Err(error) = self.shards.seen.get_or_try_init(|| self.note_all()).await {
            tracing::warn!(error = %error.chain(), "only some shards are known yet");
        }
    }

    async fn note_all(&self) -> Result<()> {
        for shard in self.directory.shards().await? {
            self.shards.note(&shard);
        }
        Ok(())
    }

    async fn pool(&self, tenant: &TenantId, id: ShardId) -> Result<Pool> {
        if let Some(pool) = self.shards.pool(id)? {
            return Ok(pool);
        }
        // A shard named it that was added after what is known here.
        let _one_at_a_time = self.shards.loading.lock().await;
        if let Some(pool) = self.shards.pool(id)? {
            return Ok(pool);
        }
        self.note_all().await?;
        self.shards.pool(id)?.ok_or_else(|| {
            let message =
                format!("it is said to be on shard {id}, which the directory does not have; add that shard");
            let retry = Retry::Safe { after: None };
            Error::new(ErrorKind::NotFound, "route", message).on(format!("tenant {tenant}")).with_retry(retry)
        })
    }
}
