//! PgBouncer's configuration: read, changed, applied, verified.

mod console;
mod version;

pub use console::{Console, ConsoleRow};
pub use version::PgBouncerVersion;
