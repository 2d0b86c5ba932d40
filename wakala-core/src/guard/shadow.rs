//! Guards on trial.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::{Guard, Verdict, patient};
use crate::{GuardId, Permission, Result, RunContext};

/// A guard on trial: it is asked and reported like any other, and always passes.
///
/// Each verdict is a [`Verdict::Pass`] whose text is what the guard itself says: `shadow: FAIL: error_rate is 0.2000,
/// must be below 0.01`. A source that hangs, a baseline that cannot be had: all of it is only told. What alone still
/// refuses a playbook is a guard that [could never fail](Guard::check), since its trial would show nothing.
#[derive(Clone, Debug)]
pub struct ShadowGuard {
    inner: Arc<dyn Guard>,
}

/// How densely a shadow vouches for the past, so that it keeps no time from counting.
const MOMENTS: u32 = 10_000;

impl ShadowGuard {
    pub(super) fn new(inner: Arc<dyn Guard>) -> Self {
        Self { inner }
    }

    fn told(verdict: Result<Verdict>) -> Verdict {
        Verdict::Pass(match verdict {
            Ok(verdict) => format!("shadow: {verdict}"),
            Err(late) => format!("shadow: no answer: {}", late.chain()),
        })
    }
}

#[async_trait]
impl Guard for ShadowGuard {
    fn id(&self) -> GuardId {
        self.inner.id()
    }

    fn condition(&self) -> String {
        format!("on trial, never acting: {}", self.inner.condition())
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        let cx = patient(cx);
        Self::told(cx.until(self.inner.evaluate(&cx)).await)
    }

    fn permissions(&self) -> Vec<Permission> {
        self.inner.permissions()
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }

    async fn prove(&self, cx: &RunContext) -> Verdict {
        let cx = patient(cx);
        Self::told(cx.until(self.inner.prove(&cx)).await)
    }

    /// What the guard itself finds; nothing where it finds too little.
    async fn calibrate(&self, cx: &RunContext) -> Result<Option<f64>> {
        let cx = patient(cx);
        let found = cx.until(self.inner.calibrate(&cx)).await;
        Ok(found.and_then(|found| found).unwrap_or_default())
    }

    /// Passes throughout: what nobody asked a shadow counts against nothing.
    async fn history(&self, cx: &RunContext, window: Duration) -> Option<Vec<(SystemTime, Verdict)>> {
        let (now, step) = (cx.clock().now(), (window / MOMENTS).max(Duration::from_secs(1)));
        let mut moments = Vec::new();
        let mut ago = window;
        loop {
            let verdict = Verdict::Pass("shadow: nobody asked".to_owned());
            moments.push((now.checked_sub(ago)?, verdict));
            if ago.is_zero() {
                return Some(moments);
            }
            ago = ago.saturating_sub(step);
        }
    }
}
