//! Lost answers, dead servers, slow networks: what the errors say must be true.

use std::time::Duration;

use wakala_core::store::{Release, Takeover};
use wakala_core::{ErrorKind, Retry, RunStore};
use wakala_db::PostgresStore;
use wakala_testbed::{Link, PgBouncer, PostgresServer, wait_until};

use crate::rig::{
    DATABASE, MINUTE, OWNER, bouncer, create, fresh, keys, line, new_run, pool, server, start, terms,
};

const SAFE: Retry = Retry::Safe { after: None };
const SHORT: Duration = Duration::from_millis(500);

/// A store with one run, which is reached through a link.
async fn linked(server: &PostgresServer) -> (PostgresStore, Link) {
    let link = server.link().unwrap();
    let store = fresh(&server.at_port(link.port()), 2).await;
    create(&store, "a", &["x"]).await.unwrap();
    (store, link)
}

#[tokio::test]
async fn a_lost_answer_to_a_write_is_to_be_observed_and_may_have_happened() {
    let (store, link) = linked(server().await).await;
    let run = "a".into();
    link.lose_reply_to("append");
    let error = store.append(&run, 1, line("a", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst), "{error:?}");
    // The next call has another connection, and sees that it did happen.
    assert_eq!(store.load(&run).await.unwrap().lines[1], line("a", 1));

    link.lose_reply_to("create_run");
    let error = create(&store, "b", &["y"]).await.unwrap_err();
    assert_eq!(error.retry(), Retry::ObserveFirst, "{error:?}");
    assert_eq!(store.load(&"b".into()).await.unwrap().lines, [line("b", 0)]);

    link.lose_reply_to("release");
    let error = store.release(&run, 1, Release::Closed).await.unwrap_err();
    assert_eq!(error.retry(), Retry::ObserveFirst, "{error:?}");
    store.release(&run, 1, Release::Closed).await.unwrap();
    assert_eq!(link.replies_lost(), 3);
}

#[tokio::test]
async fn a_lost_answer_to_a_read_is_safe_to_repeat() {
    let (store, link) = linked(server().await).await;
    link.lose_reply_to("FROM");
    let error = store.load(&"a".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error:?}");
    store.load(&"a".into()).await.unwrap();
    assert_eq!(link.replies_lost(), 1);
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let (store, link) = linked(server().await).await;
    link.cut().await.unwrap();
    let error = wait_until("the pool to notice", MINUTE, || async {
        match store.append(&"a".into(), 1, line("a", 1)).await {
            // A connection that was idle is found broken at the latest when it is used.
            Err(error) if error.retry() == Retry::ObserveFirst => Err("still a broken connection".into()),
            answer => Ok(answer.unwrap_err()),
        }
    });
    let error = error.await.unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error:?}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    link.restore().await.unwrap();
    store.append(&"a".into(), 1, line("a", 1)).await.unwrap();
    assert_eq!(store.load(&"a".into()).await.unwrap().lines.len(), 2);
}

#[tokio::test]
async fn a_silent_network_is_given_up_and_its_connection_not_used_again() {
    let (store, link) = linked(server().await).await;
    let impatient = store.clone().with_limit(SHORT);
    link.freeze().await.unwrap();
    let error = impatient.append(&"a".into(), 1, line("a", 1)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::DeadlineExceeded, Retry::ObserveFirst),
        "{error:?}"
    );
    let error = impatient.load(&"a".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, SAFE), "{error:?}");
    link.restore().await.unwrap();
    // It may have arrived meanwhile, or not: that is what the error said.
    let lines = store.load(&"a".into()).await.unwrap().lines.len();
    assert!((1..=2).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn a_caller_that_leaves_takes_the_connection_with_it() {
    let store = fresh(server().await, 1).await;
    create(&store, "a", &["x"]).await.unwrap();
    let mut other = server().await.connect(DATABASE, OWNER).await.unwrap();
    let lock = other.transaction().await.unwrap();
    let schema = store.schema();
    lock.execute(&format!("UPDATE {schema}.run SET closed = false"), &[]).await.unwrap();
    let run = "a".into();
    let left = tokio::time::timeout(SHORT, store.append(&run, 1, line("a", 1))).await;
    assert!(left.is_err(), "a locked run was written");
    // The pool has one connection only: it would wait behind the statement that nobody waits for.
    store.list().await.unwrap();
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_full_pool_is_safe_to_wait_for() {
    let store = fresh(server().await, 1).await;
    let pool = pool(server().await, OWNER, 1);
    let taken = pool.get().await.unwrap();
    let full = PostgresStore::new(pool).with_schema(store.schema().clone()).with_limit(SHORT);
    let error = create(&full, "a", &["x"]).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, SAFE), "{error:?}");
    drop(taken);
    create(&full, "a", &["x"]).await.unwrap();
}

