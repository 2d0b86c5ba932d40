use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::flags::{Options, Server};
use super::nodes::NodeGroup;
use super::{ControlPlane, start};
use crate::TestbedError;

/// What a [`ControlPlane`] shall be like; from [`ControlPlane::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is started before `start`"]
pub struct ControlPlaneBuilder {
    pub(crate) groups: Vec<NodeGroup>,
    pub(crate) options: Options,
}

impl Default for ControlPlaneBuilder {
    /// See [`ControlPlane::builder`].
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            options: Options {
                ready_delay: Duration::from_millis(200),
                terminate_delay: Duration::ZERO,
                hpa_sync_period: None,
                extra: BTreeMap::new(),
            },
        }
    }
}

impl ControlPlaneBuilder {
    /// The group that there is when none was asked for.
    pub(crate) const DEFAULT_GROUP: &str = "default";
    pub(crate) const DEFAULT_NODES: u32 = 5;

    /// A group of nodes. The first one takes the place of the default group.
    pub fn with_nodes(mut self, group: NodeGroup) -> Self {
        self.groups.retain(|known| known.name != group.name);
        self.groups.push(group);
        self
    }

    /// How long pods take from being scheduled to being Ready unless they say otherwise. Default: 200 ms.
    pub fn with_ready_delay(mut self, delay: Duration) -> Self {
        self.options.ready_delay = delay;
        self
    }

    /// How long deleted pods take to go unless they say otherwise. Default: none.
    pub fn with_terminate_delay(mut self, delay: Duration) -> Self {
        self.options.terminate_delay = delay;
        self
    }

    /// How often autoscalers are looked at, and how long they leave a new pod's CPU out of account. Kubernetes'
    /// own defaults (15 s, 5 min, 30 s) apply if this is not called. Whole milliseconds, at least one.
    pub fn with_hpa_sync_period(mut self, period: Duration) -> Self {
        self.options.hpa_sync_period = Some(period.max(Duration::from_millis(1)));
        self
    }

    /// A further command-line flag of `server`, such as `--v=4`. It comes last, so that it wins.
    pub fn with_flag(mut self, server: Server, flag: impl Into<OsString>) -> Self {
        self.options.extra.entry(server).or_default().push(flag.into());
        self
    }

    /// Starts the servers and returns once every node is Ready and pods can be created: some 10 s later.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NotBuilt`] if `scripts/build-control-plane` has not been run, [`TestbedError::Start`] with
    /// the end of the log of the server that failed. Nothing is left running after an error.
    pub async fn start(mut self) -> Result<ControlPlane, TestbedError> {
        if self.groups.is_empty() {
            self.groups.push(NodeGroup::new(Self::DEFAULT_GROUP, Self::DEFAULT_NODES));
        }
        start::start(&self).await
    }
}
