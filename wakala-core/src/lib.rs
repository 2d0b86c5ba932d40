//! Scaling runbooks as software: traits, plan, engine, guards, simulator and test kit.
//!
//! A [`Playbook`] is an ordered composition of steps, side-by-side groups and soaks. [`Engine::plan`] reads only and
//! turns it into a [`Plan`]: data that a person reads and approves. [`Engine::run`] does what was approved, verifies
//! it, watches, and can be stopped at any moment; [`Engine::resume`] goes on with it in another process;
//! [`Engine::revert`] takes it back. What happened, and what is left of it, is in the [`RunReport`].
//!
//! # The five words
//!
//! | word | trait or type | what it does |
//! |---|---|---|
//! | metrics source | [`MetricsSource`] | answers typed queries with samples that carry time, unit and coverage; no data is `None`, never zero |
//! | scalable target | [`ScalableTarget`] | tells its size and sets an absolute one |
//! | step | [`PlaybookStep`], or a [`Setting`] from which the step follows | plan, apply, observe, undo |
//! | guard | [`Guard`] | a condition that must hold: pass, fail, no verdict, source error |
//! | playbook | [`Playbook`] | steps, groups, soaks |
//!
//! [`ScaleUp`] is the setting of a target's size, [`RaiseFloor`] that of an [`Autoscaler`]'s bounds; [`ScaleDown`] is
//! the step that makes a target smaller.
//!
//! # A tour
//!
//! A setting of one's own - read, write, the wanted value - is all that a playbook needs.
//!
//! ```
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use wakala_core::{
//!     Applied, Approval, Engine, Playbook, Result, Revert, RunContext, RunHandle, Setting, SettingInfo, SettingStep,
//!     Status, Version, Versioned, step,
//! };
//!
//! #[derive(Debug)]
//! struct RateLimit(Arc<AtomicU32>);
//!
//! #[async_trait]
//! impl Setting for RateLimit {
//!     type Value = u32;
//!
//!     fn info(&self) -> SettingInfo {
//!         SettingInfo::new("raise the rate limit", "gateway/rate-limit")
//!     }
//!     async fn read(&self, _: &RunContext) -> Result<Versioned<u32>> {
//!         Ok(Versioned::new(self.0.load(Ordering::SeqCst)))
//!     }
//!     async fn write(&self, _: &RunContext, value: &u32, _: Option<&Version>) -> Result<Applied> {
//!         self.0.store(*value, Ordering::SeqCst);
//!         Ok(Applied::Changed)
//!     }
//!     fn desired(&self, current: &u32) -> Result<u32> {
//!         Ok(10_000.max(*current))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
//! let limit = Arc::new(AtomicU32::new(1_000));
//! let playbook = Playbook::builder("raise-limit").then(step(SettingStep::new("limit", RateLimit(limit.clone())))).build()?;
//!
//! let (engine, run) = (Engine::new(), RunHandle::generate());
//! let plan = engine.plan(&playbook).await?;
//! assert!(plan.to_string().contains("1000 -> 10000"));
//!
//! let report = engine.run(&playbook, &plan, &Approval::of(&plan, "you"), &run).await?;
//! assert_eq!((report.status, limit.load(Ordering::SeqCst)), (Status::Succeeded, 10_000));
//!
//! engine.revert(&playbook, &run, Revert::Everything).await?;
//! assert_eq!(limit.load(Ordering::SeqCst), 1_000);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `metrics` | `MetricsObserver`: counters through the `metrics` facade |
//! | `sim` | `sim`: a simulated production in virtual time that playbooks run against |
//! | `sqlite` | `SqliteStore`: runs in an SQLite file, that outlast the process |
//! | `testing` | `testing`: mocks, fakes, fault wrappers, conformance checks, `explore`; outside of semver |
//!
//! No client library, no network: providers are crates of their own.

mod clock;
mod context;
mod engine;
mod error;
mod event;
mod floor;
pub mod guard;
mod ids;
mod limits;
mod looks;
mod metrics;
mod notify;
mod plan;
mod playbook;
mod scale;
mod scale_down;
mod setting;
#[cfg(feature = "sim")]
pub mod sim;
mod step;
pub mod store;
mod target;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(any(feature = "testing", feature = "sim", test))]
pub use clock::ManualClock;
pub use clock::{Clock, SystemClock};
pub use context::{Phase, RunContext};
pub use engine::{
    Control, Engine, Obligation, Residual, Revert, RunCondition, RunHandle, RunReport, RunSummary, Status,
    StepOutcome, StepReport, Stop,
};
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{ChannelObserver, Event, LiveFeed, Notice, Observer, RunInfo, Silent};
pub use floor::{Autoscaler, AutoscalerState, RaiseFloor, TruceGuard};
pub use guard::{Aggregate, CombinedGuard, Guard, MetricGuard, ReadyGuard, ShadowGuard, Verdict};
pub use ids::{GuardId, ResourceKey, RunId, StepId, TargetId, Version};
pub use limits::{Floor, Removal};
pub use looks::{Fresh, Look, Looks};
pub use metrics::{Coverage, MetricQuery, MetricsSource, Sample, Unit};
pub use notify::{LogNotifier, Notification, Notifier, NotifyStep, Severity};
pub use plan::{Approval, Outline, Plan, PlannedSoak, PlannedStep, PlannedWatch};
pub use playbook::{
    Finding, FindingLevel, Gate, GuardLimits, OnFailure, Part, Playbook, PlaybookBuilder, Preflight, Soak,
    SoakTiming, StepNode, StepPolicy, Urgency, Watch, gate, sequence, shared_step, step, together,
};
pub use secrecy::{ExposeSecret, SecretString};

pub use scale::{ScaleUp, Size};
pub use scale_down::ScaleDown;
pub use setting::{Convergence, Setting, SettingInfo, SettingStep, Versioned};
pub use step::{
    Applied, Change, Effect, Observed, Permission, PlaybookStep, Reversibility, SafeSide, StepPlan, Undone,
};
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{EffectKnown, Entry, Failure, MemoryStore, Record, RunStore, Unwind};
#[cfg(feature = "metrics")]
pub use telemetry::MetricsObserver;
pub use telemetry::TracingObserver;

pub use target::{
    Bounds, Capability, Observation, Owner, ScalableTarget, ScalableTargetExt, ScaleOptions, SharedTarget,
    Units,
};
