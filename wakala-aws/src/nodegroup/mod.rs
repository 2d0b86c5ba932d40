//! EKS managed node groups.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_eks::Client;
use aws_sdk_eks::types::{NodegroupScalingConfig, NodegroupStatus};
use wakala_core::{Error, ErrorKind, Permission, ResourceKey, Result, Retry, RunContext, TargetId, Units};

use crate::Aws;
use crate::error::Call;
use crate::permissions::SYSTEM;

mod readiness;
mod sizes;
mod step;
mod target;
#[cfg(test)]
mod tests;
mod update;

pub use readiness::NodeReadiness;
pub use sizes::NodeGroupSizes;
pub use step::{NodeGroupSize, NodeGroupStep};

use update::Update;

/// How often a group is looked at, and how soon a busy one is asked again.
const POLL: Duration = Duration::from_secs(15);

/// An EKS managed node group. Clones are the same group.
///
/// As a [`ScalableTarget`](wakala_core::ScalableTarget) it counts nodes. In a playbook prefer [`NodeGroupSize`], which
/// keeps the size with the group's minimum and follows the update that it began; a target only knows the size.
///
/// **Ready** nodes are what [`with_readiness`](Self::with_readiness) counts. Without it EKS's word has to do: the
/// desired size counts as ready while the group is `ACTIVE`, without health issue and without an update in progress.
/// That says that the Auto Scaling group was asked and did not complain yet, not that a node has joined.
///
/// While an update is in progress EKS still shows the sizes from before it. Everything here speaks of the sizes that
/// were **asked for last**, so an update in progress counts as written and not yet settled.
#[derive(Clone)]
pub struct NodeGroup {
    client: Client,
    region: Arc<str>,
    cluster: Arc<str>,
    name: Arc<str>,
    subject: Arc<str>,
    readiness: Option<Arc<dyn NodeReadiness>>,
    poll: Duration,
    busy_pause: Duration,
    raising_min: bool,
}

// The client's own form is pages long.
impl fmt::Debug for NodeGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client: _, region, cluster, name, subject: _, readiness, poll, busy_pause, raising_min } =
            self;
        f.debug_struct("NodeGroup")
            .field("region", region)
            .field("cluster", cluster)
            .field("name", name)
            .field("readiness", readiness)
            .field("poll", poll)
            .field("busy_pause", busy_pause)
            .field("raising_min", raising_min)
            .finish_non_exhaustive()
    }
}

impl NodeGroup {
    /// The node group `name` of `cluster`. Asks AWS nothing yet.
    pub fn new(aws: &Aws, cluster: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self::of_client(aws.eks(), aws.region().into(), cluster.into(), name.into())
    }

    fn of_client(client: Client, region: Arc<str>, cluster: Arc<str>, name: Arc<str>) -> Self {
        Self {
            client,
            region,
            subject: format!("node group {cluster}/{name}").into(),
            cluster,
            name,
            readiness: None,
            poll: POLL,
            busy_pause: POLL,
            raising_min: false,
        }
    }

    /// Lets `readiness` count the ready nodes.
    #[must_use]
    pub fn with_readiness(mut self, readiness: Arc<dyn NodeReadiness>) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// How often the group is looked at while it changes; every 15 s unless set.
    #[must_use]
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// How long to wait before a group that is busy with another change is asked again; 15 s unless set.
    #[must_use]
    pub fn with_busy_pause(mut self, pause: Duration) -> Self {
        self.busy_pause = pause;
        self
    }

