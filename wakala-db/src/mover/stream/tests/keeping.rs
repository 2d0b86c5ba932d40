//! The connection, whatever the consumer does.

use super::*;
use crate::mover::stream::worker::READ_AHEAD;

async fn numbers(place: &Place) -> ([Table; 1], PgLsn) {
    place.run("CREATE TABLE t (tenant int, id int, v text, PRIMARY KEY (tenant, id))").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    (tables, from)
}

async fn insert(place: &Place, id: u32) {
    place.run(&format!("INSERT INTO t VALUES (1, {id})")).await;
}

fn id(transaction: Transaction) -> String {
    let Op::Insert(row) = &transaction.ops()[0] else { panic!("no insert") };
    plain(row)[1].clone()
}

#[tokio::test]
async fn goes_on_after_what_was_confirmed() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    for number in 1..=4 {
        insert(&place, number).await;
    }
    let mut stream = place.open(&tables, from).await.unwrap();
    let first = transaction(&mut stream).await;
    let second = transaction(&mut stream).await;
    stream.confirm(first.end);
    // Never back.
    stream.confirm(from);
    stream.close().await;
    let facts = place.facts().await;
    assert_eq!((facts.confirmed_flush, facts.active_pid), (Some(first.end), None));
    assert!(
        facts.restart_lsn.is_some() && facts.invalidation.is_none() && facts.retained_bytes.unwrap() >= 0
    );

    // Where the slot is, and where the consumer is.
    let mut stream = place.open(&tables, 0.into()).await.unwrap();
    assert_eq!(id(transaction(&mut stream).await), "2");
    stream.close().await;
    let mut stream = place.open(&tables, second.end).await.unwrap();
    assert_eq!(id(transaction(&mut stream).await), "3");
    let last = transaction(&mut stream).await;
    // Told without a close, too.
    stream.confirm(last.end);
    // At once, not only with what the server is told every five seconds.
    let told = until(|| async { place.facts().await.confirmed_flush == Some(last.end) });
    timeout(Duration::from_secs(3), told).await.unwrap();
    drop(stream);
    place.end().await;
}

#[tokio::test]
async fn what_is_not_published_moves_the_position_along() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    place.run("CREATE TABLE other (v text)").await;
    let mut stream = place.open(&tables, from).await.unwrap();
    place.run("INSERT INTO other VALUES (repeat('x', 100))").await;
    let end: PgLsn = place.value("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    let at = loop {
        match next(&mut stream).await {
            Event::Idle { at } if at >= end => break at,
            Event::Change { .. } => panic!("not published"),
            _ => {}
        }
    };
    stream.confirm(at);
    stream.close().await;
    assert_eq!(place.facts().await.confirmed_flush, Some(at));
    insert(&place, 1).await;
    let mut stream = place.open(&tables, at).await.unwrap();
    assert_eq!(id(transaction(&mut stream).await), "1");
    place.end().await;
}

#[tokio::test]
async fn a_busy_consumer_is_not_cut_off_and_what_is_read_ahead_is_bounded() {
    const ROWS: usize = 150_000;
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let mut config = place.config();
    config.options("-c wal_sender_timeout=2s");
    let slot = place.slot();
    let mut stream = ChangeStream::open(&config, None, &slot, "Wakala p", &tables, from, Options::default())
        .await
        .unwrap();
    // With nothing to read: three times the timeout.
    tokio::time::sleep(Duration::from_secs(6)).await;
    insert(&place, 0).await;
    assert_eq!(id(transaction(&mut stream).await), "0");
    // With more than it reads ahead.
    place
        .run(&format!("INSERT INTO t SELECT 1, i, repeat('x', 100) FROM generate_series(1, {ROWS}) AS i"))
        .await;
    until(|| async { stream.read_ahead() >= READ_AHEAD }).await;
    let process = place.facts().await.active_pid;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(place.facts().await.active_pid, process);
    // Before the consumer takes it, and while it does.
    let mut most = stream.read_ahead();
    let mut rows = 0;
    while rows < ROWS {
        match next(&mut stream).await {
            Event::Change { .. } => rows += 1,
            Event::Begin { .. } | Event::Idle { .. } => {}
            other => panic!("{other:?}"),
        }
        most = most.max(stream.read_ahead());
    }
    assert!(most < READ_AHEAD + 256 * 1024, "{most}");
    assert!(matches!(next(&mut stream).await, Event::Commit { .. }));
    place.end().await;
}

