//! The production that the runbook is about.

use std::time::Duration;

use super::hpa::Hpa;
use super::load::Load;
use super::nodes::NodePool;
use super::stores::{Cache, Database};
use super::workload::Workload;
use super::{World, WorldBuilder};

impl World {
    /// The production that wakala's runbook is about, with the load of an ordinary hour, 600 requests per second.
    ///
    /// `wakala-api` has 10 replicas of 100 requests per second, an autoscaler from 5 to 50 at 70 % of CPU and a rate
    /// limit for 150 clients, 2500 requests per second in all; `wakala-worker` has 10; `redis-cache` is a StatefulSet of 2 and the cache; the node pool
    /// `workers-general` has 10 nodes and at most 50, each with room for three API pods; the database takes 800
    /// connections, of which each API pod holds 10.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wakala_core::sim::{Load, World};
    ///
    /// const MINUTE: Duration = Duration::from_secs(60);
    /// let spike = Load::spike(600.0, 3300.0, 5 * MINUTE, 3 * MINUTE, 40 * MINUTE);
    /// let world = World::production(42).with_load(spike).build()?;
    /// world.pass(20 * MINUTE);
    /// // The autoscaler did what it could: it has no room for more.
    /// let api = world.snapshot().workload("wakala-api").cloned();
    /// assert!(api.is_some_and(|api| api.pending > 0 && api.ready < 35));
    /// # Ok::<(), wakala_core::Error>(())
    /// ```
    pub fn production(seed: u64) -> WorldBuilder {
        let ordinary = Sizes { api: 10, worker: 10, cache: 2, nodes: 10, floor: 5, requests: "1000" };
        production(seed, &ordinary).with_load(Load::constant(600.0).with_noise(0.02))
    }

    /// The same production as a spike left it once it is over: `wakala-api` at 50 and its autoscaler's minimum with it,
    /// 30 of `wakala-worker`, 5 of `redis-cache`, 30 nodes, the raised rate limit; and a load of 1000 requests per second,
    /// for which a third of that would do.
    ///
    /// ```
    /// use std::time::Duration;
    /// use wakala_core::sim::World;
    ///
    /// // The autoscaler keeps what it is told to keep.
    /// let world = World::production_after_spike(42).build()?;
    /// world.pass(Duration::from_secs(1800));
    /// assert_eq!(world.snapshot().workload("wakala-api").map(|api| (api.ready, api.cpu < 0.3)), Some((50, true)));
    /// # Ok::<(), wakala_core::Error>(())
    /// ```
    pub fn production_after_spike(seed: u64) -> WorldBuilder {
        let large = Sizes { api: 50, worker: 30, cache: 5, nodes: 30, floor: 50, requests: "10000" };
        production(seed, &large).with_load(Load::constant(1000.0).with_noise(0.02))
    }
}

struct Sizes {
    api: u32,
    worker: u32,
    cache: u32,
    nodes: u32,
    /// The autoscaler's minimum.
    floor: u32,
    /// The rate limit.
    requests: &'static str,
}

fn production(seed: u64, sizes: &Sizes) -> WorldBuilder {
    let seconds = Duration::from_secs;
    World::builder(seed)
        .with_workload(
            Workload::new("wakala-api", sizes.api)
                .serves_load(1.0)
                .with_capacity_per_replica(100.0)
                .with_service_time(Duration::from_millis(50))
                .with_startup(seconds(25))
                .with_startup_jitter(seconds(15))
                .with_requests(1200, 2048)
                .with_connections_per_replica(10, 5)
                .with_env("RATE_LIMIT_REQUESTS", sizes.requests)
                .with_env("RATE_LIMIT_WINDOW", "60")
                .with_rate_limited_clients(150),
        )
        .with_workload(
            Workload::new("wakala-worker", sizes.worker)
                .with_startup(seconds(20))
                .with_requests(500, 1024)
                .with_connections_per_replica(5, 2),
        )
        .with_workload(
            Workload::stateful("redis-cache", sizes.cache)
                .with_startup(seconds(15))
                .with_requests(1000, 4096),
        )
        .with_node_pool(
            NodePool::new("workers-general", sizes.nodes)
                .with_bounds(sizes.nodes.div_ceil(2), 50)
                .with_node(3920, 15_000, 58)
                .with_provision_delay(seconds(75))
                .with_provision_jitter(seconds(30)),
        )
        .with_database(Database::new(800).with_queries_per_second(2000.0))
        .with_cache(Cache::new(1000, 0.7).on_workload("redis-cache").with_requests_per_second(1000.0))
        .with_hpa(Hpa::on("wakala-api", sizes.floor, 50).with_cpu_target(0.7))
}
