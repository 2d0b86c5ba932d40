//! Metrics of Postgres servers and of PgBouncer instances.
