use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{join_all, try_join_all};

use super::builder::{Mode, RedisBuilder};
use super::install::RedisFlavour;
use super::member::RedisMember;
use super::server::RedisServer;
use crate::{TestbedError, wait_until};

const SLOTS: u16 = 16_384;
const DEADLINE: Duration = Duration::from_secs(60);

/// What a [`RedisCluster`] shall be like.
#[derive(Clone, Debug)]
pub struct RedisClusterBuilder {
    node: RedisBuilder,
    masters: u16,
    empty: u16,
    replicas: u16,
}

/// A cluster of one's own on 127.0.0.1. Dropped, all of it is gone.
///
/// Nodes have numbers: first the masters, then those without slots, then the replicas, a round of all masters at a time;
/// then those that were [added](Self::add_node). The number stays whatever becomes of the node's role.
///
/// ```no_run
/// # async fn example() -> Result<(), wakala_testbed::TestbedError> {
/// use wakala_testbed::RedisCluster;
///
/// let cluster = RedisCluster::builder(3).with_replicas(1).start().await?;
/// let spare = cluster.add_node().await?; // knows nobody yet
/// cluster.node(0).kill().await?; // its replica, number 3, takes over
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RedisCluster {
    node: RedisBuilder,
    nodes: RwLock<Vec<Arc<RedisServer>>>,
}

impl RedisClusterBuilder {
    /// Replicas of each master, none unless said otherwise.
    #[must_use]
    pub fn with_replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// Masters that belong to the cluster and own nothing yet.
    #[must_use]
    pub fn with_empty_masters(mut self, masters: u16) -> Self {
        self.empty = masters;
        self
    }

    /// After which silence a node is held for dead; 5 seconds unless said otherwise.
    #[must_use]
    pub fn with_node_timeout(mut self, timeout: Duration) -> Self {
        self.node = self.node.with_setting("cluster-node-timeout", timeout.as_millis());
        self
    }

    /// Whose servers; the system's Redis unless said otherwise.
    #[must_use]
    pub fn with_flavour(mut self, flavour: RedisFlavour) -> Self {
        self.node = self.node.with_flavour(flavour);
        self
    }

    /// Changes what every node is like: settings, users, password, TLS. Later nodes are the same.
    #[must_use]
    pub fn with_nodes(mut self, change: impl FnOnce(RedisBuilder) -> RedisBuilder) -> Self {
        self.node = change(self.node);
        self
    }

    /// Starts the nodes, lets them meet, gives slots in equal ranges to the masters, and waits until all nodes say the
    /// same and every replica has its copy: a second or two.
    ///
    /// # Errors
    ///
    /// As for [`RedisBuilder::start`]; [`TestbedError::Invalid`] without a master, [`TestbedError::Timeout`] with what
    /// the nodes do not agree on. Nothing is left running.
    pub async fn start(self) -> Result<RedisCluster, TestbedError> {
        if self.masters == 0 || self.masters > SLOTS {
            return Err(TestbedError::Invalid(format!("a cluster cannot have {} masters", self.masters)));
        }
        let count = (self.masters + self.empty) + self.replicas * self.masters;
        let starts = (0..count).map(|_| self.node.clone().start());
        let nodes: Vec<_> = try_join_all(starts).await?.into_iter().map(Arc::new).collect();
        let cluster = RedisCluster { node: self.node, nodes: RwLock::new(nodes) };
        cluster.form(self.masters, self.empty).await?;
        Ok(cluster)
    }
}

impl RedisCluster {
    /// A cluster of so many masters that own slots.
    pub fn builder(masters: u16) -> RedisClusterBuilder {
        let mut node = RedisServer::builder().with_setting("cluster-node-timeout", 5000);
        node.mode = Mode::Cluster;
        RedisClusterBuilder { node, masters, empty: 0, replicas: 0 }
    }

    async fn form(&self, masters: u16, empty: u16) -> Result<(), TestbedError> {
        let nodes = self.nodes();
        for (place, node) in nodes.iter().enumerate() {
            // Epochs of their own from the start: nodes that share one settle that by giving way to each other.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]).await?;
        }
        for (place, node) in (0..masters).zip(&nodes) {
            let bound = |place: u16| u32::from(place) * u32::from(SLOTS) / u32::from(masters);
            let (first, last) = (bound(place), bound(place + 1) - 1);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
        }
        self.introduce(&nodes).await?;
        self.wait_agreed().await?;
        let (masters, empty) = (usize::from(masters), usize::from(empty));
        for (place, node) in nodes.iter().enumerate().skip(masters + empty) {
            let master = nodes[(place - masters - empty) % masters].text(&["CLUSTER", "MYID"]).await?;
            node.command(&["CLUSTER", "REPLICATE", &master]).await?;
        }
        self.wait_agreed().await
    }

