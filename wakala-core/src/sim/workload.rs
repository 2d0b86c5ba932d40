//! Workloads as a user describes them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::model::{ceil, floor};
use super::nodes::Resources;
use crate::{Error, Result};

/// A number of pods, absolute or as a share of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// So many pods.
    Count(u32),
    /// So many pods of a hundred.
    Percent(u32),
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

impl Portion {
    fn of(self, replicas: u32) -> f64 {
        match self {
            Self::Count(count) => f64::from(count),
            Self::Percent(percent) => f64::from(replicas) * f64::from(percent) / 100.0,
        }
    }
}

/// A Deployment or StatefulSet of the simulated production.
///
/// As given it takes 20 seconds to start a pod, requests 500 millicores and 512 MiB, opens no connections, serves no
/// load, and rolls with a surge of 25 % and 25 % unavailable.
#[derive(Clone, Debug)]
pub struct Workload {
    pub(super) name: String,
    pub(super) replicas: u32,
    pub(super) stateful: bool,
    pub(super) startup: Duration,
    pub(super) startup_jitter: Duration,
    pub(super) capacity_per_replica: f64,
    pub(super) service_time: Duration,
    pub(super) requests: Resources,
    pub(super) pool: Option<String>,
    pub(super) max_surge: Portion,
    pub(super) max_unavailable: Portion,
    pub(super) database_connections: u32,
    pub(super) cache_connections: u32,
    pub(super) share: f64,
    pub(super) env: BTreeMap<String, String>,
    pub(super) rate_limited_clients: Option<u32>,
    pub(super) edge_offload: f64,
    pub(super) timeout: Duration,
    pub(super) latency_objective: Duration,
}

impl Workload {
    /// A Deployment of that name and size.
    pub fn new(name: impl Into<String>, replicas: u32) -> Self {
        Self {
            name: name.into(),
            replicas,
            stateful: false,
            startup: Duration::from_secs(20),
            startup_jitter: Duration::ZERO,
            capacity_per_replica: 0.0,
            service_time: Duration::from_millis(50),
            requests: Resources { cpu_millis: 500, memory_mib: 512, pods: 1 },
            pool: None,
            max_surge: Portion::Percent(25),
            max_unavailable: Portion::Percent(25),
            database_connections: 0,
            cache_connections: 0,
            share: 0.0,
            env: BTreeMap::new(),
            rate_limited_clients: None,
            edge_offload: 0.25,
            timeout: Duration::from_secs(10),
            latency_objective: Duration::from_secs(1),
        }
    }

    /// A StatefulSet of that name and size: its pods come, go and restart one after the other.
    pub fn stateful(name: impl Into<String>, replicas: u32) -> Self {
        Self { stateful: true, ..Self::new(name, replicas) }
    }

    /// How long a pod takes from being placed on a node until it is ready.
    #[must_use]
    pub fn with_startup(mut self, startup: Duration) -> Self {
        self.startup = startup;
        self
    }

    /// By how much more than that it takes at most; how much, is up to chance. None as given.
    #[must_use]
    pub fn with_startup_jitter(mut self, jitter: Duration) -> Self {
        self.startup_jitter = jitter;
        self
    }

    /// Serves this share of the load: 1 for all of it.
    #[must_use]
    pub fn serves_load(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// How many requests per second one replica can serve at most, using all the CPU that it requested.
    #[must_use]
    pub fn with_capacity_per_replica(mut self, requests_per_second: f64) -> Self {
        self.capacity_per_replica = requests_per_second;
        self
    }

    /// How long one request takes in the mean where nothing is busy; 50 ms as given. With the capacity it says how
    /// many requests a replica works on side by side.
    #[must_use]
    pub fn with_service_time(mut self, service_time: Duration) -> Self {
        self.service_time = service_time;
        self
    }

    /// What one pod asks of a node.
    #[must_use]
    pub fn with_requests(mut self, cpu_millis: u32, memory_mib: u32) -> Self {
        self.requests = Resources { cpu_millis, memory_mib, pods: 1 };
        self
    }

    /// Runs only on the nodes of that pool; on any as given.
    #[must_use]
    pub fn on_pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = Some(pool.into());
        self
    }

    /// How many pods a rolling restart may have above the desired number; a share is rounded up.
    #[must_use]
    pub fn with_max_surge(mut self, surge: Portion) -> Self {
        self.max_surge = surge;
        self
    }

