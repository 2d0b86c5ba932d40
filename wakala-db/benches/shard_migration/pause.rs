//! How long the writers of a tenant are held up by a hand-over.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wakala_db::{MoveOptions, Mover, TenantId};

use crate::site::{Site, TENANTS};
use crate::writers::{Ledger, Seen, Writers};
use crate::{Result, millis, moves, quantile};

/// Those that go there and back.
const MOVED: std::ops::RangeInclusive<i64> = 2..=11;
const ROUNDS: usize = 10;
/// Between two hand-overs.
const BETWEEN: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Paused {
    /// From the fence to the opening, in ms.
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// Between two acknowledged writes of the tenant, in ms.
    pub(crate) gap_p99: f64,
    pub(crate) moves: usize,
}

pub(crate) async fn measure(site: &Site, ledger: &Ledger) -> Result<Paused> {
    let tenants: Vec<i64> = MOVED.collect();
    let mut mover = moves::open(site, "pause", &tenants, MoveOptions::default()).await?;
    mover.copy(&CancellationToken::new()).await?;
    let all: Vec<i64> = (2..=TENANTS).collect();
    let writers = Writers::start(site, ledger, &all, 400).await?;
    let tenant = Arc::new(AtomicI64::new(*MOVED.start()));
    let nearby = Writers::follow(site, ledger, Arc::clone(&tenant), 100).await?;
    let (mut pauses, mut windows) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for there in [true, false] {
            for moved in MOVED {
                tenant.store(moved, Ordering::Relaxed);
                follow(&mut mover).await?;
                let begun = Instant::now();
                let id = TenantId::from(moved);
                let done = if there { mover.hand_over(&id).await? } else { mover.take_back(&id).await? };
                pauses.push(millis(done.pause.ok_or("there was nothing to hand over")?));
                windows.push((moved, begun, Instant::now() + BETWEEN));
                follow(&mut mover).await?;
            }
        }
    }
    let (seen, others) = (nearby.stop().await?, writers.stop().await?);
    let mut gaps: Vec<f64> = windows.iter().map(|window| gap(&seen, *window)).collect();
    let paused = Paused {
        median: quantile(&mut pauses, 50),
        p99: quantile(&mut pauses, 99),
        gap_p99: quantile(&mut gaps, 99),
        moves: pauses.len(),
    };
    let worst = quantile(&mut pauses, 100);
    eprintln!(
        "pause: {paused:.1?}, {worst:.1} ms at most, gaps {:.1} ms in the median; {:.0} tx/s, {} errors",
        quantile(&mut gaps, 50),
        seen.rate + others.rate,
        seen.errors + others.errors
    );
    moves::undo(site, mover).await?;
    Ok(paused)
}

async fn follow(mover: &mut Mover) -> Result<()> {
    let stop = CancellationToken::new();
    let timer = async {
        tokio::time::sleep(BETWEEN / 2).await;
        stop.cancel();
        Ok(())
    };
    futures::try_join!(mover.follow(&stop), timer)?;
    Ok(())
}

/// The longest time between two acknowledged writes of the tenant, around a hand-over.
fn gap(seen: &Seen, (tenant, begun, ended): (i64, Instant, Instant)) -> f64 {
    let (mut last, mut longest) = (begun, Duration::ZERO);
    for sample in seen.samples.iter().filter(|sample| sample.tenant == tenant) {
        if sample.ended < begun {
            last = sample.ended;
        } else if sample.ended - sample.took < ended {
            longest = longest.max(sample.ended - last);
            last = sample.ended;
        }
    }
    millis(longest)
}
