//! Fakes: small things that behave, keep what was asked of them, and fail where a test says so.
//!
//! Clones of a fake are the same thing: one goes into the step, the other stays with the test.

mod autoscaler;
mod cell;
mod metrics;
mod notifier;
mod observer;
mod setting;
mod target;

pub use autoscaler::FakeAutoscaler;
pub use cell::Write;
pub use metrics::{Answer, FakeMetrics};
pub use notifier::FakeNotifier;
pub use observer::RecordingObserver;
pub use setting::FakeSetting;
pub use target::FakeTarget;
