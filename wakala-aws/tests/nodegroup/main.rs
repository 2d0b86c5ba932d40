//! Node groups through the real SDK, on the AWS testbed.

#![expect(clippy::unwrap_used, reason = "helpers end a test as its own body would")]

mod faults;
mod rig;
mod step;
mod target;
mod undo;
