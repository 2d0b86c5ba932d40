//! The directory: its tables, and that of two changes one is refused.

use futures::future::join_all;
use wakala_core::{ErrorKind, Retry};
use wakala_db::{Directory, Epoch, Shard, State};

use crate::rig::{
    CONTROL, bouncer, empty, epoch, nowhere, pool, same, server, shard, start, tenant, unique, with_shards,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_migrate_at_once_also_through_pgbouncer() {
    let schema = unique("migrated");
    let mut hosts = Vec::new();
    for _ in 0..4 {
        for access in [&**server().await, &**bouncer().await] {
            hosts.push(Directory::new(pool(access, CONTROL, crate::rig::OWNER, 1), schema.clone()));
        }
    }
    for answer in join_all(hosts.iter().map(Directory::migrate)).await {
        answer.unwrap();
    }
    hosts[0].add_shard(&nowhere(1)).await.unwrap();
    assert_eq!(hosts[1].shards().await.unwrap(), [nowhere(1)]);
}

#[tokio::test]
async fn a_missing_or_newer_schema_says_what_to_do() {
    let directory = Directory::new(pool(server().await, CONTROL, crate::rig::OWNER, 1), unique("none"));
    let error = directory.find(&tenant("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error:?}");
    assert!(error.to_string().contains("run migrate once"), "{error}");

    let directory = empty(server().await, 1).await;
    let sql = format!("INSERT INTO {}.directory_version (version) VALUES (99)", directory.schema());
    server().await.execute(CONTROL, &sql).await.unwrap();
    for error in [directory.migrate().await.unwrap_err(), directory.shards().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    }
}

#[tokio::test]
async fn the_directory_and_the_run_store_share_a_schema() {
    let directory = empty(server().await, 1).await;
    let pool = pool(server().await, CONTROL, crate::rig::OWNER, 1);
    let store = wakala_db::PostgresStore::new(pool).with_schema(directory.schema().clone());
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    directory.migrate().await.unwrap();
}

#[tokio::test]
async fn shards_are_added_once_and_changed() {
    let directory = empty(server().await, 2).await;
    let first = nowhere(1).with_weight(3);
    for _ in 0..2 {
        directory.add_shard(&first).await.unwrap();
    }
    let twin = Shard::new(shard(2), first.host.clone(), first.port, first.database.clone());
    for other in [nowhere(1), twin.clone()] {
        let error = directory.add_shard(&other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("there is shard 1 (shard1.invalid:5432/app) already"), "{error}");
    }
    assert_eq!(directory.update_shard(&nowhere(2)).await.unwrap_err().kind(), ErrorKind::NotFound);
    directory.add_shard(&nowhere(2)).await.unwrap();
    assert_eq!(directory.update_shard(&twin).await.unwrap_err().kind(), ErrorKind::Conflict);
    let elsewhere = Shard::new(shard(1), "db.invalid", 6432, "other").with_active(false).with_weight(7);
    directory.update_shard(&elsewhere).await.unwrap();
    assert_eq!(directory.shards().await.unwrap(), [elsewhere, nowhere(2)]);
}

#[tokio::test]
async fn a_tenant_is_registered_once_and_on_an_active_shard() {
    let directory = with_shards(server().await, 2).await;
    assert_eq!(directory.find(&tenant("a")).await.unwrap(), None);
    for _ in 0..2 {
        let placement = directory.register(&tenant("a"), shard(1)).await.unwrap();
        assert_eq!(
            (placement.shard, placement.epoch, placement.state),
            (shard(1), Epoch::FIRST, State::Active)
        );
    }
    let error = directory.register(&tenant("a"), shard(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("it is on shard 1 since epoch 1"), "{error}");
    assert_eq!(directory.register(&tenant("b"), shard(3)).await.unwrap_err().kind(), ErrorKind::NotFound);
    directory.update_shard(&nowhere(2).with_active(false)).await.unwrap();
    assert_eq!(directory.register(&tenant("b"), shard(2)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(directory.find(&tenant("b")).await.unwrap(), None);
}

#[tokio::test]
async fn placements_come_in_pages() {
    let directory = with_shards(server().await, 1).await;
    let mut ids = ["Z", "a", "é", "10", "9", "b b", "'; DROP TABLE tenant; --"].map(tenant).to_vec();
    for id in &ids {
        directory.register(id, shard(1)).await.unwrap();
    }
    ids.sort();
    let mut found = Vec::new();
    loop {
        let page = directory.placements(found.last(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|placement| placement.tenant));
    }
    assert_eq!(found, ids);
}

#[tokio::test]
async fn a_flip_is_compared_and_set_and_may_be_repeated() {
    let directory = with_shards(server().await, 3).await;
    let id = tenant("a");
    let unknown = directory.flip(&id, epoch(1), shard(2), epoch(2)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    directory.register(&id, shard(1)).await.unwrap();
    for late in [1, 0x7fff_ffff_ffff_ffff] {
        let error = directory.flip(&id, epoch(late), shard(2), epoch(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
    let nowhere_known = directory.flip(&id, epoch(1), shard(9), epoch(2)).await.unwrap_err();
    assert_eq!(nowhere_known.kind(), ErrorKind::NotFound);

    // The rows are there already: an inactive shard is no reason to say that they are elsewhere.
    directory.update_shard(&nowhere(2).with_active(false)).await.unwrap();
    directory.set_state(&id, epoch(1), State::Moving { to: shard(3) }).await.unwrap();
    for _ in 0..2 {
        let placement = directory.flip(&id, epoch(1), shard(2), epoch(4)).await.unwrap();
        assert_eq!((placement.shard, placement.epoch, placement.state), (shard(2), epoch(4), State::Active));
        assert_eq!(directory.find(&id).await.unwrap().unwrap(), placement);
    }
    let others = [(1, 3, 4), (1, 2, 5), (3, 3, 5), (5, 2, 6)]
        .map(|(from, to, since)| (epoch(from), shard(to), epoch(since)));
    for (from, to, since) in others {
        let error = directory.flip(&id, from, to, since).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never), "{error:?}");
        assert!(error.to_string().contains("it is on shard 2 since epoch 4"), "{error}");
    }
}

#[tokio::test]
async fn a_state_is_compared_and_set_too() {
    let directory = with_shards(server().await, 3).await;
    let id = tenant("a");
    directory.register(&id, shard(1)).await.unwrap();
    let moving = State::Moving { to: shard(2) };
    for _ in 0..2 {
        assert_eq!(directory.set_state(&id, epoch(1), moving).await.unwrap().state, moving);
    }
    let other = State::Moving { to: shard(3) };
    assert_eq!(directory.set_state(&id, epoch(1), other).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        directory.set_state(&id, epoch(2), State::Active).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(directory.find(&id).await.unwrap().unwrap().state, moving);
    for _ in 0..2 {
        assert_eq!(directory.set_state(&id, epoch(1), State::Active).await.unwrap().state, State::Active);
    }
    let home = State::Moving { to: shard(1) };
    assert_eq!(directory.set_state(&id, epoch(1), home).await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    directory.update_shard(&nowhere(3).with_active(false)).await.unwrap();
    assert_eq!(directory.set_state(&id, epoch(1), other).await.unwrap_err().kind(), ErrorKind::Conflict);
    let unknown = State::Moving { to: shard(9) };
    assert_eq!(directory.set_state(&id, epoch(1), unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_flips_at_once_one_wins_and_only_its_repeats_succeed() {
    let directory = with_shards(server().await, 4).await;
    let through = same(&directory, bouncer().await, 8);
    for round in 0..20 {
        let id = tenant(&format!("round {round}"));
        directory.register(&id, shard(1)).await.unwrap();
        // Shards 2 to 4 three times each: the winner's repeats succeed, the others are refused.
        let flips = (0..9).map(|n| {
            let (directory, id) = (if n % 2 == 0 { directory.clone() } else { through.clone() }, id.clone());
            let to = shard(2 + n % 3);
            tokio::spawn(async move { (to, directory.flip(&id, epoch(1), to, epoch(2)).await) })
        });
        let answers = join_all(flips).await;
        let winner = directory.find(&id).await.unwrap().unwrap();
        assert_eq!(winner.epoch, epoch(2));
        let mut won = 0;
        for answer in answers {
            match answer.unwrap() {
                (to, Ok(placement)) => {
                    assert_eq!((to, &placement), (winner.shard, &winner));
                    won += 1;
                }
                (to, Err(error)) => {
                    assert_ne!(to, winner.shard);
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
                }
            }
        }
        assert_eq!(won, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_registrations_at_once_one_wins() {
    let directory = with_shards(server().await, 2).await;
    for round in 0..20 {
        let id = tenant(&format!("round {round}"));
        let tries = (0..4).map(|n| {
            let (directory, id) = (directory.clone(), id.clone());
            tokio::spawn(async move { directory.register(&id, shard(1 + n % 2)).await })
        });
        let answers: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2, "{answers:?}");
        let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
        assert!(refused.into_iter().all(|error| error.kind() == ErrorKind::Conflict));
    }
}

#[tokio::test]
async fn the_label_alone_is_not_moved_by_hand_either() {
    let directory = with_shards(server().await, 2).await;
    directory.register(&tenant("a"), shard(1)).await.unwrap();
    let table = format!("{}.tenant", directory.schema());
    for sql in [
        format!("UPDATE {table} SET shard = 2"),
        format!("UPDATE {table} SET tenant = 'b'"),
        format!("UPDATE {table} SET shard = 2, epoch = 0"),
        format!("DELETE FROM {}.shard WHERE shard = 1", directory.schema()),
    ] {
        assert!(server().await.execute(CONTROL, &sql).await.is_err(), "{sql}");
    }
    assert_eq!(directory.find(&tenant("a")).await.unwrap().unwrap().shard, shard(1));
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_it_open_and_the_repeat_tells() {
    let server = start().await;
    let link = server.link().unwrap();
    let directory = with_shards(&server, 2).await;
    directory.register(&tenant("a"), shard(1)).await.unwrap();
    let through = same(&directory, &server.at_port(link.port()), 1);
    through.check().await.unwrap();
    // Not the READ COMMITTED of its beginning.
    link.lose_reply_to("COMMIT\0");
    let error = through.flip(&tenant("a"), epoch(1), shard(2), epoch(2)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst), "{error:?}");
    assert_eq!(link.replies_lost(), 1);
    assert_eq!(directory.find(&tenant("a")).await.unwrap().unwrap().epoch, epoch(2), "it was made");
    through.flip(&tenant("a"), epoch(1), shard(2), epoch(2)).await.unwrap();
    assert_eq!(directory.find(&tenant("a")).await.unwrap().unwrap().epoch, epoch(2));
}
