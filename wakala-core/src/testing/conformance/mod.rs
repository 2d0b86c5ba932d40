//! What every implementation of a core trait must do, as checks that it runs against itself with one line.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use wakala_core::testing::{FakeTarget, conformance};
//!
//! // Called anew for each behaviour: each begins with a target that nobody has touched.
//! async fn make() -> FakeTarget {
//!     FakeTarget::new("my target", 3)
//! }
//! conformance::target::all(make).await;
//! # }
//! ```
//!
//! [`target_conformance!`](crate::target_conformance), [`step_conformance!`](crate::step_conformance),
//! [`setting_conformance!`](crate::setting_conformance), [`source_conformance!`](crate::source_conformance),
//! [`notifier_conformance!`](crate::notifier_conformance) and [`store_conformance!`](crate::store_conformance) make one
//! `#[tokio::test]` of each behaviour instead, so that its name is in the test's output; attributes before the function
//! go to each of them:
//!
//! ```
//! # async fn make() -> wakala_core::testing::FakeTarget { wakala_core::testing::FakeTarget::new("my target", 3) }
//! mod my_target {
//!     wakala_core::target_conformance!(#[ignore = "needs a cluster"] super::make);
//! }
//! ```
//!
//! `make` is an async function without arguments. It returns the thing itself, or a case ([`TargetCase`] and its like)
//! that says more: the context, a counterpart that does not exist, how to look at the world. What a check cannot find
//! out without such help, or what the thing says it cannot do, is skipped, and a printed line says so. A broken promise
//! is a panic whose message names it.

use std::any::Any;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::{ManualClock, Result, RunContext};

pub mod notifier;
pub mod setting;
pub mod source;
pub mod step;
pub mod store;
pub mod target;

mod macros;

pub use notifier::NotifierCase;
pub use setting::SettingCase;
pub use source::SourceCase;
pub use step::StepCase;
pub use store::StoreCase;
pub use target::TargetCase;

/// What all cases share: the context, how time passes, how long to wait, what to keep alive.
struct Common {
    cx: RunContext,
    clock: Option<ManualClock>,
    limit: Duration,
    keep: Vec<Box<dyn Any + Send + Sync>>,
}

impl Common {
    fn new() -> Self {
        Self { cx: RunContext::detached(), clock: None, limit: Duration::from_secs(120), keep: Vec::new() }
    }

    fn on(&mut self, clock: &ManualClock) {
        self.cx = RunContext::new("conformance".into(), Arc::new(clock.clone()));
        self.clock = Some(clock.clone());
    }

    /// Awaits a check, in virtual time where the case has it.
    async fn drive(&self, check: impl Future<Output = ()>) {
        match &self.clock {
            Some(clock) => clock.run(check).await,
            None => check.await,
        }
    }

    /// The context of a wait that must come to an end.
    fn patient(&self) -> RunContext {
        self.cx.clone().with_deadline(self.limit)
    }
}

impl Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cx, clock, limit, keep } = self;
        f.debug_struct("Common")
            .field("run", cx.run_id())
            .field("clock", clock)
            .field("limit", limit)
            .field("kept", &keep.len())
            .finish()
    }
}

/// The methods that every case has.
macro_rules! common_case {
    ($case:ident $(<$generic:ident: $bound:path>)?) => {
        impl $(<$generic: $bound>)? $case $(<$generic>)? {
            /// Calls are made in this context; as given, a [detached](crate::RunContext::detached) one.
            #[must_use]
            pub fn with_context(mut self, cx: crate::RunContext) -> Self {
                self.common.cx = cx;
                self
            }

            /// Time is virtual: calls are made in a context on `clock`, which moves whenever nothing else can.
            #[must_use]
            pub fn on(mut self, clock: &crate::ManualClock) -> Self {
                self.common.on(clock);
                self
            }

            /// How long to wait for what takes time; two minutes as given.
            #[must_use]
            pub fn with_limit(mut self, limit: std::time::Duration) -> Self {
                self.common.limit = limit;
                self
            }

            /// Keeps something, a server say, until the check is over.
            #[must_use]
            pub fn keeping(mut self, thing: impl std::any::Any + Send + Sync) -> Self {
                self.common.keep.push(Box::new(thing));
                self
            }
        }
    };
}
use common_case;

/// Reads the world, for checks that nothing changed. Opaque to the checks: compared for equality only.
type World = Arc<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>;

/// Does something to the world as somebody else would.
type Meddle = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

#[track_caller]
fn must<T>(result: Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what} failed: {error:?}"))
}

#[allow(clippy::print_stdout)] // Said in the test's output and nowhere else.
fn skip(behaviour: &str, why: &str) {
    println!("skipped {behaviour}: {why}");
}
