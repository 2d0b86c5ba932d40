//! Metrics of Postgres servers and of PgBouncer instances.

mod looks;
mod pgbouncer;
mod postgres;

pub use pgbouncer::PgBouncerMetrics;
pub use postgres::PostgresMetrics;
