//! A small production: an autoscaled workload, two settings, and a playbook for all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wakala_core::testing::{FakeAutoscaler, FakeSetting, FakeTarget, Faults, FaultyStep};
use wakala_core::{
    Applied, Approval, Bounds, Engine, ManualClock, OnFailure, Phase, Playbook, PlaybookStep, RaiseFloor,
    Result, Revert, RunHandle, RunReport, RunStore, ScaleUp, Status, StepNode, sequence, step, together,
};

pub(crate) const STEPS: [&str; 4] = ["floor", "scale", "limit", "cache"];

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) api: FakeTarget,
    pub(crate) autoscaler: FakeAutoscaler,
    pub(crate) limit: FakeSetting<u32>,
    pub(crate) cache: FakeSetting<Option<String>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let api = FakeTarget::new("api", 10).with_lead_time(Duration::from_secs(30));
        let autoscaler = FakeAutoscaler::new(&api, Bounds::new(5, 60).unwrap());
        let limit = FakeSetting::new("limit", 1000, 10_000).with_lead_time(Duration::from_secs(10));
        let cache = FakeSetting::new("cache", None, Some("aggressive".to_owned())).without_versions();
        Self { clock: ManualClock::default(), api, autoscaler, limit, cache }
    }

    /// What each step changes, as it is now.
    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, Value> {
        BTreeMap::from([
            ("floor", json!(self.autoscaler.bounds())),
            ("scale", json!(self.api.size())),
            ("limit", json!(self.limit.value())),
            ("cache", json!(self.cache.value())),
        ])
    }

    /// How often each step changed the world on its way forward.
    pub(crate) fn effects(&self) -> BTreeMap<&'static str, usize> {
        fn forward<V>(writes: &[wakala_core::testing::Write<V>]) -> usize {
            writes.iter().filter(|write| write.changed && write.phase == Phase::Apply).count()
        }
        BTreeMap::from([
            ("floor", forward(&self.autoscaler.writes())),
            ("scale", forward(&self.api.writes())),
            ("limit", forward(&self.limit.writes())),
            ("cache", forward(&self.cache.writes())),
        ])
    }

    fn step(&self, id: &str) -> Arc<dyn PlaybookStep> {
        match id {
            "floor" => Arc::new(RaiseFloor::to(Arc::new(self.autoscaler.clone()), 50).step(id)),
            "scale" => Arc::new(ScaleUp::to(Arc::new(self.api.clone()), 50).step(id)),
            "limit" => Arc::new(self.limit.step(id)),
            "cache" => Arc::new(self.cache.step(id)),
            other => panic!("there is no step {other}"),
        }
    }

    /// Floor and then size, beside the limit; then the cache. One step fails by a script.
    pub(crate) fn playbook(&self, on_failure: OnFailure, faulty: &str, faults: &Faults) -> Playbook {
        let node = |id: &str| -> StepNode {
            if id == faulty {
                return step(FaultyStep::shared(self.step(id), faults));
            }
            wakala_core::shared_step(self.step(id))
        };
        Playbook::builder("spike")
            .then(together([
                sequence([node("floor").into(), node("scale").into()]),
                node("limit").temporary(Duration::from_secs(3600)).into(),
            ]))
            .then(node("cache"))
            .with_on_failure(on_failure)
            .build()
            .unwrap()
    }

    pub(crate) fn engine(&self, store: Arc<dyn RunStore>) -> Engine {
        Engine::new().with_clock(Arc::new(self.clock.clone())).with_store(store)
    }

    /// Awaits in virtual time; what hangs for ever fails instead of hanging the tests.
    pub(crate) async fn drive<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let real_limit = Duration::from_secs(20);
        let driven = tokio::time::timeout(real_limit, self.clock.run(future)).await;
        driven.unwrap_or_else(|_| panic!("{what}: nothing goes on any more"))
    }

    pub(crate) async fn run(&self, what: &str, engine: &Engine, playbook: &Playbook) -> Result<RunReport> {
        self.drive(what, async {
            let plan = engine.plan(playbook).await?;
            engine.run(playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new("run-1")).await
        })
        .await
    }

    pub(crate) async fn revert(&self, what: &str, engine: &Engine, playbook: &Playbook) -> Result<RunReport> {
        self.drive(what, engine.revert(playbook, &RunHandle::new("run-1"), Revert::Everything)).await
    }

    /// The report names every difference of the world from `before`, and calls certain only what is one.
    pub(crate) fn assert_true(&self, what: &str, report: &RunReport, before: &BTreeMap<&'static str, Value>) {
        assert!(!report.reason.is_empty(), "{what}: the end is not explained");
        let now = self.snapshot();
        for id in STEPS {
            let residual = report.residuals.iter().find(|left| left.step.as_str() == id);
            let differs = now[id] != before[id];
            match residual {
                None => assert!(!differs, "{what}: {id} differs and the report does not say so:\n{report}"),
                Some(left) if left.certain => {
                    assert!(
                        differs,
                        "{what}: {id} is as it was and the report is certain that not:\n{report}"
                    );
                }
                Some(_) => {}
            }
            let owed = report.obligations.iter().any(|owed| owed.step.as_str() == id);
            assert_eq!(owed, residual.is_some() && id == "limit", "{what}: what is owed is wrong:\n{report}");
        }
        let whole = STEPS.iter().all(|id| now[id] == before[id]);
        match report.status {
            Status::Compensated => assert!(whole, "{what}: not all is back:\n{report}"),
            Status::Succeeded => {
                assert_eq!(now["cache"], json!("aggressive"), "{what}: not all is done:\n{report}");
                assert_eq!(report.residuals.len(), STEPS.len(), "{what}:\n{report}");
            }
            Status::Held | Status::Stuck => {}
            other => panic!("{what}: a run that nobody stopped ended as {other}:\n{report}"),
        }
        for (id, effects) in self.effects() {
            assert!(effects <= 1, "{what}: {id} had its effect {effects} times:\n{report}");
        }
        let applied = |id: &str| {
            report.journal.iter().any(|entry| {
                matches!(&entry.record, wakala_core::Record::Applied { step, applied: Applied::Changed } if step.as_str() == id)
            })
        };
        for id in STEPS {
            assert!(
                !applied(id) || self.effects()[id] == 1,
                "{what}: {id} counts as changed and is not:\n{report}"
            );
        }
    }
}
