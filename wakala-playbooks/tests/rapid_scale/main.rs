//! The traffic spike playbook on the simulated production, in virtual time.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod errata;
mod faults;
mod plan;
mod refusals;
mod site;
mod soak;
mod spike;
mod stops;
