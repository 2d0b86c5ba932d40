//! Postgres and PgBouncer for wakala.
//!
//! This crate has no items yet. It will hold what the database section of the runbook becomes: metrics of
//! Postgres and PgBouncer, pool resizing that is verified on the admin console, the shard directory, moving a
//! tenant between databases, and the run store of a team. The crate is here so that the workspace has its final
//! shape; nothing in it pretends to work.
