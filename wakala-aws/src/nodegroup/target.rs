//! A node group as a target whose size counts nodes.

use async_trait::async_trait;
use wakala_core::{
    Bounds, Capability, Error, ErrorKind, Observation, Permission, ResourceKey, Result, RunContext,
    ScalableTarget, ScaleOptions, TargetId, Units,
};

use super::{NodeGroup, NodeGroupSizes, Ready, Seen};

/// The largest number that the API can carry; what a group can really have is its own maximum and the account's quota.
const LARGEST: u32 = i32::MAX.unsigned_abs();

impl NodeGroup {
    fn observation(seen: &Seen, ready: Ready) -> Observation {
        let problem = match &seen.problem {
            None if !seen.is_alive() => Some(format!("it is {}", seen.status.as_str())),
            problem => problem.clone(),
        };
        // Counted nodes speak for themselves, also where EKS still shows an old complaint.
        let settled = seen.is_active() || (seen.is_degraded() && matches!(ready, Ready::Counted(_)));
        Observation::new(seen.sizes.desired, ready.count().unwrap_or_default())
            .with_bounds(seen.sizes.bounds())
            .with_settled(settled)
            .with_problem(problem)
    }

    /// The sizes for `desired` where the group has `sizes`.
    fn sizes_for(&self, desired: Units, sizes: NodeGroupSizes) -> Result<NodeGroupSizes> {
        let refuse = |message: String| Err(Error::invalid("set_desired", message).on(self.target_id()));
        if desired > sizes.max {
            return refuse(format!(
                "size {desired} is above its maximum of {}; raise the maximum or choose less",
                sizes.max
            ));
        }
        if desired < sizes.min {
            return refuse(format!(
                "size {desired} is below its minimum of {}; lower the minimum or choose more",
                sizes.min
            ));
        }
        let min = if self.raising_min && desired > sizes.desired { desired } else { sizes.min };
        Ok(NodeGroupSizes { min, desired, ..sizes })
    }
}

#[async_trait]
impl ScalableTarget for NodeGroup {
    fn id(&self) -> TargetId {
        self.target_id()
    }

    fn resource(&self) -> ResourceKey {
        self.resource_key()
    }

    fn capability(&self) -> Capability {
        Capability::new(Bounds { min: Units(0), max: Units(LARGEST) })
    }

    fn permissions(&self) -> Vec<Permission> {
        self.needed_permissions(None)
    }

    fn read_permissions(&self) -> Vec<Permission> {
        let mut permissions = self.needed_permissions(None);
        permissions.retain(|permission| permission.action != "eks:UpdateNodegroupConfig");
        permissions
    }

    /// The desired size that was asked for last, the group's bounds, and its health issues as the problem. `ready` is 0
    /// where nobody counts nodes and EKS does not vouch for them: see [`NodeGroup`].
    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        let seen = self.see(None).await?;
        Ok(Self::observation(&seen, self.ready(cx, &seen).await?))
    }

    /// One `UpdateNodegroupConfig`, or no call where the size was asked for already. `Conflict`, safe to repeat, while
    /// the group is busy with another change. Smaller sizes make EKS drain and end nodes; after 15 minutes it does so
    /// whatever a PodDisruptionBudget says.
    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        if options.dry_run || options.if_version.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "set_desired",
                "EKS knows neither dry runs nor preconditions; leave both out",
            )
            .on(self.target_id()));
        }
        let seen = self.see(None).await?;
        let sizes = self.sizes_for(desired, seen.sizes)?;
        // Counted before the write: an error after it would have to say that the write may have taken effect.
        let observed = Self::observation(&seen, self.ready(cx, &seen).await?);
        if sizes == seen.sizes {
            return Ok(observed);
        }
        cx.permit(&self.resource_key(), seen.sizes.desired, sizes.desired)?;
        // Under a token of the SDK's: within one run a target may go up, down and up again, and a token made of the
        // request would then bring back the answer of the first time.
        self.write(seen.sizes, sizes, None).await?;
        let ready = observed.ready;
        Ok(Observation::new(desired, ready)
            .with_bounds(sizes.bounds())
            .with_settled(false)
            .with_problem(observed.problem))
    }

    async fn changed(&self, cx: &RunContext, _seen: &Observation) -> Result<Observation> {
        let seen = self.see(None).await?;
        let ready = self.ready(cx, &seen).await?;
        self.changes(cx, &seen, ready).await?;
        self.observe(cx).await
    }
}
