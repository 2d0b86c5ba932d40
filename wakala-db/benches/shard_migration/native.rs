//! What the servers have themselves: a subscription, with the same row filter.

use std::time::{Duration, Instant};

use crate::Result;
use crate::site::{PEER, SHOP, Site, WHALE};

const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn publish(site: &Site) -> Result<()> {
    let filter = format!("WHERE (tenant_id = {WHALE})");
    let sql = format!(
        "CREATE PUBLICATION native FOR TABLE accounts {filter}, messages {filter}, payments {filter} \
         WITH (publish = 'insert, update, delete')"
    );
    Ok(site.servers[0].execute(SHOP, &sql).await?)
}

pub(crate) async fn subscribe(site: &Site, copy: bool) -> Result<()> {
    let config = site.servers[0].config(SHOP, "postgres")?;
    let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
    let sql = format!(
        "CREATE SUBSCRIPTION native CONNECTION 'host=127.0.0.1 port={} dbname={SHOP} user=postgres password={password}' \
         PUBLICATION native WITH (binary = true, copy_data = {copy})",
        site.servers[0].port()
    );
    Ok(site.servers[1].execute(PEER, &sql).await?)
}

pub(crate) async fn unsubscribe(site: &Site) -> Result<()> {
    Ok(site.servers[1].execute(PEER, "DROP SUBSCRIPTION native").await?)
}

/// How long the initial copy of the whale takes, from the statement to the last table's being ready.
pub(crate) async fn copy(site: &Site) -> Result<Duration> {
    let begun = Instant::now();
    subscribe(site, true).await?;
    wait(site, "SELECT count(*) FROM pg_subscription_rel HAVING bool_and(srsubstate = 'r')").await?;
    let took = begun.elapsed();
    unsubscribe(site).await?;
    Ok(took)
}

/// Until a query on the peer gives a row.
pub(crate) async fn wait(site: &Site, sql: &str) -> Result<()> {
    let client = site.servers[1].connect(PEER, "postgres").await?;
    let statement = client.prepare(sql).await?;
    let begun = Instant::now();
    while client.query_opt(&statement, &[]).await?.is_none() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("not within {PATIENCE:?}: {sql}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
