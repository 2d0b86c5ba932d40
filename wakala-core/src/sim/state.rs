//! The running world: one second after the other.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::faults::{Fault, Faults};
use super::history::{Frame, Occurrence};
use super::hpa::{CPU_WINDOW_SECONDS, HpaState, SYNC_SECONDS, Sight};
use super::load::Load;
use super::nodes::{Blocked, Place, PoolState, Room, first_fit, occupy, rooms, why_not};
use super::pods::{Phase, WorkloadState};
use super::stores::{Cache, Database};
use crate::{Error, ErrorKind, Observation, Owner, Result};

/// Where pods are in a world without node pools.
const ANYWHERE: Place = Place { pool: usize::MAX, node: 0 };

/// A source of chance of its own for each purpose, so that none disturbs another.
pub(super) fn rng(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}

/// The cache in the running world.
#[derive(Debug)]
pub(super) struct CacheState {
    pub(super) config: Cache,
    /// Whose replicas are its servers.
    pub(super) workload: Option<usize>,
    /// How many servers it had at first.
    pub(super) initial: u32,
    pub(super) hit_ratio: f64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) second: u64,
    pub(super) load: Load,
    pub(super) noise: ChaCha8Rng,
    pub(super) workloads: Vec<WorkloadState>,
    pub(super) pools: Vec<PoolState>,
    pub(super) hpas: Vec<HpaState>,
    pub(super) database: Option<Database>,
    /// Of the database, smoothed over some seconds.
    pub(super) database_utilisation: f64,
    pub(super) cache: Option<CacheState>,
    pub(super) faults: Faults,
    pub(super) frames: Vec<Frame>,
    pub(super) log: Vec<Occurrence>,
    /// Of the workloads, then of the pools, as of the last second.
    pub(super) settled: Vec<bool>,
}

