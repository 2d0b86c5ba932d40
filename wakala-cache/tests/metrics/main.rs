//! Metrics of real Redis servers, Sentinels and clusters. Needs `scripts/install-redis` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod cluster;
mod conformance;
mod faults;
mod permissions;
mod queues;
mod replication;
mod rig;
mod sentinel;
mod server;
mod workers;
