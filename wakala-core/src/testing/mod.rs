//! The test kit: mocks, fakes, faults and conformance checks. Needs the feature `testing`; outside of semver.
//!
//! | you want to test | take |
//! |---|---|
//! | that your code calls a target, source or notifier as it should | the `Mock…` types |
//! | a playbook or step of your own against things that behave | [`FakeTarget`], [`FakeSetting`], [`FakeAutoscaler`], [`FakeMetrics`], [`FakeNotifier`] |
//! | what it does when a call fails | [`Faults`] and the `Faulty…` wrappers |
//! | that a playbook holds whatever goes wrong, and whenever | [`explore`](explore::explore()) |
//! | that your own target, step, setting, source, notifier or run store keeps its trait's promises | [`conformance`] |
//!
//! Time is virtual: [`context`] gives a [`ManualClock`], whose
//! [`run`](ManualClock::run) makes an hour of soak take no time; [`PausedClock`] does the same for tests under
//! `#[tokio::test(start_paused = true)]`.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use wakala_core::testing::{FakeTarget, context};
//! use wakala_core::{Approval, Engine, Playbook, RunHandle, ScaleUp, Status, Units, step};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> wakala_core::Result<()> {
//! let (clock, _) = context();
//! let api = FakeTarget::new("deployment production/wakala-api", 10).with_lead_time(Duration::from_secs(90));
//! let scale = ScaleUp::to(Arc::new(api.clone()), 50).step("api");
//! let playbook = Playbook::builder("spike").then(step(scale)).build()?;
//!
//! let engine = Engine::new().with_clock(Arc::new(clock.clone()));
//! let report = clock
//!     .run(async {
//!         let plan = engine.plan(&playbook).await?;
//!         let approval = Approval::of(&plan, "ana");
//!         engine.run(&playbook, &plan, &approval, &RunHandle::new("run-1")).await
//!     })
//!     .await?;
//! assert_eq!(report.status, Status::Succeeded);
//! assert_eq!(api.size(), Units(50));
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::Limits;
use crate::{Floor, ManualClock, ResourceKey, RunContext, Units};

mod clock;
pub mod conformance;
pub mod explore;
mod fakes;
mod faults;
mod mocks;

pub use clock::PausedClock;
pub use fakes::{
    Answer, FakeAutoscaler, FakeMetrics, FakeNotifier, FakeSetting, FakeTarget, RecordingObserver, Write,
};
pub use faults::{Fault, Faults, FaultyMetrics, FaultyStep, FaultyStore, FaultyTarget};
pub use mocks::{
    MockAutoscaler, MockClock, MockGuard, MockMetricsSource, MockNotifier, MockObserver, MockPlaybookStep,
    MockPreflight, MockRunStore, MockScalableTarget, MockSetting,
};

/// The matchers and call orders of the `mockall` that the mocks are made by.
pub use mockall::{Sequence, predicate};

/// A clock that stands still, and a context of the run `test` on it.
///
/// Calls that wait return once the clock moves: await them under [`ManualClock::run`].
pub fn context() -> (ManualClock, RunContext) {
    let clock = ManualClock::default();
    let cx = RunContext::new("test".into(), Arc::new(clock.clone()));
    (clock, cx)
}

impl RunContext {
    /// The same run with one floor and no other, from which nothing was taken away yet: for tests of targets.
    #[must_use]
    pub fn with_floor(self, resource: impl Into<ResourceKey>, floor: Floor) -> Self {
        self.with_limits(Limits::new(BTreeMap::from([(resource.into(), floor)])))
    }

    /// The same run, which takes over from one that began when `resource` had that `size`: for tests of steps.
    #[must_use]
    pub fn with_size_before(self, resource: impl Into<ResourceKey>, size: impl Into<Units>) -> Self {
        self.with_inherited(BTreeMap::from([(resource.into(), size.into())]))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked elsewhere says so itself; what the fakes keep is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
