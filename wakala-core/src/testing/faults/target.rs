//! A target whose calls fail by a script.

use std::sync::Arc;

use async_trait::async_trait;

use super::Faults;
use crate::{
    Capability, Observation, Permission, ResourceKey, Result, RunContext, ScalableTarget, ScaleOptions,
    SharedTarget, TargetId, Units,
};

/// A target whose `observe`, `set_desired` and `changed` fail by a script.
#[derive(Clone, Debug)]
pub struct FaultyTarget {
    inner: SharedTarget,
    faults: Faults,
}

impl FaultyTarget {
    /// Wraps `target`.
    pub fn new(target: impl ScalableTarget, faults: &Faults) -> Self {
        Self::shared(Arc::new(target), faults)
    }

    /// Wraps a target that others hold too.
    pub fn shared(target: SharedTarget, faults: &Faults) -> Self {
        Self { inner: target, faults: faults.clone() }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ScalableTarget for FaultyTarget {
    fn id(&self) -> TargetId {
        self.inner.id()
    }

    fn resource(&self) -> ResourceKey {
        self.inner.resource()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    fn permissions(&self) -> Vec<Permission> {
        self.inner.permissions()
    }

    fn read_permissions(&self) -> Vec<Permission> {
        self.inner.read_permissions()
    }

    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        self.faults.call("observe", self.id().as_str(), self.inner.observe(cx)).await
    }

    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        // A check changes nothing, and so it is no place for a fault of a write.
        if options.dry_run {
            return self.inner.set_desired(cx, desired, options).await;
        }
        let call = self.inner.set_desired(cx, desired, options);
        self.faults.call("set_desired", self.id().as_str(), call).await
    }

    async fn changed(&self, cx: &RunContext, seen: &Observation) -> Result<Observation> {
        self.faults.call("changed", self.id().as_str(), self.inner.changed(cx, seen)).await
    }
}
