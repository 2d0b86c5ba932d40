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

#[tokio::test]
async fn rows_of_other_tenants_stay_away_and_moves_between_tenants_come_as_what_they_are_here() {
    let place = Place::fresh().await;
    place.run("CREATE TABLE t (id int, tenant int, v text, PRIMARY KEY (id, tenant))").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    place.run("INSERT INTO t VALUES (1, 2, 'theirs')").await;
    place.run("UPDATE t SET v = 'still theirs'; INSERT INTO t VALUES (2, 1, 'ours')").await;
    place.run("UPDATE t SET tenant = 1 WHERE id = 1").await;
    place.run("UPDATE t SET tenant = 2").await;
    let mut stream = place.open(&tables, from).await.unwrap();
    let ours = |id, v| Op::Insert(vec![text(id), text("1"), text(v)]);
    assert_eq!(transaction(&mut stream).await.ops(), [ours("2", "ours")]);
    assert_eq!(transaction(&mut stream).await.ops(), [ours("1", "still theirs")]);
    let left = |id| Op::Delete(vec![text(id), text("1"), Value::Null]);
    assert_eq!(transaction(&mut stream).await.ops(), [left("2"), left("1")]);
    place.end().await;
}

#[tokio::test]
async fn values_come_in_binary_form_where_asked_for() {
    let place = Place::fresh().await;
    place
        .run(
            "CREATE TYPE mood AS ENUM ('fine', 'bad'); \
             CREATE TABLE t (tenant int, id uuid PRIMARY KEY, m mood, a int[], n numeric, w timestamptz); \
             ALTER TABLE t REPLICA IDENTITY FULL",
        )
        .await;
    let tables = [place.table("public", "t").await];
    assert_eq!(tables[0].columns[2].type_name, "mood");
    // As a search_path without the schema has it.
    let mut tables = tables;
    "public.mood".clone_into(&mut tables[0].columns[2].type_name);
    let from = place.published(&tables).await;
    let options = Options { binary: true, ..Options::default() };
    let mut stream = place.open_with(&tables, from, options).await.unwrap();
    place
        .run("INSERT INTO t VALUES (1, '00000000-0000-0000-0000-0000000000ff', 'bad', '{3}', 1.5, '2000-01-01Z')")
        .await;
    let [Op::Insert(row)] = &transaction(&mut stream).await.ops()[..] else { panic!("no insert") };
    let binary = |bytes: &[u8]| Value::Binary(Bytes::copy_from_slice(bytes));
    assert_eq!(row[0], binary(&[0, 0, 0, 1]));
    assert_eq!(row[1], binary(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]));
    assert_eq!(row[2], binary(b"bad"));
    assert_eq!(row[5], binary(&[0; 8]));
    assert_eq!(tenants(&["1"]).find(&row[0]), Some(0));
    place.end().await;
}

#[tokio::test]
async fn a_full_identity_has_the_former_row_whole() {
    let place = Place::fresh().await;
    place
        .run(
            "CREATE TABLE t (tenant int, v text, big text); ALTER TABLE t REPLICA IDENTITY FULL; \
               ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL",
        )
        .await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO t VALUES (1, 'a', repeat('x', 5000))").await;
    place.run("UPDATE t SET v = 'b'").await;
    place.run("DELETE FROM t").await;
    let big = || Value::Text("x".repeat(5000).into());
    let row = |v| vec![text("1"), text(v), big()];
    assert_eq!(transaction(&mut stream).await.ops(), [Op::Insert(row("a"))]);
    // The former row has the value that the new one leaves out.
    let new = vec![text("1"), text("b"), Value::Unchanged];
    let updated = transaction(&mut stream).await.ops();
    assert!(
        updated == [Op::Update { old: Some(row("a")), new }]
            || updated == [Op::Update { old: Some(row("a")), new: row("b") }]
    );
    assert_eq!(transaction(&mut stream).await.ops(), [Op::Delete(row("b"))]);
    place.end().await;
}

