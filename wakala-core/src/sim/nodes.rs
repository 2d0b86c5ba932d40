//! Node pools, and where pods fit.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::{Bounds, Error, Observation, Result, Units};

/// What a pod asks for, and what a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) cpu_millis: u32,
    pub(super) memory_mib: u32,
    pub(super) pods: u32,
}

impl Resources {
    fn fits(self, free: Self) -> bool {
        self.lacking(free).is_empty()
    }

    /// What `free` has too little of.
    pub(super) fn lacking(self, free: Self) -> Vec<&'static str> {
        [
            ("cpu", self.cpu_millis > free.cpu_millis),
            ("memory", self.memory_mib > free.memory_mib),
            ("pod slots", self.pods > free.pods),
        ]
        .into_iter()
        .filter_map(|(name, lacks)| lacks.then_some(name))
        .collect()
    }

    fn less(self, taken: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(taken.cpu_millis),
            memory_mib: self.memory_mib.saturating_sub(taken.memory_mib),
            pods: self.pods.saturating_sub(taken.pods),
        }
    }
}

/// A pool of equal nodes.
///
/// As given its size may be anything up to 100, a node has 3920 millicores, 15000 MiB and 58 pod slots for pods, and
/// takes 90 seconds to come.
#[derive(Clone, Debug)]
pub struct NodePool {
    pub(super) name: String,
    pub(super) size: NodePoolSize,
    pub(super) node: Resources,
    pub(super) provision_delay: Duration,
    pub(super) provision_jitter: Duration,
}

/// The size of a node pool, and the bounds that its autoscaler keeps it within.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePoolSize {
    /// The smallest size.
    pub min: Units,
    /// The largest size.
    pub max: Units,
    /// The size that is wanted now.
    pub desired: Units,
}

impl NodePoolSize {
    /// The bounds.
    pub fn bounds(&self) -> Bounds {
        Bounds { min: self.min, max: self.max }
    }

    /// What a node pool refuses.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        if self.max > Units(super::MAX_NODES) {
            let message =
                format!("max {} is above the {} nodes that a pool may have", self.max, super::MAX_NODES);
            return Err(Error::invalid(operation, message));
        }
        if self.min > self.max {
            let message = format!("min {} is above max {}; swap or correct them", self.min, self.max);
            return Err(Error::invalid(operation, message));
        }
        if !self.bounds().contains(self.desired) {
            let message =
                format!("desired {} is outside of {}; move the bounds first", self.desired, self.bounds());
            return Err(Error::invalid(operation, message));
        }
        Ok(())
    }
}

impl NodePool {
    /// A pool of that name with so many nodes.
    pub fn new(name: impl Into<String>, nodes: u32) -> Self {
        Self {
            name: name.into(),
            size: NodePoolSize { min: Units(0), max: Units(100), desired: Units(nodes) },
            node: Resources { cpu_millis: 3920, memory_mib: 15_000, pods: 58 },
            provision_delay: Duration::from_secs(90),
            provision_jitter: Duration::ZERO,
        }
    }

    /// The bounds that its size is kept within.
    #[must_use]
    pub fn with_bounds(mut self, min: u32, max: u32) -> Self {
        self.size.min = Units(min);
        self.size.max = Units(max);
        self
    }

    /// What one node has for pods.
    #[must_use]
    pub fn with_node(mut self, cpu_millis: u32, memory_mib: u32, pods: u32) -> Self {
        self.node = Resources { cpu_millis, memory_mib, pods };
        self
    }

    /// How long a node takes from being asked for until pods can be placed on it.
    #[must_use]
    pub fn with_provision_delay(mut self, delay: Duration) -> Self {
        self.provision_delay = delay;
        self
    }

    /// By how much more than that it takes at most; how much, is up to chance. None as given.
    #[must_use]
    pub fn with_provision_jitter(mut self, jitter: Duration) -> Self {
        self.provision_jitter = jitter;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.name.is_empty() {
            return Err(Error::invalid("build", "a node pool has no name"));
        }
        self.size.check("build").map_err(|error| error.on(format!("node pool {}", self.name)))
    }
}

/// One node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) serial: u32,
    pub(super) ready: bool,
    ready_at: u64,
}

/// Why no node comes at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    OutOfCapacity,
    Stuck,
}

