//! The grants that the directory and the router name: they suffice, and none is spare.

use wakala_core::{ErrorKind, Permission, Result, Retry};
use wakala_db::{Directory, Shard, State, directory_permissions, router_permissions, sql_grants};

use crate::rig::{CONTROL, epoch, nowhere, pool, server, shard, tenant, with_shards};

const ROLE: &str = "ops";

/// Everything that a directory can do, on a tenant and shards that are new each time.
async fn everything(directory: &Directory, number: i32) -> Result<()> {
    let id = tenant(&format!("everything {number}"));
    let (old, new) = (1000 + 2 * number, 1001 + 2 * number);
    directory.check().await?;
    directory.add_shard(&nowhere(old)).await?;
    directory.add_shard(&nowhere(new)).await?;
    directory.update_shard(&Shard::new(shard(new), format!("new{number}.invalid"), 1, "d")).await?;
    directory.register(&id, shard(old)).await?;
    directory.set_state(&id, epoch(1), State::Moving { to: shard(new) }).await?;
    directory.flip(&id, epoch(1), shard(new), epoch(2)).await?;
    directory.placements(None, 1).await?;
    looking(directory).await
}

async fn looking(directory: &Directory) -> Result<()> {
    directory.locate(&tenant("a")).await?;
    directory.shards().await.map(drop)
}

#[expect(clippy::future_not_send, reason = "a test awaits it where it is")]
async fn suffice_and_none_is_spare(
    owned: &Directory,
    permissions: &[Permission],
    work: impl AsyncFn(&Directory, i32) -> Result<()>,
) {
    let grants = sql_grants(ROLE, permissions).join("; ");
    let revoke_all = grants.replace("GRANT", "REVOKE").replace(" TO ", " FROM ");
    server().await.execute(CONTROL, &grants).await.unwrap();
    let directory = async || Directory::new(pool(server().await, CONTROL, ROLE, 1), owned.schema().clone());
    work(&directory().await, 0).await.unwrap();
    for (n, permission) in (1..).zip(permissions) {
        let revoke = format!("REVOKE {} ON {} FROM {ROLE}", permission.action, permission.resource);
        server().await.execute(CONTROL, &revoke).await.unwrap();
        let answer = work(&directory().await, n).await;
        let error = answer.err().unwrap_or_else(|| panic!("{permission} is spare"));
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Denied, Retry::Never),
            "{permission}: {error:?}"
        );
        server().await.execute(CONTROL, &grants).await.unwrap();
    }
    server().await.execute(CONTROL, &revoke_all).await.unwrap();
}

#[tokio::test]
async fn the_grants_suffice_and_none_is_spare() {
    let owned = with_shards(server().await, 1).await;
    suffice_and_none_is_spare(&owned, &directory_permissions(owned.schema()), everything).await;
    let router = router_permissions(owned.schema());
    suffice_and_none_is_spare(&owned, &router, async |directory, _| looking(directory).await).await;
}