#[tokio::test]
async fn what_was_answered_survives_a_killed_server_and_leases_go_on() {
    let server = start().await;
    let store = fresh(&server, 4).await;
    let run = "a".into();
    create(&store, "a", &["x"]).await.unwrap();
    for seq in 1..=20 {
        store.append(&run, 1, line("a", seq)).await.unwrap();
    }
    server.kill().await.unwrap();
    let error = store.append(&run, 1, line("a", 21)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    server.start().await.unwrap();
    wait_until("the pool to have live connections", MINUTE, || async { Ok(store.list().await?) })
        .await
        .unwrap();
    let loaded = store.load(&run).await.unwrap();
    assert_eq!(loaded.lines, (0..=20).map(|seq| line("a", seq)).collect::<Vec<_>>());
    store.append(&run, 1, line("a", 21)).await.unwrap();
    let held = store.acquire(&run, &keys(&["x"]), &terms("thief"), Takeover::Lapsed).await.unwrap_err();
    assert!(held.to_string().contains("maker of a"), "{held}");
}

#[tokio::test]
async fn a_server_that_starts_or_is_full_or_read_only_is_not_used_yet() {
    let server = PostgresServer::builder()
        .with_role(OWNER, "secret")
        .with_database(DATABASE, OWNER)
        .with_max_connections(6)
        .with_setting("superuser_reserved_connections", 3);
    let server = server.start().await.unwrap();
    let store = fresh(&server, 1).await;
    create(&store, "a", &["x"]).await.unwrap();

    server
        .execute(DATABASE, &format!("ALTER ROLE {OWNER} SET default_transaction_read_only TO on"))
        .await
        .unwrap();
    let read_only = crate::rig::same(&store, &server, 1);
    let error = read_only.append(&"a".into(), 1, line("a", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error:?}");
    assert_eq!(read_only.load(&"a".into()).await.unwrap().lines.len(), 1);

    let _third = server.connect(DATABASE, OWNER).await.unwrap();
    let full = crate::rig::same(&store, &server, 1);
    let error = create(&full, "b", &["y"]).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error:?}");
    assert!(error.to_string().contains("53300"), "{error}");
}

#[tokio::test]
async fn a_terminated_session_leaves_a_write_open() {
    let store = fresh(server().await, 1).await;
    create(&store, "a", &["x"]).await.unwrap();
    let mut other = server().await.connect(DATABASE, OWNER).await.unwrap();
    let lock = other.transaction().await.unwrap();
    let schema = store.schema();
    lock.execute(&format!("UPDATE {schema}.run SET closed = false"), &[]).await.unwrap();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.append(&"a".into(), 1, line("a", 1)).await })
    };
    let ended = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE wait_event_type = 'Lock' AND query LIKE '%{schema}%append%'"
    );
    wait_until("the end of the session", MINUTE, || async {
        match server().await.value(DATABASE, &ended).await?.as_str() {
            "1" => Ok(()),
            other => Err(format!("{other} sessions wait").into()),
        }
    })
    .await
    .unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst), "{error:?}");
    assert!(error.to_string().contains("57P01"), "{error}");
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn a_deadlock_with_a_stranger_is_tried_again() {
    let store = fresh(server().await, 2).await;
    create(&store, "a", &["x"]).await.unwrap();
    create(&store, "b", &["y"]).await.unwrap();
    let schema = store.schema().clone();
    let mut stranger = server().await.connect(DATABASE, OWNER).await.unwrap();
    // The stranger looks for a deadlock late, so it is ours that gives way.
    stranger.batch_execute("SET lock_timeout = 0").await.unwrap();
    let transaction = stranger.transaction().await.unwrap();
    transaction
        .execute(&format!("UPDATE {schema}.run SET closed = closed WHERE run = 'b'"), &[])
        .await
        .unwrap();
    let superseding = {
        let store = store.clone();
        let mut new = new_run("c", &["x"]);
        new.supersedes = vec!["a".into(), "b".into()];
        tokio::spawn(async move { store.create(new).await })
    };
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{schema}%create_run%'"
    );
    let waiting = || async {
        match server().await.value(DATABASE, &waits).await?.as_str() {
            "1" => Ok(()),
            other => Err(format!("{other} sessions wait").into()),
        }
    };
    wait_until("a create that waits for b", MINUTE, waiting).await.unwrap();
    // It holds a and waits for b; we hold b and ask for a. Who waited first finds the deadlock first and gives way.
    let sql = format!("UPDATE {schema}.run SET closed = closed WHERE run = 'a'");
    transaction.execute(&sql, &[]).await.unwrap();
    transaction.commit().await.unwrap();
    superseding.await.unwrap().unwrap();
    assert!(store.load(&"a".into()).await.unwrap().head.resources.is_empty());
}

