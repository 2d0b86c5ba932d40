//! What servers and roles say.

use std::time::Duration;

use wakala_testbed::PostgresServer;

use super::super::{Findings, Room, ServerFacts, refusals_of};
use super::rig::{NOBODY, SUPERUSER, database, heed, lines, says, server};

const ROOM: Room =
    Room { move_bytes: 1 << 30, source_free_bytes: Some(1 << 40), destination_free_bytes: Some(1 << 40) };

async fn facts(server: &PostgresServer, database: &str, role: &str) -> ServerFacts {
    ServerFacts::read(&server.connect(database, role).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn two_databases_of_a_good_server_are_accepted() {
    let server = server().await;
    let [a, b] = [database(server).await, database(server).await];
    let source = facts(server, &a, SUPERUSER).await;
    let destination = facts(server, &b, SUPERUSER).await;
    let mut found = refusals_of(&source, &destination, &ROOM, true);
    // Other tests have transactions open.
    found.warnings.retain(|finding| finding.object != "source: transactions");
    assert_eq!(found, Findings::default());
    assert!(source.superuser && source.may_create && source.may_set_replica && source.version_num >= 140_000);
    assert_eq!((source.timeline, source.system_identifier.len()), (1, 19));
    assert!(
        u64::from(source.wal_lsn) > 0 && source.encoding == "UTF8" && source.collation.contains("C.UTF-8")
    );
    let same = refusals_of(&source, &source, &ROOM, true);
    assert!(says(&same.refusals, &["the same database of the same server"]), "{same:#?}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_what_to_grant_and_that_suffices() {
    let server = server().await;
    let database = database(server).await;
    let role = "newcomer";
    server.execute("postgres", "CREATE ROLE newcomer LOGIN PASSWORD 'secret'").await.unwrap();
    let access = server.with_role(role, "secret");
    let read = async || ServerFacts::read(&access.connect(&database, role).await.unwrap()).await.unwrap();
    let good =
        ServerFacts { system_identifier: "other".to_owned(), ..facts(server, &database, SUPERUSER).await };
    let poor = read().await;
    assert_eq!((poor.system_identifier.len(), poor.timeline), (19, 1), "what everybody may read");
    let found = refusals_of(&poor, &good, &ROOM, true);
    let words: [&[&str]; 3] = [
        &[
            "source: role \"newcomer\": it may not read a stream of changes",
            "ALTER ROLE \"newcomer\" REPLICATION",
        ],
        &[
            "it may not set session_replication_role",
            "GRANT SET ON PARAMETER session_replication_role TO \"newcomer\"",
        ],
        &["it may not create publications and schemas", "GRANT CREATE ON DATABASE"],
    ];
    for words in words {
        assert!(says(&found.refusals, words), "{words:?}\n{:#?}", lines(&found.refusals));
    }
    assert_eq!(found.refusals.len(), 3, "{:#?}", lines(&found.refusals));
    let superuser = server.connect(&database, SUPERUSER).await.unwrap();
    for finding in &found.refusals {
        heed(&superuser, finding.remedy.split(" (").next().unwrap()).await;
    }
    let found = refusals_of(&read().await, &good, &ROOM, true);
    assert!(found.refusals.is_empty(), "{:#?}", lines(&found.refusals));
}

#[tokio::test]
async fn a_server_that_cannot_is_refused() {
    let server = PostgresServer::builder()
        .with_setting("wal_level", "replica")
        .with_setting("max_replication_slots", 0)
        .with_setting("max_wal_senders", 0)
        .with_setting("max_slot_wal_keep_size", "64MB")
        .start()
        .await
        .unwrap();
    server
        .execute("postgres", "ALTER DATABASE postgres SET default_transaction_read_only = on")
        .await
        .unwrap();
    let source = facts(&server, "postgres", SUPERUSER).await;
    let destination = facts(super::rig::server().await, "postgres", NOBODY).await;
    assert_eq!(source.max_slot_wal_keep_bytes, Some(64 << 20));
    let found = refusals_of(&source, &destination, &ROOM, true);
    let words: [&[&str]; 4] = [
        &["source: wal_level: it is replica", "ALTER SYSTEM SET wal_level = logical", "frozen copy"],
        &["source: max_replication_slots: all 0 slots"],
        &["source: max_wal_senders: all 0 senders"],
        &["source: default_transaction_read_only"],
    ];
    for words in words {
        assert!(says(&found.refusals, words), "{words:?}\n{:#?}", lines(&found.refusals));
    }
    assert!(says(
        &found.warnings,
        &["source: max_slot_wal_keep_size: a slot keeps at most 64 MB while 1024 MB"]
    ));
    assert!(says(&found.refusals, &["destination: role \"nobody\""]));
}

#[tokio::test]
async fn slots_in_use_and_open_transactions_are_seen() {
    let server = PostgresServer::builder()
        .with_setting("wal_level", "logical")
        .with_setting("max_replication_slots", 1)
        .start()
        .await
        .unwrap();
    server.execute("postgres", "SELECT pg_create_physical_replication_slot('theirs')").await.unwrap();
    let open = server.connect("postgres", SUPERUSER).await.unwrap();
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let source = facts(&server, "postgres", SUPERUSER).await;
    assert_eq!((source.used_replication_slots, source.max_replication_slots), (1, 1));
    assert!(source.oldest_transaction.is_some());
    let source = ServerFacts { oldest_transaction: Some(Duration::from_secs(75)), ..source };
    let found = refusals_of(&source, &source, &ROOM, true);
    assert!(says(&found.refusals, &["max_replication_slots: all 1 slots are in use"]), "{found:#?}");
    assert!(says(&found.warnings, &["one is open for 75 s"]), "{found:#?}");
}

#[tokio::test]
async fn what_one_server_cannot_show_is_judged_too() {
    let server = server().await;
    let good = facts(server, "postgres", SUPERUSER).await;
    let other = ServerFacts { system_identifier: "other".to_owned(), ..good.clone() };
    let refused: [(ServerFacts, &str); 4] = [
        (
            ServerFacts { version_num: 130_004, ..other.clone() },
            "destination: version: PostgreSQL 13 is too old",
        ),
        (
            ServerFacts { in_recovery: true, ..other.clone() },
            "destination: recovery: the server is a standby",
        ),
        (
            ServerFacts { encoding: "LATIN1".to_owned(), ..other.clone() },
            "the source has UTF8, the destination LATIN1",
        ),
        (
            ServerFacts {
                version_num: 140_004,
                superuser: false,
                may_set_replica: false,
                replication: true,
                ..other.clone()
            },
            "SUPERUSER, or upgrade to 15",
        ),
    ];
    for (destination, words) in refused {
        let found = refusals_of(&good, &destination, &ROOM, true);
        assert!(says(&found.refusals, &[words]), "{words}\n{:#?}", lines(&found.refusals));
    }
    let warned: [(ServerFacts, &str); 2] = [
        (ServerFacts { version_num: 140_004, ..other.clone() }, "which is older than the source's"),
        (ServerFacts { collation: "i und".to_owned(), ..other.clone() }, "ordered differently"),
    ];
    for (destination, words) in warned {
        let found = refusals_of(&good, &destination, &ROOM, true);
        assert!(says(&found.warnings, &[words]) && found.refusals.is_empty(), "{words}\n{found:#?}");
    }
    // A clone has the identifier of its original, and is another server.
    let clone = ServerFacts { started: good.started + Duration::from_secs(1), ..good.clone() };
    assert!(refusals_of(&good, &clone, &ROOM, true).refusals.is_empty());
    let full = Room { destination_free_bytes: Some((2 << 30) - 1), ..ROOM };
    let found = refusals_of(&good, &other, &full, true);
    assert!(
        says(&found.refusals, &["destination: disk: 2047 MB are free, 2048 MB are needed"]),
        "{found:#?}"
    );
    let unknown = refusals_of(&good, &other, &Room { source_free_bytes: None, ..ROOM }, true);
    assert!(says(&unknown.warnings, &["source: disk: how much is free was not given"]), "{unknown:#?}");
}
