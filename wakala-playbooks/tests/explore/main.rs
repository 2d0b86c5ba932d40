//! The runbook's playbooks hold whatever goes wrong, and whenever.
//!
//! On fakes, whose every call takes no time: a simulated production moves second by second, and one run of it takes as long
//! as a hundred of these.

mod gradual_scale_down;
mod production;
mod rapid_scale;
