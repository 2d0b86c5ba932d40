//! A primary with a real standby, a receiver of WAL, and slots that keep it.

use wakala_core::Unit;
use wakala_db::PostgresMetrics;
use wakala_testbed::{PostgresBuilder, PostgresServer};

use crate::rig::{APP, SHOP, ask, builder, metrics, of, start, until, value};
use crate::standby::{NAME, REPLICATOR, Standby, allow_replication, receiver};

const BYTES: &str = "postgres.replication_lag_bytes";
const SECONDS: &str = "postgres.replication_lag_seconds";
const STANDBYS: &str = "postgres.standbys";
const RETAINED: &str = "postgres.slot_retained_bytes";
const MEBIBYTE: f64 = 1024.0 * 1024.0;

async fn primary(settings: impl FnOnce(PostgresBuilder) -> PostgresBuilder) -> PostgresServer {
    let builder = builder().with_role(REPLICATOR, "word").with_setting("wal_level", "logical");
    let server = start(settings(builder)).await;
    allow_replication(&server).await;
    server
}

/// Some 5 MiB of WAL.
async fn write(server: &PostgresServer) {
    let sql = "CREATE TABLE IF NOT EXISTS w (t text); \
               INSERT INTO w SELECT repeat(md5(n::text), 16) FROM generate_series(1, 8000) AS n";
    server.execute(SHOP, sql).await.unwrap();
}

async fn caught_up(source: &PostgresMetrics) {
    until(source, BYTES, |lag| lag == Some(0.0)).await;
    until(source, SECONDS, |lag| lag == Some(0.0)).await;
}

#[tokio::test]
async fn a_standby_that_does_not_replay_lags_and_both_sides_see_it() {
    let server = primary(|builder| builder).await;
    let source = metrics(&server);
    assert_eq!(
        (value(&source, SECONDS).await, value(&source, BYTES).await),
        (None, None),
        "absence is not zero"
    );
    assert_eq!(value(&source, STANDBYS).await, Some(0.0));

    let standby = Standby::of(&server).await;
    let behind = metrics(&standby.access);
    until(&source, STANDBYS, |count| count == Some(1.0)).await;
    caught_up(&source).await;
    caught_up(&behind).await;
    // So that there is a last transaction to be as old as.
    write(&server).await;
    caught_up(&source).await;
    assert_eq!(value(&source, of(SECONDS, "standby", NAME)).await, Some(0.0));
    assert_eq!(value(&source, of(SECONDS, "standby", "third")).await, None);

    standby.execute("SELECT pg_wal_replay_pause()").await;
    write(&server).await;
    for (side, source) in [("primary", &source), ("standby", &behind)] {
        until(source, BYTES, |lag| lag.is_some_and(|lag| lag > MEBIBYTE)).await;
        let first = until(source, SECONDS, |lag| lag.is_some_and(|lag| lag > 0.5)).await;
        let next = until(source, SECONDS, |lag| lag.is_some_and(|lag| lag > first + 1.0)).await;
        assert!(next < 60.0, "{side}: {next} s");
    }
    let sample = ask(&source, BYTES).await.unwrap().unwrap();
    assert_eq!((sample.unit, sample.coverage.answered, sample.coverage.expected), (Unit::Bytes, 1, 1));

    // A standby has sessions too, and none of its own are counted.
    let _session = standby.access.connect(SHOP, APP).await.unwrap();
    until(&behind, "postgres.connections_idle", |all| all == Some(1.0)).await;
    assert_eq!(value(&behind, "postgres.connections_limit").await, Some(97.0));
    assert_eq!(value(&behind, "postgres.prepared_transactions").await, Some(0.0));

    standby.execute("SELECT pg_wal_replay_resume()").await;
    caught_up(&source).await;
    caught_up(&behind).await;
}

