//! Moves of tenants between real servers.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod barrier;
mod child;
mod crashes;
mod faults;
mod frozen;
mod ledger;
mod moves;
mod refused;
mod rig;
mod scenarios;
mod site;
mod whole;
mod writers;
