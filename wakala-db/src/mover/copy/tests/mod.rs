//! On real servers.

mod copying;
mod faults;
mod measured;
pub(in crate::mover) mod rig;
mod writers;