impl State {
    /// Brings a world that was just built to rest: all pods at work, the queues empty.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.place();
        for workload in &mut self.workloads {
            if workload.pending() > 0 {
                let free = "give its pool more nodes, or let its pods request less";
                let message =
                    format!("{} of its pods fit on no node at the start; {free}", workload.pending());
                return Err(Error::invalid("build", message).on(&workload.id));
            }
            workload.start_all();
        }
        // Until database and cache have found their balance.
        for _ in 0..60 {
            self.flow(self.load.at(Duration::ZERO));
            self.workloads.iter_mut().for_each(|workload| workload.queue = 0.0);
        }
        self.strike(0);
        let frame = self.flow(self.load.at(Duration::ZERO));
        self.frames.push(frame);
        self.settled = self.settledness();
        Ok(())
    }

    pub(super) fn advance(&mut self, to: u64) {
        while self.second < to {
            self.second += 1;
            self.tick();
        }
    }

    fn tick(&mut self) {
        let now = self.second;
        self.strike(now);
        self.run_pools(now);
        for workload in &mut self.workloads {
            if !self.faults.image_is_broken(now, &workload.config.name) {
                workload.start(now);
            }
        }
        if now.is_multiple_of(SYNC_SECONDS) {
            self.run_autoscalers(now);
        }
        self.workloads.iter_mut().for_each(WorkloadState::reconcile);
        self.place();
        self.note_settled();
        let load = self.load.at(Duration::from_secs(now)) * self.chance_of_load();
        let frame = self.flow(load);
        self.frames.push(frame);
    }

    fn chance_of_load(&mut self) -> f64 {
        // Drawn each second in any case: the load of a second depends on nothing but seed and second.
        let draw = f64::from(self.noise.next_u32()) / f64::from(u32::MAX);
        1.0 + self.load.noise() * (2.0 * draw - 1.0)
    }

    /// What goes wrong in this second.
    pub(super) fn strike(&mut self, now: u64) {
        for fault in self.faults.begin(now) {
            self.note(format!("fault: {fault:?}"));
            match fault {
                Fault::Crash { workload, pods } => {
                    if let Some(index) = self.workload_index(&workload) {
                        self.workloads[index].crash(pods, now);
                    }
                }
                Fault::SomebodyScales { workload, replicas } => {
                    if let Some(index) = self.workload_index(&workload) {
                        self.workloads[index].set_desired(replicas);
                    }
                }
                Fault::NodesLost { pool, nodes } => {
                    if let Some(index) = self.pool_index(&pool) {
                        let lost = self.pools[index].lose(nodes);
                        self.evict(index, &lost);
                    }
                }
                _ => {}
            }
        }
    }

    fn run_pools(&mut self, now: u64) {
        for pool in 0..self.pools.len() {
            let blocked = self.blocked(pool);
            let workloads = &self.workloads;
            let load = |node| {
                let place = Some(Place { pool, node });
                workloads.iter().flat_map(|workload| &workload.pods).filter(|pod| pod.place == place).count()
            };
            let gone = self.pools[pool].reconcile(now, blocked, load);
            self.evict(pool, &gone);
        }
    }

    fn evict(&mut self, pool: usize, nodes: &[u32]) {
        for &node in nodes {
            self.workloads.iter_mut().for_each(|workload| workload.evict(Place { pool, node }));
        }
    }

    pub(super) fn blocked(&self, pool: usize) -> Option<Blocked> {
        self.faults.nodes_blocked(self.second, &self.pools[pool].config.name)
    }

    fn run_autoscalers(&mut self, now: u64) {
        for index in 0..self.hpas.len() {
            let workload = self.hpas[index].workload;
            let WorkloadState { desired, pods, .. } = &self.workloads[workload];
            let (desired, all) = (*desired, u32::try_from(pods.len()).unwrap_or(u32::MAX));
            let ready = self.workloads[workload].ready();
            let sight = Sight { desired, ready, unready: all - ready, cpu: self.recent_cpu(workload) };
            let wanted = self.hpas[index].round(now, sight);
            if wanted != desired {
                self.note(format!("{}: replicas {desired} -> {wanted}", self.hpas[index].name));
                self.workloads[workload].set_desired(wanted);
            }
        }
    }

    fn recent_cpu(&self, workload: usize) -> f64 {
        let recent = self.frames.len().saturating_sub(CPU_WINDOW_SECONDS);
        let recent = &self.frames[recent..];
        recent.iter().map(|frame| frame.workloads[workload].cpu).sum::<f64>() / recent.len().max(1) as f64
    }

    /// The nodes with the room that is left on them.
    pub(super) fn rooms(&self) -> Vec<Room> {
        let mut rooms = rooms(&self.pools, None);
        for workload in &self.workloads {
            for place in workload.pods.iter().filter_map(|pod| pod.place) {
                occupy(&mut rooms, place, workload.config.requests);
            }
        }
        rooms
    }

    /// The pool that the pods of a workload must run on.
    pub(super) fn pool_of(&self, workload: usize) -> Option<usize> {
        self.workloads[workload].config.pool.as_deref().and_then(|pool| self.pool_index(pool))
    }

    /// Places pods that are on no node yet.
    fn place(&mut self) {
        if self.workloads.iter().all(|workload| workload.pending() == 0) {
            return;
        }
        let mut rooms = self.rooms();
        for index in 0..self.workloads.len() {
            let pool = self.pool_of(index);
            let workload = &mut self.workloads[index];
            for pod in 0..workload.pods.len() {
                if workload.pods[pod].phase != Phase::Pending {
                    continue;
                }
                let place = if self.pools.is_empty() {
                    Some(ANYWHERE)
                } else {
                    first_fit(&mut rooms, workload.config.requests, pool)
                };
                // The others of this workload fit no better.
                let Some(place) = place else { break };
                workload.bind(pod, place, self.second);
            }
        }
    }

    fn settledness(&self) -> Vec<bool> {
        let workloads = self.workloads.iter().map(WorkloadState::is_settled);
        workloads.chain((0..self.pools.len()).map(|pool| self.observe_pool(pool).settled)).collect()
    }

    fn note_settled(&mut self) {
        let now = self.settledness();
        for (index, settled) in now.iter().enumerate() {
            if *settled && !self.settled[index] {
                let text = match index.checked_sub(self.workloads.len()) {
                    None => {
                        let workload = &self.workloads[index];
                        format!("{}: all {} pods ready", workload.id, workload.desired)
                    }
                    Some(pool) => {
                        let pool = &self.pools[pool];
                        format!("node pool {}: all {} nodes ready", pool.config.name, pool.size.desired)
                    }
                };
                self.note(text);
            }
        }
        self.settled = now;
    }

    pub(super) fn note(&mut self, text: String) {
        self.log.push(Occurrence { second: self.second, text });
    }

    pub(super) fn workload_index(&self, name: &str) -> Option<usize> {
        self.workloads.iter().position(|workload| workload.config.name == name)
    }

    pub(super) fn pool_index(&self, name: &str) -> Option<usize> {
        self.pools.iter().position(|pool| pool.config.name == name)
    }

    pub(super) fn hpa_of(&self, workload: usize) -> Option<usize> {
        self.hpas.iter().position(|hpa| hpa.workload == workload)
    }

    /// The workload of that name.
    pub(super) fn find_workload(&self, name: &str, operation: &'static str) -> Result<usize> {
        self.workload_index(name).ok_or_else(|| {
            let known =
                self.workloads.iter().map(|workload| workload.config.name.as_str()).collect::<Vec<_>>();
            unknown("workload", name, &known, operation)
        })
    }

    /// The node pool of that name.
    pub(super) fn find_pool(&self, name: &str, operation: &'static str) -> Result<usize> {
        self.pool_index(name).ok_or_else(|| {
            let known = self.pools.iter().map(|pool| pool.config.name.as_str()).collect::<Vec<_>>();
            unknown("node pool", name, &known, operation)
        })
    }

    pub(super) fn observe_pool(&self, pool: usize) -> Observation {
        self.pools[pool].observation(self.blocked(pool))
    }

    pub(super) fn observe_workload(&self, index: usize) -> Observation {
        let workload = &self.workloads[index];
        let owner = self.hpa_of(index).map(|hpa| Owner::new(&self.hpas[hpa].name, self.hpas[hpa].bounds));
        Observation::new(workload.desired, workload.ready())
            .with_settled(workload.is_settled())
            .with_version(workload.replicas_version.to_string())
            .with_owner(owner)
            .with_problem(self.problem(index))
    }

    fn problem(&self, index: usize) -> Option<String> {
        let workload = &self.workloads[index];
        let mut problems = Vec::new();
        let pending = workload.pending();
        if pending > 0 {
            let why = why_not(&self.rooms(), workload.config.requests, self.pool_of(index));
            problems.push(format!("{pending} pods unschedulable: {why}"));
        }
        if self.faults.image_is_broken(self.second, &workload.config.name) {
            let starting = workload.pods.iter().filter(|pod| matches!(pod.phase, Phase::Starting(_))).count();
            if starting > 0 {
                problems.push(format!("{starting} pods cannot pull their image"));
            }
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

fn unknown(what: &str, name: &str, known: &[&str], operation: &'static str) -> Error {
    let message = format!("there is none of that name; there are: {}", known.join(", "));
    Error::new(ErrorKind::NotFound, operation, message).on(format!("{what} {name}"))
}
