//! What tenants take, measured on a real shard, and a plan that follows.

use std::collections::BTreeMap;

use wakala_core::ErrorKind;
use wakala_db::{Goal, ShardId, ShardSizes, TenantId, plan_moves};

use crate::rig::{CONTROL, OWNER, pool, server, shard, tenant, unique, with_shards};

#[tokio::test]
async fn what_tables_take_is_divided_by_the_rows_of_tenants() {
    let schema = unique("sizes");
    // Tenant 1 has half of the rows, and 2 to 6 a tenth each; the parts of the second table count, and its large values.
    let sql = format!(
        "CREATE SCHEMA {schema} AUTHORIZATION {OWNER}; SET ROLE {OWNER}; SET search_path TO {schema};
         CREATE TABLE message (tenant_id int, id int, body text, PRIMARY KEY (tenant_id, id));
         INSERT INTO message SELECT CASE WHEN n % 2 = 0 THEN 1 ELSE 2 + n / 2 % 5 END, n, repeat('x', 100)
             FROM generate_series(1, 100000) n;
         CREATE TABLE \"Part\" (\"Tenant\" text, body text) PARTITION BY LIST (\"Tenant\");
         CREATE TABLE part_7 PARTITION OF \"Part\" FOR VALUES IN ('7');
         ALTER TABLE \"Part\" ALTER body SET STORAGE EXTERNAL;
         ALTER TABLE part_7 ALTER body SET STORAGE EXTERNAL;
         INSERT INTO \"Part\" SELECT '7', repeat('y', 10000) FROM generate_series(1, 200);
         CREATE TABLE nothing (tenant_id int);"
    );
    server().await.execute(CONTROL, &sql).await.unwrap();
    let sizes = ShardSizes::new(pool(server().await, CONTROL, OWNER, 1))
        .with_table(schema.as_str(), "message", "tenant_id")
        .with_table(schema.as_str(), "nothing", "tenant_id");
    let total = format!("SELECT pg_total_relation_size('{schema}.message')");
    let total: f64 = server().await.value(CONTROL, &total).await.unwrap().parse().unwrap();
    for (measured, within) in
        [(sizes.clone(), 0.001), (sizes.clone().with_most_read(2_000_000), 0.2)].map(|(sizes, w)| (sizes, w))
    {
        let found = measured.measure().await.unwrap();
        assert_eq!(found.len(), 6);
        for (id, share) in [("1", 0.5), ("2", 0.1), ("6", 0.1)] {
            let part = found[&tenant(id)] as f64 / total;
            assert!((part / share - 1.0).abs() < within, "{id}: {part} of all");
        }
    }
    let parts = ShardSizes::new(pool(server().await, CONTROL, OWNER, 1)).with_table(
        schema.as_str(),
        "Part",
        "Tenant",
    );
    let found = parts.measure().await.unwrap();
    assert!(found[&tenant("7")] > 2_000_000, "{found:?}");
    let error = parts.with_table(schema.as_str(), "none", "tenant_id").measure().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
}

#[tokio::test]
async fn a_plan_is_made_of_what_was_measured() {
    let directory = with_shards(server().await, 3).await;
    for n in 0..20 {
        directory.register(&TenantId::from(n), shard(1)).await.unwrap();
    }
    let mut sizes: BTreeMap<ShardId, BTreeMap<TenantId, u64>> = BTreeMap::new();
    sizes.insert(shard(2), [(TenantId::from(0), 1_000_000)].into());
    let error = directory.loads(&sizes).await.unwrap_err();
    assert!(error.to_string().contains("shard 1"), "{error}");
    sizes.insert(shard(1), (0..20).map(|n| (TenantId::from(n), 100)).collect());
    let loads = directory.loads(&sizes).await.unwrap();
    assert_eq!((loads.len(), loads.iter().map(|load| load.bytes).sum::<u64>()), (20, 2_000));
    let plan = plan_moves(&loads, &directory.shards().await.unwrap(), &Goal::default()).unwrap();
    assert!(plan.reached && plan.bytes == 1_300, "{plan}");
}
