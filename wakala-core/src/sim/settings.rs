//! The size of a node pool and the environment of a workload as settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::api::{Call, Shared, check_version};
use super::faults::CallKind;
use super::nodes::{Blocked, NodePoolSize, first_fit, rooms};
use super::state::State;
use super::targets::{permission, pool_id, pool_key, pool_permissions, workload_key};
use crate::scale::allowed;
use crate::{
    Applied, Convergence, Error, ErrorKind, Result, RunContext, SafeSide, Setting, SettingInfo, SettingStep,
    StepId, Undone, Units, Version, Versioned,
};

/// At least so many nodes in a pool, and a minimum that keeps them. From [`World::node_pool`](super::World::node_pool).
///
/// Minimum and desired size are raised together, since a cluster autoscaler takes a desired size back that the pods of
/// the moment do not need. Taking it back lowers the minimum; the desired size comes down with it only where the pods
/// that there are still fit, and a raised maximum no further than the nodes.
#[derive(Clone, Debug)]
pub struct NodePoolSetting {
    pub(super) world: Arc<Shared>,
    pub(super) name: String,
    pub(super) nodes: u32,
    pub(super) raise_max: bool,
}

impl NodePoolSetting {
    /// Whether the maximum may be raised too, where it is in the way.
    #[must_use]
    pub fn raising_max(mut self, allowed: bool) -> Self {
        self.raise_max = allowed;
        self
    }

    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self)
    }

    fn call(&self, operation: &'static str, kind: CallKind) -> Call<'_> {
        Call { operation, object: &self.name, subject: pool_id(&self.name), kind }
    }
}

#[async_trait]
impl Setting for NodePoolSetting {
    type Value = NodePoolSize;