    /// All of them to the first, who is quicker known by all than by gossip if all meet all.
    async fn introduce(&self, nodes: &[Arc<RedisServer>]) -> Result<(), TestbedError> {
        let meetings = nodes.iter().enumerate().flat_map(|(place, node)| {
            nodes[..place].iter().map(move |other| async move {
                let (port, bus) =
                    (other.port().to_string(), other.bus_port().unwrap_or_default().to_string());
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.map(drop)
            })
        });
        try_join_all(meetings).await.map(drop)
    }

    /// All nodes, those that do not run included.
    pub fn nodes(&self) -> Vec<Arc<RedisServer>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node of that number.
    ///
    /// # Panics
    ///
    /// Where there are not so many.
    pub fn node(&self, number: usize) -> Arc<RedisServer> {
        Arc::clone(&self.nodes()[number])
    }

    /// The node with that id, where it runs.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Invalid`] where no running node has it.
    pub async fn node_with_id(&self, id: &str) -> Result<Arc<RedisServer>, TestbedError> {
        for node in self.nodes() {
            if node.text(&["CLUSTER", "MYID"]).await.is_ok_and(|own| own == id) {
                return Ok(node);
            }
        }
        Err(TestbedError::Invalid(format!("no running node has the id {id}")))
    }

    /// Starts one node more. It is empty, knows nobody, and is known by nobody.
    ///
    /// # Errors
    ///
    /// As for [`RedisBuilder::start`].
    pub async fn add_node(&self) -> Result<Arc<RedisServer>, TestbedError> {
        let node = Arc::new(self.node.clone().start().await?);
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&node));
        Ok(node)
    }

    /// What one node knows of all, in the order of ids.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] where it does not answer.
    pub async fn members(&self, node: &RedisServer) -> Result<Vec<RedisMember>, TestbedError> {
        let text = node.text(&["CLUSTER", "NODES"]).await?;
        RedisMember::parse_all(&text).map_err(TestbedError::api("cannot read CLUSTER NODES"))
    }

    /// Waits until all nodes that run, but those that were added and know nobody, say the same of ids, ports, masters and
    /// slots, that nobody fails and all are connected, that all slots are owned, and that all replicas have their copy.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] after a minute, with what is not so.
    pub async fn wait_agreed(&self) -> Result<(), TestbedError> {
        wait_until("agreement of the nodes of a cluster", DEADLINE, || async {
            let mut running = Vec::new();
            for node in self.nodes() {
                if node.pid().await?.is_some() {
                    running.push(node);
                }
            }
            let views = join_all(running.iter().map(|node| self.members(node))).await;
            let mut known: Vec<(&RedisServer, Vec<RedisMember>)> = Vec::new();
            for (node, view) in running.iter().zip(views) {
                let view = view?;
                if view.len() > 1 || running.len() == 1 {
                    known.push((node, view));
                }
            }
            let Some((_, first)) = known.first() else { return Err("nobody knows anybody".into()) };
            if first.len() != known.len() {
                return Err(format!("{} nodes run, {} are known", known.len(), first.len()).into());
            }
            if first.iter().map(RedisMember::slot_count).sum::<u32>() != u32::from(SLOTS) {
                return Err("not all slots are owned".into());
            }
            for (node, view) in &known {
                let odd = |member: &&RedisMember| {
                    !member.is_connected
                        || ["fail", "fail?", "handshake", "noaddr"].iter().any(|flag| member.is(flag))
                };
                if let Some(member) = view.iter().find(odd) {
                    return Err(format!("port {} says {member:?}", node.port()).into());
                }
                if !view.iter().map(RedisMember::essence).eq(first.iter().map(RedisMember::essence)) {
                    return Err(format!("port {} says {view:?}, another {first:?}", node.port()).into());
                }
                let state = node.text(&["CLUSTER", "INFO"]).await?;
                if !state.contains("cluster_state:ok") {
                    return Err(format!("port {} says {state}", node.port()).into());
                }
                let replication = node.info("replication").await?;
                if replication.get("master_link_status").is_some_and(|status| status != "up") {
                    return Err(format!("the replica at port {} has no copy yet", node.port()).into());
                }
            }
            Ok(())
        })
        .await
    }

    /// The number of keys of all masters that run.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] where one does not answer.
    pub async fn key_count(&self) -> Result<u64, TestbedError> {
        let mut count = 0;
        for node in self.nodes() {
            if node.pid().await?.is_some()
                && node.info("replication").await?.get("role").is_some_and(|role| role == "master")
            {
                let text = node.text(&["DBSIZE"]).await?;
                count += text.parse::<u64>().map_err(TestbedError::api("cannot read DBSIZE"))?;
            }
        }
        Ok(count)
    }
}
