//! Mocks of every public trait.
//!
//! They mock the required methods only: methods with a default body keep it, so a mocked target's `changed` sleeps and
//! observes as a real one's would, and a test that does not care needs no expectation for it.

// What `mock!` generates carries its own documentation or none.
#![allow(missing_docs, clippy::ref_option_ref, clippy::type_complexity)]

use std::fmt::{self, Debug};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use mockall::mock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Lease, LeaseTerms, Letter, Line, NewRun, Release, RunHead, StoredRun, Takeover};
use crate::{
    Applied, Autoscaler, AutoscalerState, Bounds, Capability, Clock, Event, Finding, Guard, GuardId,
    MetricQuery, MetricsSource, Notification, Notifier, Observation, Observed, Observer, Permission,
    PlaybookStep, Preflight, ResourceKey, Result, RunContext, RunId, RunInfo, RunStore, Sample,
    ScalableTarget, ScaleOptions, Setting, SettingInfo, StepId, StepPlan, TargetId, Undone, Units, Verdict,
    Version, Versioned,
};

// The traits want `Debug`, which `mock!` does not write.
macro_rules! debug {
    ($($mock:ident),*) => {$(
        impl fmt::Debug for $mock {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($mock)).finish_non_exhaustive()
            }
        }
    )*};
}

debug!(
    MockAutoscaler,
    MockClock,
    MockGuard,
    MockMetricsSource,
    MockNotifier,
    MockObserver,
    MockPlaybookStep,
    MockPreflight,
    MockRunStore,
    MockScalableTarget
);

impl<V> fmt::Debug for MockSetting<V>
where
    V: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockSetting").finish_non_exhaustive()
    }
}

mock! {
    /// A mocked [`Clock`]. For time that moves, [`ManualClock`](crate::ManualClock) is simpler.
    pub Clock {}

    #[async_trait]
    impl Clock for Clock {
        fn now(&self) -> SystemTime;
        fn monotonic(&self) -> Duration;
        async fn sleep(&self, duration: Duration);
    }
}

mock! {
    /// A mocked [`MetricsSource`].
    pub MetricsSource {}

    #[async_trait]
    impl MetricsSource for MetricsSource {
        async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>>;
        async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>>;
    }
}

mock! {
    /// A mocked [`ScalableTarget`]. `changed` keeps its default body.
    pub ScalableTarget {}

    #[async_trait]
    impl ScalableTarget for ScalableTarget {
        fn id(&self) -> TargetId;
        fn resource(&self) -> ResourceKey;
        fn capability(&self) -> Capability;
        fn permissions(&self) -> Vec<Permission>;
        async fn observe(&self, cx: &RunContext) -> Result<Observation>;
        async fn set_desired(
            &self,
            cx: &RunContext,
            desired: Units,
            options: ScaleOptions,
        ) -> Result<Observation>;
    }
}

mock! {
    /// A mocked [`PlaybookStep`]. `settle` keeps its default body.
    pub PlaybookStep {}

    #[async_trait]
    impl PlaybookStep for PlaybookStep {
        fn id(&self) -> StepId;
        async fn plan(&self, cx: &RunContext) -> Result<StepPlan>;
        async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied>;
        async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed>;
        async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone>;
    }
}

mock! {
    /// A mocked [`Guard`].
    pub Guard {}

    #[async_trait]
    impl Guard for Guard {
        fn id(&self) -> GuardId;
        fn condition(&self) -> String;
        async fn evaluate(&self, cx: &RunContext) -> Verdict;
    }
}

mock! {
    /// A mocked [`Notifier`].
    pub Notifier {}

    #[async_trait]
    impl Notifier for Notifier {
        fn destination(&self) -> String;
        async fn notify(&self, cx: &RunContext, notification: &Notification) -> Result<()>;
    }
}

mock! {
    /// A mocked [`Preflight`].
    pub Preflight {}

    #[async_trait]
    impl Preflight for Preflight {
        async fn check(&self, cx: &RunContext, steps: &[StepPlan]) -> Result<Vec<Finding>>;
    }
}

mock! {
    /// A mocked [`Observer`].
    pub Observer {}

    impl Observer for Observer {
        fn on_event(&self, run: &RunInfo, event: &Event);
    }
}

mock! {
    /// A mocked [`RunStore`].
    pub RunStore {}

    #[async_trait]
    impl RunStore for RunStore {
        async fn create(&self, new: NewRun) -> Result<Lease>;
        async fn acquire(
            &self,
            run: &RunId,
            resources: &[ResourceKey],
            terms: &LeaseTerms,
            takeover: Takeover,
        ) -> Result<Lease>;
        async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()>;
        async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()>;
        async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()>;
        async fn load(&self, run: &RunId) -> Result<StoredRun>;
        async fn list(&self) -> Result<Vec<RunHead>>;
        async fn send(&self, run: &RunId, body: String) -> Result<u64>;
        async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>>;
    }
}

// mockall takes no reference within an `Option`, so these two mock owned copies of the arguments, and the trait is
// written by hand on top.

mock! {
    /// A mocked [`Autoscaler`]. Expectations see the version as an owned `Option<Version>`.
    pub Autoscaler {
        pub fn id(&self) -> String;
        pub fn resource(&self) -> ResourceKey;
        pub fn permissions(&self) -> Vec<Permission>;
        pub fn observe(&self, cx: &RunContext) -> Result<Option<AutoscalerState>>;
        pub fn set_bounds(&self, cx: &RunContext, bounds: Bounds, if_version: Option<Version>) -> Result<()>;
        pub fn rehearse(&self, cx: &RunContext, bounds: Bounds) -> Result<()>;
    }
}

// In this impl and the next one, `Self::x` is the mock's own method: inherent methods come before the trait's.
#[async_trait]
impl Autoscaler for MockAutoscaler {
    fn id(&self) -> String {
        Self::id(self)
    }

    fn resource(&self) -> ResourceKey {
        Self::resource(self)
    }

    fn permissions(&self) -> Vec<Permission> {
        Self::permissions(self)
    }

    async fn observe(&self, cx: &RunContext) -> Result<Option<AutoscalerState>> {
        Self::observe(self, cx)
    }

    async fn set_bounds(&self, cx: &RunContext, bounds: Bounds, if_version: Option<&Version>) -> Result<()> {
        Self::set_bounds(self, cx, bounds, if_version.cloned())
    }

    async fn rehearse(&self, cx: &RunContext, bounds: Bounds) -> Result<()> {
        Self::rehearse(self, cx, bounds)
    }
}

mock! {
    /// A mocked [`Setting`] of any value. Expectations see the version as an owned `Option<Version>`; the methods
    /// beyond `info`, `read`, `write` and `desired` keep their default bodies.
    pub Setting<V: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static> {
        pub fn info(&self) -> SettingInfo;
        pub fn read(&self, cx: &RunContext) -> Result<Versioned<V>>;
        pub fn write(&self, cx: &RunContext, value: &V, expected: Option<Version>) -> Result<Applied>;
        pub fn desired(&self, current: &V) -> Result<V>;
    }
}

#[async_trait]
impl<V> Setting for MockSetting<V>
where
    V: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Value = V;

    fn info(&self) -> SettingInfo {
        Self::info(self)
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<V>> {
        Self::read(self, cx)
    }

    async fn write(&self, cx: &RunContext, value: &V, expected: Option<&Version>) -> Result<Applied> {
        Self::write(self, cx, value, expected.cloned())
    }

    fn desired(&self, current: &V) -> Result<V> {
        Self::desired(self, current)
    }
}
