//! Two servers, the rows of 200 tenants on the first, and the directory.

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Client, NoTls};
use wakala_db::{Directory, SchemaName, Shard, ShardAccess, ShardId, TenantId};
use wakala_testbed::PostgresServer;

use crate::Result;

/// The tenant with a quarter of all rows.
pub(crate) const WHALE: i64 = 1;
pub(crate) const TENANTS: i64 = 200;
pub(crate) const TABLES: [&str; 3] = ["accounts", "messages", "payments"];
/// On the destination: where the peers of the mover write.
pub(crate) const PEER: &str = "peer";
pub(crate) const SHOP: &str = "shop";

const SCHEMA: &str = "
    CREATE TABLE accounts (tenant_id bigint NOT NULL, id bigint NOT NULL, name text NOT NULL, email text,
        balance bigint NOT NULL, created timestamptz NOT NULL, PRIMARY KEY (tenant_id, id));
    CREATE TABLE messages (tenant_id bigint NOT NULL, id bigint NOT NULL, account_id bigint NOT NULL,
        body text NOT NULL, created timestamptz NOT NULL, PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, account_id) REFERENCES accounts (tenant_id, id));
    CREATE INDEX ON messages (tenant_id, account_id);
    CREATE TABLE payments (tenant_id bigint NOT NULL, id bigint NOT NULL, account_id bigint NOT NULL,
        amount numeric(14, 2) NOT NULL, state text NOT NULL, note jsonb, PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, account_id) REFERENCES accounts (tenant_id, id));
    CREATE INDEX ON payments (tenant_id, account_id);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;";

/// What every tenant's accounts are numbered by, so that writers find one.
pub(crate) const ACCOUNTS: i64 = 100;

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) servers: [PostgresServer; 2],
    pub(crate) directory: Directory,
}

impl Site {
    pub(crate) async fn new(percent: i64) -> Result<Self> {
        let start = || {
            PostgresServer::builder()
                .with_fsync(true)
                .with_setting("wal_level", "logical")
                .with_setting("shared_buffers", "512MB")
                .with_setting("max_wal_size", "8GB")
                .with_setting("checkpoint_timeout", "1h")
                // A subscription that is switched on would wait for up to this long, 5 s, before it begins.
                .with_setting("wal_retrieve_retry_interval", "50ms")
                .with_role("app", "secret")
                .with_database(SHOP, "app")
                .with_database(PEER, "app")
                .start()
        };
        let (one, two) = futures::try_join!(start(), start())?;
        one.execute(SHOP, SCHEMA).await?;
        two.execute(SHOP, SCHEMA).await?;
        two.execute(PEER, SCHEMA).await?;
        one.execute(SHOP, &rows(percent)).await?;
        one.execute(SHOP, "VACUUM ANALYZE").await?;
        let pool = Pool::builder(Manager::new(one.config(SHOP, "postgres")?, NoTls)).max_size(4).build()?;
        let directory = Directory::new(pool, SchemaName::default());
        directory.migrate().await?;
        for (number, server) in (1..).zip([&one, &two]) {
            let shard = Shard::new(shard(number)?, "127.0.0.1", server.port(), SHOP);
            directory.add_shard(&shard).await?;
        }
        for tenant in 1..=TENANTS {
            directory.register(&TenantId::from(tenant), shard(1)?).await?;
        }
        Ok(Self { servers: [one, two], directory })
    }

    pub(crate) fn access(&self, server: usize) -> Result<ShardAccess> {
        Ok(ShardAccess::without_tls(self.servers[server].config(SHOP, "postgres")?))
    }

    pub(crate) async fn app(&self, server: usize) -> Result<Client> {
        Ok(self.servers[server].connect(SHOP, "app").await?)
    }

    /// A number that SQL gives.
    pub(crate) async fn number(&self, server: usize, database: &str, sql: &str) -> Result<i64> {
        Ok(self.servers[server].value(database, sql).await?.parse()?)
    }

    /// No row on the destination in this database, and nothing left to be written by the servers.
    pub(crate) async fn clear(&self, database: &str) -> Result<()> {
        let sql = "SET session_replication_role = replica; TRUNCATE accounts, messages, payments";
        self.servers[1].execute(database, sql).await?;
        self.settle().await
    }

    /// Nothing is left to be written by the servers.
    pub(crate) async fn settle(&self) -> Result<()> {
        for server in &self.servers {
            server.execute(SHOP, "CHECKPOINT").await?;
        }
        Ok(())
    }
}

pub(crate) fn shard(number: i32) -> Result<ShardId> {
    Ok(ShardId::new(number)?)
}

/// Those of the tenants lie one after the other; every fourth is the whale's.
fn rows(percent: i64) -> String {
    let (accounts, messages, payments) = (400 * percent, 8000 * percent, 2000 * percent);
    format!(
        "SET session_replication_role = replica;
         CREATE FUNCTION tenant_of(i bigint) RETURNS bigint LANGUAGE sql AS
             $$SELECT CASE WHEN i % 4 = 0 THEN {WHALE} ELSE 2 + i % {others} END$$;
         INSERT INTO accounts SELECT t, i, 'name ' || i, 'user' || i || '@example.org', 0, now()
             FROM generate_series(1, {ACCOUNTS}) i, generate_series(1, {TENANTS}) t;
         INSERT INTO accounts SELECT tenant_of(i), {ACCOUNTS} + i, 'name ' || i, 'user' || i || '@example.org', 0, now()
             FROM generate_series(1, {accounts}) i;
         INSERT INTO messages SELECT tenant_of(i), i, 1 + i % {ACCOUNTS}, repeat(md5(i::text), 6), now()
             FROM generate_series(1, {messages}) i;
         INSERT INTO payments SELECT tenant_of(i), i, 1 + i % {ACCOUNTS}, i % 1000, 'settled',
                 jsonb_build_object('reference', md5(i::text), 'step', i)
             FROM generate_series(1, {payments}) i;
         DROP FUNCTION tenant_of",
        others = TENANTS - 1,
    )
}