/// A pool in the running world.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) config: NodePool,
    pub(super) size: NodePoolSize,
    pub(super) version: u64,
    // By serial.
    pub(super) nodes: Vec<Node>,
    next_serial: u32,
    rng: ChaCha8Rng,
}

/// Which node a pod is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pool: usize,
    pub(super) node: u32,
}

impl PoolState {
    pub(super) fn new(config: NodePool, rng: ChaCha8Rng) -> Self {
        let size = config.size;
        let nodes = (0..size.desired.0).map(|serial| Node { serial, ready: true, ready_at: 0 }).collect();
        Self { size, nodes, next_serial: size.desired.0, version: 1, config, rng }
    }

    pub(super) fn ready(&self) -> usize {
        self.nodes.iter().filter(|node| node.ready).count()
    }

    /// Lets nodes come and go; gives the serials of those that went. `load` is how many pods a node has.
    pub(super) fn reconcile(
        &mut self,
        now: u64,
        blocked: Option<Blocked>,
        load: impl Fn(u32) -> usize,
    ) -> Vec<u32> {
        let desired = self.size.desired.0 as usize;
        if blocked != Some(Blocked::OutOfCapacity) {
            while self.nodes.len() < desired {
                let delay = self.config.provision_delay.as_secs()
                    + chance(&mut self.rng, self.config.provision_jitter);
                self.nodes.push(Node { serial: self.next_serial, ready: false, ready_at: now + delay });
                self.next_serial += 1;
            }
        }
        if blocked.is_none() {
            for node in self.nodes.iter_mut().filter(|node| node.ready_at <= now) {
                node.ready = true;
            }
        }
        let mut gone = Vec::new();
        while self.nodes.len() > desired {
            // Those that do not work yet, then the emptiest, then the youngest.
            let victim = (0..self.nodes.len())
                .min_by_key(|&index| {
                    let node = self.nodes[index];
                    (node.ready, load(node.serial), u32::MAX - node.serial)
                })
                .expect("there are more nodes than desired");
            gone.push(self.nodes.remove(victim).serial);
        }
        gone
    }

    /// Takes away the oldest `count` nodes that work, as if their machines had died. The pool replaces them.
    pub(super) fn lose(&mut self, count: u32) -> Vec<u32> {
        let lost: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.ready)
            .take(count as usize)
            .map(|node| node.serial)
            .collect();
        self.nodes.retain(|node| !lost.contains(&node.serial));
        lost
    }

    pub(super) fn observation(&self, blocked: Option<Blocked>) -> Observation {
        let ready = u32::try_from(self.ready()).unwrap_or(u32::MAX);
        let missing = self.size.desired.0.saturating_sub(ready);
        let problem = (blocked == Some(Blocked::OutOfCapacity) && missing > 0)
            .then(|| format!("{missing} nodes missing: the provider has no capacity of this type"));
        Observation::new(self.size.desired, ready)
            .with_settled(ready == self.size.desired.0 && self.nodes.len() == ready as usize)
            .with_bounds(self.size.bounds())
            .with_version(self.version.to_string())
            .with_problem(problem)
    }
}

/// The free room of one node, for placing pods.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) place: Place,
    pub(super) free: Resources,
}

/// The nodes of some pools with the room they have before any pod is placed. `sizes` replaces the nodes that are
/// there by so many, as if all of them were ready.
pub(super) fn rooms(pools: &[PoolState], sizes: Option<&[u32]>) -> Vec<Room> {
    let mut rooms = Vec::new();
    for (pool, state) in pools.iter().enumerate() {
        let free = state.config.node;
        let mut push = |node| rooms.push(Room { place: Place { pool, node }, free });
        match sizes {
            Some(sizes) => (0..sizes[pool]).for_each(&mut push),
            None => state.nodes.iter().filter(|node| node.ready).for_each(|node| push(node.serial)),
        }
    }
    rooms
}

/// Takes the room of a pod that is on `place`.
pub(super) fn occupy(rooms: &mut [Room], place: Place, pod: Resources) {
    if let Some(room) = rooms.iter_mut().find(|room| room.place == place) {
        room.free = room.free.less(pod);
    }
}

