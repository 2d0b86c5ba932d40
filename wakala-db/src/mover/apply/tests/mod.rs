//! Against a real server.

mod faults;
mod measure;
mod plans;
mod random;
mod rig;
