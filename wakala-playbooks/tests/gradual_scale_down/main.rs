//! The gradual scale down on the simulated production, in virtual time.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod autoscaler;
#[cfg(feature = "kubernetes")]
mod cluster;
mod descent;
mod errata;
mod limits;
mod metrics;
mod others;
mod plan;
mod refusals;
mod site;
