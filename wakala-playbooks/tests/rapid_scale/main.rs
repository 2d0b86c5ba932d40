//! The traffic spike playbook on the simulated production, in virtual time.

mod errata;
mod faults;
mod plan;
mod refusals;
mod site;
mod soak;
mod spike;
mod stops;
