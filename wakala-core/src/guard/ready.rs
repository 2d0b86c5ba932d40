//! Guards on what is ready of a target.

use async_trait::async_trait;

use super::{Guard, Verdict};
use crate::{Error, GuardId, Permission, Result, RunContext, SharedTarget, Units};

/// A guard that holds while a target has at least a size ready.
#[derive(Clone, Debug)]
pub struct ReadyGuard {
    id: GuardId,
    target: SharedTarget,
    size: Units,
}

impl ReadyGuard {
    /// Holds while `target` has at least `size` ready.
    pub fn new(id: impl Into<GuardId>, target: SharedTarget, size: impl Into<Units>) -> Self {
        Self { id: id.into(), target, size: size.into() }
    }
}

#[async_trait]
impl Guard for ReadyGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        format!("{} has at least {} ready", self.target.id(), self.size)
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.target.observe(cx).await {
            Ok(seen) if seen.ready >= self.size => Verdict::Pass(format!("{} ready", seen.ready)),
            Ok(seen) => {
                let problem = seen.problem.map(|problem| format!(": {problem}")).unwrap_or_default();
                Verdict::Fail(format!("{} ready, must be at least {}{problem}", seen.ready, self.size))
            }
            Err(error) => Verdict::SourceError(error.chain()),
        }
    }

    /// What it takes to observe the target, and nothing of what it takes to scale it.
    fn permissions(&self) -> Vec<Permission> {
        self.target.read_permissions()
    }

    fn check(&self) -> Result<()> {
        if self.size == Units(0) {
            let message = "0 are always ready, so that it could never fail; choose a size of at least 1";
            return Err(Error::invalid("check", message).on(&self.id));
        }
        Ok(())
    }

    async fn prove(&self, cx: &RunContext) -> Verdict {
        let largest = self.target.capability().sizes.max;
        if self.size > largest {
            return Verdict::Inconclusive(format!(
                "it could never hold: {} can have at most {largest}, and {} must be ready",
                self.target.id(),
                self.size
            ));
        }
        self.evaluate(cx).await
    }
}
