//! The runbook's playbooks hold whatever goes wrong, and whenever.
//!
//! On fakes, whose every call takes no time: a simulated production moves second by second, and one run of it takes as long
//! as a hundred of these.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use wakala_core::testing::explore::Exploration;

mod gradual_scale_down;
mod production;
mod rapid_scale;
#[cfg(feature = "sim")]
mod simulated;

/// Says what was tried, also where the test passes and its output is not shown.
fn shown(found: &Exploration) {
    let _ = write!(std::io::stderr(), "{found}");
}