#[tokio::test]
async fn a_large_value_comes_whole_and_one_at_a_time() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    for number in 1..=3 {
        place.run(&format!("INSERT INTO t VALUES (1, {number}, repeat('{number}', 20000000))")).await;
    }
    for number in 1..=3_u8 {
        let [Op::Insert(row)] = &transaction(&mut stream).await.ops()[..] else { panic!("no insert") };
        let Value::Text(bytes) = &row[2] else { panic!("no text") };
        assert!(bytes.len() == 20_000_000 && bytes.iter().all(|byte| *byte == b'0' + number));
        assert!(stream.read_ahead() < READ_AHEAD + 21_000_000, "{}", stream.read_ahead());
    }
    place.end().await;
}

#[tokio::test]
async fn giving_up_waiting_loses_nothing_and_ready_does_not_wait() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let mut stream = place.open(&tables, from).await.unwrap();
    let writer = async {
        for number in 0..300 {
            insert(&place, number).await;
        }
    };
    let reader = async {
        let (mut seen, mut given_up) = (Vec::new(), 0);
        while seen.len() < 300 {
            match timeout(Duration::from_micros(200), stream.next()).await {
                Err(_) => given_up += 1,
                Ok(Ok(Event::Change { op: Op::Insert(row), .. })) => seen.push(plain(&row)[1].clone()),
                Ok(event) => drop(event.unwrap()),
            }
        }
        assert!(given_up > 0);
        seen
    };
    let (seen, ()) = tokio::join!(reader, writer);
    assert!(seen.iter().map(|id| id.parse::<u32>().unwrap()).eq(0..300));
    timeout(PATIENCE, async {
        // What is left of it: the commit, and where the server stands.
        while let Some(event) = stream.ready() {
            assert!(matches!(event.unwrap(), Event::Commit { .. } | Event::Idle { .. }));
        }
    })
    .await
    .unwrap();
    place.end().await;
}

#[tokio::test]
async fn a_slot_has_one_reader() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let stream = place.open(&tables, from).await.unwrap();
    let reader = place.facts().await.active_pid.unwrap();
    let error = place.open(&tables, from).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }), "{error}");
    assert!(error.to_string().contains(&reader.to_string()), "{error}");
    // At once after the close, not only some time after.
    stream.close().await;
    place.open(&tables, from).await.unwrap().close().await;
    // After a drop, soon.
    drop(place.open(&tables, from).await.unwrap());
    until(|| async { place.facts().await.active_pid.is_none() }).await;
    place.end().await;
}

#[tokio::test]
async fn no_more_rights_than_replication_are_needed() {
    let place = Place::fresh().await;
    let (tables, from) = numbers(&place).await;
    let role = format!("{}_role", place.database);
    place.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'word'")).await;
    let open = async |password: &str| {
        let mut config = place.config();
        config.user(&role).password(password);
        ChangeStream::open(&config, None, &place.slot(), "Wakala p", &tables, from, Options::default()).await
    };
    for (password, words) in [("word", "REPLICATION"), ("wrong", "password")] {
        let error = open(password).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    place.run(&format!("ALTER ROLE {role} REPLICATION")).await;
    let mut stream = open("word").await.unwrap();
    insert(&place, 1).await;
    assert_eq!(id(transaction(&mut stream).await), "1");
    assert_eq!(stream.source().timeline, 1);
    let control = place.value("SELECT system_identifier FROM pg_control_system()").await;
    assert_eq!(stream.source().system_identifier, control);
    stream.close().await;
    place.end().await;
    let server = Place::fresh().await;
    server.run(&format!("DROP ROLE {role}")).await;
}
