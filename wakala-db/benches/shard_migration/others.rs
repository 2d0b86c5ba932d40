//! What the writers of other tenants notice of a move.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wakala_db::{MoveOptions, TenantId};

use crate::site::{Site, TENANTS, WHALE};
use crate::writers::{Ledger, Seen, Writers};
use crate::{Result, median, millis, moves, quantile};

const ROUNDS: usize = 3;

#[derive(Debug)]
pub(crate) struct Others {
    pub(crate) ratio: f64,
    pub(crate) errors: u64,
}

pub(crate) async fn measure(site: &Site, ledger: &Ledger) -> Result<Others> {
    let tenants: Vec<i64> = (2..=TENANTS).collect();
    let (mut ratios, mut errors) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        site.settle().await?;
        let writers = Writers::start(site, ledger, &tenants, 500).await?;
        let begun = Instant::now();
        let whale = TenantId::from(WHALE);
        let mut mover =
            moves::open(site, &format!("others_{round}"), &[WHALE], MoveOptions::default()).await?;
        mover.copy(&CancellationToken::new()).await?;
        mover.verify().await?;
        mover.hand_over(&whale).await?;
        let moved = begun.elapsed();
        let busy = writers.stop().await?;
        mover.take_back(&whale).await?;
        moves::undo(site, mover).await?;
        site.settle().await?;
        let writers = Writers::start(site, ledger, &tenants, 500).await?;
        tokio::time::sleep(moved.max(Duration::from_secs(5))).await;
        let quiet = writers.stop().await?;
        errors += busy.errors + quiet.errors;
        let (busy, quiet) = (p99(&busy), p99(&quiet));
        eprintln!(
            "others, round {round}: p99 {busy:.1} ms during a move of {moved:.2?}, {quiet:.1} ms without"
        );
        ratios.push(busy / quiet);
    }
    Ok(Others { ratio: median(ratios), errors })
}

/// In ms.
fn p99(seen: &Seen) -> f64 {
    let mut took: Vec<f64> = seen.samples.iter().map(|sample| millis(sample.took)).collect();
    quantile(&mut took, 99)
}
