//! A copy that is slower while somebody suffers from it.

use std::sync::Arc;

use wakala_core::{Guard, RunContext, Verdict};
use wakala_db::MoveHost;

/// Not slower than this: a copy that never ends keeps the log of its source for ever.
const SLOWEST: u64 = 256 << 10;

#[derive(Clone, Debug)]
pub(super) struct Throttle {
    host: MoveHost,
    guards: Vec<Arc<dyn Guard>>,
    /// Where nobody has measured yet.
    assumed: u64,
}

impl Throttle {
    pub(super) fn new(host: MoveHost, guards: Vec<Arc<dyn Guard>>, assumed: u64) -> Self {
        Self { host, guards, assumed }
    }

    pub(super) fn guards(&self) -> &[Arc<dyn Guard>] {
        &self.guards
    }

    /// Asks the guards once, and sets the rate: half of what it was where one does not pass, else twice as much, up to the
    /// limit that was given. Says why where the copy is held back.
    pub(super) async fn adjust(&self, cx: &RunContext) -> Option<String> {
        let mut why = None;
        for guard in &self.guards {
            let verdict = guard.evaluate(cx).await;
            if !verdict.is_pass() {
                why = Some((guard.id(), verdict));
                break;
            }
        }
        let measured = self.host.status().progress.map(|progress| progress.bytes_per_second.max(0.0));
        let limit = self.host.options().copy_bytes_per_second;
        let (rate, now) = (self.host.copy_rate(), self.host.copy_rate().bytes_per_second());
        rate.set(next(now, measured, limit, self.assumed, why.is_none()));
        why.map(|(guard, verdict)| {
            let rate = super::texts::bytes(rate.bytes_per_second().unwrap_or(0));
            format!("held back to {rate}/s by {guard} ({})", text_of(&verdict))
        })
    }
}

fn text_of(verdict: &Verdict) -> String {
    verdict.to_string()
}

fn next(
    now: Option<u64>,
    measured: Option<f64>,
    limit: Option<u64>,
    assumed: u64,
    calm: bool,
) -> Option<u64> {
    if calm {
        let more = now?.saturating_mul(2);
        return match limit {
            Some(limit) => Some(more.min(limit)),
            // Beyond what a copy ever takes, a limit only costs time.
            None => (more < assumed.saturating_mul(16)).then_some(more),
        };
    }
    let measured = measured.filter(|rate| *rate >= 1.0 && rate.is_finite());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite, and at least 1")]
    let measured = measured.map_or(assumed, |rate| rate as u64);
    let slower = (now.unwrap_or(measured) / 2).max(SLOWEST);
    Some(limit.map_or(slower, |limit| slower.min(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_as_fast_while_somebody_suffers_and_twice_as_fast_when_not() {
        const MB: u64 = 1_000_000;
        assert_eq!(next(None, None, None, 20 * MB, true), None);
        assert_eq!(next(None, Some(8e6), None, 20 * MB, false), Some(4 * MB));
        assert_eq!(next(Some(4 * MB), Some(8e6), None, 20 * MB, false), Some(2 * MB));
        assert_eq!(next(Some(1), None, None, 20 * MB, false), Some(SLOWEST));
        assert_eq!(next(Some(2 * MB), None, None, 20 * MB, true), Some(4 * MB));
        assert_eq!(next(Some(200 * MB), None, None, 20 * MB, true), None);
        assert_eq!(next(Some(4 * MB), None, Some(5 * MB), 20 * MB, true), Some(5 * MB));
        assert_eq!(next(None, Some(f64::NAN), Some(5 * MB), 20 * MB, false), Some(5 * MB));
    }
}
