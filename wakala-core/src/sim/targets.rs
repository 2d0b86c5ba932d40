//! Workloads and node pools as scalable targets.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::api::{Call, Shared, check_version};
use super::faults::CallKind;
use super::state::State;
use super::{MAX_NODES, MAX_REPLICAS};
use crate::{
    Bounds, Capability, Error, Observation, Permission, ResourceKey, Result, RunContext, ScalableTarget,
    ScaleOptions, TargetId, Units,
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn permission(action: &str, subject: impl Into<String>) -> Permission {
    Permission::new("simulation", action, subject)
}

/// The replicas of a workload. From [`World::target`](super::World::target).
///
/// Preconditions hold against writes of the size, its own and its autoscaler's.
#[derive(Clone, Debug)]
pub struct WorkloadTarget {
    pub(super) world: Arc<Shared>,
    pub(super) name: String,
    pub(super) id: String,
}

impl WorkloadTarget {
    fn call(&self, operation: &'static str, kind: CallKind) -> Call<'_> {
        Call { operation, object: &self.name, subject: self.id.clone(), kind }
    }
}

#[async_trait]
impl ScalableTarget for WorkloadTarget {
    fn id(&self) -> TargetId {
        self.id.as_str().into()
    }

    fn resource(&self) -> ResourceKey {
        workload_key(&self.world, &self.name, "scale")
    }

    fn capability(&self) -> Capability {
        capability(MAX_REPLICAS)
    }

    fn permissions(&self) -> Vec<Permission> {
        vec![permission("read", &self.id), permission("scale", &self.id)]
    }

    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        let call = self.call("observe", CallKind::Read);
        self.world.call(cx, call, |state| observe_workload(state, &self.name, "observe")).await
    }

    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        const OPERATION: &str = "set_desired";
        let kind = if options.dry_run { CallKind::Rehearse } else { CallKind::Write };
        let effect = |state: &mut State| {
            let index = state.find_workload(&self.name, OPERATION)?;
            check_size(desired, MAX_REPLICAS)?;
            let workload = &mut state.workloads[index];
            check_version(options.if_version.as_ref(), workload.replicas_version, OPERATION)?;
            if !options.dry_run && workload.desired != desired.0 {
                cx.permit(&self.resource(), Units(workload.desired), desired)?;
                let text = format!("{}: replicas {} -> {desired}", workload.id, workload.desired);
                workload.set_desired(desired.0);
                state.note(text);
            }
            Ok(state.observe_workload(index))
        };
        self.world.call(cx, self.call(OPERATION, kind), effect).await
    }

    async fn changed(&self, cx: &RunContext, seen: &Observation) -> Result<Observation> {
        until_changed(self, cx, seen).await
    }
}

fn observe_workload(state: &State, name: &str, operation: &'static str) -> Result<Observation> {
    Ok(state.observe_workload(state.find_workload(name, operation)?))
}

/// The size of a node pool within its bounds. From [`World::pool_target`](super::World::pool_target).
///
/// A size outside of the pool's bounds is refused, as EKS does it; [`NodePoolSetting`](super::NodePoolSetting) moves
/// the minimum too.
#[derive(Clone, Debug)]
pub struct NodePoolTarget {
    pub(super) world: Arc<Shared>,
    pub(super) name: String,
}

impl NodePoolTarget {
    fn call(&self, operation: &'static str, kind: CallKind) -> Call<'_> {
        Call { operation, object: &self.name, subject: pool_id(&self.name), kind }
    }
}

#[async_trait]
impl ScalableTarget for NodePoolTarget {
    fn id(&self) -> TargetId {
        pool_id(&self.name).into()
    }

    fn resource(&self) -> ResourceKey {
        pool_key(&self.name)
    }

    fn capability(&self) -> Capability {
        capability(MAX_NODES)
    }

    fn permissions(&self) -> Vec<Permission> {
        pool_permissions(&self.name)
    }

    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        let effect = |state: &mut State| Ok(state.observe_pool(state.find_pool(&self.name, "observe")?));
        self.world.call(cx, self.call("observe", CallKind::Read), effect).await
    }

    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        const OPERATION: &str = "set_desired";
        let kind = if options.dry_run { CallKind::Rehearse } else { CallKind::Write };
        let effect = |state: &mut State| {
            let index = state.find_pool(&self.name, OPERATION)?;
            let pool = &mut state.pools[index];
            let size = super::NodePoolSize { desired, ..pool.size };
            check_version(options.if_version.as_ref(), pool.version, OPERATION)?;
            size.check(OPERATION)?;
            if !options.dry_run {
                cx.permit(&self.resource(), pool.size.desired, desired)?;
                state.resize_pool(index, size);
            }
            Ok(state.observe_pool(index))
        };
        self.world.call(cx, self.call(OPERATION, kind), effect).await
    }

    async fn changed(&self, cx: &RunContext, seen: &Observation) -> Result<Observation> {
        until_changed(self, cx, seen).await
    }
}

/// Looks each second, since that is how often the world moves.
async fn until_changed(
    target: &dyn ScalableTarget,
    cx: &RunContext,
    seen: &Observation,
) -> Result<Observation> {
    loop {
        cx.sleep(SECOND).await?;
        let now = target.observe(cx).await?;
        if now != *seen {
            return Ok(now);
        }
    }
}

fn capability(max: u32) -> Capability {
    Capability::new(Bounds { min: Units(0), max: Units(max) }).with_dry_run().with_preconditions()
}

fn check_size(size: Units, max: u32) -> Result<()> {
    if size > Units(max) {
        return Err(Error::invalid("set_desired", format!("size {size} is above the {max} that can be")));
    }
    Ok(())
}

pub(super) fn workload_key(world: &Shared, name: &str, part: &str) -> ResourceKey {
    format!("simulation/{}/workloads/{name}/{part}", world.namespace).into()
}

pub(super) fn pool_key(name: &str) -> ResourceKey {
    format!("simulation/node-pools/{name}").into()
}

pub(super) fn pool_id(name: &str) -> String {
    format!("node pool {name}")
}

pub(super) fn pool_permissions(name: &str) -> Vec<Permission> {
    vec![permission("read", pool_id(name)), permission("resize", pool_id(name))]
}
