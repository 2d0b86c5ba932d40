//! Movers of this site.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wakala_db::{MoveEvent, MoveObserver, MoveOptions, MoveSpec, Mover, TenantId};

use crate::Result;
use crate::site::{SHOP, Site, shard};

pub(crate) async fn open(site: &Site, name: &str, tenants: &[i64], options: MoveOptions) -> Result<Mover> {
    let tenants = tenants.iter().map(|tenant| TenantId::from(*tenant)).collect();
    let spec = MoveSpec::new(name.parse()?, shard(1)?, shard(2)?, tenants)?;
    let mover = Mover::open(spec, site.access(0)?, site.access(1)?, site.directory.clone()).await?;
    Ok(mover.with_options(options))
}

pub(crate) fn with_streams(streams: usize) -> MoveOptions {
    let mut options = MoveOptions::default();
    options.streams = streams;
    options
}

/// Ends a move whose tenants are all at home; what is on the destination is not worth being deleted row by row.
pub(crate) async fn undo(site: &Site, mover: Mover) -> Result<()> {
    site.clear(SHOP).await?;
    mover.abort().await?;
    Ok(())
}

/// What a move of a tenant that ends before the hand-over took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) prepared: Duration,
    /// The copy by itself.
    pub(crate) copying: Duration,
    /// Until all is copied, and all that happened meanwhile is applied.
    pub(crate) copied: Duration,
    pub(crate) verified: Duration,
}

pub(crate) async fn measure(site: &Site, name: &str, tenant: i64, streams: usize) -> Result<Took> {
    let begun = Instant::now();
    let clock = Arc::new(Clock::default());
    let mut mover = open(site, name, &[tenant], with_streams(streams)).await?.with_observer(clock.clone());
    mover.prepare().await?;
    let prepared = begun.elapsed();
    let begun = Instant::now();
    mover.copy(&CancellationToken::new()).await?;
    let copied = begun.elapsed();
    let begun = Instant::now();
    let found = mover.verify().await?;
    let verified = begun.elapsed();
    if !found.is_equal() {
        return Err(format!("the two sides differ: {found:?}").into());
    }
    undo(site, mover).await?;
    let copying = *clock.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Took { prepared, copying, copied, verified })
}

/// How long a mover was copying.
#[derive(Debug, Default)]
struct Clock(Mutex<Duration>);

impl MoveObserver for Clock {
    fn on_event(&self, event: &MoveEvent) {
        if let MoveEvent::Copied(progress) = event {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress.copying;
        }
    }
}
