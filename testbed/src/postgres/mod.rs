//! PostgreSQL.

mod access;
mod builder;
mod install;
mod server;

pub use access::PostgresAccess;
pub use builder::PostgresBuilder;
pub use server::PostgresServer;

#[cfg(feature = "pgbouncer")]
pub(crate) use builder::{SUPERUSER, check_plain};
#[cfg(feature = "pgbouncer")]
pub(crate) use install::program;