#[tokio::test]
async fn a_standby_that_hears_nothing_does_not_look_current() {
    let server = primary(|builder| builder).await;
    let link = server.link().unwrap();
    let standby = Standby::of(&server.at_port(link.port())).await;
    let (source, behind) = (metrics(&server), metrics(&standby.access));
    // So that there is a last transaction to be as old as.
    write(&server).await;
    until(&source, STANDBYS, |count| count == Some(1.0)).await;
    caught_up(&source).await;
    caught_up(&behind).await;

    // Nobody is told: the primary's own figure for the lag stays what it was.
    link.freeze().await.unwrap();
    write(&server).await;
    until(&source, BYTES, |lag| lag.is_some_and(|lag| lag > MEBIBYTE)).await;
    until(&source, SECONDS, |lag| lag.is_some_and(|lag| lag > 3.0)).await;
    link.restore().await.unwrap();
    caught_up(&source).await;

    link.cut().await.unwrap();
    until(&source, STANDBYS, |count| count == Some(0.0)).await;
    until(&source, BYTES, |lag| lag.is_none()).await;
    // It has replayed all that it has received, and knows that this is not all.
    until(&behind, BYTES, |lag| lag.is_none()).await;
    let first = until(&behind, SECONDS, |lag| lag.is_some_and(|lag| lag > 0.0)).await;
    until(&behind, SECONDS, |lag| lag.is_some_and(|lag| lag > first)).await;
    link.restore().await.unwrap();
    caught_up(&behind).await;
}

#[tokio::test]
async fn one_that_only_receives_is_measured_by_what_it_wrote() {
    let server = primary(|builder| builder).await;
    let source = metrics(&server);
    let _receiver = receiver(&server);
    until(&source, STANDBYS, |count| count == Some(1.0)).await;
    let receiver = || of(BYTES, "standby", "pg_receivewal");
    until(&source, receiver(), |lag| lag == Some(0.0)).await;
    write(&server).await;
    until(&source, receiver(), |lag| lag.is_some_and(|lag| lag < MEBIBYTE)).await;
}

#[tokio::test]
async fn slots_that_nobody_reads_keep_wal_until_they_are_lost() {
    let server = primary(|builder| builder).await;
    let source = metrics(&server);
    assert_eq!(value(&source, RETAINED).await, Some(0.0), "no slot keeps anything");
    assert_eq!(value(&source, of(RETAINED, "slot", "left")).await, None);
    let sql = "SELECT pg_create_logical_replication_slot('left', 'pgoutput')";
    server.execute(SHOP, sql).await.unwrap();
    server.execute(SHOP, "SELECT pg_create_physical_replication_slot('never_read')").await.unwrap();
    assert_eq!(value(&source, "postgres.slots_inactive").await, Some(2.0));
    let before = value(&source, RETAINED).await.unwrap();
    write(&server).await;
    let retained = value(&source, RETAINED).await.unwrap();
    assert!(retained > before + 4.0 * MEBIBYTE, "{before} then {retained}");
    assert_eq!(value(&source, of(RETAINED, "slot", "left")).await, Some(retained));
    assert_eq!(value(&source, of(RETAINED, "slot", "never_read")).await, None, "it reserves nothing");
    assert_eq!(value(&source, "postgres.slots_lost").await, Some(0.0));

    server.execute(SHOP, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await.unwrap();
    server.execute(SHOP, "SELECT pg_reload_conf()").await.unwrap();
    for _ in 0..3 {
        write(&server).await;
        server.execute(SHOP, "SELECT pg_switch_wal()").await.unwrap();
    }
    server.execute(SHOP, "CHECKPOINT").await.unwrap();
    until(&source, "postgres.slots_lost", |lost| lost == Some(1.0)).await;
    assert_eq!(value(&source, of(RETAINED, "slot", "left")).await, None);

    let without = metrics(&server).without_replication();
    // That of the other source.
    until(&without, "postgres.connections", |all| all == Some(1.0)).await;
}
