//! What the server sends for what was done.

use super::*;

#[tokio::test]
async fn all_operations_come_in_order_with_their_values() {
    let place = Place::fresh().await;
    place
        .run(
            "CREATE TABLE t (gone int, tenant int, id bigint, v varchar(20), big text, \
                twice int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (tenant, id)); \
             ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL",
        )
        .await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    let large = "x".repeat(10_000);
    place.run(&format!("INSERT INTO t VALUES (1, 5, 'a', '{large}'), (2, 5, 'b', '')")).await;
    place.run("BEGIN; UPDATE t SET v = NULL; UPDATE t SET id = 6; DELETE FROM t WHERE id = 6; COMMIT").await;

    let inserted = transaction(&mut stream).await;
    let xid = inserted.xid;
    assert_eq!(
        inserted.ops(),
        [Op::Insert(vec![text("1"), text("5"), text("a"), Value::Text(large.clone().into())])]
    );
    let changed = transaction(&mut stream).await;
    assert!(changed.xid > xid);
    let key = |id| vec![text("1"), text(id), Value::Null, Value::Null];
    assert_eq!(
        changed.ops(),
        [
            Op::Update { old: None, new: vec![text("1"), text("5"), Value::Null, Value::Unchanged] },
            Op::Update {
                old: Some(key("5")),
                new: vec![text("1"), text("6"), Value::Null, Value::Unchanged]
            },
            Op::Delete(key("6")),
        ]
    );
    stream.close().await;
    place.end().await;
}
