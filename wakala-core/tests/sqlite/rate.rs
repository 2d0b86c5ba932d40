//! How fast lines are written, beside bare durable inserts into the same sort of database. No promise: a number to look at.

use std::time::Instant;

use rusqlite::{Connection, params};
use tempfile::tempdir;
use wakala_core::{RunStore, SqliteStore};

use crate::support::{HOUR, Writer, whole};

#[tokio::test]
#[allow(clippy::print_stdout)]
async fn appends_a_second() {
    const COUNT: u64 = 300;
    let folder = tempdir().unwrap();
    let bare = Connection::open(folder.path().join("bare.db")).unwrap();
    bare.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE lines (seq INTEGER, body TEXT)",
    )
    .unwrap();
    let store = SqliteStore::open(folder.path().join("runs.db")).await.unwrap();
    let mut writer = Writer::create(&store, "a", HOUR).await;
    let body = "x".repeat(120);
    // In turns, so that whatever else the disk does meets both.
    let (mut inserts, mut appends) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    for seq in 0..COUNT {
        let begin = Instant::now();
        bare.execute("INSERT INTO lines VALUES (?1, ?2)", params![i64::try_from(seq).unwrap(), body])
            .unwrap();
        inserts += begin.elapsed();
        let begin = Instant::now();
        writer.append().await.unwrap();
        appends += begin.elapsed();
    }
    assert_eq!(whole(&store.load(&"a".into()).await.unwrap()), COUNT + 1);
    let rate = |time: std::time::Duration| COUNT as f64 / time.as_secs_f64();
    println!("{:.0} appends/s, {:.0} bare durable inserts/s", rate(appends), rate(inserts));
}
