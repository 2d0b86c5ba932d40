//! Catching up with a backlog of small transactions, against the apply of a subscription with the same backlog.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wakala_db::MoveOptions;

use crate::site::{ACCOUNTS, PEER, SHOP, Site, TABLES, WHALE};
use crate::writers::BEYOND;
use crate::{Result, median, moves, native, pipe};

const ROUNDS: i64 = 3;
const MOVE: &str = "behind";

#[derive(Debug)]
pub(crate) struct CaughtUp {
    pub(crate) vs_native: f64,
    /// Transactions a second.
    pub(crate) rate: f64,
}

pub(crate) async fn measure(site: &Site, percent: i64) -> Result<CaughtUp> {
    let transactions = 200 * percent;
    let work = format!(
        "CREATE PROCEDURE backlog(first bigint, most bigint) LANGUAGE plpgsql AS $$
         DECLARE
             n bigint := first;
         BEGIN
             WHILE n < first + most LOOP
                 UPDATE accounts SET name = 'name ' || n
                     WHERE tenant_id = {WHALE} AND id = {ACCOUNTS} + 4 * (1 + n * 7919 % {accounts});
                 INSERT INTO payments VALUES ({WHALE}, n, 1, n % 1000, 'settled', NULL);
                 COMMIT;
                 n := n + 1;
             END LOOP;
         END $$",
        accounts = 100 * percent,
    );
    site.servers[0].execute(SHOP, &work).await?;
    site.clear(PEER).await?;
    pipe::whale(site).await?;
    native::subscribe(site, false).await?;
    switch(site, false).await?;
    catch_up(site).await?;
    let mut rounds: [Vec<f64>; 2] = Default::default();
    for round in 0..ROUNDS {
        let first = BEYOND + round * transactions;
        let client = site.servers[0].connect(SHOP, "postgres").await?;
        client.batch_execute("SET synchronous_commit = off").await?;
        client.batch_execute(&format!("CALL backlog({first}, {transactions})")).await?;
        site.settle().await?;
        let last = first + transactions - 1;
        let (ours, theirs) = if round % 2 == 0 {
            (catch_up(site).await?, apply(site, last).await?)
        } else {
            let theirs = apply(site, last).await?;
            (catch_up(site).await?, theirs)
        };
        eprintln!(
            "catch-up, round {round}, {transactions} transactions: {ours:.2?}, subscription {theirs:.2?}"
        );
        rounds[0].push(theirs.as_secs_f64() / ours.as_secs_f64());
        rounds[1].push(transactions as f64 / ours.as_secs_f64());
    }
    for table in TABLES {
        let sql = format!(
            "SELECT (sum(hash_record_extended(t, 0)) % 1000000007)::bigint FROM {table} t WHERE tenant_id = {WHALE}"
        );
        let sums = [
            site.number(0, SHOP, &sql).await?,
            site.number(1, SHOP, &sql).await?,
            site.number(1, PEER, &sql).await?,
        ];
        if sums[0] != sums[1] || sums[0] != sums[2] {
            return Err(format!("table {table} differs after the catch-up: {sums:?}").into());
        }
    }
    native::unsubscribe(site).await?;
    let mover = moves::open(site, MOVE, &[WHALE], MoveOptions::default()).await?;
    moves::undo(site, mover).await?;
    site.clear(PEER).await?;
    let [vs_native, rate] = rounds.map(median);
    Ok(CaughtUp { vs_native, rate })
}

/// From taking the move over to the end of the backlog; the first time, the copy.
async fn catch_up(site: &Site) -> Result<Duration> {
    let mut mover = moves::open(site, MOVE, &[WHALE], MoveOptions::default()).await?;
    let begun = Instant::now();
    mover.prepare().await?;
    let prepared = begun.elapsed();
    mover.copy(&CancellationToken::new()).await?;
    let took = begun.elapsed();
    eprintln!("caught up in {took:.2?}, of which {prepared:.2?} to take it over");
    drop(mover);
    let active =
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'wakala_{MOVE}' AND active");
    while site.number(0, SHOP, &active).await? > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(took)
}

/// From switching the subscription on to its having the last payment.
async fn apply(site: &Site, last: i64) -> Result<Duration> {
    let begun = Instant::now();
    switch(site, true).await?;
    native::wait(site, &format!("SELECT id FROM payments WHERE tenant_id = {WHALE} AND id = {last}")).await?;
    let took = begun.elapsed();
    switch(site, false).await?;
    Ok(took)
}

async fn switch(site: &Site, on: bool) -> Result<()> {
    let to = if on { "ENABLE" } else { "DISABLE" };
    site.servers[1].execute(PEER, &format!("ALTER SUBSCRIPTION native {to}")).await?;
    if !on {
        native::wait(site, "SELECT 1 FROM pg_stat_subscription HAVING count(pid) = 0").await?;
    }
    Ok(())
}
