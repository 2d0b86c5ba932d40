//! On a real server.

mod differing;
mod odd;
mod refused;
mod rig;
mod rows;
mod servers;
