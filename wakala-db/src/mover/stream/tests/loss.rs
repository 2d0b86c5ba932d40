//! Connections, servers and slots that go away.

use super::*;
use crate::mover::stream::Bulk;

const SAFE: Retry = Retry::Safe { after: None };

async fn numbers(place: &Place) -> ([Table; 1], PgLsn) {
    place.run("CREATE TABLE t (tenant int, id int, PRIMARY KEY (tenant, id))").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    (tables, from)
}

async fn next_insert(stream: &mut ChangeStream) -> (String, PgLsn) {
    let transaction = transaction(stream).await;
    let end = transaction.end;
    let Op::Insert(row) = &transaction.ops()[0] else { panic!("no insert") };
    (plain(row)[1].clone(), end)
}

#[tokio::test]
async fn an_ended_walsender_is_unavailable_and_nothing_is_lost_by_it() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO t VALUES (1, 1)").await;
    place.run("INSERT INTO t VALUES (1, 2)").await;
    let (first, end) = next_insert(&mut stream).await;
    assert_eq!(first, "1");
    stream.confirm(end);
    let reader = place.facts().await.active_pid.unwrap();
    place.run(&format!("SELECT pg_terminate_backend({reader})")).await;
    let error = failure(&mut stream).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    assert!(error.to_string().contains("57P01"), "{error}");
    // And so it stays.
    let error = stream.next().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE));
    place.run("INSERT INTO t VALUES (1, 3)").await;
    let mut stream = place.open(&tables, end).await.unwrap();
    assert_eq!(next_insert(&mut stream).await.0, "2");
    assert_eq!(next_insert(&mut stream).await.0, "3");
    place.end().await;
}

#[tokio::test]
async fn a_killed_server_is_unavailable_and_goes_on_when_it_is_back() {
    let server = settings().start().await.unwrap();
    let place = Place::on(&server).await;
    let (tables, from) = numbers(&place).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO t VALUES (1, 1)").await;
    let (_, end) = next_insert(&mut stream).await;
    stream.confirm(end);
    place.run("INSERT INTO t VALUES (1, 2)").await;
    server.kill().await.unwrap();
    let error = failure(&mut stream).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    let error = place.open(&tables, end).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    server.start().await.unwrap();
    let mut stream = place.open(&tables, end).await.unwrap();
    assert_eq!(next_insert(&mut stream).await.0, "2");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = settings().start().await.unwrap();
    let place = Place::on(&server).await;
    let (tables, from) = numbers(&place).await;
    let options = Options { silence: Some(Duration::from_secs(2)), ..Options::default() };
    let mut stream = place.open_with(&tables, from, options).await.unwrap();
    // Though it says nothing by itself for half a minute, it answers.
    let outcome = timeout(Duration::from_secs(5), async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    });
    outcome.await.unwrap_err();
    server.freeze().await.unwrap();
    let error = failure(&mut stream).await;
    server.thaw().await.unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    assert!(error.to_string().contains("nothing came"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_silent_before_it_reads_the_backlog_is_given_up_too() {
    let server = settings().start().await.unwrap();
    let place = Place::on(&server).await;
    let (tables, from) = numbers(&place).await;
    place.run("INSERT INTO t SELECT 1, i FROM generate_series(1, 1000) AS i").await;
    let bulk = Bulk { worth: 1, ..Bulk::default() };
    let options = Options { silence: Some(Duration::from_secs(2)), bulk, ..Options::default() };
    let mut stream = place.open_with(&tables, from, options).await.unwrap();
    // The task has had no turn yet on this thread: it asks a server that does not answer.
    server.freeze().await.unwrap();
    let error = failure(&mut stream).await;
    server.thaw().await.unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    assert!(error.to_string().contains("nothing came"), "{error}");
}

#[tokio::test]
async fn a_cut_line_is_unavailable() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let link = wakala_testbed::Link::to(place.access.port()).unwrap();
    let config = place.access.at_port(link.port()).config(&place.database, ROLE).unwrap();
    let slot = place.slot();
    let mut stream = ChangeStream::open(&config, None, &slot, "Wakala p", &tables, from, Options::default())
        .await
        .unwrap();
    place.run("INSERT INTO t VALUES (1, 1)").await;
    let (_, end) = next_insert(&mut stream).await;
    link.cut().await.unwrap();
    let error = failure(&mut stream).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error}");
    place.run("INSERT INTO t VALUES (1, 2)").await;
    let mut stream = place.open(&tables, end).await.unwrap();
    assert_eq!(next_insert(&mut stream).await.0, "2");
    drop(stream);
    place.end().await;
}

