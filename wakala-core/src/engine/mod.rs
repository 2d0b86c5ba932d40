//! The engine: plans a playbook, runs an approved plan, goes on with a run in another process, takes it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::within;
use crate::store::{MemoryStore, RunStore, StoredRun};
use crate::{Clock, Floor, Observer, ResourceKey, Result, RunId, Silent, SystemClock};

mod control;
mod handle;
mod inspect;
mod interpreter;
mod journal;
mod lease;
mod lifecycle;
mod mailbox;
mod planning;
mod report;
mod soak;
mod state;
mod step;
mod unwind;
mod watch;

pub use control::Control;
pub use handle::{RunHandle, Stop};
pub use inspect::{RunCondition, RunSummary};
pub use report::{Obligation, Residual, RunReport, Status, StepOutcome, StepReport};

use interpreter::{CALL_LIMIT, no_answer};

/// How long planning one step, asking one guard or making one check may take.
const PLAN_LIMIT: Duration = Duration::from_secs(60);

/// How often a step is asked for its plan where the provider is busy.
const PLAN_ATTEMPTS: u32 = 3;

/// Which steps [`Engine::revert`] takes back.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revert {
    /// All that has an effect.
    Everything,
    /// What the playbook calls temporary. Capacity that it does not is left to a gradual scale-down.
    #[default]
    Temporary,
}

/// Plans playbooks, runs approved plans, goes on with runs whose process is gone, takes runs back.
///
/// The engine spawns nothing: [`run`](Self::run) is one future, and it makes progress while it is polled. Dropping
/// that future is like killing the process: what was done stays done and is in the journal, and any process that builds
/// the same playbook can [go on](Self::resume) from there. To end a run early, use [`RunHandle::stop`], or
/// [ask](Self::ask) it from anywhere.
#[derive(Clone, Debug)]
pub struct Engine {
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    store: Arc<dyn RunStore>,
    owner: Arc<str>,
    plan_validity: Duration,
    lease: Duration,
    mail_interval: Duration,
    floors: BTreeMap<ResourceKey, Floor>,
    dependencies: Vec<ResourceKey>,
}

impl Default for Engine {
    /// Host clock, no observer, runs in memory, plans valid for 15 minutes, leases of a minute, a look into the mailbox
    /// every second.
    fn default() -> Self {
        let owner = format!("process {} ({})", std::process::id(), uuid::Uuid::now_v7());
        Self {
            clock: Arc::new(SystemClock::new()),
            observer: Arc::new(Silent),
            store: Arc::new(MemoryStore::new()),
            owner: owner.into(),
            plan_validity: Duration::from_secs(15 * 60),
            lease: Duration::from_secs(60),
            mail_interval: Duration::from_secs(1),
            floors: BTreeMap::new(),
            dependencies: Vec::new(),
        }
    }
}

impl Engine {
    /// As [`Engine::default`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Tells `observer` of every event.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Keeps runs in `store`.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn RunStore>) -> Self {
        self.store = store;
        self
    }

    /// Names this process as others shall see it: `scaler-0 on host-1`. Must be unique among all that share a store.
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<Arc<str>>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Refuses to run plans older than `validity`.
    #[must_use]
    pub fn with_plan_validity(mut self, validity: Duration) -> Self {
        self.plan_validity = validity;
        self
    }

    /// How long a run counts as driven after its process was last heard of; at least 3 seconds. It is renewed thrice in
    /// that time.
    #[must_use]
    pub fn with_lease(mut self, ttl: Duration) -> Self {
        self.lease = ttl.max(Duration::from_secs(3));
        self
    }

    /// How often a run looks for what others [ask](Self::ask) of it.
    #[must_use]
    pub fn with_mail_interval(mut self, interval: Duration) -> Self {
        self.mail_interval = interval.max(Duration::from_millis(10));
        self
    }

    /// Keeps every run of this engine from making a target smaller, or faster smaller, than that, whatever its playbook
    /// says. Of several floors of the same resource all are kept.
    #[must_use]
    pub fn with_floor(mut self, resource: impl Into<ResourceKey>, floor: Floor) -> Self {
        self.floors.entry(resource.into()).and_modify(|kept| *kept = kept.and(floor)).or_insert(floor);
        self
    }

    /// Names something that runs of this engine themselves need: the database of their store, the source of their metrics.
    /// Plans that change it are refused.
    #[must_use]
    pub fn depends_on(mut self, resource: impl Into<ResourceKey>) -> Self {
        self.dependencies.push(resource.into());
        self
    }

    /// Where runs are kept.
    pub fn store(&self) -> &Arc<dyn RunStore> {
        &self.store
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        self.ask_store("load", Some(run), self.store.load(run)).await
    }

    /// One call of the store, given up after a while: a store that hangs must not hang the run.
    async fn ask_store<T>(
        &self,
        operation: &'static str,
        run: Option<&RunId>,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let answer = within(&*self.clock, CALL_LIMIT, call).await;
        answer.unwrap_or_else(|| {
            let subject = run.map_or("the store".to_owned(), |run| format!("the store of run {run}"));
            Err(no_answer(operation, CALL_LIMIT).on(subject))
        })
    }
}
