//! The copy, against the raw pipe and the initial copy of a subscription; each under the same writers.

use std::time::Duration;

use crate::site::{PEER, Site, WHALE};
use crate::writers::{Ledger, Writers};
use crate::{Result, median, moves, native, pipe};

const ROUNDS: usize = 5;
/// Transactions a second on the tenant that is moved.
const RATE: u32 = 500;

#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) one_stream: f64,
    pub(crate) two_streams: f64,
    pub(crate) vs_native: f64,
    pub(crate) whole: f64,
    pub(crate) raw_rate: f64,
}

pub(crate) async fn measure(site: &Site, ledger: &Ledger) -> Result<Copied> {
    native::publish(site).await?;
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for round in 0..ROUNDS {
        let writers = Writers::start(site, ledger, &[WHALE], RATE).await?;
        site.clear(PEER).await?;
        let (raw, bytes) = pipe::whale(site).await?;
        site.settle().await?;
        let one = moves::measure(site, &format!("one_{round}"), WHALE, 1).await?;
        let two = moves::measure(site, &format!("two_{round}"), WHALE, 2).await?;
        site.clear(PEER).await?;
        let subscribed = native::copy(site).await?;
        // What came between the two pipes is in neither: the first one again, so that a drift of the machine shows on both.
        site.clear(PEER).await?;
        let (again, _) = pipe::whale(site).await?;
        site.clear(PEER).await?;
        let rate = writers.stop().await?.rate;
        let raw = (raw + again) / 2;
        eprintln!(
            "copy, round {round}: raw {raw:.2?} (again {again:.2?}), subscription {subscribed:.2?}, one stream {one:.2?}, \
             two {two:.2?}; {bytes} bytes, {rate:.0} tx/s"
        );
        let per = |part: Duration, whole: Duration| part.as_secs_f64() / whole.as_secs_f64();
        rounds[0].push(per(raw, one.copying));
        rounds[1].push(per(raw, two.copying));
        rounds[2].push(per(subscribed, two.prepared + two.copied));
        rounds[3].push(per(two.copied + two.verified, raw));
        rounds[4].push(bytes as f64 / 1e6 / raw.as_secs_f64());
    }
    let [one_stream, two_streams, vs_native, whole, raw_rate] = rounds.map(median);
    Ok(Copied { one_stream, two_streams, vs_native, whole, raw_rate })
}
