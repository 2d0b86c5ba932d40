//! The conformance checks pass on what the core itself ships, on the fakes and through the fault wrappers; and each of
//! them fails on a thing that is broken in just that way.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wakala_core::testing::conformance::{
    NotifierCase, SettingCase, SourceCase, StepCase, StoreCase, TargetCase,
};
use wakala_core::testing::{
    Answer, FakeAutoscaler, FakeMetrics, FakeNotifier, FakeSetting, FakeTarget, Faults, FaultyMetrics,
    FaultyStep, FaultyStore, FaultyTarget,
};
use wakala_core::{
    Bounds, Capability, LogNotifier, ManualClock, MemoryStore, MetricsSource, Notification, NotifyStep,
    RaiseFloor, RunStore, ScaleUp, Severity, Units,
};

/// One test that a behaviour's check fails, with these words.
macro_rules! fails {
    ($name:ident, $check:path, $case:expr, $words:literal) => {
        #[tokio::test]
        #[should_panic(expected = $words)]
        async fn $name() {
            $check($case).await;
        }
    };
}

mod broken_notifier;
mod broken_setting;
mod broken_source;
mod broken_step;
mod broken_store;
mod broken_target;

const LEAD: Duration = Duration::from_secs(90);

fn bounds(min: u32, max: u32) -> Bounds {
    Bounds::new(min, max).expect("the tests give them in order")
}

mod fake_target {
    use super::*;

    async fn make() -> TargetCase {
        TargetCase::new(FakeTarget::new("t", 3).with_lead_time(LEAD).with_bounds(bounds(1, 20)))
            .with_missing(FakeTarget::missing("gone"))
            .on(&ManualClock::default())
    }
    wakala_core::target_conformance!(make);
}

mod plain_fake_target {
    use super::*;

    // Neither options nor scaling down, on the host's clock: what is skipped above is checked here.
    async fn make() -> FakeTarget {
        let capability = Capability::new(bounds(1, u32::MAX)).without_scale_down();
        FakeTarget::new("t", 3).with_capability(capability)
    }
    wakala_core::target_conformance!(make);
}

mod faulty_target {
    use super::*;

    async fn make() -> TargetCase {
        let faults = Faults::new();
        TargetCase::new(FaultyTarget::new(FakeTarget::new("t", 3).with_lead_time(LEAD), &faults))
            .with_missing(FaultyTarget::new(FakeTarget::missing("gone"), &faults))
            .on(&ManualClock::default())
    }
    wakala_core::target_conformance!(make);
}

mod fake_setting {
    use super::*;

    async fn make() -> SettingCase<FakeSetting<u32>> {
        SettingCase::new(FakeSetting::new("limit", 100, 10_000).with_lead_time(LEAD))
            .on(&ManualClock::default())
    }
    wakala_core::setting_conformance!(make);
}

mod unversioned_fake_setting {
    use super::*;

    async fn make() -> FakeSetting<Option<String>> {
        FakeSetting::new("cache", None, Some("aggressive".to_owned())).without_versions()
    }
    wakala_core::setting_conformance!(make);
}

mod scale_up_setting {
    use super::*;

    async fn make() -> SettingCase<ScaleUp> {
        let target = FakeTarget::new("t", 3).with_lead_time(LEAD);
        SettingCase::new(ScaleUp::to(Arc::new(target), 8)).on(&ManualClock::default())
    }
    wakala_core::setting_conformance!(make);
}

mod raise_floor_setting {
    use super::*;

    async fn make() -> SettingCase<RaiseFloor> {
        let autoscaler = FakeAutoscaler::new(&FakeTarget::new("t", 3), bounds(2, 10));
        let floor = RaiseFloor::to(Arc::new(autoscaler), 20).raising_ceiling(true);
        SettingCase::new(floor).on(&ManualClock::default())
    }
    wakala_core::setting_conformance!(make);
}

mod setting_step {
    use super::*;

    pub(super) fn case(wrap: impl FnOnce(FakeSetting<u32>) -> StepCase) -> StepCase {
        let setting = FakeSetting::new("limit", 100, 10_000).with_lead_time(LEAD);
        let (world, meddler) = (setting.clone(), setting.clone());
        wrap(setting)
            .on(&ManualClock::default())
            .with_world(move || {
                let value = world.value();
                async move { json!(value) }
            })
            .with_meddler(move || {
                meddler.meddle(77);
                async {}
            })
    }

    async fn make() -> StepCase {
        case(|setting| StepCase::new(setting.step("limit")))
    }
    wakala_core::step_conformance!(make);
}

mod faulty_step {
    use super::*;

