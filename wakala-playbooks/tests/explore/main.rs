//! The runbook's playbooks hold whatever goes wrong, and whenever.
//!
//! Every call and ten thousand schedules of chance on fakes, and some hundreds more in a simulated production, which moves
//! second by second and takes longer for it.

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
