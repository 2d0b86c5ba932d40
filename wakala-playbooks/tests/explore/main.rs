//! The runbook's playbooks hold whatever goes wrong, and whenever.
//!
//! On fakes, whose every call takes no time: a simulated production moves second by second, and one run of it takes as long
//! as a hundred of these.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod gradual_scale_down;
mod production;
mod rapid_scale;
