//! On a real server.

mod odd;
mod refused;
mod rig;