/// Places a pod on the first node where it fits.
pub(super) fn first_fit(rooms: &mut [Room], pod: Resources, pool: Option<usize>) -> Option<Place> {
    let room = rooms
        .iter_mut()
        .find(|room| pool.is_none_or(|pool| pool == room.place.pool) && pod.fits(room.free))?;
    room.free = room.free.less(pod);
    Some(room.place)
}

/// Says why a pod fits nowhere: what most nodes lack.
pub(super) fn why_not(rooms: &[Room], pod: Resources, pool: Option<usize>) -> String {
    let eligible: Vec<_> =
        rooms.iter().filter(|room| pool.is_none_or(|pool| pool == room.place.pool)).collect();
    if eligible.is_empty() {
        return "no ready nodes".to_owned();
    }
    let lacking: Vec<_> = eligible.iter().flat_map(|room| pod.lacking(room.free)).collect();
    let worst = ["cpu", "memory", "pod slots"]
        .into_iter()
        .map(|name| (lacking.iter().filter(|lacks| **lacks == name).count(), name))
        .rev()
        .max_by_key(|&(count, _)| count);
    match worst {
        Some((count, name)) if count > 0 => {
            format!("insufficient {name} on {count} of {} nodes", eligible.len())
        }
        _ => "not placed yet".to_owned(),
    }
}

/// Whole seconds from zero to `limit`, by chance.
pub(super) fn chance(rng: &mut ChaCha8Rng, limit: Duration) -> u64 {
    // Drawn in any case, so that a jitter of zero leaves later draws as they are.
    let draw = u64::from(rng.next_u32());
    (draw * (limit.as_secs() + 1)) >> 32
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn pool(nodes: u32) -> PoolState {
        PoolState::new(NodePool::new("workers", nodes).with_bounds(1, 10), ChaCha8Rng::seed_from_u64(1))
    }

    #[test]
    fn nodes_come_after_the_delay_and_the_emptiest_go_first() {
        let mut pool = pool(2);
        pool.size.desired = Units(3);
        assert!(pool.reconcile(10, None, |_| 0).is_empty());
        assert_eq!((pool.nodes.len(), pool.ready()), (3, 2));
        pool.reconcile(99, None, |_| 0);
        assert_eq!(pool.ready(), 2);
        pool.reconcile(100, None, |_| 0);
        assert_eq!(pool.ready(), 3);
        pool.size.desired = Units(2);
        assert_eq!(pool.reconcile(101, None, |serial| if serial == 1 { 0 } else { 4 }), [1]);
    }

    #[test]
    fn blocked_pools_get_nothing() {
        for (blocked, asked, says) in [(Blocked::OutOfCapacity, 2, true), (Blocked::Stuck, 4, false)] {
            let mut pool = pool(2);
            pool.size.desired = Units(4);
            pool.reconcile(0, Some(blocked), |_| 0);
            pool.reconcile(1000, Some(blocked), |_| 0);
            assert_eq!((pool.nodes.len(), pool.ready()), (asked, 2));
            assert_eq!(pool.observation(Some(blocked)).problem.is_some(), says);
            assert!(!pool.observation(Some(blocked)).settled);
            pool.reconcile(1001, None, |_| 0);
            pool.reconcile(1091, None, |_| 0);
            assert_eq!(pool.ready(), 4);
        }
    }

    #[test]
    fn pods_fill_the_first_node_that_has_room_for_all_they_ask() {
        let pools = [pool(2)];
        let mut rooms = rooms(&pools, None);
        let pod = Resources { cpu_millis: 1900, memory_mib: 1000, pods: 1 };
        let placed: Vec<_> =
            (0..5).map(|_| first_fit(&mut rooms, pod, None).map(|place| place.node)).collect();
        assert_eq!(placed, [Some(0), Some(0), Some(1), Some(1), None]);
        assert_eq!(why_not(&rooms, pod, None), "insufficient cpu on 2 of 2 nodes");
        assert_eq!(why_not(&rooms, pod, Some(1)), "no ready nodes");
    }

    #[test]
    fn chance_stays_within_its_limit() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let draws: Vec<_> = (0..200).map(|_| chance(&mut rng, Duration::from_secs(3))).collect();
        assert!((0..=3).all(|value| draws.contains(&value)) && draws.iter().all(|draw| *draw <= 3));
    }
}
