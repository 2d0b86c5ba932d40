use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::access::ClusterAccess;
use super::builder::ControlPlaneBuilder;
use super::flags::Server;
use super::nodes::NodeGroups;
use crate::TestbedError;
use crate::process::{ServerCommand, Supervised};

/// A real Kubernetes control plane on loopback, with simulated nodes, for one test or one test binary.
///
/// Dereferences to the [`ClusterAccess`] of its administrator. Dropping it ends all its processes and removes its
/// temporary folder before the call returns; so does the end of our process, `SIGKILL` included. Set
/// `WAKALA_TESTBED_KEEP` to keep the folder, which has a log per server.
///
/// ```no_run
/// # use std::time::Duration;
/// # use wakala_testbed::{ControlPlane, NodeGroup, Workload, horizontal_pod_autoscaler};
/// # async fn example() -> Result<(), wakala_testbed::TestbedError> {
/// let cluster = ControlPlane::builder()
///     .with_nodes(NodeGroup::new("api-nodes", 3).with_label("eks.amazonaws.com/nodegroup", "api-nodes"))
///     .with_hpa_sync_period(Duration::from_secs(1))
///     .start()
///     .await?;
/// let namespace = cluster.create_namespace("spike").await?;
/// namespace.create(&Workload::new("api", 3).with_cpu_request("250m").deployment()).await?;
/// namespace.create(&horizontal_pod_autoscaler("api", 3, 20, 70)).await?;
/// cluster.set_nodes("api-nodes", 30).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ControlPlane {
    pub(crate) access: ClusterAccess,
    pub(crate) supervise: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) api_server_port: u16,
    pub(crate) probe: reqwest::Client,
    pub(crate) commands: BTreeMap<Server, ServerCommand>,
    pub(crate) running: Mutex<Running>,
}

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) servers: BTreeMap<Server, Supervised>,
    pub(crate) remover: Option<Supervised>,
}

impl ControlPlane {
    /// Five nodes of 32 CPUs in one group called `default`, pods Ready after 200 ms, autoscalers as slow as
    /// Kubernetes has them.
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder::default()
    }

    /// The temporary folder: kubeconfig, certificates, `<server>.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The node groups, to hold on to.
    pub async fn node_groups(&self) -> Result<NodeGroups, TestbedError> {
        Ok(NodeGroups::new(self.client().await?))
    }

    /// [`NodeGroups::set_desired`] on a client of its own.
    pub async fn set_nodes(&self, group: &str, count: u32) -> Result<(), TestbedError> {
        self.node_groups().await?.set_desired(group, count).await
    }

    /// [`NodeGroups::add`] on a client of its own.
    pub async fn add_nodes(&self, group: &str, more: u32) -> Result<u32, TestbedError> {
        self.node_groups().await?.add(group, more).await
    }

    /// Kills the API server, as a crash would, and returns once it is gone: connections are refused from then on.
    /// What it had acknowledged is kept. Idempotent.
    pub async fn stop_api_server(&self) -> Result<(), TestbedError> {
        let Some(child) = self.lock().servers.remove(&Server::ApiServer) else { return Ok(()) };
        tokio::task::spawn_blocking(|| drop(child))
            .await
            .map_err(TestbedError::api("cannot stop the API server"))
    }

    /// Starts the API server again on the same port and returns once it is ready. The other servers notice within
    /// seconds. Does nothing if it runs.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Start`] as from [`ControlPlaneBuilder::start`].
    pub async fn start_api_server(&self) -> Result<(), TestbedError> {
        let runs =
            self.lock().servers.get_mut(&Server::ApiServer).is_some_and(|child| child.ended().is_none());
        if !runs {
            self.launch(Server::ApiServer)?;
        }
        self.wait_healthy(Server::ApiServer, self.api_server_port, "readyz").await
    }

    /// Ids of all processes that belong to it, supervisors included.
    pub fn process_ids(&self) -> Vec<u32> {
        let running = self.lock();
        running.servers.values().chain(&running.remover).flat_map(Supervised::pids).collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for ControlPlane {
    type Target = ClusterAccess;

    fn deref(&self) -> &ClusterAccess {
        &self.access
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // All at once, so that none spends its last moments complaining about another's absence.
        for server in self.servers.values_mut() {
            server.end();
        }
        self.servers.clear();
        self.remover.take();
    }
}
