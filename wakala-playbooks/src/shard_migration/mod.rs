//! Shard migration: tenants go from one shard to another while they are in use, and can be taken back until the end.
//!
//! ```text
//! prepare            guards, slot and publication, what the shards know     undo: abort, the destination is as it was
//! copy               in chunks, with progress; slower where a guard says so
//! verify-before      every row of every tenant on both shards; one that differs ends the run
//! calm-before:T      no hand-over is begun while a guard fails
//! hand-over:T        one tenant after the other                             undo: back to its shard, nothing is lost
//! soak               all tenants are served by the destination
//! verify-after       every row again
//! approve-cleanup    a person decides; until then all can be taken back
//! cleanup            rows, slots and publications go                        CANNOT BE UNDONE
//! ```
//!
//! The work is done by a [`MoveHost`] in the process that drives the run. What the run needs to know is on the shards and
//! in the run's store, so any process that builds the same playbook [goes on](wakala_core::Engine::resume) with it. Give
//! the engine an [`Attended`] observer: it lets changes flow again as soon as a run is taken over, and holds the copy
//! while the run is paused.
//!
//! ```no_run
//! # async fn example(host: wakala_db::MoveHost, metrics: [std::sync::Arc<dyn wakala_core::MetricsSource>; 2])
//! # -> wakala_core::Result<()> {
//! use std::sync::Arc;
//!
//! use wakala_core::{Approval, Engine, LogNotifier, RunHandle, Silent};
//! use wakala_playbooks::shard_migration::{Attended, MoveSite, ShardMigration, guards_of_shards};
//!
//! let [source, destination] = metrics;
//! let site = MoveSite::new(host.clone()).with_guards(guards_of_shards(source, destination));
//! let playbook = ShardMigration::default().playbook(&site)?;
//! let engine = Engine::new().with_observer(Arc::new(Attended::new(host, Arc::new(Silent))));
//! let plan = engine.plan(&playbook).await?;
//! println!("{plan}");
//! let report = engine.run(&playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::generate()).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wakala_core::{
    Error, ErrorKind, Guard, GuardLimits, MetricsSource, OnFailure, Playbook, Result, Soak, StepNode, Watch,
    gate, guard, step,
};
use wakala_db::{MoveHost, MoveMethod, MoveSpec};

pub use attended::Attended;

use self::preview::Previews;
use self::steps::{MoveStep, Work};
use self::throttle::Throttle;

mod attended;
mod preflight;
mod preview;
mod steps;
mod texts;
mod throttle;

/// The gate before the end.
pub const GATE: &str = "approve-cleanup";

/// How long preparing may take: the slot waits for every transaction that is open on the server.
const PREPARE_LIMIT: Duration = Duration::from_secs(1800);
/// How long a hand-over may take with all attempts to fence.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(600);

/// What is moved, and who watches it.
#[derive(Clone, Debug)]
pub struct MoveSite {
    host: MoveHost,
    guards: Vec<Arc<dyn Guard>>,
    throttles: Vec<Arc<dyn Guard>>,
}

impl MoveSite {
    /// The move of that host, which nobody watches yet.
    pub fn new(host: MoveHost) -> Self {
        Self { host, guards: Vec::new(), throttles: Vec::new() }
    }

    /// Adds a guard: while it fails no tenant is handed over, and where it fails for long the run holds.
    #[must_use]
    pub fn with_guard(self, guard: impl Guard) -> Self {
        self.with_guards([Arc::new(guard) as _])
    }

    /// Adds guards.
    #[must_use]
    pub fn with_guards(mut self, guards: impl IntoIterator<Item = Arc<dyn Guard>>) -> Self {
        self.guards.extend(guards);
        self
    }

    /// Adds a guard on fixed limits that only makes the copy slower while it does not pass, and never ends the run: of the
    /// lag of standbys, of the latency of the application.
    #[must_use]
    pub fn with_throttle(mut self, guard: impl Guard) -> Self {
        self.throttles.push(Arc::new(guard));
        self
    }
}

/// That neither server is short of connections or has lost a slot. Each source is of one server, as `PostgresMetrics` is.
pub fn guards_of_shards(
    source: Arc<dyn MetricsSource>,
    destination: Arc<dyn MetricsSource>,
) -> Vec<Arc<dyn Guard>> {
    let mut guards: Vec<Arc<dyn Guard>> = Vec::new();
    for (side, metrics) in [("source", source), ("destination", destination)] {
        for (metric, limit, name) in
            [("postgres.connections_used_ratio", 0.9, "connections"), ("postgres.slots_lost", 1.0, "slots")]
        {
            let condition = guard::metric(Arc::clone(&metrics), metric).below(limit);
            guards.push(Arc::new(condition.named(format!("{side}-{name}"))));
        }
    }
    guards
}

