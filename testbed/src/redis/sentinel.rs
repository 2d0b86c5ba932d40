use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use redis::Value;

use super::builder::{Mode, RedisBuilder};
use super::server::RedisServer;
use crate::{TestbedError, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

/// What [`RedisSentinels`] shall be like.
#[derive(Clone, Debug)]
pub struct RedisSentinelsBuilder {
    name: String,
    node: RedisBuilder,
    replicas: u16,
    sentinels: u16,
    sentinel_password: Option<String>,
    down_after: Duration,
}

/// A master with replicas, and Sentinels that watch them. Dropped, all of it is gone.
///
/// ```no_run
/// # async fn example() -> Result<(), wakala_testbed::TestbedError> {
/// use wakala_testbed::RedisSentinels;
///
/// let site = RedisSentinels::builder("orders").with_replicas(2).start().await?;
/// let port = site.master_port().await?;
/// site.server_at(port).expect("one of ours").kill().await?;
/// site.wait_failover(port).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RedisSentinels {
    name: String,
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl RedisSentinelsBuilder {
    /// How many replicas, one unless said otherwise.
    #[must_use]
    pub fn with_replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// How many Sentinels, three unless said otherwise; most of them must agree on a failover.
    #[must_use]
    pub fn with_sentinels(mut self, sentinels: u16) -> Self {
        self.sentinels = sentinels;
        self
    }

    /// The password that the Sentinels themselves ask for; none unless said otherwise.
    #[must_use]
    pub fn with_sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// After which silence the master is held for dead; half a second unless said otherwise.
    #[must_use]
    pub fn with_down_after(mut self, time: Duration) -> Self {
        self.down_after = time;
        self
    }

    /// Changes what master and replicas are like: settings, users, password.
    #[must_use]
    pub fn with_nodes(mut self, change: impl FnOnce(RedisBuilder) -> RedisBuilder) -> Self {
        self.node = change(self.node);
        self
    }

    /// Starts all, and waits until every Sentinel knows all others and every replica has its copy: some seconds.
    ///
    /// # Errors
    ///
    /// As for [`RedisBuilder::start`]; [`TestbedError::Timeout`] with what is not so. Nothing is left running.
    pub async fn start(self) -> Result<RedisSentinels, TestbedError> {
        let master = self.node.clone().start().await?;
        let port = master.plain_port().to_string();
        let replica = self.node.clone().with_setting("replicaof", format!("127.0.0.1 {port}"));
        let mut servers = vec![master];
        servers.extend(try_join_all((0..self.replicas).map(|_| replica.clone().start())).await?);
        let mut sentinel = RedisServer::builder().with_flavour(self.node.flavour);
        let quorum = self.sentinels / 2 + 1;
        let name = &self.name;
        let mut lines = vec![
            format!("monitor {name} 127.0.0.1 {port} {quorum}"),
            format!("down-after-milliseconds {name} {}", self.down_after.as_millis()),
            format!("failover-timeout {name} {}", 3000),
        ];
        lines.extend(self.node.password.as_ref().map(|password| format!("auth-pass {name} {password}")));
        // Sentinels ask each other with their own.
        lines.extend(self.sentinel_password.as_ref().map(|password| format!("sentinel-pass {password}")));
        sentinel.mode = Mode::Sentinel(lines);
        sentinel.password = self.sentinel_password;
        let sentinels = try_join_all((0..self.sentinels).map(|_| sentinel.clone().start())).await?;
        let site = RedisSentinels { name: self.name, servers, sentinels };
        site.wait_ready(self.replicas).await?;
        Ok(site)
    }
}

impl RedisSentinels {
    /// A master that the Sentinels know by that name.
    pub fn builder(name: &str) -> RedisSentinelsBuilder {
        RedisSentinelsBuilder {
            name: name.to_owned(),
            node: RedisServer::builder(),
            replicas: 1,
            sentinels: 3,
            sentinel_password: None,
            down_after: Duration::from_millis(500),
        }
    }

    /// The name of the master.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first master, and then the first replicas.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The Sentinels: [`RedisServer`]s that hold no data.
    pub fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// The server at that port.
    pub fn server_at(&self, port: u16) -> Option<&RedisServer> {
        self.servers.iter().find(|server| server.port() == port)
    }

    /// The port of the master, as the first Sentinel that answers has it.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] where none answers.
    pub async fn master_port(&self) -> Result<u16, TestbedError> {
        let mut last = TestbedError::Invalid("there are no Sentinels".to_owned());
        for sentinel in &self.sentinels {
            match sentinel.text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name]).await {
                Ok(address) => {
                    let port = address.lines().nth(1).unwrap_or_default();
                    return port
                        .parse()
                        .map_err(TestbedError::api(format!("cannot read the address {address:?}")));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits until the Sentinels that run all name another master than that at `port`, which is one; returns its port.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] after a minute.
    pub async fn wait_failover(&self, port: u16) -> Result<u16, TestbedError> {
        wait_until("failover", DEADLINE, || async {
            let mut masters = Vec::new();
            for sentinel in &self.sentinels {
                if sentinel.pid().await?.is_some() {
                    let address = sentinel.text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name]).await?;
                    masters.push(address.lines().nth(1).unwrap_or_default().parse::<u16>()?);
                }
            }
            let new = masters.first().copied().unwrap_or(port);
            if new == port || masters.iter().any(|other| *other != new) {
                return Err(format!("the Sentinels name {masters:?}").into());
            }
            let server = self.server_at(new).ok_or("a master that is none of ours")?;
            match server.info("replication").await?.get("role") {
                Some(role) if role == "master" => Ok(new),
                role => Err(format!("the new master says that its role is {role:?}").into()),
            }
        })
        .await
    }

    async fn wait_ready(&self, replicas: u16) -> Result<(), TestbedError> {
        wait_until("Sentinels that know all", DEADLINE, || async {
            for sentinel in &self.sentinels {
                let fields = fields(&sentinel.command(&["SENTINEL", "MASTER", &self.name]).await?);
                let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
                let seen = (field("flags"), field("num-slaves"), field("num-other-sentinels"));
                let others = self.sentinels.len() - 1;
                if seen != ("master".to_owned(), replicas.to_string(), others.to_string()) {
                    return Err(format!("the Sentinel at port {} knows {seen:?}", sentinel.port()).into());
                }
            }
            for server in &self.servers {
                if server
                    .info("replication")
                    .await?
                    .get("master_link_status")
                    .is_some_and(|status| status != "up")
                {
                    return Err(format!("the replica at port {} has no copy yet", server.port()).into());
                }
            }
            Ok(())
        })
        .await
    }
}

/// Names and values in turn.
fn fields(answer: &Value) -> BTreeMap<String, String> {
    let words: Vec<String> = match answer {
        Value::Array(values) => {
            values.iter().filter_map(|value| redis::from_redis_value_ref(value).ok()).collect()
        }
        _ => Vec::new(),
    };
    words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}