#[tokio::test]
async fn partitions_come_as_their_root_and_odd_names_as_they_are() {
    let place = Place::fresh().await;
    place
        .run(
            "CREATE SCHEMA \"Sch ema\"; \
             CREATE TABLE \"Sch ema\".\"T\"\"x\" (\"Tenant\" int, id int, \"naïve v\" text, PRIMARY KEY (\"Tenant\", id)) \
                PARTITION BY HASH (id); \
             CREATE TABLE a (\"naïve v\" text, gone int, id int NOT NULL, \"Tenant\" int NOT NULL); \
             ALTER TABLE a DROP COLUMN gone; \
             ALTER TABLE \"Sch ema\".\"T\"\"x\" ATTACH PARTITION a FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
             CREATE TABLE b PARTITION OF \"Sch ema\".\"T\"\"x\" FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
             CREATE TABLE plain (tenant int PRIMARY KEY)",
        )
        .await;
    let tables = [place.table("public", "plain").await, place.table("Sch ema", "T\"x").await];
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO \"Sch ema\".\"T\"\"x\" SELECT 1, i, 'v' FROM generate_series(1, 20) AS i").await;
    place.run("INSERT INTO plain VALUES (1)").await;
    let rows = transaction(&mut stream).await;
    assert_eq!(rows.events.len(), 20);
    for (place, event) in rows.events.iter().enumerate() {
        let Event::Change { table: 1, op: Op::Insert(row) } = event else { panic!("{event:?}") };
        assert_eq!(plain(row), ["1", &(place + 1).to_string(), "v"]);
    }
    let plain = transaction(&mut stream).await;
    assert_eq!(plain.events, [Event::Change { table: 0, op: Op::Insert(vec![text("1")]) }]);
    let filled = "SELECT count(*) FROM a";
    assert_ne!(place.value(filled).await, "0");
    place.end().await;
}

#[tokio::test]
async fn messages_come_in_their_place() {
    let place = Place::fresh().await;
    place.run("CREATE TABLE t (tenant int PRIMARY KEY)").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("BEGIN; SELECT pg_logical_emit_message(true, 'never', ''); ROLLBACK").await;
    place
        .run(
            "BEGIN; SELECT pg_logical_emit_message(true, 'within', 'a'); INSERT INTO t VALUES (1); \
             SELECT pg_logical_emit_message(false, 'outside', 'b'); \
             SELECT pg_logical_emit_message(true, 'within', '\\x00ff'::bytea); COMMIT",
        )
        .await;
    let outside = loop {
        match next(&mut stream).await {
            Event::Idle { .. } => {}
            Event::Begin { .. } => panic!("what is not of the transaction comes as soon as it is written"),
            event => break event,
        }
    };
    let message = |prefix: &str, content: &'static [u8]| Event::Message {
        prefix: prefix.to_owned(),
        content: Bytes::from_static(content),
    };
    assert_eq!(outside, message("outside", b"b"));
    let within = transaction(&mut stream).await.events;
    assert_eq!(within.len(), 3);
    assert_eq!((&within[0], &within[2]), (&message("within", b"a"), &message("within", b"\x00\xff")));
    place.end().await;
}

#[tokio::test]
async fn a_prepared_transaction_comes_when_it_is_committed() {
    let place = Place::fresh().await;
    place.run("CREATE TABLE t (tenant int, id int, PRIMARY KEY (tenant, id))").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    let name = format!("{}_2pc", place.database);
    place.run(&format!("BEGIN; INSERT INTO t VALUES (1, 1); PREPARE TRANSACTION '{name}'")).await;
    place.run("INSERT INTO t VALUES (1, 2)").await;
    place.run(&format!("COMMIT PREPARED '{name}'")).await;
    let (first, second) = (transaction(&mut stream).await, transaction(&mut stream).await);
    assert!(first.xid > second.xid && first.end < second.end);
    assert_eq!(first.ops(), [Op::Insert(vec![text("1"), text("2")])]);
    assert_eq!(second.ops(), [Op::Insert(vec![text("1"), text("1")])]);
    place.end().await;
}

#[tokio::test]
async fn a_changed_table_ends_the_stream_after_what_came_before() {
    let changes = [
        ("ALTER TABLE t ADD COLUMN extra int", "column extra is new"),
        ("ALTER TABLE t DROP COLUMN v", "column v is gone"),
        ("ALTER TABLE t ALTER COLUMN v TYPE varchar(9)", "column v is of another type"),
        (
            "ALTER TABLE t RENAME TO s; ALTER TABLE s RENAME COLUMN v TO w; CREATE VIEW t AS SELECT 1",
            "table public.s",
        ),
        ("ALTER PUBLICATION \"Wakala p\" SET (publish = 'truncate')", "TRUNCATE"),
    ];
    for (sql, words) in changes {
        let place = Place::fresh().await;
        place.run("CREATE TABLE t (tenant int PRIMARY KEY, v varchar(20))").await;
        let tables = [place.table("public", "t").await];
        let from = place.published(&tables).await;
        let mut stream = place.open(&tables, from).await.unwrap();
        place.run("INSERT INTO t VALUES (1, 'a')").await;
        place.run(sql).await;
        match words {
            "TRUNCATE" => place.run("TRUNCATE t").await,
            "table public.s" => place.run("DELETE FROM s").await,
            _ => place.run("DELETE FROM t").await,
        }
        assert_eq!(transaction(&mut stream).await.ops(), [Op::Insert(vec![text("1"), text("a")])]);
        let error = failure(&mut stream).await;
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        drop(stream);
        // Neither does it open, unless only the publication is another.
        if words != "TRUNCATE" {
            let error = place.open(&tables, from).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
            assert!(error.to_string().contains("table public.t"), "{error}");
        }
        place.end().await;
    }
}
