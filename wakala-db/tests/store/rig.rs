//! One server and one PgBouncer for all tests of this binary; a schema for each store.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use wakala_core::store::{Lease, LeaseTerms, Line, NewRun};
use wakala_core::{ResourceKey, Result, RunId, RunStore};
use wakala_db::{PostgresStore, SchemaName};
use wakala_testbed::{PgBouncer, PostgresAccess, PostgresServer};

pub(crate) const DATABASE: &str = "team";
pub(crate) const OWNER: &str = "wakala";
pub(crate) const LONG: Duration = Duration::from_secs(3600);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn server() -> &'static PostgresServer {
    static SERVER: OnceCell<PostgresServer> = OnceCell::const_new();
    SERVER.get_or_init(|| async { start().await }).await
}

/// A server of a test's own, to be killed or cut off.
pub(crate) async fn start() -> PostgresServer {
    let server = PostgresServer::builder()
        .with_role(OWNER, "secret")
        // Time for a test to bring a deadlock about before the first to wait looks for it.
        .with_setting("deadlock_timeout", "5s")
        .with_role("ops", "word")
        .with_database(DATABASE, OWNER)
        .with_max_connections(200);
    server.start().await.unwrap()
}

/// Fewer server connections than clients, so that each statement may find another one.
pub(crate) async fn bouncer() -> &'static PgBouncer {
    static BOUNCER: OnceCell<PgBouncer> = OnceCell::const_new();
    let server = server().await;
    BOUNCER
        .get_or_init(|| async { PgBouncer::builder(server).with_default_pool_size(4).start().await.unwrap() })
        .await
}

pub(crate) fn pool(access: &PostgresAccess, role: &str, size: usize) -> Pool {
    let config = access.config(DATABASE, role).unwrap();
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(config, NoTls, manager)).max_size(size).build().unwrap()
}

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> SchemaName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", COUNT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
}

/// An empty store in a schema of its own.
pub(crate) async fn fresh(access: &PostgresAccess, size: usize) -> PostgresStore {
    let store = PostgresStore::new(pool(access, OWNER, size)).with_schema(unique("runs")).with_limit(MINUTE);
    store.migrate().await.unwrap();
    store
}

pub(crate) fn keys(resources: &[&str]) -> Vec<ResourceKey> {
    resources.iter().copied().map(ResourceKey::from).collect()
}

pub(crate) fn terms(owner: &str) -> LeaseTerms {
    LeaseTerms { owner: owner.to_owned(), ttl: LONG }
}

pub(crate) fn line(run: &str, seq: u64) -> Line {
    Line { seq, body: format!("{{\"run\":\"{run}\",\"seq\":{seq}}}"), hash: format!("{seq:064x}") }
}

pub(crate) fn new_run(run: &str, resources: &[&str]) -> NewRun {
    NewRun {
        run: RunId::from(run),
        resources: keys(resources),
        terms: terms(&format!("maker of {run}")),
        first: line(run, 0),
        supersedes: Vec::new(),
    }
}

pub(crate) async fn create(store: &PostgresStore, run: &str, resources: &[&str]) -> Result<Lease> {
    store.create(new_run(run, resources)).await
}

/// A store on the same runs, as another process has it.
pub(crate) fn same(store: &PostgresStore, access: &PostgresAccess, size: usize) -> PostgresStore {
    PostgresStore::new(pool(access, OWNER, size)).with_schema(store.schema().clone()).with_limit(MINUTE)
}
