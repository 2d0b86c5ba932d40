//! One server and one PgBouncer for all tests of this binary; a schema for each directory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use wakala_db::{Directory, Epoch, Router, SchemaName, Shard, ShardId, TenantId};
use wakala_testbed::{PgBouncer, PostgresAccess, PostgresServer};

/// The directory's database.
pub(crate) const CONTROL: &str = "control";
/// The databases of shards 1 and 2, which each test shares by tenants of its own.
pub(crate) const SHARDS: [&str; 2] = ["app1", "app2"];
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
        .with_database(SHARDS[0], OWNER)
        .with_database(SHARDS[1], OWNER)
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

/// What the router needs on a shard, at its least: whom the shard has, the entry, and a table to write to.
///
/// Each entry counts in a sequence, which no rollback takes back.
const SHARD: &str = "
    CREATE SCHEMA wakala_shard;
    CREATE TABLE wakala_shard.owner (
        tenant_id text PRIMARY KEY, epoch bigint NOT NULL, shard int NOT NULL, state text NOT NULL);
    CREATE SEQUENCE wakala_shard.entries;
    CREATE FUNCTION wakala_shard.enter(tenant text, epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE has record;
    BEGIN
        IF current_setting('transaction_read_only') = 'off' THEN
            PERFORM nextval('wakala_shard.entries');
        END IF;
        PERFORM pg_advisory_xact_lock_shared(hashtextextended(tenant, 0));
        SELECT * INTO has FROM wakala_shard.owner WHERE tenant_id = tenant;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'tenant % was never on shard NUMBER', tenant USING ERRCODE = 'WK001';
        END IF;
        IF has.shard <> NUMBER OR has.state <> 'active' OR has.epoch < epoch THEN
            RAISE EXCEPTION 'tenant % is not on shard NUMBER', tenant
                USING ERRCODE = 'WK001', DETAIL = format('shard=%s epoch=%s', has.shard, has.epoch);
        END IF;
    END $$;
    CREATE TABLE public.ledger (tenant_id text NOT NULL, entry bigint NOT NULL, epoch bigint NOT NULL);
    CREATE TABLE public.account (tenant_id text PRIMARY KEY, balance bigint NOT NULL);";

/// A server with a directory and two shards, and through what they are reached.
pub(crate) struct Shards {
    pub(crate) server: &'static PostgresServer,
    pub(crate) directory: Directory,
}

impl Shards {
    /// A directory of the test's own with the two shards, at `access`.
    pub(crate) async fn at(access: &PostgresAccess) -> Self {
        Self::on(server().await, access).await
    }

    pub(crate) async fn on(server: &'static PostgresServer, access: &PostgresAccess) -> Self {
        prepare(server).await;
        let directory = empty(server, 8).await;
        for (number, database) in (1..).zip(SHARDS) {
            let shard = Shard::new(shard(number), "127.0.0.1", access.port(), database);
            directory.add_shard(&shard).await.unwrap();
        }
        Self { server, directory }
    }

    /// A tenant of the test's own on shard 1.
    pub(crate) async fn tenant(&self, name: &str) -> TenantId {
        let id = tenant(&format!("{name} of {}", self.directory.schema()));
        self.directory.register(&id, shard(1)).await.unwrap();
        self.owns(1, &id, 1, 1, "active").await;
        id
    }

    /// A router with pools of eight connections.
    pub(crate) fn router(&self) -> Router {
        let access = (**self.server).clone();
        Router::new(self.directory.clone(), move |shard: &Shard| {
            Ok(pool(&access.at_port(shard.port), &shard.database, OWNER, 8))
        })
    }

    pub(crate) async fn sql(&self, on: usize, sql: &str) {
        self.server.execute(SHARDS[on - 1], sql).await.unwrap();
    }

    pub(crate) async fn value(&self, on: usize, sql: &str) -> String {
        self.server.value(SHARDS[on - 1], sql).await.unwrap()
    }

    /// What shard `on` says of the tenant; what is in progress there comes to its end first.
    pub(crate) async fn owns(&self, on: usize, tenant: &TenantId, shard: i32, epoch: i64, state: &str) {
        self.sql(
            on,
            &format!(
                "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('{tenant}', 0));
                 INSERT INTO wakala_shard.owner VALUES ('{tenant}', {epoch}, {shard}, '{state}') ON CONFLICT (tenant_id)
                 DO UPDATE SET epoch = excluded.epoch, shard = excluded.shard, state = excluded.state; COMMIT"
            ),
        )
        .await;
    }

    /// How often anybody has entered the shard.
    pub(crate) async fn entries(&self, on: usize) -> i64 {
        let sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM wakala_shard.entries";
        self.value(on, sql).await.parse().unwrap()
    }
}

async fn prepare(server: &PostgresServer) {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _held = ONE_AT_A_TIME.lock().await;
    for (number, database) in (1..).zip(SHARDS) {
        let made =
            server.value(database, "SELECT to_regnamespace('wakala_shard') IS NOT NULL").await.unwrap();
        if made != "t" && made != "true" {
            let sql = SHARD.replace("NUMBER", &i32::to_string(&number));
            server.execute(database, &format!("SET ROLE {OWNER}; {sql}")).await.unwrap();
        }
    }
}
