//! The grants that the store names: they suffice, and none is spare.

use wakala_core::store::{Release, Takeover};
use wakala_core::{ErrorKind, Permission, Result, Retry, RunStore};
use wakala_db::{PostgresStore, migration_permissions, sql_grants, store_permissions};

use crate::rig::{DATABASE, MINUTE, fresh, keys, line, new_run, pool, server, start, terms};

const ROLE: &str = "ops";

/// Everything that a store can do, each call refused once for want of what it is about.
async fn everything(store: &PostgresStore, name: &str) -> Result<()> {
    store.check().await?;
    let (old, new) = (format!("{name}-old"), format!("{name}-new"));
    let (x, y) = (format!("{name}/x"), format!("{name}/y"));
    store.create(new_run(&old, &[&x])).await?;
    let mut superseding = new_run(&new, &[&x]);
    superseding.supersedes.push(old.as_str().into());
    store.create(superseding).await?;
    let new = new.as_str().into();
    let lease = store.acquire(&new, &keys(&[&x, &y]), &terms("b"), Takeover::Forced).await?;
    store.append(&new, lease.epoch, line(new.as_str(), 1)).await?;
    store.renew(&new, lease.epoch, MINUTE).await?;
    store.send(&new, "{}".to_owned()).await?;
    store.mail(&new, 0).await?;
    store.load(&new).await?;
    store.list().await?;
    store.release(&new, lease.epoch, Release::Closed).await
}

fn revoke(permission: &Permission) -> String {
    format!("REVOKE {} ON {} FROM {ROLE}", permission.action, permission.resource)
}

#[tokio::test]
async fn the_grants_suffice_and_none_is_spare() {
    let owned = fresh(server().await, 2).await;
    let permissions = store_permissions(owned.schema());
    let grants = sql_grants(ROLE, &permissions).join("; ");
    server().await.execute(DATABASE, &grants).await.unwrap();
    let store = || async {
        let pool = pool(server().await, ROLE, 2);
        PostgresStore::new(pool).with_schema(owned.schema().clone())
    };
    everything(&store().await, "all").await.unwrap();

    for (n, permission) in permissions.iter().enumerate() {
        server().await.execute(DATABASE, &revoke(permission)).await.unwrap();
        let answer = everything(&store().await, &format!("without-{n}")).await;
        let error = answer.err().unwrap_or_else(|| panic!("{permission} is spare"));
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Denied, Retry::Never),
            "{permission}: {error:?}"
        );
        server().await.execute(DATABASE, &grants).await.unwrap();
    }
    everything(&store().await, "again").await.unwrap();
}

#[tokio::test]
async fn the_role_can_neither_change_lines_nor_migrate() {
    let owned = fresh(server().await, 2).await;
    let schema = owned.schema();
    server().await.execute(DATABASE, &sql_grants(ROLE, &store_permissions(schema)).join("; ")).await.unwrap();
    let client = server().await.connect(DATABASE, ROLE).await.unwrap();
    for sql in [
        format!("UPDATE {schema}.line SET body = ''"),
        format!("DELETE FROM {schema}.line"),
        format!("DELETE FROM {schema}.run"),
        format!("TRUNCATE {schema}.letter"),
        format!("UPDATE {schema}.schema_version SET version = 2"),
        format!("CREATE TABLE {schema}.t ()"),
    ] {
        let error = client.batch_execute(&sql).await.unwrap_err();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
    }
    let store = PostgresStore::new(pool(server().await, ROLE, 2)).with_schema(crate::rig::unique("denied"));
    let error = store.migrate().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error:?}");
}

#[tokio::test]
async fn the_grant_to_migrate_suffices() {
    // Of its own: the right is on the whole database.
    let server = start().await;
    let store = PostgresStore::new(pool(&server, ROLE, 2));
    assert_eq!(store.migrate().await.unwrap_err().kind(), ErrorKind::Denied);
    let grants = sql_grants(ROLE, &migration_permissions(DATABASE)).join("; ");
    server.execute(DATABASE, &grants).await.unwrap();
    store.migrate().await.unwrap();
    everything(&store, "all").await.unwrap();
}