    /// Lets [`set_desired`](wakala_core::ScalableTarget::set_desired) raise the group's minimum with a larger size, so
    /// that a Cluster Autoscaler does not take it back. The minimum is never lowered.
    #[must_use]
    pub fn raising_min(mut self) -> Self {
        self.raising_min = true;
        self
    }

    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node group's name within the cluster: the value of the node label `eks.amazonaws.com/nodegroup`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn target_id(&self) -> TargetId {
        TargetId::new(Arc::clone(&self.subject))
    }

    pub(crate) fn resource_key(&self) -> ResourceKey {
        ResourceKey::from(format!("aws/{}/eks/{}/nodegroups/{}", self.region, self.cluster, self.name))
    }

    /// What IAM must allow, of this group alone where its ARN is known, else of every group of that name; and what the
    /// counting of ready nodes needs.
    pub(crate) fn needed_permissions(&self, arn: Option<&str>) -> Vec<Permission> {
        let group = arn.map_or_else(|| self.arn_pattern("nodegroup", "/*"), str::to_owned);
        let cluster = match arn.and_then(|arn| arn.split_once(":nodegroup/")) {
            Some((prefix, _)) => format!("{prefix}:cluster/{}", self.cluster),
            None => self.arn_pattern("cluster", ""),
        };
        let of_eks = [
            ("eks:DescribeNodegroup", &group),
            ("eks:DescribeUpdate", &cluster),
            ("eks:DescribeUpdate", &group),
            ("eks:ListUpdates", &cluster),
            ("eks:ListUpdates", &group),
            ("eks:UpdateNodegroupConfig", &group),
        ]
        .map(|(action, resource)| Permission::new(SYSTEM, action, resource));
        let of_readiness = self.readiness.iter().flat_map(|readiness| readiness.permissions());
        of_eks.into_iter().chain(of_readiness).collect()
    }

    fn arn_pattern(&self, sort: &str, end: &str) -> String {
        let Self { region, cluster, name, .. } = self;
        let partition = match &**region {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        let group = if sort == "nodegroup" { format!("/{name}") } else { String::new() };
        format!("arn:{partition}:eks:{region}:*:{sort}/{cluster}{group}{end}")
    }

    fn call<'a>(&'a self, operation: &'static str, action: &'static str, resource: &'a str) -> Call<'a> {
        Call {
            operation,
            action,
            resource,
            subject: &self.subject,
            region: &self.region,
            writes: false,
            busy_pause: self.busy_pause,
        }
    }

    /// The group as it is now; `handle` is the update that the caller began.
    ///
    /// # Errors
    /// `Unavailable` where EKS contradicts itself for the moment; otherwise what AWS says.
    pub(crate) async fn see(&self, handle: Option<&str>) -> Result<Seen> {
        // The update before the group: one that is done by now has changed the group that is read next.
        let own = match handle {
            Some(id) => Some(self.known_update(id).await?),
            None => None,
        };
        let failure = own.as_ref().and_then(Update::failure).map(|failure| failure.on(&self.subject));
        let own = own.filter(Update::is_in_progress);
        // An update may end between the two looks, so what is found at first may be nothing.
        for _ in 0..3 {
            let mut seen = self.describe().await?;
            seen.update = match &own {
                Some(own) => Some(own.clone()),
                None if seen.status == NodegroupStatus::Updating => self.update_in_progress().await?,
                None => None,
            };
            if let Some(update) = &seen.update {
                seen.sizes = update.lead_on(seen.sizes);
            } else if seen.status == NodegroupStatus::Updating {
                continue;
            }
            seen.failure = failure;
            return Ok(seen);
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "list_updates",
            "it is UPDATING, and EKS lists no update in progress; will look again",
        )
        .on(&self.subject)
        .with_retry(Retry::Safe { after: None }))
    }

    async fn describe(&self) -> Result<Seen> {
        let arn = self.arn_pattern("nodegroup", "/*");
        let call = self.call("describe_nodegroup", "eks:DescribeNodegroup", &arn);
        let request =
            self.client.describe_nodegroup().cluster_name(&*self.cluster).nodegroup_name(&*self.name);
        let answer = request.send().await.map_err(|error| call.failed(error))?;
        let group = answer.nodegroup.ok_or_else(|| call.puzzled("the answer holds no node group"))?;
        let sizes = group.scaling_config.as_ref().and_then(read_sizes);
        let issues = group.health.and_then(|health| health.issues).unwrap_or_default();
        let issues: Vec<String> = issues
            .iter()
            .map(|issue| {
                let code = issue.code.as_ref().map_or("no code", |code| code.as_str());
                format!("{code}: {}", issue.message.as_deref().unwrap_or("no message").trim_end_matches('.'))
            })
            .collect();
        Ok(Seen {
            arn: group.nodegroup_arn,
            sizes: sizes.ok_or_else(|| call.puzzled("the answer does not hold all three sizes"))?,
            status: group.status.ok_or_else(|| call.puzzled("the answer holds no status"))?,
            problem: (!issues.is_empty()).then(|| issues.join("; ")),
            update: None,
            failure: None,
        })
    }

    async fn update(&self, id: &str) -> Result<Update> {
        let arn = self.arn_pattern("cluster", "");
        let call = self.call("describe_update", "eks:DescribeUpdate", &arn);
        let request = self.client.describe_update().name(&*self.cluster).update_id(id);
        // Without the group's name EKS looks among the cluster's own updates and finds nothing.
        let answer = request.nodegroup_name(&*self.name).send().await.map_err(|error| call.failed(error))?;
        answer.update.and_then(Update::read).ok_or_else(|| call.puzzled("the answer holds no update"))
    }

    /// An update that EKS has accepted, so that not to know it passes as long as its group is there.
    async fn known_update(&self, id: &str) -> Result<Update> {
        match self.update(id).await {
            Err(unknown) if unknown.kind() == ErrorKind::NotFound => {
                self.describe().await?;
                Err(unknown.with_retry(Retry::Safe { after: None }))
            }
            answer => answer,
        }
    }

    /// The one update that can be in progress.
    async fn update_in_progress(&self) -> Result<Option<Update>> {
        let arn = self.arn_pattern("cluster", "");
        let call = self.call("list_updates", "eks:ListUpdates", &arn);
        let request = self.client.list_updates().name(&*self.cluster).nodegroup_name(&*self.name);
        let mut pages = request.into_paginator().items().send();
        let mut ids = VecDeque::new();
        while let Some(id) = pages.next().await {
            ids.push_back(id.map_err(|error| call.failed(error))?);
        }
        // The order is not documented; by time either way, the newest is at one of the ends.
        let mut from_front = true;
        while let Some(id) = if from_front { ids.pop_front() } else { ids.pop_back() } {
            let update = self.update(&id).await?;
            if update.is_in_progress() {
                return Ok(Some(update));
            }
            from_front = !from_front;
        }
        Ok(None)
    }

    /// Asks for `to` where the group has `from`: one call, of what differs, all at once, since `min <= desired <= max`
    /// must hold before and after. Gives the update's id.
    pub(crate) async fn write(
        &self,
        from: NodeGroupSizes,
        to: NodeGroupSizes,
        token: Option<String>,
    ) -> Result<String> {
        let arn = self.arn_pattern("nodegroup", "/*");
        let call =
            Call { writes: true, ..self.call("update_nodegroup_config", "eks:UpdateNodegroupConfig", &arn) };
        let changed = |from: Units, to: Units| {
            let size = (from != to).then(|| i32::try_from(to.0)).transpose();
            size.map_err(|_| {
                Error::invalid("update_nodegroup_config", format!("EKS has no size {to}")).on(&self.subject)
            })
        };
        let sizes = NodegroupScalingConfig::builder()
            .set_min_size(changed(from.min, to.min)?)
            .set_desired_size(changed(from.desired, to.desired)?)
            .set_max_size(changed(from.max, to.max)?)
            .build();
        let request =
            self.client.update_nodegroup_config().cluster_name(&*self.cluster).nodegroup_name(&*self.name);
        // The SDK fills in a token of its own where there is none.
        let request = request.scaling_config(sizes).set_client_request_token(token);
        let answer = request.send().await.map_err(|error| call.failed(error))?;
        answer.update.and_then(|update| update.id).ok_or_else(|| call.puzzled("the answer holds no update"))
    }

    /// Returns once no update is in progress, with the group as it is then.
    async fn idle(&self, cx: &RunContext) -> Result<Seen> {
        loop {
            let seen = self.see(None).await?;
            let Some(update) = &seen.update else { return Ok(seen) };
            cx.progress(0, 0, format!("waiting for {} to end", update.name()));
            cx.sleep(self.poll).await?;
        }
    }

    /// Returns once the update has taken effect.
    async fn finished(&self, cx: &RunContext, id: &str) -> Result<()> {
        loop {
            let update = self.known_update(id).await?;
            if let Some(failure) = update.failure() {
                return Err(failure.on(&self.subject));
            }
            if !update.is_in_progress() {
                return Ok(());
            }
            cx.progress(0, 0, format!("{} is in progress", update.name()));
            cx.sleep(self.poll).await?;
        }
    }

    /// How many nodes are ready, as far as anybody knows.
    async fn ready(&self, cx: &RunContext, seen: &Seen) -> Result<Ready> {
        Ok(match &self.readiness {
            Some(readiness) => Ready::Counted(readiness.ready(cx).await?),
            None if seen.is_active() && seen.problem.is_none() => Ready::Vouched(seen.sizes.desired),
            None => Ready::Unknown,
        })
    }

    /// Returns once the group may be different.
    async fn changes(&self, cx: &RunContext, seen: &Seen, ready: Ready) -> Result<()> {
        match (&self.readiness, ready) {
            (Some(readiness), Ready::Counted(ready)) if seen.update.is_none() => {
                readiness.changed(cx, ready, self.poll).await
            }
            _ => cx.sleep(self.poll).await,
        }
    }
}

