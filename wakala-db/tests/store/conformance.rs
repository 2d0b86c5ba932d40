//! The promises of every run store: on one client, through PgBouncer, and shared by both.

use wakala_core::testing::conformance::StoreCase;
use wakala_db::PostgresStore;

use crate::rig::{bouncer, fresh, same, server};

async fn directly() -> PostgresStore {
    fresh(server().await, 4).await
}

async fn through_pgbouncer() -> StoreCase {
    let store = fresh(bouncer().await, 4).await;
    let peer = same(&store, bouncer().await, 4);
    StoreCase::new(store).with_peer(peer)
}

/// Two processes, of which one goes through PgBouncer.
async fn shared() -> StoreCase {
    let direct = fresh(server().await, 4).await;
    let pooled = same(&direct, bouncer().await, 4);
    StoreCase::new(direct).with_peer(pooled)
}

mod on_a_server {
    wakala_core::store_conformance!(super::directly);
}

mod on_pgbouncer {
    wakala_core::store_conformance!(super::through_pgbouncer);
}

mod on_both {
    wakala_core::store_conformance!(super::shared);
}
