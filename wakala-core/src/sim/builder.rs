//! Puts a world together.

use std::sync::Arc;
use std::time::Duration;

use super::World;
use super::api::Shared;
use super::faults::{Fault, Faults};
use super::hpa::{Hpa, HpaState};
use super::load::Load;
use super::nodes::{NodePool, PoolState};
use super::pods::WorkloadState;
use super::state::{CacheState, State, rng};
use super::stores::{Cache, Database};
use super::workload::Workload;
use crate::{Error, ManualClock, Result};

// One source of chance per purpose; workloads and pools count on from theirs.
const CHANCE_OF_LOAD: u64 = 0;
const CHANCE_OF_WORKLOADS: u64 = 1 << 32;
const CHANCE_OF_POOLS: u64 = 2 << 32;

/// Puts a [`World`] together. From [`World::builder`].
#[derive(Clone, Debug)]
pub struct WorldBuilder {
    seed: u64,
    clock: ManualClock,
    namespace: String,
    call_latency: Duration,
    call_timeout: Duration,
    scrape_interval: Duration,
    load: Load,
    workloads: Vec<Workload>,
    pools: Vec<NodePool>,
    hpas: Vec<Hpa>,
    database: Option<Database>,
    cache: Option<Cache>,
    faults: Vec<(Duration, Fault)>,
}

