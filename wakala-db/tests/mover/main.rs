//! Moves of tenants between real servers.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod child;
mod faults;
mod frozen;
mod ledger;
mod moves;
mod rig;
mod site;
mod whole;
mod writers;