    /// How many pods a rolling restart may miss of the desired number; a share is rounded down.
    #[must_use]
    pub fn with_max_unavailable(mut self, unavailable: Portion) -> Self {
        self.max_unavailable = unavailable;
        self
    }

    /// How many connections each ready pod holds to the database and to the cache; 0 where it does not use them.
    #[must_use]
    pub fn with_connections_per_replica(mut self, database: u32, cache: u32) -> Self {
        self.database_connections = database;
        self.cache_connections = cache;
        self
    }

    /// Sets an environment variable of the pods.
    ///
    /// Three have a meaning: `AGGRESSIVE_CACHING=true` lets clients and edge answer a part of the requests (see
    /// [`with_edge_offload`](Self::with_edge_offload)); `RATE_LIMIT_REQUESTS` in `RATE_LIMIT_WINDOW` seconds (60 where
    /// absent) is what each client may ask (see [`with_rate_limited_clients`](Self::with_rate_limited_clients)).
    #[must_use]
    pub fn with_env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Says that requests come from so many equally busy clients, for which the rate limit holds; without, the rate
    /// limit has no effect.
    #[must_use]
    pub fn with_rate_limited_clients(mut self, clients: u32) -> Self {
        self.rate_limited_clients = Some(clients);
        self
    }

    /// Which share of the requests no longer arrives where `AGGRESSIVE_CACHING=true`; a quarter as given.
    #[must_use]
    pub fn with_edge_offload(mut self, share: f64) -> Self {
        self.edge_offload = share;
        self
    }

    /// How long a client waits for an answer; 10 seconds as given.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The p95 latency that is promised to clients; a second as given.
    #[must_use]
    pub fn with_latency_objective(mut self, objective: Duration) -> Self {
        self.latency_objective = objective;
        self
    }

    /// How many pods a rolling restart may add to, and take from, so many replicas.
    pub(super) fn rollout(&self, replicas: u32) -> (u32, u32) {
        let (surge, unavailable) =
            (ceil(self.max_surge.of(replicas)), floor(self.max_unavailable.of(replicas)));
        // As Kubernetes does it: a rollout that may do neither would never end.
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse =
            |message: String| Err(Error::invalid("build", message).on(format!("workload {}", self.name)));
        if self.name.is_empty() {
            return refuse("it has no name".to_owned());
        }
        if self.replicas > super::MAX_REPLICAS {
            return refuse(format!(
                "{} replicas are more than the {} that can be",
                self.replicas,
                super::MAX_REPLICAS
            ));
        }
        if !(0.0..=1.0).contains(&self.share) {
            return refuse(format!("it serves {} of the load; give a share from 0 to 1", self.share));
        }
        if !self.capacity_per_replica.is_finite() || self.capacity_per_replica < 0.0 {
            return refuse(format!(
                "a capacity of {} requests per second cannot be",
                self.capacity_per_replica
            ));
        }
        if self.share > 0.0 && self.capacity_per_replica == 0.0 {
            return refuse("it serves load without capacity; use with_capacity_per_replica".to_owned());
        }
        if self.service_time.is_zero() || self.timeout <= self.service_time {
            return refuse(format!(
                "a service time of {:?} and a timeout of {:?} cannot be; the first must be above zero and below the \
                 second",
                self.service_time, self.timeout
            ));
        }
        if !(0.0..=1.0).contains(&self.edge_offload) {
            return refuse(format!("an edge offload of {} is not a share", self.edge_offload));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let workload = Workload::new("api", 10);
        assert_eq!(workload.rollout(10), (3, 2));
        assert_eq!(workload.rollout(1), (1, 0));
        let stiff = workload.with_max_surge(Portion::Count(0)).with_max_unavailable(Portion::Percent(5));
        assert_eq!(stiff.rollout(10), (0, 1));
        assert_eq!(stiff.rollout(40), (0, 2));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = || Workload::new("api", 10).serves_load(1.0).with_capacity_per_replica(100.0);
        good().check().unwrap();
        for bad in [
            good().serves_load(1.5),
            good().with_capacity_per_replica(0.0),
            good().with_capacity_per_replica(f64::NAN),
            good().with_service_time(Duration::ZERO),
            good().with_timeout(Duration::from_millis(10)),
            Workload::new("", 1),
            Workload::new("api", u32::MAX),
        ] {
            assert_eq!(bad.check().unwrap_err().kind(), crate::ErrorKind::InvalidConfig);
        }
    }
}
