//! Several processes on one file, and what one leaves when it is killed.

use std::task::{Context, Waker};

use tempfile::tempdir;
use wakala_core::store::{LeaseState, Takeover};
use wakala_core::{ErrorKind, RunStore, SqliteStore};

use crate::support::{HOUR, Other, Writer, command, role, say, terms, wait_for_end, whole};

/// What the processes do that the tests start.
#[tokio::test]
#[ignore = "a process that other tests start"]
async fn another_process() {
    let (role, file) = role();
    let store = SqliteStore::open(&file).await.unwrap();
    match role.as_str() {
        // Makes a run for an hour and stays.
        "hold" => {
            Writer::create(&store, "theirs", HOUR).await;
            say("held");
            wait_for_end();
        }
        // Makes a run and writes until it is killed, or an append fails.
        "write" => {
            let mut writer = Writer::create(&store, "theirs", HOUR).await;
            say(0);
            loop {
                match writer.append().await {
                    Ok(seq) => say(seq),
                    Err(error) => {
                        say(format!("{error:?}"));
                        break;
                    }
                }
            }
        }
        // Takes every run that has lapsed, as soon as it is told to.
        "take" => {
            say("ready");
            wait_for_end();
            for head in store.list().await.unwrap() {
                let terms = terms("taker", HOUR);
                match store.acquire(&head.run, &head.resources, &terms, Takeover::Lapsed).await {
                    Ok(lease) => say(format!("{} {}", head.run, lease.epoch)),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
                }
            }
            say("done");
            // Else the next one finds it gone, and takes what it has taken.
            std::future::pending::<()>().await;
        }
        role => panic!("no such role: {role}"),
    }
}

#[tokio::test]
async fn a_lease_is_held_while_its_process_lives_and_lapses_when_it_is_killed() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let mut other = Other::start(command("hold", &file));
    other.expect("held");
    let store = SqliteStore::open(&file).await.unwrap();
    let run = "theirs".into();
    let held = store.load(&run).await.unwrap().head;
    assert!(matches!(held.lease, LeaseState::Held { .. }), "{held:?}");
    let refused = store.acquire(&run, &[], &terms("us", HOUR), Takeover::Lapsed).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);

    other.kill();
    let gone = store.load(&run).await.unwrap().head;
    assert_eq!(gone.lease, LeaseState::Lapsed { owner: "somebody".to_owned() });
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&gone));
    assert_eq!(gone.resources, ["held by theirs".into()], "who is gone still holds its resources");
    let lease = store.acquire(&run, &gone.resources, &terms("us", HOUR), Takeover::Lapsed).await.unwrap();
    assert_eq!(lease.epoch, 2);
    // What the killed process left beside the file goes with the next one that drives.
    let owners = || {
        let files = folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name());
        files.filter(|name| name.to_string_lossy().starts_with("runs.db-owner-")).count()
    };
    assert_eq!(owners(), 2);
    drop(store);
    let store = SqliteStore::open(&file).await.unwrap();
    assert_eq!(owners(), 1);
    store.renew(&run, 2, HOUR).await.unwrap();
    assert_eq!(owners(), 1);
    drop(store);
    assert_eq!(owners(), 0);
}

#[tokio::test]
async fn a_store_that_is_dropped_gives_its_leases_up() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let (ours, theirs) = (SqliteStore::open(&file).await.unwrap(), SqliteStore::open(&file).await.unwrap());
    Writer::create(&ours, "ours", HOUR).await;
    let run = "ours".into();
    assert!(matches!(theirs.load(&run).await.unwrap().head.lease, LeaseState::Held { .. }));
    // Whoever renews a lease is the one who drives.
    theirs.renew(&run, 1, HOUR).await.unwrap();
    drop(ours);
    assert!(matches!(theirs.load(&run).await.unwrap().head.lease, LeaseState::Held { .. }));
    let ours = SqliteStore::open(&file).await.unwrap();
    drop(theirs);
    assert!(matches!(ours.load(&run).await.unwrap().head.lease, LeaseState::Lapsed { .. }));
    // Nothing is left beside the database but what SQLite has there while it is open.
    drop(ours);
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["runs.db"]);
}

#[tokio::test]
async fn of_processes_that_take_the_same_runs_at_once_one_gets_each() {
    const RUNS: usize = 20;
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    {
        let store = SqliteStore::open(&file).await.unwrap();
        for run in 0..RUNS {
            Writer::create(&store, &format!("run-{run:02}"), HOUR).await;
        }
    }
    let mut others: Vec<Other> = (0..4).map(|_| Other::start(command("take", &file))).collect();
    others.iter_mut().for_each(|other| other.expect("ready"));
    others.iter_mut().for_each(|other| drop(other.child.stdin.take()));
    let mut taken: Vec<String> = Vec::new();
    for other in &mut others {
        while let Some(said) = other.next().filter(|said| said != "done") {
            taken.push(said);
        }
    }
    taken.sort_unstable();
    let each_once: Vec<String> = (0..RUNS).map(|run| format!("run-{run:02} 2")).collect();
    assert_eq!(taken, each_once);
}

/// A call whose future is dropped is carried out, and all that came before a drop of the store is.
#[tokio::test]
async fn dropped_calls_are_carried_out() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let mut writer = Writer::create(&store, "ours", HOUR).await;
    let mut append = Box::pin(writer.append());
    let polled = append.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "it is on the disk before anything was written");
    drop(append);
    drop(store);
    let store = SqliteStore::open(&file).await.unwrap();
    assert_eq!(whole(&store.load(&"ours".into()).await.unwrap()), 2);
}