    fn info(&self) -> SettingInfo {
        let delay = {
            let state = self.world.state();
            state.pool_index(&self.name).map_or(Duration::ZERO, |pool| {
                let config = &state.pools[pool].config;
                config.provision_delay + config.provision_jitter
            })
        };
        SettingInfo::new(format!("resize {}", pool_id(&self.name)), pool_key(&self.name))
            .with_permissions(pool_permissions(&self.name))
            .with_safe_side(SafeSide::Up)
            .with_expected(delay + Duration::from_secs(5))
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<NodePoolSize>> {
        let effect = |state: &mut State| {
            let pool = &state.pools[state.find_pool(&self.name, "read")?];
            Ok(Versioned::at(pool.size, Some(pool.version.to_string().into())))
        };
        self.world.call(cx, self.call("read", CallKind::Read), effect).await
    }

    async fn write(
        &self,
        cx: &RunContext,
        value: &NodePoolSize,
        expected: Option<&Version>,
    ) -> Result<Applied> {
        let effect = |state: &mut State| {
            let index = state.find_pool(&self.name, "write")?;
            check_version(expected, state.pools[index].version, "write")?;
            value.check("write")?;
            cx.permit(&pool_key(&self.name), state.pools[index].size.desired, value.desired)?;
            state.resize_pool(index, *value);
            Ok(Applied::Changed)
        };
        self.world.call(cx, self.call("write", CallKind::Write), effect).await
    }

    fn desired(&self, current: &NodePoolSize) -> Result<NodePoolSize> {
        let wanted = Units(self.nodes);
        if wanted > current.max && !self.raise_max {
            let max = current.max;
            let message = format!(
                "{wanted} nodes are above its maximum of {max}; raise that first, allow to raise it, or choose at most \
                 {max}"
            );
            return Err(Error::invalid("plan", message).on(pool_id(&self.name)));
        }
        Ok(NodePoolSize {
            min: current.min.max(wanted),
            max: current.max.max(wanted),
            desired: current.desired.max(wanted),
        })
    }

    fn tolerates(&self, prior: &NodePoolSize, current: &NodePoolSize) -> bool {
        // A cluster autoscaler moves the number of nodes, and nothing else.
        prior.bounds() == current.bounds()
    }

    fn satisfies(&self, current: &NodePoolSize, target: &NodePoolSize) -> bool {
        current.min >= target.min && current.desired >= target.desired
    }

    fn is_ours(&self, prior: &NodePoolSize, written: &NodePoolSize, current: &NodePoolSize) -> bool {
        // Each for itself: a minimum that is back already leaves the nodes to be taken back.
        [prior.min, written.min].contains(&current.min)
            && [prior.desired, written.desired].contains(&current.desired)
            && [prior.max, written.max].contains(&current.max)
    }

    async fn rehearse(&self, cx: &RunContext, value: &NodePoolSize) -> Result<()> {
        let effect = |state: &mut State| {
            state.find_pool(&self.name, "rehearse")?;
            value.check("rehearse")
        };
        self.world.call(cx, self.call("rehearse", CallKind::Rehearse), effect).await
    }

    async fn convergence(&self, cx: &RunContext, current: &NodePoolSize) -> Result<Convergence> {
        let effect = |state: &mut State| {
            let pool = state.find_pool(&self.name, "observe")?;
            Ok((state.observe_pool(pool), state.blocked(pool)))
        };
        let (seen, blocked) = self.world.call(cx, self.call("observe", CallKind::Read), effect).await?;
        cx.progress(seen.ready.min(current.desired).0.into(), current.desired.0.into(), "");
        if seen.settled {
            return Ok(Convergence::Converged);
        }
        match seen.problem {
            Some(problem) if blocked == Some(Blocked::OutOfCapacity) => {
                let message = format!("{problem}; use another type or pool");
                Err(Error::new(ErrorKind::InsufficientCapacity, "observe", message).on(pool_id(&self.name)))
            }
            _ => Ok(Convergence::Following(format!("{} of {} nodes ready", seen.ready, current.desired))),
        }
    }

    async fn restore(
        &self,
        cx: &RunContext,
        prior: &NodePoolSize,
        _: &NodePoolSize,
        current: &Versioned<NodePoolSize>,
    ) -> Result<Undone> {
        let effect =
            |state: &mut State| Ok(state.fits_on(state.find_pool(&self.name, "restore")?, prior.desired.0));
        let fits = self.world.call(cx, self.call("restore", CallKind::Read), effect).await?;
        let back = allowed(cx, &pool_key(&self.name), current.value.desired, prior.desired);
        let desired = if fits { back.size } else { current.value.desired };
        let max = prior.max.max(desired);
        self.write(cx, &NodePoolSize { desired, max, ..*prior }, current.version.as_ref()).await?;
        if fits {
            return Ok(back.short.map_or(Undone::Restored, Undone::Deferred));
        }
        Ok(Undone::Deferred(format!(
            "the minimum is back at {}; {desired} nodes stay while their pods do not fit on {}",
            prior.min, prior.desired
        )))
    }
}

impl State {
    pub(super) fn resize_pool(&mut self, index: usize, size: NodePoolSize) {
        let pool = &mut self.pools[index];
        let old = std::mem::replace(&mut pool.size, size);
        if old != size {
            pool.version += 1;
            let show = |size: NodePoolSize| format!("{} in {}", size.desired, size.bounds());
            let text = format!("{}: nodes {} -> {}", pool_id(&pool.config.name), show(old), show(size));
            self.note(text);
        }
    }

    /// Whether the pods that there are would fit if a pool had so many nodes.
    fn fits_on(&self, pool: usize, nodes: u32) -> bool {
        let mut sizes: Vec<_> =
            self.pools.iter().map(|pool| u32::try_from(pool.ready()).unwrap_or(u32::MAX)).collect();
        sizes[pool] = nodes;
        let mut rooms = rooms(&self.pools, Some(&sizes));
        (0..self.workloads.len()).all(|index| {
            let workload = &self.workloads[index];
            let pool = self.pool_of(index);
            (0..workload.pods.len()).all(|_| first_fit(&mut rooms, workload.config.requests, pool).is_some())
        })
    }
}

/// Some environment variables of a workload. From [`World::environment`](super::World::environment).
///
/// All of them change as one write, and that one is a rolling restart. Only the variables named are touched, read and
/// put back.
#[derive(Clone, Debug)]
pub struct EnvironmentSetting {
    pub(super) world: Arc<Shared>,
    pub(super) name: String,
    pub(super) workload_id: String,
    pub(super) wanted: BTreeMap<String, Option<String>>,
}

impl EnvironmentSetting {
    /// The step of that name.
    pub fn step(self, id: impl Into<StepId>) -> SettingStep<Self> {
        SettingStep::new(id, self)
    }

    fn id(&self) -> String {
        format!("environment of {}", self.workload_id)
    }

