//! Watching that nobody breaks the truce with an autoscaler.

use std::sync::Arc;

use async_trait::async_trait;
use wakala_core::{Autoscaler, Guard, GuardId, RunContext, Units, Verdict};

/// Holds while the floor of an autoscaler is at least a size: for the soak after
/// [`RaiseFloor`](wakala_core::RaiseFloor).
///
/// It also holds where there is no autoscaler, since nothing takes the size back then.
#[derive(Clone, Debug)]
pub struct TruceGuard {
    id: GuardId,
    autoscaler: Arc<dyn Autoscaler>,
    size: Units,
}

impl TruceGuard {
    /// The floor of `autoscaler` is at least `size`.
    pub fn new(autoscaler: Arc<dyn Autoscaler>, size: impl Into<Units>) -> Self {
        Self { id: GuardId::from("truce"), autoscaler, size: size.into() }
    }

    /// Names the guard; as given it is `truce`.
    #[must_use]
    pub fn named(mut self, id: impl Into<GuardId>) -> Self {
        self.id = id.into();
        self
    }
}

#[async_trait]
impl Guard for TruceGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        format!("floor of the {} at least {}", self.autoscaler.id(), self.size)
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.autoscaler.observe(cx).await {
            Ok(None) => Verdict::Pass("nothing scales it by itself".to_owned()),
            Ok(Some(state)) if state.bounds.min >= self.size => {
                Verdict::Pass(format!("{} keeps {}", state.name, state.bounds))
            }
            Ok(Some(state)) => Verdict::Fail(format!(
                "somebody set the bounds of {} to {}; {} is no longer its floor",
                state.name, state.bounds, self.size
            )),
            Err(error) => Verdict::SourceError(error.chain()),
        }
    }
}
