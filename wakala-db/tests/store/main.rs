//! The run store on a real PostgreSQL, directly and through a real PgBouncer in transaction mode. Needs
//! `scripts/install-postgres` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod claims;
mod conformance;
mod faults;
mod hosts;
mod permissions;
mod rig;
mod schema;
