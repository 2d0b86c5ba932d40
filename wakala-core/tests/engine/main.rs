//! The engine's promises, on fakes, in virtual time.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod approval;
mod common;
mod control;
mod order;
mod outcomes;
mod report;
mod resume;
mod revert;
mod soak;
mod stop;
mod supersede;
mod telemetry;
mod watch;
