//! One second of requests through workloads, cache and database.

use super::history::{CacheFrame, DatabaseFrame, Frame, PoolFrame, WorkloadFrame, round};
use super::model::{Arrival, database_stretch, hit_ratio, request_cost, serve};
use super::pods::WorkloadState;
use super::state::{CacheState, State};

/// How fast the database's utilisation follows its load: the weight of one second.
const DATABASE_SMOOTHING: f64 = 0.2;
/// How fast a cache fills: the weight of one second.
const CACHE_WARMING: f64 = 1.0 / 60.0;

/// How the stores are in this second.
struct Stores {
    hit_ratio: f64,
    nominal_hit_ratio: f64,
    stretch: f64,
    /// The share of queries that fail.
    failing: f64,
}

/// What is left of a workload's share of the load once edge and rate limit had theirs.
struct Admission {
    load: f64,
    /// Answered by edge and clients' caches.
    offloaded: f64,
    rejected: f64,
    arriving: f64,
}

impl Admission {
    /// The ready pods share the load evenly, and each goes by the environment that it was started with.
    fn of(workload: &WorkloadState, load: f64) -> Self {
        let load = load * workload.config.share;
        let ready = workload.ready();
        let mut admission = Self { load, offloaded: 0.0, rejected: 0.0, arriving: 0.0 };
        if ready == 0 {
            admission.arriving = load;
            return admission;
        }
        let share = 1.0 / f64::from(ready);
        for pod in workload.pods.iter().filter(|pod| pod.phase == super::pods::Phase::Ready) {
            let env = workload.env_of(pod);
            let cached = env.get("AGGRESSIVE_CACHING").is_some_and(|value| value == "true");
            let offloaded = if cached { load * workload.config.edge_offload } else { 0.0 };
            let admitted =
                rate_limit(workload, env).map_or(load - offloaded, |limit| limit.min(load - offloaded));
            admission.offloaded += share * offloaded;
            admission.rejected += share * (load - offloaded - admitted);
            admission.arriving += share * admitted;
        }
        admission
    }
}

/// Requests per second that all clients together may make. An environment that makes no sense limits nothing.
fn rate_limit(workload: &WorkloadState, env: &std::collections::BTreeMap<String, String>) -> Option<f64> {
    let number = |key: &str| env.get(key)?.parse::<f64>().ok().filter(|value| *value > 0.0);
    let clients = f64::from(workload.config.rate_limited_clients?);
    Some(clients * number("RATE_LIMIT_REQUESTS")? / number("RATE_LIMIT_WINDOW").unwrap_or(60.0))
}

impl State {
    /// Serves one second of `load` and says what became of it.
    pub(super) fn flow(&mut self, load: f64) -> Frame {
        let admissions: Vec<_> =
            self.workloads.iter().map(|workload| Admission::of(workload, load)).collect();
        let cache = self.cache_frame(&admissions);
        let (stores, connections) = self.stores();
        let mut queries = 0.0;
        let mut frame = Frame {
            second: self.second,
            load: 0.0,
            capacity: 0.0,
            served: 0.0,
            failed: 0.0,
            rejected: 0.0,
            queue: 0.0,
            latency_p95_seconds: None,
            error_rate: None,
            workloads: Vec::with_capacity(self.workloads.len()),
            pools: self.pool_frames(),
            database: None,
            cache,
        };
        for (index, admission) in admissions.iter().enumerate() {
            let (workload, asked) = self.serve(index, admission, &stores);
            queries += asked;
            frame.load += workload.load;
            frame.capacity += workload.capacity;
            frame.served += workload.served;
            frame.failed += workload.failed;
            frame.rejected += workload.rejected;
            frame.queue += workload.queue;
            // `None` is less than any number.
            if workload.latency_p95_seconds > frame.latency_p95_seconds {
                frame.latency_p95_seconds = workload.latency_p95_seconds;
            }
            frame.workloads.push(workload);
        }
        let answered = frame.served + frame.failed;
        frame.error_rate = (answered > 0.0).then(|| round(frame.failed / answered));
        let factor = self.faults.database_factor(self.second);
        if let Some(database) = &self.database {
            let utilisation = queries * factor / database.queries_per_second;
            self.database_utilisation += (utilisation - self.database_utilisation) * DATABASE_SMOOTHING;
            frame.database = Some(DatabaseFrame {
                connections,
                max_connections: database.usable(),
                queries: round(queries),
                utilisation: round(utilisation),
            });
        }
        for value in
            [&mut frame.load, &mut frame.capacity, &mut frame.served, &mut frame.failed, &mut frame.rejected]
        {
            *value = round(*value);
        }
        frame.queue = round(frame.queue);
        frame
    }