/// A node group at one moment.
#[derive(Debug)]
pub(crate) struct Seen {
    arn: Option<String>,
    /// What was asked for last: what the group has, or will have once the update in progress is done.
    sizes: NodeGroupSizes,
    status: NodegroupStatus,
    /// The health issues, in EKS's words.
    problem: Option<String>,
    /// The update in progress.
    update: Option<Update>,
    /// Why the update that the caller began will never take effect.
    failure: Option<Error>,
}

impl Seen {
    fn is_active(&self) -> bool {
        self.status == NodegroupStatus::Active && self.update.is_none()
    }

    fn is_degraded(&self) -> bool {
        self.status == NodegroupStatus::Degraded && self.update.is_none()
    }

    /// Whether it is there to stay.
    fn is_alive(&self) -> bool {
        use NodegroupStatus::{Active, Creating, Degraded, Updating};
        matches!(self.status, Active | Creating | Degraded | Updating)
    }
}

/// How many nodes are ready, and who says so.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Counted(Units),
    /// EKS has no complaint.
    Vouched(Units),
    Unknown,
}

impl Ready {
    fn count(self) -> Option<Units> {
        match self {
            Self::Counted(ready) | Self::Vouched(ready) => Some(ready),
            Self::Unknown => None,
        }
    }
}

fn read_sizes(config: &NodegroupScalingConfig) -> Option<NodeGroupSizes> {
    let size = |size: Option<i32>| u32::try_from(size?).ok().map(Units);
    Some(NodeGroupSizes {
        min: size(config.min_size)?,
        desired: size(config.desired_size)?,
        max: size(config.max_size)?,
    })
}
