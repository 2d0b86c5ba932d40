//! The traffic spike playbook on a real control plane and the AWS endpoint of the testbed.
//!
//! Needs `scripts/build-control-plane` and `scripts/install-moto` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod aws;
mod bed;
mod outage;
mod permissions;
mod refusals;
mod spike;
mod stops;