    /// Serves one workload; also gives the queries that it asks the database.
    fn serve(&mut self, index: usize, admission: &Admission, stores: &Stores) -> (WorkloadFrame, f64) {
        let autoscaler = self.hpa_of(index).map(|hpa| self.hpas[hpa].bounds);
        let workload = &mut self.workloads[index];
        let config = &workload.config;
        let lost = self.faults.lost_for_want_of_replicas(self.second, &config.name, workload.ready());
        let (uses_cache, uses_database) = (config.cache_connections > 0, config.database_connections > 0);
        let (hit, nominal) =
            if uses_cache { (stores.hit_ratio, stores.nominal_hit_ratio) } else { (0.0, 0.0) };
        let (stretch, failing) = if uses_database { (stores.stretch, stores.failing) } else { (1.0, 0.0) };
        let failing = (1.0 - hit) * failing;
        let arrival = Arrival {
            requests: admission.arriving,
            ready: workload.ready(),
            capacity_per_replica: config.capacity_per_replica,
            service: config.service_time,
            cost: request_cost(hit, nominal, stretch),
            cpu_cost: request_cost(hit, nominal, 1.0),
            timeout: config.timeout,
            failing: failing + (1.0 - failing) * lost,
        };
        let outcome = serve(&arrival, workload.queue);
        workload.queue = outcome.queue;
        let queries = if uses_database { outcome.handled * (1.0 - hit) } else { 0.0 };
        let pods = u32::try_from(workload.pods.len()).unwrap_or(u32::MAX);
        let objective = workload.config.latency_objective.as_secs_f64();
        let frame = WorkloadFrame {
            name: workload.config.name.clone(),
            desired: workload.desired,
            pods,
            ready: workload.ready(),
            pending: workload.pending(),
            outdated: workload.outdated(),
            autoscaler: autoscaler.map(|bounds| (bounds.min.0, bounds.max.0)),
            load: round(admission.load),
            capacity: round(outcome.capacity),
            cpu: round(outcome.cpu),
            queue: round(outcome.queue),
            served: round(outcome.served + admission.offloaded),
            failed: round(outcome.failed),
            rejected: round(admission.rejected),
            latency_p95_seconds: outcome.p95.map(round),
            over_objective: outcome.p95.is_some_and(|p95| p95 > objective),
        };
        (frame, queries)
    }

    fn stores(&self) -> (Stores, u32) {
        let hit_ratio = self.cache.as_ref().map_or(0.0, |cache| cache.hit_ratio);
        let nominal_hit_ratio = self.cache.as_ref().map_or(0.0, |cache| cache.config.hit_ratio);
        let connections = self.connections(|workload| workload.config.database_connections);
        let factor = self.faults.database_factor(self.second);
        let Some(database) = &self.database else {
            return (Stores { hit_ratio, nominal_hit_ratio, stretch: factor, failing: 0.0 }, connections);
        };
        let refused = excess(f64::from(connections), f64::from(database.usable()));
        let overload = excess(self.database_utilisation, 1.0);
        let stores = Stores {
            hit_ratio,
            nominal_hit_ratio,
            stretch: factor * database_stretch(self.database_utilisation),
            failing: 1.0 - (1.0 - refused) * (1.0 - overload),
        };
        (stores, connections)
    }

    /// What ready pods hold in all.
    pub(super) fn connections(&self, of: impl Fn(&WorkloadState) -> u32) -> u32 {
        self.workloads.iter().map(|workload| workload.ready().saturating_mul(of(workload))).sum()
    }

    /// Brings the cache's hit ratio up to this second: it falls at once and fills slowly.
    fn cache_frame(&mut self, admissions: &[Admission]) -> Option<CacheFrame> {
        let connections = self.connections(|workload| workload.config.cache_connections);
        let asked: f64 = self
            .workloads
            .iter()
            .zip(admissions)
            .filter(|(workload, _)| workload.config.cache_connections > 0)
            .map(|(_, admission)| admission.arriving)
            .sum();
        let servers = self.cache_servers()?;
        let CacheState { config, initial, hit_ratio: now, .. } = self.cache.as_mut()?;
        let max_connections = config.max_clients.saturating_mul(servers);
        let reachable = 1.0 - excess(f64::from(connections), f64::from(max_connections));
        let within = 1.0 - excess(asked, f64::from(servers) * config.requests_per_second);
        let target = hit_ratio(config.hit_ratio, *initial, servers) * reachable * within;
        *now = if target < *now { target } else { *now + (target - *now) * CACHE_WARMING };
        Some(CacheFrame { connections, max_connections, hit_ratio: round(*now) })
    }

    /// How many servers the cache has.
    pub(super) fn cache_servers(&self) -> Option<u32> {
        let cache = self.cache.as_ref()?;
        Some(cache.workload.map_or(1, |workload| self.workloads[workload].ready()))
    }

    fn pool_frames(&self) -> Vec<PoolFrame> {
        let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
        let frame = |pool: &super::nodes::PoolState| PoolFrame {
            name: pool.config.name.clone(),
            desired: pool.size.desired.0,
            nodes: count(pool.nodes.len()),
            ready: count(pool.ready()),
        };
        self.pools.iter().map(frame).collect()
    }
}

/// The share of `wanted` that is beyond `limit`.
fn excess(wanted: f64, limit: f64) -> f64 {
    if wanted > limit { 1.0 - limit / wanted } else { 0.0 }
}
