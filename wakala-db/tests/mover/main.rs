//! Moves of tenants between real servers.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod frozen;
mod rig;
mod whole;
