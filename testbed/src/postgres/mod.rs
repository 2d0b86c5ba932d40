//! PostgreSQL, and links to it that lose what passes through them.

mod access;
mod builder;
mod daemon;
mod install;
mod link;
mod server;

pub use access::PostgresAccess;
pub use builder::PostgresBuilder;
pub use link::Link;
pub use server::PostgresServer;

#[cfg(feature = "pgbouncer")]
pub(crate) use builder::{SUPERUSER, check_plain};
#[cfg(feature = "pgbouncer")]
pub(crate) use daemon::{Daemon, ServerFolder};
#[cfg(feature = "pgbouncer")]
pub(crate) use install::program;
