//! The most memory that a mover ever has, in a process of its own.

use std::process::Stdio;

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Config, NoTls};
use tokio_util::sync::CancellationToken;
use wakala_db::{Directory, MoveSpec, Mover, SchemaName, ShardAccess, TenantId};

use crate::Result;
use crate::site::{SHOP, Site, WHALE, shard};
use crate::writers::{Ledger, Writers};

const SOURCE: &str = "WAKALA_BENCH_SOURCE";
const DESTINATION: &str = "WAKALA_BENCH_DESTINATION";

/// In MB.
pub(crate) async fn measure(site: &Site, ledger: &Ledger) -> Result<f64> {
    let writers = Writers::start(site, ledger, &[WHALE], 500).await?;
    let child = tokio::process::Command::new(std::env::current_exe()?)
        .arg("mover")
        .env(SOURCE, site.servers[0].url(SHOP, "postgres")?)
        .env(DESTINATION, site.servers[1].url(SHOP, "postgres")?)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?
        .wait_with_output()
        .await?;
    writers.stop().await?;
    if !child.status.success() {
        return Err(format!("the mover's process ended with {}", child.status).into());
    }
    let bytes: f64 = String::from_utf8(child.stdout)?.trim().parse()?;
    eprintln!("memory: {:.1} MB at most", bytes / 1e6);
    site.clear(SHOP).await?;
    Ok(bytes / 1e6)
}

/// The process.
pub(crate) async fn work() -> Result<()> {
    let config = |name| -> Result<Config> { Ok(std::env::var(name)?.parse()?) };
    let (source, destination) = (config(SOURCE)?, config(DESTINATION)?);
    let pool = Pool::builder(Manager::new(source.clone(), NoTls)).max_size(2).build()?;
    let directory = Directory::new(pool, SchemaName::default());
    let spec = MoveSpec::new("memory".parse()?, shard(1)?, shard(2)?, vec![TenantId::from(WHALE)])?;
    let [source, destination] = [source, destination].map(ShardAccess::without_tls);
    let mut mover = Mover::open(spec, source, destination, directory).await?;
    mover.copy(&CancellationToken::new()).await?;
    let found = mover.verify().await?;
    if !found.is_equal() {
        return Err(format!("the two sides differ: {found:?}").into());
    }
    mover.abort().await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    println!("{}", kilobytes * 1024);
    Ok(())
}
