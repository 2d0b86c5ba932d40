//! The shard directory, placement and the router, on real PostgreSQL servers, directly and through a real PgBouncer in
//! transaction mode. Needs `scripts/install-postgres` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod directory;
mod permissions;
mod rig;
mod router;
mod sizes;
mod take_over;