    async fn make() -> StepCase {
        setting_step::case(|setting| StepCase::new(FaultyStep::new(setting.step("limit"), &Faults::new())))
    }
    wakala_core::step_conformance!(make);
}

mod scale_up_step {
    use super::*;

    async fn make() -> StepCase {
        let target = FakeTarget::new("t", 3).with_lead_time(LEAD);
        let world = target.clone();
        // Nobody can drift it upwards, and downwards it still wants the same: no meddler.
        StepCase::new(ScaleUp::to(Arc::new(target), 8).step("scale")).on(&ManualClock::default()).with_world(
            move || {
                let size = world.size();
                async move { json!(size) }
            },
        )
    }
    wakala_core::step_conformance!(make);
}

mod raise_floor_step {
    use super::*;

    async fn make() -> StepCase {
        let autoscaler = FakeAutoscaler::new(&FakeTarget::new("t", 3), bounds(2, 10));
        let (world, meddler) = (autoscaler.clone(), autoscaler.clone());
        StepCase::new(RaiseFloor::to(Arc::new(autoscaler), 8).step("floor"))
            .with_world(move || {
                let bounds = world.bounds();
                async move { json!(bounds) }
            })
            .with_meddler(move || {
                meddler.meddle(Some(bounds(9, 99)));
                async {}
            })
    }
    wakala_core::step_conformance!(make);
}

mod notify_step {
    use super::*;

    async fn make() -> StepCase {
        let notification = Notification::new(Severity::High, "spike");
        StepCase::new(NotifyStep::new("alert", Arc::new(FakeNotifier::new()), notification))
            .without_observable_effect()
    }
    wakala_core::step_conformance!(make);
}

async fn source_case(wrap: impl Fn(FakeMetrics) -> Arc<dyn MetricsSource>) -> SourceCase {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(3600));
    let metrics = |answer: Answer| FakeMetrics::new().with("error_rate", answer).with("idle", Answer::Absent);
    let unreachable = metrics(Answer::Error(wakala_core::ErrorKind::Unavailable));
    SourceCase::shared(wrap(metrics(Answer::Value(0.001))), "error_rate")
        .with_absent("idle")
        .with_unknown("eror_rate")
        .with_unreachable(unreachable)
        .on(&clock)
}

mod fake_metrics {
    use super::*;

    async fn make() -> SourceCase {
        source_case(|metrics| Arc::new(metrics)).await
    }
    wakala_core::source_conformance!(make);
}

mod faulty_metrics {
    use super::*;

    async fn make() -> SourceCase {
        source_case(|metrics| Arc::new(FaultyMetrics::new(metrics, &Faults::new()))).await
    }
    wakala_core::source_conformance!(make);
}

mod fake_notifier {
    use super::*;

    async fn make() -> NotifierCase {
        let notifier = FakeNotifier::new();
        let received = notifier.clone();
        NotifierCase::new(notifier).with_received(move || {
            let texts = received.sent().into_iter().map(|sent| sent.text).collect();
            async move { texts }
        })
    }
    wakala_core::notifier_conformance!(make);
}

mod log_notifier {
    use super::*;

    async fn make() -> LogNotifier {
        LogNotifier
    }
    wakala_core::notifier_conformance!(make);
}

mod memory_store {
    use super::*;

    async fn make() -> StoreCase {
        let clock = ManualClock::default();
        StoreCase::new(MemoryStore::with_clock(Arc::new(clock.clone()))).on(&clock)
    }
    wakala_core::store_conformance!(make);
}

mod faulty_store {
    use super::*;

    // On the host's clock, through two wrappers around one store.
    async fn make() -> StoreCase {
        let store: Arc<dyn RunStore> = Arc::new(MemoryStore::new());
        StoreCase::new(FaultyStore::shared(store.clone(), &Faults::new()))
            .with_peer(FaultyStore::shared(store, &Faults::new()))
    }
    wakala_core::store_conformance!(make);
}

mod attributes_reach_each_test {
    async fn make() -> wakala_core::testing::FakeTarget {
        panic!("as expected by the attribute");
    }
    wakala_core::target_conformance!(
        #[should_panic(expected = "by the attribute")]
        make
    );
}

/// `all` runs every behaviour: each takes a target of its own.
#[tokio::test]
async fn all_runs_every_behaviour() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let made = AtomicU32::new(0);
    wakala_core::testing::conformance::target::all(async || {
        made.fetch_add(1, Ordering::Relaxed);
        FakeTarget::new("t", Units(3))
    })
    .await;
    assert_eq!(made.into_inner(), 14);
}
