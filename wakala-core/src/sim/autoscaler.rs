//! The autoscaler of a workload as the core's trait.

use std::sync::Arc;

use async_trait::async_trait;

use super::api::{Call, Shared, check_version};
use super::faults::CallKind;
use super::hpa::check_bounds;
use super::state::State;
use super::targets::{permission, workload_key};
use crate::{
    Autoscaler, AutoscalerState, Bounds, Error, ErrorKind, Permission, ResourceKey, Result, RunContext,
    Units, Version,
};

/// The autoscaler of a workload, where it has one. From [`World::autoscaler`](super::World::autoscaler).
#[derive(Clone, Debug)]
pub struct SimAutoscaler {
    pub(super) world: Arc<Shared>,
    pub(super) name: String,
    pub(super) workload_id: String,
}

impl SimAutoscaler {
    fn call(&self, operation: &'static str, kind: CallKind) -> Call<'_> {
        Call { operation, object: &self.name, subject: self.id(), kind }
    }

    /// Checks what the API would check, and gives the autoscaler's index.
    fn check(
        &self,
        state: &State,
        bounds: Bounds,
        if_version: Option<&Version>,
        operation: &'static str,
    ) -> Result<usize> {
        let workload = state.find_workload(&self.name, operation)?;
        let index = state.hpa_of(workload).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, operation, "nothing scales it by itself; scale it directly")
        })?;
        check_bounds(operation, bounds.min.0, bounds.max.0)?;
        check_version(if_version, state.hpas[index].version, operation)?;
        Ok(index)
    }
}

#[async_trait]
impl Autoscaler for SimAutoscaler {
    fn id(&self) -> String {
        format!("autoscaler of {}", self.workload_id)
    }

    fn resource(&self) -> ResourceKey {
        workload_key(&self.world, &self.name, "autoscaler")
    }

    fn target(&self) -> ResourceKey {
        workload_key(&self.world, &self.name, "scale")
    }

    fn permissions(&self) -> Vec<Permission> {
        vec![permission("read", self.id()), permission("set bounds", self.id())]
    }

    async fn observe(&self, cx: &RunContext) -> Result<Option<AutoscalerState>> {
        let effect = |state: &mut State| {
            let workload = state.find_workload(&self.name, "observe")?;
            Ok(state.hpa_of(workload).map(|index| {
                let hpa = &state.hpas[index];
                AutoscalerState::new(&hpa.name, hpa.bounds, state.workloads[workload].desired)
                    .with_version(hpa.version.to_string())
            }))
        };
        self.world.call(cx, self.call("observe", CallKind::Read), effect).await
    }

    async fn set_bounds(&self, cx: &RunContext, bounds: Bounds, if_version: Option<&Version>) -> Result<()> {
        let effect = |state: &mut State| {
            let index = self.check(state, bounds, if_version, "set_bounds")?;
            let size = Units(state.workloads[state.hpas[index].workload].desired);
            cx.permit_bounds(&self.target(), size, state.hpas[index].bounds, bounds)?;
            let hpa = &mut state.hpas[index];
            if hpa.bounds != bounds {
                let text = format!("{}: bounds {} -> {bounds}", hpa.name, hpa.bounds);
                hpa.bounds = bounds;
                hpa.version += 1;
                state.note(text);
            }
            Ok(())
        };
        self.world.call(cx, self.call("set_bounds", CallKind::Write), effect).await
    }

    async fn rehearse(&self, cx: &RunContext, bounds: Bounds) -> Result<()> {
        let effect = |state: &mut State| self.check(state, bounds, None, "rehearse").map(|_| ());
        self.world.call(cx, self.call("rehearse", CallKind::Rehearse), effect).await
    }
}
