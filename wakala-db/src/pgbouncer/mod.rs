//! PgBouncer's configuration: read, changed, applied, verified.
