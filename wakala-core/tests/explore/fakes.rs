//! A small production of fakes: an autoscaled workload, two settings, a soak, guards of the whole run.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wakala_core::testing::explore::{Blackout, Explore, Scene};
use wakala_core::testing::{Answer, FakeAutoscaler, FakeMetrics, FakeSetting, FakeTarget};
use wakala_core::{
    Bounds, GuardLimits, ManualClock, OnFailure, Playbook, RaiseFloor, ScaleUp, Soak, Unit, Watch, guard,
    sequence, step, together,
};

const SECOND: Duration = Duration::from_secs(1);

/// The scene of `tests/faults`, with a soak and a watch.
pub(crate) fn scene(on_failure: OnFailure) -> Scene {
    let clock = ManualClock::default();
    let api = FakeTarget::new("api", 10).with_lead_time(30 * SECOND);
    let autoscaler = FakeAutoscaler::new(&api, Bounds::new(5, 60).unwrap());
    let limit = FakeSetting::new("limit", 1000, 10_000).with_lead_time(10 * SECOND);
    let cache = FakeSetting::new("cache", None, Some("aggressive".to_owned())).without_versions();
    let metrics = FakeMetrics::new()
        .with("error_rate", Answer::Value(0.001))
        .with("latency", Answer::Value(0.2))
        .with_unit("latency", Unit::Seconds);
    let blackout = Blackout::new();
    let source = blackout.over(Arc::new(metrics));
    let playbook = Playbook::builder("spike")
        .then(together([
            sequence([
                step(RaiseFloor::to(Arc::new(autoscaler.clone()), 50).step("floor")).into(),
                step(ScaleUp::to(Arc::new(api.clone()), 50).step("scale")).into(),
            ]),
            step(limit.step("limit")).temporary(3600 * SECOND).into(),
        ]))
        .then(
            Soak::new("soak", 120 * SECOND)
                .with_guard(guard::metric(Arc::clone(&source), "error_rate").below(0.01))
                .with_grace(15 * SECOND),
        )
        .then(step(cache.step("cache")))
        .guarded_by(
            Watch::new(guard::metric(source, "latency").below(1.0))
                .with_limits(GuardLimits::default().with_interval(20 * SECOND)),
        )
        .with_on_failure(on_failure)
        .build()
        .unwrap();
    let snapshot = move || {
        [
            ("floor".to_owned(), json!(autoscaler.bounds())),
            ("scale".to_owned(), json!(api.size())),
            ("limit".to_owned(), json!(limit.value())),
            ("cache".to_owned(), json!(cache.value())),
        ]
        .into()
    };
    Scene::new(&clock, playbook, snapshot).with_blackout(&blackout)
}

#[test]
fn a_playbook_that_keeps_what_it_got() {
    let found = Explore::new(|| scene(OnFailure::KeepAndHold)).run();
    println!("{found}");
    found.assert_clean();
}

#[test]
fn a_playbook_that_takes_back() {
    let found = Explore::new(|| scene(OnFailure::TakeBack)).with_random(10_000).run();
    println!("{found}");
    found.assert_clean();
}

#[test]
fn a_playbook_that_goes_back_to_health() {
    let found = Explore::new(|| scene(OnFailure::BackToHealthy)).run();
    println!("{found}");
    found.assert_clean();
}
