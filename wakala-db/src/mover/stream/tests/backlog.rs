//! What lies far behind comes in bulk, and all of it once.

use super::*;
use crate::mover::stream::Bulk;
use crate::mover::stream::worker::READ_AHEAD;

/// Small pieces, so that there are many of them.
const SMALL: Bulk = Bulk { worth: 16 * 1024, first: 8 * 1024, most: 64 * 1024, far: 1 << 30 };

fn with(bulk: Bulk) -> Options {
    Options { bulk, ..Options::default() }
}

async fn numbered(place: &Place) -> ([Table; 1], PgLsn) {
    place.run("CREATE TABLE t (tenant int, id int, v text, PRIMARY KEY (tenant, id))").await;
    let tables = [place.table("public", "t").await];
    let from = place.published(&tables).await;
    (tables, from)
}

/// Transactions of three sessions, open across each other, rolled back in part, and of other tenants.
async fn tangle(place: &Place, rounds: i32) {
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(place.access.connect(&place.database, ROLE).await.unwrap());
    }
    for round in 0..rounds {
        for (number, client) in (0..).zip(&sessions) {
            if (round + number) % 3 == 0 {
                client.batch_execute("BEGIN").await.unwrap();
            }
            let id = 10 * round + number;
            let tenant = 1 + i32::from(id % 5 == 4);
            let sql = format!("INSERT INTO t VALUES ({tenant}, {id}, repeat('x', {}))", id % 300);
            client.batch_execute(&sql).await.unwrap();
            if (round + number) % 3 == 2 {
                let end = if id % 7 == 0 { "ROLLBACK" } else { "COMMIT" };
                client.batch_execute(end).await.unwrap();
            }
        }
    }
}

/// As the server's function has them, all at once: the transactions of which something is published, and their rows.
async fn expected(place: &Place) -> Vec<(u32, usize)> {
    let sql = format!(
        "SELECT xid::text, get_byte(data, 0) FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL, 'proto_version', '1', \
         'publication_names', '\"Wakala p\"', 'messages', 'true')",
        place.slot()
    );
    let mut found: Vec<(u32, usize)> = Vec::new();
    for row in place.client.query(&sql, &[]).await.unwrap() {
        let (xid, kind): (String, i32) = (row.get(0), row.get(1));
        match u8::try_from(kind).unwrap() {
            b'B' => found.push((xid.parse().unwrap(), 0)),
            b'D' | b'I' => found.last_mut().unwrap().1 += 1,
            _ => {}
        }
    }
    found.retain(|(_, rows)| *rows > 0);
    found
}

async fn take(stream: &mut ChangeStream, count: usize) -> Vec<(u32, usize)> {
    let mut found = Vec::new();
    while found.len() < count {
        let transaction = transaction(stream).await;
        found.push((transaction.xid, transaction.events.len()));
    }
    found
}

#[tokio::test]
async fn every_transaction_comes_once_whatever_the_pieces() {
    let place = Place::fresh().await;
    let (tables, from) = numbered(&place).await;
    tangle(&place, 150).await;
    let tiny = Bulk { first: 1000, most: 1000, ..SMALL };
    let never = Bulk { far: 0, ..SMALL };
    for bulk in [SMALL, tiny, Bulk { worth: 1, ..Bulk::default() }, never] {
        let expected = expected(&place).await;
        assert!(expected.len() > 100, "{}", expected.len());
        let mut stream = place.open_with(&tables, from, with(bulk)).await.unwrap();
        let found = take(&mut stream, expected.len()).await;
        assert!(found == expected, "{bulk:?}: {} of {}", found.len(), expected.len());
        // And it goes on with what happens now.
        place.run("INSERT INTO t VALUES (1, -1, ''); DELETE FROM t WHERE id = -1").await;
        assert_eq!(transaction(&mut stream).await.events.len(), 2, "{bulk:?}");
        // Nothing was consumed.
        stream.close().await;
        assert_eq!(place.facts().await.confirmed_flush, Some(from));
    }
    place.end().await;
}

#[tokio::test]
async fn what_is_durable_is_left_behind_and_a_stream_goes_on_from_any_place() {
    let place = Place::fresh().await;
    let (tables, from) = numbered(&place).await;
    tangle(&place, 150).await;
    let expected = expected(&place).await;
    let (mut found, mut at) = (Vec::new(), from);
    // Each reads some and is gone, as after a crash; what was confirmed may be more than the slot knows.
    while found.len() < expected.len() {
        let mut stream = place.open_with(&tables, at, with(SMALL)).await.unwrap();
        for _ in 0..30.min(expected.len() - found.len()) {
            let transaction = transaction(&mut stream).await;
            found.push((transaction.xid, transaction.events.len()));
            at = transaction.end;
            stream.confirm(at);
        }
        stream.close().await;
    }
    assert!(found == expected, "{found:?}");
    let confirmed = place.facts().await.confirmed_flush.unwrap();
    assert!(confirmed > from && confirmed <= at, "{from} {confirmed} {at}");
    place.end().await;
}

#[tokio::test]
async fn a_slot_that_is_lost_or_taken_meanwhile_is_an_error() {
    let place = Place::fresh().await;
    let (tables, from) = numbered(&place).await;
    tangle(&place, 100).await;
    // It waits for the log's end as long as this one does not let go.
    let first = place.open_with(&tables, from, Options::default()).await.unwrap();
    until(|| async { place.facts().await.active_pid.is_some() }).await;
    let mut second = place.open_with(&tables, from, with(SMALL)).await.unwrap();
    let error = failure(&mut second).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }), "{error}");
    first.close().await;
    drop(second);
    let gone = place.open_with(&tables, from, with(SMALL)).await.unwrap();
    drop(gone);
    drop_slot(&place.client, &place.slot()).await.unwrap();
    let opened = place.open_with(&tables, from, with(SMALL)).await;
    let error = match opened {
        Err(error) => error,
        Ok(mut stream) => failure(&mut stream).await,
    };
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never), "{error}");
}

#[tokio::test]
async fn a_consumer_that_is_slow_is_not_read_ahead_for() {
    let place = Place::fresh().await;
    let (tables, from) = numbered(&place).await;
    place.run("INSERT INTO t SELECT 1, i, repeat('x', 100) FROM generate_series(1, 100000) AS i").await;
    let mut stream = place.open(&tables, from).await.unwrap();
    until(|| async { stream.read_ahead() >= READ_AHEAD }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stream.read_ahead() < READ_AHEAD + 256 * 1024, "{}", stream.read_ahead());
    assert_eq!(transaction(&mut stream).await.events.len(), 100_000);
    stream.close().await;
    place.end().await;
}