#[tokio::test]
async fn a_pgbouncer_without_a_free_server_connection_did_not_pass_the_statement_on() {
    let bouncer = PgBouncer::builder(server().await)
        .with_default_pool_size(1)
        .with_setting("query_wait_timeout", 1)
        .start()
        .await
        .unwrap();
    let store = fresh(&bouncer, 2).await;
    create(&store, "a", &["x"]).await.unwrap();
    let mut hog = bouncer.connect(DATABASE, OWNER).await.unwrap();
    let held = hog.transaction().await.unwrap();
    let error = store.append(&"a".into(), 1, line("a", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error:?}");
    assert!(error.to_string().contains("query_wait_timeout"), "{error}");
    held.rollback().await.unwrap();
    store.append(&"a".into(), 1, line("a", 1)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_behind_pgbouncer_leaves_a_write_open() {
    let own = start().await;
    let link = own.link().unwrap();
    let bouncer = PgBouncer::builder(&own).with_server_link(&link).start().await.unwrap();
    let store = fresh(&bouncer, 2).await;
    create(&store, "a", &["x"]).await.unwrap();
    link.lose_reply_to("append");
    let error = store.append(&"a".into(), 1, line("a", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst), "{error:?}");
    let lines = wait_until("PgBouncer to connect again", MINUTE, || async {
        Ok(store.load(&"a".into()).await?.lines)
    });
    assert_eq!(lines.await.unwrap().len(), 2);
    bouncer.kill().await.unwrap();
    let error = wait_until("the pool to notice", MINUTE, || async {
        match store.append(&"a".into(), 1, line("a", 2)).await {
            Err(error) if error.retry() == Retry::ObserveFirst => Err("still a broken connection".into()),
            answer => Ok(answer.unwrap_err()),
        }
    });
    assert_eq!(error.await.unwrap().retry(), SAFE);
}

#[tokio::test]
async fn refusals_say_so_and_are_not_tried_again() {
    let store = fresh(bouncer().await, 2).await;
    // Numbers, since the server packs what repeats.
    let long: String = (0..2_000_u64).map(|n| (n * n * 7_919 % 1_000_003).to_string()).collect();
    for resource in ["nul\0", &long] {
        let error = create(&store, "a", &[resource]).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error:?}");
    }
    assert!(store.list().await.unwrap().is_empty());

    let mut config = server().await.config(DATABASE, OWNER).unwrap();
    config.password("wrong");
    let manager = deadpool_postgres::Manager::new(config.clone(), tokio_postgres::NoTls);
    let wrong = PostgresStore::new(deadpool_postgres::Pool::builder(manager).build().unwrap());
    let error = wrong.list().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error:?}");
    let config = server().await.config("nowhere", OWNER).unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let nowhere = PostgresStore::new(deadpool_postgres::Pool::builder(manager).build().unwrap());
    let error = nowhere.list().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never), "{error:?}");
}
