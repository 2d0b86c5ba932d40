//! A small production of fakes: an autoscaled workload, two settings, a soak, a guard of the whole run.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::json;
use wakala_core::testing::explore::{Blackout, Scene, Snapshot};
use wakala_core::testing::{Answer, FakeAutoscaler, FakeMetrics, FakeSetting, FakeTarget};
use wakala_core::{
    Bounds, Guard, GuardLimits, ManualClock, OnFailure, Playbook, PlaybookStep, RaiseFloor, ScaleUp, Soak,
    Unit, Watch, gate, guard, sequence, shared_step, together,
};

const SECOND: Duration = Duration::from_secs(1);

type Replace<T> = Arc<dyn Fn(&World, &str, Arc<T>) -> Arc<T> + Send + Sync>;

/// What is there before anything was done. Clones are the same world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) api: FakeTarget,
    pub(crate) autoscaler: FakeAutoscaler,
    pub(crate) limit: FakeSetting<u32>,
    pub(crate) cache: FakeSetting<Option<String>>,
    pub(crate) blackout: Blackout,
    /// Whether a step has lost its way; for steps that can.
    pub(crate) lost: Arc<AtomicBool>,
    metrics: FakeMetrics,
    on_failure: OnFailure,
    gated: bool,
    step: Replace<dyn PlaybookStep>,
    guard: Replace<dyn Guard>,
}

impl World {
    pub(crate) fn new(on_failure: OnFailure) -> Self {
        let api = FakeTarget::new("api", 10).with_lead_time(30 * SECOND);
        let autoscaler = FakeAutoscaler::new(&api, Bounds::new(5, 60).unwrap());
        let metrics = FakeMetrics::new()
            .with("error_rate", Answer::Value(0.001))
            .with("latency", Answer::Value(0.2))
            .with_unit("latency", Unit::Seconds);
        Self {
            clock: ManualClock::default(),
            api,
            autoscaler,
            limit: FakeSetting::new("limit", 1000, 10_000).with_lead_time(10 * SECOND),
            cache: FakeSetting::new("cache", None, Some("aggressive".to_owned())).without_versions(),
            blackout: Blackout::new(),
            lost: Arc::default(),
            metrics,
            on_failure,
            gated: false,
            step: Arc::new(|_, _, step| step),
            guard: Arc::new(|_, _, guard| guard),
        }
    }

    /// Puts another step in the place of that of a name.
    pub(crate) fn with_step(
        mut self,
        id: &'static str,
        make: impl Fn(&Self, Arc<dyn PlaybookStep>) -> Arc<dyn PlaybookStep> + Send + Sync + 'static,
    ) -> Self {
        self.step = Arc::new(move |world, name, step| if name == id { make(world, step) } else { step });
        self
    }

    /// Puts another guard in the place of each.
    pub(crate) fn with_guards(
        mut self,
        make: impl Fn(Arc<dyn Guard>) -> Arc<dyn Guard> + Send + Sync + 'static,
    ) -> Self {
        self.guard = Arc::new(move |_, _, guard| make(guard));
        self
    }

    /// Somebody must agree before the cache is touched.
    pub(crate) fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// Floor and then size, beside the limit; a soak; then the cache.
    fn playbook(&self) -> Playbook {
        let node = |id: &str, step: Arc<dyn PlaybookStep>| shared_step((self.step)(self, id, step));
        let guard = |guard: guard::MetricGuard| (self.guard)(self, "", Arc::new(guard) as Arc<dyn Guard>);
        let source = self.blackout.over(Arc::new(self.metrics.clone()));
        let floor = RaiseFloor::to(Arc::new(self.autoscaler.clone()), 50).step("floor");
        let scale = ScaleUp::to(Arc::new(self.api.clone()), 50).step("scale");
        let watch = guard(guard::metric(Arc::clone(&source), "latency").below(1.0));
        let error_rate = guard(guard::metric(source, "error_rate").below(0.01));
        let mut playbook = Playbook::builder("spike")
            .then(together([
                sequence([node("floor", Arc::new(floor)).into(), node("scale", Arc::new(scale)).into()]),
                node("limit", Arc::new(self.limit.step("limit"))).temporary(3600 * SECOND).into(),
            ]))
            .then(Soak::new("soak", 120 * SECOND).with_guards([error_rate]).with_grace(15 * SECOND));
        if self.gated {
            playbook = playbook.then(gate("go", "touch the cache?").within(600 * SECOND));
        }
        playbook
            .then(node("cache", Arc::new(self.cache.step("cache"))))
            .guarded_by(Watch::shared([watch]).with_limits(GuardLimits::default().with_interval(20 * SECOND)))
            .with_on_failure(self.on_failure)
            .build()
            .unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        [
            ("floor".to_owned(), json!(self.autoscaler.bounds())),
            ("scale".to_owned(), json!(self.api.size())),
            ("limit".to_owned(), json!(self.limit.value())),
            ("cache".to_owned(), json!(self.cache.value())),
        ]
        .into()
    }

    pub(crate) fn scene(&self) -> Scene {
        self.scene_that_cannot_go_dark().with_blackout(&self.blackout)
    }

    /// Whose guards are told that their source cannot be asked, instead of asking one that does not answer.
    pub(crate) fn scene_that_cannot_go_dark(&self) -> Scene {
        let (world, rebuilt) = (self.clone(), self.clone());
        Scene::new(&self.clock, self.playbook(), move || world.snapshot())
            .rebuilt_by(move || rebuilt.playbook())
    }
}
