use std::time::Duration;

use wakala_db::Console;
use wakala_testbed::{PgBouncer, PostgresServer};

pub(crate) const ROLE: &str = "shop";

/// A Postgres with the databases `app` and `reports`.
pub(crate) async fn postgres() -> PostgresServer {
    PostgresServer::builder()
        .with_role(ROLE, "secret")
        .with_database("app", ROLE)
        .with_database("reports", ROLE)
        .with_max_connections(60)
        .start()
        .await
        .unwrap()
}

pub(crate) fn console(bouncer: &PgBouncer) -> Console {
    console_at(bouncer, bouncer.port())
}

pub(crate) fn console_at(bouncer: &PgBouncer, port: u16) -> Console {
    let config = bouncer.at_port(port).config("ignored", "pgbouncer_admin").unwrap();
    Console::new(config).with_limit(Duration::from_secs(5))
}