/// The parameters of the playbook.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardMigration {
    /// How long all guards must pass before each hand-over; 10 s. Without guards nothing is waited for.
    #[serde(with = "humantime_serde")]
    pub calm: Duration,
    /// How long the guards are watched after the last hand-over; 5 minutes. Without guards nothing is waited for.
    #[serde(with = "humantime_serde")]
    pub soak: Duration,
    /// How often the guards are asked; 15 s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long the decision about the end may take; 3 days. No decision holds the run, with the way back open, and the
    /// shards keep their logs only as far as they are behind.
    #[serde(with = "humantime_serde")]
    pub approval_within: Duration,
    /// How fast a copy is taken to be where the plan says how long it takes; 20 MB/s. The copy itself is as fast as it can be
    /// within [`MoveOptions::copy_bytes_per_second`](wakala_db::MoveOptions::copy_bytes_per_second).
    pub assumed_bytes_per_second: u64,
    /// How long the copy, and each verification, may take; 2 days.
    #[serde(with = "humantime_serde")]
    pub work_limit: Duration,
    /// What a run does once a step, a guard or the gate has failed for good. As given it keeps what there is and holds: every
    /// tenant is served by one of the shards, changes flow, and a person decides whether to go on or to go back.
    pub on_failure: OnFailure,
}

impl Default for ShardMigration {
    fn default() -> Self {
        Self {
            calm: Duration::from_secs(10),
            soak: Duration::from_secs(300),
            interval: Duration::from_secs(15),
            approval_within: Duration::from_secs(3 * 24 * 3600),
            assumed_bytes_per_second: 20_000_000,
            work_limit: Duration::from_secs(2 * 24 * 3600),
            on_failure: OnFailure::KeepAndHold,
        }
    }
}

impl ShardMigration {
    /// The playbook's name for a move: one that no other move has, so that [`Attended`] knows whose run it is.
    pub fn name_of(spec: &MoveSpec) -> String {
        format!("shard-migration-{}", spec.id)
    }

    /// The playbook of a move. Does no I/O.
    ///
    /// Tenants are handed over in the order of [`MoveSpec::tenants`]: put small ones first, so that what goes wrong goes wrong
    /// with them.
    ///
    /// # Errors
    /// `InvalidConfig` for parameters that can never work; `Unsupported` for a [frozen](MoveMethod::Frozen) move, which has no
    /// way back.
    pub fn playbook(&self, site: &MoveSite) -> Result<Playbook> {
        let spec = site.host.spec();
        if site.host.options().method == MoveMethod::Frozen {
            let message =
                "a frozen move has no way back, and this playbook promises one; use wakala_db::Mover";
            return Err(
                Error::new(ErrorKind::Unsupported, "playbook", message).on(format!("move {}", spec.id))
            );
        }
        if self.assumed_bytes_per_second == 0 {
            let message = "assumed_bytes_per_second is 0, so nothing would ever be copied; say how fast";
            return Err(Error::invalid("playbook", message).on(format!("move {}", spec.id)));
        }
        let previews = Arc::new(Previews::new(site.host.clone(), self.assumed_bytes_per_second));
        let throttle =
            Throttle::new(site.host.clone(), site.throttles.clone(), self.assumed_bytes_per_second);
        let work = |what: Work, limit: Duration| -> StepNode {
            step(MoveStep::new(what, Arc::clone(&previews), throttle.clone())).with_limit(limit)
        };
        let mut builder = Playbook::builder(Self::name_of(spec))
            .with_description(format!(
                "{} from shard {} to shard {} while in use; can be taken back until the cleanup.",
                texts::counted(spec.tenants.len(), "tenant"),
                spec.source,
                spec.destination
            ))
            .with_on_failure(self.on_failure)
            .with_preflight(preflight::Checks::new(
                Arc::clone(&previews),
                throttle.clone(),
                site.guards.is_empty(),
            ))
            .then(work(Work::Prepare, PREPARE_LIMIT))
            .then(work(Work::Copy, self.work_limit))
            .then(work(Work::Verify("before"), self.work_limit));
        if !site.guards.is_empty() {
            let limits = GuardLimits::default().with_interval(self.interval);
            builder = builder.guarded_by(Watch::shared(site.guards.clone()).with_limits(limits));
        }
        for tenant in &spec.tenants {
            if let Some(calm) = self.watched(site, format!("calm-before:{tenant}"), self.calm) {
                builder = builder.then(calm);
            }
            builder = builder.then(work(Work::HandOver(tenant.clone()), HAND_OVER_LIMIT));
        }
        if let Some(soak) = self.watched(site, "soak".to_owned(), self.soak) {
            builder = builder.then(soak);
        }
        let question = format!(
            "all rows are the same on both shards; delete those of {} on shard {} for ever? Rejected, the run holds and all \
             can be taken back",
            texts::counted(spec.tenants.len(), "tenant"),
            spec.source
        );
        builder
            .then(work(Work::Verify("after"), self.work_limit))
            .then(gate(GATE, question).within(self.approval_within))
            .then(work(Work::Cleanup, self.work_limit))
            .build()
    }

    /// A time in which all guards pass; the guards of the whole run are asked in it too, so it names none itself.
    fn watched(&self, site: &MoveSite, id: String, duration: Duration) -> Option<Soak> {
        let watched = !site.guards.is_empty() && !duration.is_zero();
        watched.then(|| {
            Soak::new(id, duration).with_interval(self.interval.min(duration)).with_grace(Duration::ZERO)
        })
    }
}
