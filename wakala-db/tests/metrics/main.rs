//! Metrics of real PostgreSQL servers and PgBouncers. Needs `scripts/install-postgres` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod faults;
mod guards;
mod permissions;
mod pgbouncer;
mod replication;
mod rig;
mod sessions;
mod standby;
