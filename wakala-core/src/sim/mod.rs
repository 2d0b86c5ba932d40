//! A simulated production in virtual time: workloads, nodes, database, cache, autoscaler and load that behave enough
//! like the real ones to try a playbook on before an emergency needs it.
//!
//! A [`World`] is made of what a [`WorldBuilder`] is told, and gives the same things that providers give: scalable
//! [targets](World::target), [autoscalers](World::autoscaler), settings ([environment](World::environment),
//! [node pools](World::node_pool)), [metrics](World::metrics), a [preflight](World::capacity). The very same playbook
//! runs on both.
//!
//! Time is that of a [`ManualClock`]: the world stands still until somebody sleeps, and then moves second by second.
//! Nothing depends on the host's time, on threads or on the order of a hash map: the same seed and the same calls give
//! the same history, byte for byte.
//!
//! # A tour
//!
//! Load triples within two minutes; scaling by hand brings the latency back.
//!
//! ```
//! use std::time::Duration;
//! use wakala_core::ScalableTargetExt;
//! use wakala_core::sim::{Load, NodePool, Workload, World};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> wakala_core::Result<()> {
//! const MINUTE: Duration = Duration::from_secs(60);
//! let world = World::builder(42)
//!     .with_load(Load::from_points([(Duration::ZERO, 600.0), (MINUTE, 600.0), (3 * MINUTE, 1800.0)]))
//!     .with_workload(
//!         Workload::new("wakala-api", 10)
//!             .serves_load(1.0)
//!             .with_capacity_per_replica(100.0)
//!             .with_requests(1200, 2048)
//!             .with_startup(Duration::from_secs(25)),
//!     )
//!     .with_node_pool(NodePool::new("workers-general", 10).with_bounds(3, 50))
//!     .build()?;
//!
//! world.pass(5 * MINUTE);
//! let hurt = world.snapshot();
//! assert!(hurt.latency_p95_seconds > Some(5.0) && hurt.error_rate > Some(0.3));
//!
//! let api = world.target("wakala-api");
//! let seen = world.run(api.scale_to(&world.context(), 24.into(), 2 * MINUTE)).await?;
//! assert_eq!(seen.ready, 24.into());
//!
//! world.pass(MINUTE);
//! let healed = world.snapshot();
//! assert!(healed.latency_p95_seconds < Some(0.5) && healed.error_rate == Some(0.0));
//! assert!(world.summary().minutes_over_objective > 2.0);
//! # Ok(()) }
//! ```
//!
//! [`World::production`] has the production that wakala's runbook is about.
//!
//! # How it behaves
//!
//! Each second: faults strike; nodes and pods whose time has come get ready; every 15 seconds autoscalers decide; the
//! controllers of the workloads make and remove pods, within surge and unavailable where they roll; pods are placed on
//! the first node with room for what they request; then the load is served.
//!
//! - **Latency.** A replica serves `capacity × service time` requests side by side from a queue of its own. Sakasegawa's
//!   approximation of M/M/c gives the chance to wait, `ρ^(√(2(c+1)) − 1)`, at a utilisation `ρ`; p95 is the sum of the
//!   95th percentiles of service and wait, which is a little more than that of the sum.
//! - **Overload.** What comes above the capacity waits; the backlog adds `queue / capacity` to the latency, and who would
//!   wait longer than the timeout fails.
//! - **Cache.** Misses take twice as long as hits and ask the database. More servers remember more: misses fall with the
//!   root of their number, within about a minute. Beyond its clients or requests per second the cache is missed.
//! - **Database.** It slows down as an M/M/16 queue as it fills; beyond its queries per second or connections, queries
//!   fail. Replicas that wait for it serve less and use no more CPU, so that an autoscaler on CPU does not see it.
//! - **Autoscaler.** As the HPA of Kubernetes 1.36 without `behavior`, on the CPU of the last 30 seconds. It takes back
//!   what others write, and cannot add nodes; nothing else does.
//!
//! Left out: network, retries of clients, zones, pods that are slow to end, disruption budgets, a cluster autoscaler.

use std::sync::Arc;
use std::time::Duration;

use self::api::Shared;
use crate::{Clock, Engine, ManualClock, Result, RunContext, RunId};

mod api;
mod autoscaler;
mod builder;
mod capacity;
mod faults;
mod flow;
mod history;
mod hpa;
mod load;
mod metrics;
mod model;
mod nodes;
mod pods;
mod production;
mod settings;
mod state;
mod stores;
mod targets;
mod workload;

pub use autoscaler::SimAutoscaler;
pub use builder::WorldBuilder;
pub use capacity::CapacityChain;
pub use faults::{CallFailure, Fault};
pub use history::{CacheFrame, DatabaseFrame, Frame, Occurrence, PoolFrame, Summary, WorkloadFrame};
pub use hpa::Hpa;
pub use load::Load;
pub use metrics::SimMetrics;
pub use nodes::{NodePool, NodePoolSize};
pub use settings::{EnvironmentSetting, NodePoolSetting};
pub use stores::{Cache, Database};
pub use targets::{NodePoolTarget, WorkloadTarget};
pub use workload::{Portion, Workload};

/// The most replicas that a workload can have.
pub const MAX_REPLICAS: u32 = 5000;
/// The most nodes that a pool can have; as many as an EKS node group has by default.
pub const MAX_NODES: u32 = 450;