impl WorldBuilder {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            clock: ManualClock::default(),
            namespace: "production".to_owned(),
            call_latency: Duration::from_millis(20),
            call_timeout: Duration::from_secs(10),
            scrape_interval: Duration::from_secs(15),
            load: Load::constant(0.0),
            workloads: Vec::new(),
            pools: Vec::new(),
            hpas: Vec::new(),
            database: None,
            cache: None,
            faults: Vec::new(),
        }
    }

    /// Lets time be that of `clock`; one of its own as given.
    #[must_use]
    pub fn with_clock(mut self, clock: ManualClock) -> Self {
        self.clock = clock;
        self
    }

    /// The namespace in the names of the workloads; `production` as given.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How long each call of a provider takes; 20 ms as given.
    #[must_use]
    pub fn with_call_latency(mut self, latency: Duration) -> Self {
        self.call_latency = latency;
        self
    }

    /// How long a call that gets lost takes to time out; 10 s as given.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How often metrics are sampled, in whole seconds; every 15 as given.
    #[must_use]
    pub fn with_scrape_interval(mut self, interval: Duration) -> Self {
        self.scrape_interval = interval;
        self
    }

    /// What clients ask for. None as given.
    #[must_use]
    pub fn with_load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// Adds a workload.
    #[must_use]
    pub fn with_workload(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// Adds a node pool. A world without any has room for every pod.
    #[must_use]
    pub fn with_node_pool(mut self, pool: NodePool) -> Self {
        self.pools.push(pool);
        self
    }

    /// Adds an autoscaler.
    #[must_use]
    pub fn with_hpa(mut self, hpa: Hpa) -> Self {
        self.hpas.push(hpa);
        self
    }

    /// Takes all autoscalers away: the same world with nobody at work.
    #[must_use]
    pub fn without_hpa(mut self) -> Self {
        self.hpas.clear();
        self
    }

    /// The database of those workloads that hold connections to it.
    #[must_use]
    pub fn with_database(mut self, database: Database) -> Self {
        self.database = Some(database);
        self
    }

    /// The cache of those workloads that hold connections to it.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Lets something go wrong, `at` after the start.
    #[must_use]
    pub fn with_fault(mut self, at: Duration, fault: Fault) -> Self {
        self.faults.push((at, fault));
        self
    }

    /// The world, at its start: all pods at work, the first frame in its history.
    ///
    /// # Errors
    /// `InvalidConfig` names the first thing that cannot be: numbers without sense, two things of one name, a reference
    /// to one that is not there, pods that do not fit on the nodes.
    pub fn build(self) -> Result<World> {
        self.check()?;
        let find = |name: &str| self.workloads.iter().position(|workload| workload.name == name);
        let cache = self.cache.clone().map(|config| {
            let workload = config.workload.as_deref().and_then(find);
            let initial = workload.map_or(1, |index| self.workloads[index].replicas);
            CacheState { workload, initial, hit_ratio: config.hit_ratio, config }
        });
        let hpas = self.hpas.iter().filter_map(|hpa| {
            let workload = find(&hpa.workload)?;
            Some(HpaState::new(hpa.clone(), workload, &self.namespace, self.workloads[workload].replicas))
        });
        let mut faults = Faults::default();
        for (at, fault) in &self.faults {
            faults.schedule(at.as_secs(), fault.clone());
        }
        let mut state = State {
            second: 0,
            load: self.load.clone(),
            noise: rng(self.seed, CHANCE_OF_LOAD),
            hpas: hpas.collect(),
            workloads: (CHANCE_OF_WORKLOADS..)
                .zip(&self.workloads)
                .map(|(chance, workload)| {
                    WorkloadState::new(workload.clone(), &self.namespace, rng(self.seed, chance))
                })
                .collect(),
            pools: (CHANCE_OF_POOLS..)
                .zip(&self.pools)
                .map(|(chance, pool)| PoolState::new(pool.clone(), rng(self.seed, chance)))
                .collect(),
            database: self.database,
            database_utilisation: 0.0,
            cache,
            faults,
            frames: Vec::new(),
            log: Vec::new(),
            settled: Vec::new(),
        };
        state.begin()?;
        let (latency, timeout) = (self.call_latency, self.call_timeout);
        let scrape = self.scrape_interval.as_secs();
        let shared = Shared::new(self.clock, self.namespace, latency, timeout, scrape, state);
        Ok(World { shared: Arc::new(shared) })
    }

    fn check(&self) -> Result<()> {
        let refuse = |on: String, message: &str| Err(Error::invalid("build", message.to_owned()).on(on));
        self.load.check()?;
        self.workloads.iter().try_for_each(Workload::check)?;
        self.pools.iter().try_for_each(NodePool::check)?;
        self.hpas.iter().try_for_each(Hpa::check)?;
        self.database.iter().try_for_each(Database::check)?;
        self.cache.iter().try_for_each(Cache::check)?;
        if self.scrape_interval.as_secs() == 0 || self.scrape_interval.subsec_nanos() > 0 {
            return refuse(
                "the metrics".to_owned(),
                "the scrape interval must be whole seconds, at least one",
            );
        }
        let workloads: Vec<_> = self.workloads.iter().map(|workload| workload.name.as_str()).collect();
        let pools: Vec<_> = self.pools.iter().map(|pool| pool.name.as_str()).collect();
        let hpas: Vec<_> = self.hpas.iter().map(|hpa| hpa.workload.as_str()).collect();
        let objects: Vec<_> = workloads.iter().chain(&pools).copied().collect();
        if let Some(twice) = repeated(&objects) {
            return refuse(twice.to_owned(), "two workloads or node pools have this name; rename one");
        }
        if let Some(twice) = repeated(&hpas) {
            return refuse(twice.to_owned(), "two autoscalers claim this workload; keep one");
        }
        for name in
            hpas.iter().copied().chain(self.cache.iter().filter_map(|cache| cache.workload.as_deref()))
        {
            if !workloads.contains(&name) {
                return refuse(name.to_owned(), "the autoscaler or cache needs this workload; add it");
            }
        }
        for pool in self.workloads.iter().filter_map(|workload| workload.pool.as_deref()) {
            if !pools.contains(&pool) {
                return refuse(pool.to_owned(), "a workload runs on this node pool; add it");
            }
        }
        for (_, fault) in &self.faults {
            check_fault(fault, &objects)?;
        }
        Ok(())
    }
}

/// Refuses a fault that is about something that is not there.
pub(super) fn check_fault(fault: &Fault, objects: &[&str]) -> Result<()> {
    match fault.object() {
        Some(object) if !objects.contains(&object) => Err(Error::invalid(
            "fault",
            format!(
                "it is about a workload or node pool that is not there; there are: {}",
                objects.join(", ")
            ),
        )
        .on(object)),
        _ => Ok(()),
    }
}

fn repeated<'a>(names: &[&'a str]) -> Option<&'a str> {
    names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)).map(|(_, name)| *name)
}
