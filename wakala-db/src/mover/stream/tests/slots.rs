//! Slots and publications are made and removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const ROUNDS: u32 = 300;

async fn plain_table(place: &Place) -> [Table; 1] {
    place.run("CREATE TABLE t (tenant int, id int, PRIMARY KEY (tenant, id))").await;
    [place.table("public", "t").await]
}

#[tokio::test]
async fn a_slot_is_made_once_and_removed_any_number_of_times() {
    let place = Place::fresh().await;
    let slot = place.slot();
    assert_eq!(slot_facts(&place.client, &slot).await.unwrap(), None);
    let at = place.create_slot().await.unwrap();
    let facts = place.facts().await;
    assert_eq!((facts.confirmed_flush, facts.active_pid), (Some(at), None));
    assert_eq!((facts.wal_status.as_deref(), facts.invalidation), (Some("reserved"), None));
    let error = place.create_slot().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    drop_slot(&place.client, &slot).await.unwrap();
    drop_slot(&place.client, &slot).await.unwrap();
    assert_eq!(slot_facts(&place.client, &slot).await.unwrap(), None);
}

#[tokio::test]
async fn a_slot_waits_for_open_transactions_and_can_be_given_up() {
    let server = settings().start().await.unwrap();
    let place = Place::on(&server).await;
    let tables = plain_table(&place).await;
    let other = place.access.connect(&place.database, ROLE).await.unwrap();
    other.batch_execute("BEGIN; INSERT INTO t VALUES (1, 1)").await.unwrap();
    let slot = place.slot();
    timeout(Duration::from_millis(500), place.create_slot()).await.unwrap_err();
    // It is being made still; its removal ends that.
    let remover = place.access.connect(&place.database, ROLE).await.unwrap();
    drop_slot(&remover, &slot).await.unwrap();
    assert_eq!(slot_facts(&remover, &slot).await.unwrap(), None);
    other.batch_execute("COMMIT").await.unwrap();
    let place = Place { client: remover, ..place };
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO t VALUES (1, 2)").await;
    assert_eq!(transaction(&mut stream).await.ops(), [Op::Insert(vec![text("1"), text("2")])]);
}

#[tokio::test]
async fn removing_a_slot_ends_its_reader() {
    let place = Place::fresh().await;
    let tables = plain_table(&place).await;
    let from = place.published(&tables).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    drop_slot(&place.client, &place.slot()).await.unwrap();
    assert_eq!(slot_facts(&place.client, &place.slot()).await.unwrap(), None);
    assert_eq!(failure(&mut stream).await.kind(), ErrorKind::Unavailable);
}

/// Seen in a long run of moves: a statement of somebody who had nothing to do with the move failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_goes_while_rows_are_changed() {
    let server = settings().start().await.unwrap();
    let place = Place::on(&server).await;
    let tables = plain_table(&place).await;
    place.run("INSERT INTO t SELECT 2, n FROM generate_series(1, 8) AS n").await;
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for id in 1..=8 {
        let client = place.access.connect(&place.database, ROLE).await.unwrap();
        let over = Arc::clone(&over);
        writers.push(tokio::spawn(async move {
            let sql = format!("UPDATE t SET id = id WHERE tenant = 2 AND id = {id}");
            let mut done = 0;
            while !over.load(Ordering::SeqCst) {
                client.batch_execute(&sql).await.map_err(|error| format!("{:?}", error.as_db_error()))?;
                done += 1;
            }
            Ok::<u64, String>(done)
        }));
    }
    for _ in 0..ROUNDS {
        create_publication(&place.client, "Wakala p", &tables, &tenants(&["1"])).await.unwrap();
        drop_publication(&place.client, "Wakala p").await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    for writer in writers {
        assert!(writer.await.unwrap().unwrap() > 0);
    }
}

#[tokio::test]
async fn a_slot_of_somebody_else_is_left() {
    let place = Place::fresh().await;
    let slot = place.slot();
    place.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')")).await;
    let error = drop_slot(&place.client, &slot).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
    place.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
}

#[tokio::test]
async fn a_publication_has_the_rows_of_its_tenants_and_nothing_else() {
    let place = Place::fresh().await;
    place.run("CREATE TABLE t (\"Te\"\"nant\" text PRIMARY KEY); CREATE TABLE u (id int, tenant varchar(20) PRIMARY KEY)").await;
    let mut tables = [place.table("public", "u").await, place.table("public", "u").await];
    "t".clone_into(&mut tables[0].name);
    tables[0].columns.truncate(1);
    "Te\"nant".clone_into(&mut tables[0].columns[0].name);
    tables[0].tenant = 0;
    let ids = ["o'brien".to_owned(), "back\\slash".to_owned()];
    let tenants = Tenants::new(TenantType::Text, &ids).unwrap();
    let name = "odd \"name\"";
    assert!(create_publication(&place.client, name, &tables, &tenants).await.unwrap());
    let of = |what: &str| format!("SELECT {what} FROM pg_publication WHERE pubname = 'odd \"name\"'");
    let kinds = "concat(pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables)";
    assert_eq!(place.value(&of(kinds)).await, "tttftf");
    let filter =
        |table: &str| format!("SELECT rowfilter FROM pg_publication_tables WHERE tablename = '{table}'");
    assert!(place.value(&filter("t")).await.contains("'o''brien'"));
    assert!(place.value(&filter("u")).await.contains("tenant"));
    // What is written stays possible for everybody.
    place.run("INSERT INTO t VALUES ('x'); UPDATE t SET \"Te\"\"nant\" = 'y'; DELETE FROM t").await;
    let error = create_publication(&place.client, name, &tables, &tenants).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    drop_publication(&place.client, name).await.unwrap();
    drop_publication(&place.client, name).await.unwrap();
    assert_eq!(place.value("SELECT count(*) FROM pg_publication").await, "0");
}

#[tokio::test]
async fn where_rows_cannot_be_filtered_all_are_published() {
    let place = Place::fresh().await;
    place
        .run(
            "CREATE COLLATION own (provider = icu, locale = 'und'); \
             CREATE TABLE t (tenant text COLLATE own PRIMARY KEY)",
        )
        .await;
    let tables = [place.table("public", "t").await];
    let tenants = Tenants::new(TenantType::Text, &["a".to_owned()]).unwrap();
    assert!(!create_publication(&place.client, "p", &tables, &tenants).await.unwrap());
    assert_eq!(place.value("SELECT rowfilter IS NULL FROM pg_publication_tables").await, "t");
}
