//! Two databases of our own, and the directory that says which has which tenant.

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Config, NoTls};
use wakala_core::{Error, ErrorKind, Result};
use wakala_db::{Directory, Router, SchemaName, Shard, ShardAccess, ShardId, TenantId};
use wakala_testbed::PostgresServer;

pub(crate) const TENANTS: i64 = 8;

const TABLES: &str = "
    CREATE TABLE account (
        tenant_id bigint NOT NULL, id bigint NOT NULL, balance bigint NOT NULL DEFAULT 0, about text,
        PRIMARY KEY (tenant_id, id)
    );
    CREATE TABLE entry (
        tenant_id bigint NOT NULL, id uuid NOT NULL, account bigint NOT NULL, amount bigint NOT NULL,
        PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, account) REFERENCES account (tenant_id, id)
    );
    GRANT SELECT, INSERT, UPDATE, DELETE ON account, entry TO app;
";

#[derive(Debug)]
pub(crate) struct Shards {
    servers: [PostgresServer; 2],
    pub(crate) directory: Directory,
}

pub(crate) fn shard(number: i32) -> Result<ShardId> {
    ShardId::new(number)
}

pub(crate) fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, "example", "the database of the example refused").with_source(error)
}

fn pool(config: Config, size: usize) -> Result<Pool> {
    Pool::builder(Manager::new(config, NoTls)).max_size(size).build().map_err(failed)
}

impl Shards {
    /// Tenant `t` has `t` times so many accounts; all of them on the first shard.
    pub(crate) async fn start(rows: u32) -> Result<Self> {
        let start = || {
            PostgresServer::builder()
                .with_setting("wal_level", "logical")
                .with_role("app", "secret")
                .with_database("shop", "app")
                .start()
        };
        let (one, two) = tokio::try_join!(start(), start()).map_err(failed)?;
        for server in [&one, &two] {
            server.execute("shop", TABLES).await.map_err(failed)?;
        }
        let fill = format!(
            "INSERT INTO account (tenant_id, id, about) SELECT t, n, repeat(md5(n::text), 8)
             FROM generate_series(1, {TENANTS}) AS t, generate_series(1, {rows} * t) AS n"
        );
        one.execute("shop", &fill).await.map_err(failed)?;
        one.execute("shop", "ANALYZE").await.map_err(failed)?;
        let directory =
            Directory::new(pool(one.config("shop", "postgres").map_err(failed)?, 8)?, SchemaName::default());
        directory.migrate().await?;
        for (number, server) in (1..).zip([&one, &two]) {
            directory.add_shard(&Shard::new(shard(number)?, "127.0.0.1", server.port(), "shop")).await?;
        }
        for tenant in 1..=TENANTS {
            directory.register(&TenantId::from(tenant), shard(1)?).await?;
        }
        Ok(Self { servers: [one, two], directory })
    }

    fn server(&self, number: i32) -> &PostgresServer {
        if number == 1 { &self.servers[0] } else { &self.servers[1] }
    }

    pub(crate) fn access(&self, number: i32) -> Result<ShardAccess> {
        Ok(ShardAccess::without_tls(self.server(number).config("shop", "postgres").map_err(failed)?))
    }

    /// What an application has.
    pub(crate) fn router(&self) -> Router {
        let servers = [1, 2].map(|number| self.server(number).config("shop", "app"));
        Router::new(self.directory.clone(), move |shard: &Shard| {
            let config = servers.iter().flatten().find(|config| config.get_ports() == [shard.port]);
            let config = config.ok_or_else(|| Error::invalid("pool", "no such shard").on(shard.id))?;
            pool(config.clone(), 16)
        })
    }

    pub(crate) async fn connect(&self, number: i32) -> Result<tokio_postgres::Client> {
        self.server(number).connect("shop", "postgres").await.map_err(failed)
    }

    /// Which shard has a tenant, as the directory says.
    pub(crate) async fn place(&self, tenant: i64) -> Result<i32> {
        let placement = self.directory.find(&TenantId::from(tenant)).await?;
        Ok(placement.map_or(0, |placement| placement.shard.get()))
    }
}