#[tokio::test]
async fn a_slot_that_is_gone_or_not_the_one_that_it_was_is_never_read() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    place.run("INSERT INTO t VALUES (1, 1)").await;
    let mut stream = place.open(&tables, from).await.unwrap();
    let (_, end) = next_insert(&mut stream).await;
    stream.confirm(end);
    stream.close().await;

    let ahead = place.open(&tables, from).await.unwrap_err();
    let beyond = PgLsn::from(u64::from(end) + (1 << 40));
    let beyond = place.open(&tables, beyond).await.unwrap_err();
    drop_slot(&place.client, &place.slot()).await.unwrap();
    place.create_slot().await.unwrap();
    let anew = place.open(&tables, end).await.unwrap_err();
    for (error, words) in [(ahead, "goes on at"), (beyond, "older copy"), (anew, "made anew")] {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
        assert!(error.to_string().contains(words) && error.to_string().contains("start over"), "{error}");
    }
    drop_slot(&place.client, &place.slot()).await.unwrap();
    let error = place.open(&tables, end).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never), "{error}");
    assert!(error.to_string().contains("start over"), "{error}");
}

#[tokio::test]
async fn a_publication_that_is_gone_is_not_found() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    drop_publication(&place.client, "Wakala p").await.unwrap();
    place.run("INSERT INTO t VALUES (1, 1)").await;
    let error = failure(&mut stream).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never), "{error}");
    place.end().await;
}

#[tokio::test]
async fn a_slot_whose_log_is_gone_says_to_start_over() {
    let server = settings().with_setting("max_slot_wal_keep_size", "1MB").start().await.unwrap();
    let place = Place::on(&server).await;
    let (tables, from) = numbers(&place).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO t VALUES (1, 1)").await;
    let (_, end) = next_insert(&mut stream).await;
    // Read, but never confirmed.
    for _ in 0..4 {
        place.run("INSERT INTO t SELECT 2, coalesce(max(id), 0) + i FROM t, generate_series(1, 10) AS i GROUP BY i").await;
        place.run("SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    let error = failure(&mut stream).await;
    assert_eq!(error.retry(), SAFE, "{error}");
    let facts = place.facts().await;
    assert_eq!(facts.wal_status.as_deref(), Some("lost"));
    assert_eq!(facts.invalidation.as_deref(), Some("wal_removed"));
    assert_eq!(facts.active_pid, None);
    // Whether it is behind far enough for a piece in bulk, or not.
    for worth in [0, u64::MAX] {
        let options = Options { bulk: Bulk { worth, ..Bulk::default() }, ..Options::default() };
        let error = match place.open_with(&tables, end, options).await {
            Err(error) => error,
            Ok(mut stream) => failure(&mut stream).await,
        };
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error}");
        assert!(error.to_string().contains("start over"), "{error}");
    }
    place.end().await;
}

#[tokio::test]
async fn a_server_without_logical_decoding_says_so() {
    let server = PostgresServer::builder().with_setting("wal_level", "replica").start().await.unwrap();
    let place = Place::on(&server).await;
    place.run("CREATE TABLE t (tenant int PRIMARY KEY)").await;
    let tables = [place.table("public", "t").await];
    let of_slot = place.create_slot().await.unwrap_err();
    let of_stream = place.open(&tables, 0.into()).await.unwrap_err();
    for error in [of_slot, of_stream] {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error}");
        assert!(error.to_string().contains("wal_level"), "{error}");
    }
}
