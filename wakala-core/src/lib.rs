//! Traits, plan, engine, guards, simulator and test kit of wakala.

mod clock;
mod context;
mod engine;
mod error;
mod event;
mod floor;
pub mod guard;
mod ids;
mod metrics;
mod notify;
mod plan;
mod playbook;
mod scale;
mod setting;
#[cfg(feature = "sim")]
pub mod sim;
mod step;
mod store;
mod target;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(any(feature = "testing", feature = "sim", test))]
pub use clock::ManualClock;
pub use clock::{Clock, SystemClock};
pub use context::{Phase, RunContext};
pub use engine::{
    Engine, Obligation, Residual, Revert, RunHandle, RunReport, Status, StepOutcome, StepReport, Stop,
};
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{ChannelObserver, Event, Notice, Observer, Silent, TracingObserver};
pub use floor::{Autoscaler, AutoscalerState, RaiseFloor, TruceGuard};
pub use guard::{Guard, MetricGuard, ReadyGuard, Verdict};
pub use ids::{GuardId, ResourceKey, RunId, StepId, TargetId, Version};
pub use metrics::{Coverage, MetricQuery, MetricsSource, Sample, Unit};
pub use notify::{LogNotifier, Notification, Notifier, NotifyStep, Severity};
pub use plan::{Approval, Outline, Plan, PlannedSoak, PlannedStep};
pub use playbook::{
    Finding, FindingLevel, OnFailure, Part, Playbook, PlaybookBuilder, Preflight, Soak, SoakTiming, StepNode,
    StepPolicy, sequence, shared_step, step, together,
};
pub use secrecy::{ExposeSecret, SecretString};

pub use scale::{ScaleUp, Size};
pub use setting::{Convergence, Setting, SettingInfo, SettingStep, Versioned};
pub use step::{
    Applied, Change, Effect, Observed, Permission, PlaybookStep, Reversibility, SafeSide, StepPlan, Undone,
};
pub use store::{EffectKnown, Entry, Failure, MemoryStore, Record, RunStore};
pub use target::{
    Bounds, Capability, Observation, Owner, ScalableTarget, ScalableTargetExt, ScaleOptions, SharedTarget,
    Units,
};
