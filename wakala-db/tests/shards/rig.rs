//! One server and one PgBouncer for all tests of this binary; a schema for each directory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use wakala_db::{Directory, Epoch, SchemaName, Shard, ShardId, TenantId};
use wakala_testbed::{PgBouncer, PostgresAccess, PostgresServer};

/// The directory's database.
pub(crate) const CONTROL: &str = "control";
pub(crate) const OWNER: &str = "wakala";
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(|| async { start().await }).await
}

/// A server of a test's own, to be killed or cut off.
pub(crate) async fn start() -> PostgresServer {
    let server = PostgresServer::builder()
        .with_role(OWNER, "secret")
        .with_role("ops", "word")
        .with_database(CONTROL, OWNER)
        .with_max_connections(200);
    server.start().await.unwrap()
}

/// Fewer server connections than clients, so that each transaction may find another one.
pub(crate) async fn bouncer() -> &'static PgBouncer {
    static BOUNCER: OnceCell<PgBouncer> = OnceCell::const_new();
    let server = server().await;
    BOUNCER
        .get_or_init(|| async { PgBouncer::builder(server).with_default_pool_size(4).start().await.unwrap() })
        .await
}

pub(crate) fn pool(access: &PostgresAccess, database: &str, role: &str, size: usize) -> Pool {
    let config = access.config(database, role).unwrap();
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, manager)).max_size(size).build().unwrap()
}

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> SchemaName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", COUNT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
}

/// A directory in a schema of its own, with nothing in it.
pub(crate) async fn empty(access: &PostgresAccess, size: usize) -> Directory {
    let pool = pool(access, CONTROL, OWNER, size);
    let directory = Directory::new(pool, unique("directory")).with_limit(MINUTE);
    directory.migrate().await.unwrap();
    directory
}

/// The same directory, as another process has it.
pub(crate) fn same(directory: &Directory, access: &PostgresAccess, size: usize) -> Directory {
    let pool = pool(access, CONTROL, OWNER, size);
    Directory::new(pool, directory.schema().clone()).with_limit(MINUTE)
}

/// A directory with shards 1 to `count`, which are nowhere.
pub(crate) async fn with_shards(access: &PostgresAccess, count: i32) -> Directory {
    let directory = empty(access, 4).await;
    for number in 1..=count {
        directory.add_shard(&nowhere(number)).await.unwrap();
    }
    directory
}

pub(crate) fn nowhere(number: i32) -> Shard {
    Shard::new(shard(number), format!("shard{number}.invalid"), 5432, "app")
}

pub(crate) fn shard(number: i32) -> ShardId {
    ShardId::new(number).unwrap()
}

pub(crate) fn epoch(number: i64) -> Epoch {
    Epoch::new(number).unwrap()
}

pub(crate) fn tenant(id: &str) -> TenantId {
    id.parse().unwrap()
}