    fn call(&self, operation: &'static str, kind: CallKind) -> Call<'_> {
        Call { operation, object: &self.name, subject: self.id(), kind }
    }
}

#[async_trait]
impl Setting for EnvironmentSetting {
    /// `None`: the variable is not set.
    type Value = BTreeMap<String, Option<String>>;

    fn info(&self) -> SettingInfo {
        let expected = {
            let state = self.world.state();
            state.workload_index(&self.name).map_or(Duration::ZERO, |index| {
                let config = &state.workloads[index].config;
                // A rollout goes in rounds; with the usual surge and unavailable there are three.
                3 * (config.startup + config.startup_jitter)
            })
        };
        SettingInfo::new(
            format!("change the {}", self.id()),
            workload_key(&self.world, &self.name, "template"),
        )
        .with_permissions(vec![permission("read", self.id()), permission("change", self.id())])
        .with_expected(expected + Duration::from_secs(10))
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<Self::Value>> {
        let effect = |state: &mut State| {
            let workload = &state.workloads[state.find_workload(&self.name, "read")?];
            let value =
                self.wanted.keys().map(|key| (key.clone(), workload.env().get(key).cloned())).collect();
            Ok(Versioned::at(value, Some(workload.template_version.to_string().into())))
        };
        self.world.call(cx, self.call("read", CallKind::Read), effect).await
    }

    async fn write(
        &self,
        cx: &RunContext,
        value: &Self::Value,
        expected: Option<&Version>,
    ) -> Result<Applied> {
        let effect = |state: &mut State| {
            let index = state.find_workload(&self.name, "write")?;
            let workload = &mut state.workloads[index];
            check_version(expected, workload.template_version, "write")?;
            let mut env = workload.env().clone();
            for (key, value) in value {
                match value {
                    Some(value) => env.insert(key.clone(), value.clone()),
                    None => env.remove(key),
                };
            }
            let before = workload.template_version;
            workload.set_env(env);
            if workload.template_version != before {
                let show = |(key, value): (&String, &Option<String>)| match value {
                    Some(value) => format!("{key}={value}"),
                    None => format!("{key} unset"),
                };
                let text =
                    format!("{}: {}", self.id(), value.iter().map(show).collect::<Vec<_>>().join(", "));
                state.note(text);
            }
            Ok(Applied::Changed)
        };
        self.world.call(cx, self.call("write", CallKind::Write), effect).await
    }

    fn desired(&self, _: &Self::Value) -> Result<Self::Value> {
        Ok(self.wanted.clone())
    }

    fn warnings(&self, current: &Self::Value, desired: &Self::Value) -> Vec<String> {
        let state = self.world.state();
        let Some(index) = state.workload_index(&self.name).filter(|_| current != desired) else {
            return Vec::new();
        };
        let workload = &state.workloads[index];
        let pods = workload.pods.len();
        let how = if workload.config.stateful {
            "one after the other; meanwhile capacity may drop by one pod".to_owned()
        } else {
            let (surge, unavailable) = (workload.config.max_surge, workload.config.max_unavailable);
            format!("with at most {surge} more; meanwhile capacity may drop by {unavailable}")
        };
        vec![format!("restarts all pods of {} ({pods} now), {how}", self.workload_id)]
    }

    async fn rehearse(&self, cx: &RunContext, _: &Self::Value) -> Result<()> {
        let effect = |state: &mut State| state.find_workload(&self.name, "rehearse").map(|_| ());
        self.world.call(cx, self.call("rehearse", CallKind::Rehearse), effect).await
    }

    async fn convergence(&self, cx: &RunContext, _: &Self::Value) -> Result<Convergence> {
        let effect = |state: &mut State| {
            let index = state.find_workload(&self.name, "observe")?;
            let workload = &state.workloads[index];
            let problem = state.observe_workload(index).problem;
            Ok((workload.outdated(), workload.ready(), workload.desired, workload.is_settled(), problem))
        };
        let (outdated, ready, desired, settled, problem) =
            self.world.call(cx, self.call("observe", CallKind::Read), effect).await?;
        if settled {
            return Ok(Convergence::Converged);
        }
        let updated = ready.saturating_sub(outdated);
        let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
        cx.progress(updated.min(desired).into(), desired.into(), problem.trim_start_matches(": "));
        Ok(Convergence::Following(format!("{updated} of {desired} pods restarted and ready{problem}")))
    }
}