/// A simulated production. Clones are the same world. See the [module](self).
///
/// Handles to its parts are made by name and are cheap; as with a real provider, a name that is not there is an error of
/// the calls (`NotFound`) and not of the handle.
#[derive(Clone, Debug)]
pub struct World {
    shared: Arc<Shared>,
}

impl World {
    /// Begins an empty world; equal seeds give equal chance.
    pub fn builder(seed: u64) -> WorldBuilder {
        WorldBuilder::new(seed)
    }

    /// The clock that the world lives by. Engines and contexts that work on the world must use it.
    pub fn clock(&self) -> ManualClock {
        self.shared.clock.clone()
    }

    /// A context on the world's clock, for calls outside of a run.
    pub fn context(&self) -> RunContext {
        RunContext::new(RunId::from("simulation"), Arc::new(self.clock()))
    }

    /// An engine on the world's clock.
    pub fn engine(&self) -> Engine {
        Engine::new().with_clock(Arc::new(self.clock()))
    }

    /// Runs `future` to its end in virtual time; see [`ManualClock::run`].
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        self.shared.clock.run(future).await
    }

    /// Lets time pass with nobody doing anything.
    pub fn pass(&self, duration: Duration) {
        self.shared.clock.advance(duration);
    }

    /// Lets time pass until so long after the start; does nothing where that is past. For comparing worlds over the
    /// same span.
    pub fn pass_until(&self, elapsed: Duration) {
        self.pass(elapsed.saturating_sub(self.elapsed()));
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.shared.clock.monotonic() - self.shared.start
    }

    /// The replicas of a workload.
    pub fn target(&self, workload: &str) -> Arc<WorkloadTarget> {
        let (world, name) = (Arc::clone(&self.shared), workload.to_owned());
        Arc::new(WorkloadTarget { world, name, id: self.shared.workload_id(workload) })
    }

    /// The autoscaler of a workload; one that is not there says so.
    pub fn autoscaler(&self, workload: &str) -> Arc<SimAutoscaler> {
        let (world, name) = (Arc::clone(&self.shared), workload.to_owned());
        Arc::new(SimAutoscaler { world, name, workload_id: self.shared.workload_id(workload) })
    }

    /// Environment variables of a workload, to be set together by one rolling restart.
    pub fn environment<K: Into<String>, V: Into<String>>(
        &self,
        workload: &str,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> EnvironmentSetting {
        EnvironmentSetting {
            world: Arc::clone(&self.shared),
            name: workload.to_owned(),
            workload_id: self.shared.workload_id(workload),
            wanted: variables.into_iter().map(|(key, value)| (key.into(), Some(value.into()))).collect(),
        }
    }

    /// At least `nodes` nodes in a pool, kept there by its minimum.
    pub fn node_pool(&self, pool: &str, nodes: u32) -> NodePoolSetting {
        NodePoolSetting { world: Arc::clone(&self.shared), name: pool.to_owned(), nodes, raise_max: false }
    }

    /// The size of a node pool, within its bounds.
    pub fn pool_target(&self, pool: &str) -> Arc<NodePoolTarget> {
        Arc::new(NodePoolTarget { world: Arc::clone(&self.shared), name: pool.to_owned() })
    }

    /// The metrics.
    pub fn metrics(&self) -> Arc<SimMetrics> {
        Arc::new(SimMetrics { world: Arc::clone(&self.shared) })
    }

    /// A preflight that follows pods to nodes and connections.
    pub fn capacity(&self) -> CapacityChain {
        CapacityChain { world: Arc::clone(&self.shared) }
    }

    /// Lets something go wrong now.
    ///
    /// # Errors
    /// `InvalidConfig` where it is about a workload or node pool that is not there.
    pub fn inject(&self, fault: Fault) -> Result<()> {
        let mut state = self.shared.state();
        let objects: Vec<_> = state
            .workloads
            .iter()
            .map(|workload| workload.config.name.as_str())
            .chain(state.pools.iter().map(|pool| pool.config.name.as_str()))
            .collect();
        builder::check_fault(&fault, &objects)?;
        let now = state.second;
        state.faults.schedule(now, fault);
        state.strike(now);
        Ok(())
    }

    /// The world in the last full second; what was asked for since shows in the next one.
    pub fn snapshot(&self) -> Frame {
        self.shared.state().frames.last().expect("a world begins with a frame").clone()
    }

    /// The world in every second since the start.
    pub fn history(&self) -> Vec<Frame> {
        self.shared.state().frames.clone()
    }

    /// The same in fewer frames, for charts: the start, and one for each `step` (at least a second) that is through.
    ///
    /// Rates are means over the step, the latency is the worst of it, all else is as at its end.
    pub fn history_every(&self, step: Duration) -> Vec<Frame> {
        let step = usize::try_from(step.as_secs()).unwrap_or(usize::MAX).max(1);
        let state = self.shared.state();
        let (start, rest) = state.frames.split_at(1);
        start.iter().cloned().chain(rest.chunks_exact(step).filter_map(history::merge)).collect()
    }

    /// What happened since the start: resizes, by whom ever, faults, things that got ready.
    pub fn log(&self) -> Vec<Occurrence> {
        self.shared.state().log.clone()
    }

    /// What all seconds since the start add up to.
    pub fn summary(&self) -> Summary {
        // The first frame is the moment of the start and no second of its own.
        Summary::of(self.shared.state().frames.get(1..).unwrap_or_default())
    }
}
