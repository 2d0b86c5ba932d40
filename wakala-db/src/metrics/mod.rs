//! Metrics of Postgres servers and of PgBouncer instances.

mod pgbouncer;
mod postgres;

pub use pgbouncer::PgBouncerMetrics;
pub use postgres::PostgresMetrics;
