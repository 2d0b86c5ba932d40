//! The world in which a playbook is explored.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::Value;

use crate::testing::lock;
use crate::{
    Clock as _, Engine, Error, ErrorKind, ManualClock, MemoryStore, MetricQuery, MetricsSource, Playbook,
    ResourceKey, Result, RunContext, RunStore, Sample, Units,
};

/// What the steps of a playbook change, as it is at one moment.
///
/// A key names the step that changes it - the step's id, or the id, a `/` and a part - or a resource that steps of the plan
/// take for themselves. What no step may change can be in it too, under any other key.
pub type Snapshot = BTreeMap<String, Value>;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
type Sizes = Arc<dyn Fn() -> BTreeMap<ResourceKey, Units> + Send + Sync>;

/// A fresh world with a playbook on it. It must be the same each time that it is made.
#[derive(Clone)]
pub struct Scene {
    pub(super) clock: ManualClock,
    pub(super) playbook: Playbook,
    pub(super) rebuild: Option<Arc<dyn Fn() -> Playbook + Send + Sync>>,
    pub(super) snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    pub(super) checks: Vec<Check>,
    pub(super) sizes: Option<Sizes>,
    pub(super) store: Arc<dyn RunStore>,
    pub(super) blackout: Option<Blackout>,
    pub(super) engine: Arc<dyn Fn(Engine) -> Engine + Send + Sync>,
}

impl Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("playbook", &self.playbook.name()).finish_non_exhaustive()
    }
}

impl Scene {
    /// `playbook` in a world that lives by `clock`, where `snapshot` reads what the steps change.
    pub fn new(
        clock: &ManualClock,
        playbook: Playbook,
        snapshot: impl Fn() -> Snapshot + Send + Sync + 'static,
    ) -> Self {
        Self {
            clock: clock.clone(),
            playbook,
            rebuild: None,
            snapshot: Arc::new(snapshot),
            checks: Vec::new(),
            sizes: None,
            store: Arc::new(MemoryStore::with_clock(Arc::new(clock.clone()))),
            blackout: None,
            engine: Arc::new(|engine| engine),
        }
    }

    /// Builds the playbook anew for each process, as a process that starts does. Without it all of them share one, and a step
    /// that remembers what it should look at is not found out.
    #[must_use]
    pub fn rebuilt_by(mut self, build: impl Fn() -> Playbook + Send + Sync + 'static) -> Self {
        self.rebuild = Some(Arc::new(build));
        self
    }

    /// Holds the sizes against the floors of the plan whenever something has happened.
    #[must_use]
    pub fn with_sizes(
        mut self,
        sizes: impl Fn() -> BTreeMap<ResourceKey, Units> + Send + Sync + 'static,
    ) -> Self {
        self.sizes = Some(Arc::new(sizes));
        self
    }

    /// Something that must hold at every moment; an error says what does not.
    #[must_use]
    pub fn with_check(mut self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Lets the sources of metrics go dark that the blackout is [over](Blackout::over). Without it each guard says that its
    /// source cannot be asked, which shows less: how a guard takes the silence of its source is not tried then.
    #[must_use]
    pub fn with_blackout(mut self, blackout: &Blackout) -> Self {
        self.blackout = Some(blackout.clone());
        self
    }

    /// Keeps runs in `store`, which must measure leases by the scene's clock and answer at once.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn RunStore>) -> Self {
        self.store = store;
        self
    }

    /// Gives the engine more than the explorer does: floors, say. Clock, store, owner and lease are the explorer's.
    #[must_use]
    pub fn with_engine(mut self, more: impl Fn(Engine) -> Engine + Send + Sync + 'static) -> Self {
        self.engine = Arc::new(more);
        self
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// How a source fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dark {
    /// It cannot be asked; what was measured meanwhile is there later.
    Error,
    /// It has no data, and will never have any of that time.
    Silence,
}

/// Makes sources of metrics go dark. Clones are the same blackout.
#[derive(Clone, Debug, Default)]
pub struct Blackout {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// When it was dark, by wall time, and how.
    spans: Vec<(SystemTime, SystemTime, Dark)>,
    refused: u64,
}

impl Blackout {
    /// Nothing is dark.
    pub fn new() -> Self {
        Self::default()
    }

    /// The source, as far as it is not dark.
    pub fn over(&self, source: Arc<dyn MetricsSource>) -> Arc<dyn MetricsSource> {
        Arc::new(Dimmed { inner: source, blackout: self.clone() })
    }

    pub(super) fn darken(&self, from: SystemTime, span: Duration, how: Dark) {
        lock(&self.state).spans.push((from, from + span, how));
    }

    /// How often somebody was told nothing.
    pub(super) fn refused(&self) -> u64 {
        lock(&self.state).refused
    }

    fn at(&self, moment: SystemTime) -> Option<Dark> {
        let mut state = lock(&self.state);
        let dark =
            state.spans.iter().find(|(from, to, _)| (*from..*to).contains(&moment)).map(|(_, _, how)| *how);
        state.refused += u64::from(dark.is_some());
        dark
    }

    fn has_data_of(&self, moment: SystemTime) -> bool {
        let silent = |(from, to, how): &(_, _, Dark)| *how == Dark::Silence && (*from..*to).contains(&moment);
        !lock(&self.state).spans.iter().any(silent)
    }
}

#[derive(Debug)]
struct Dimmed {
    inner: Arc<dyn MetricsSource>,
    blackout: Blackout,
}

impl Dimmed {
    /// Whether there is anything to be asked.
    fn look(&self, cx: &RunContext, query: &MetricQuery) -> Result<bool> {
        match self.blackout.at(cx.clock().now()) {
            None => Ok(true),
            Some(Dark::Silence) => Ok(false),
            Some(Dark::Error) => {
                Err(Error::new(ErrorKind::Unavailable, "latest", "injected: the source cannot be asked")
                    .on(query))
            }
        }
    }
}

#[async_trait]
impl MetricsSource for Dimmed {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        if self.look(cx, query)? { self.inner.latest(cx, query).await } else { Ok(None) }
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        self.look(cx, query)?;
        let mut samples = self.inner.range(cx, query, window).await?;
        samples.retain(|sample| self.blackout.has_data_of(sample.time));
        Ok(samples)
    }
}
