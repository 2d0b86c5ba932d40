//! Moves of tenants between real servers.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod rig;
mod whole;
