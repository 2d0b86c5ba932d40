//! Tenants moved between two real servers by the playbook, through everything that may come in its way.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod crashes;
mod guards;
mod refusals;
mod rig;
mod whole;
