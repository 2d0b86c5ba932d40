//! PgBouncer's configuration against the real thing: version 1.18 as Debian has it, in front of a real Postgres.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod apply;
mod budget;
mod console;
mod corpus;
mod faults;
mod others;
mod rig;
