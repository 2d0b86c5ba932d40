//! On real servers.

mod copying;
mod faults;
pub(in crate::mover) mod rig;
mod writers;
