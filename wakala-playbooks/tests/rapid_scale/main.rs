//! The traffic spike playbook on the simulated production, in virtual time.

#![allow(clippy::unwrap_used)]

mod errata;
mod faults;
mod plan;
mod refusals;
mod site;
mod soak;
mod spike;
mod stops;
