//! Claims under load: who overlaps, who waits, who wins.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::iter;
use wakala_core::store::{Release, Takeover};
use wakala_core::{ErrorKind, ResourceKey, Retry, RunId, RunStore};
use wakala_db::PostgresStore;
use wakala_testbed::PostgresAccess;

use crate::rig::{DATABASE, bouncer, create, fresh, keys, line, new_run, same, server, terms};

const RUNS: usize = 1_000;

/// The same numbers in every run of the tests.
fn random(of: &impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(of)
}

/// A run from its making to its end.
async fn life(store: &PostgresStore, n: usize) -> wakala_core::Result<()> {
    let run = RunId::from(format!("run-{n:04}"));
    let group = n % 7;
    let resources = [
        format!("k8s/prod-{group}/deployments/api-{n}"),
        format!("aws/eu/groups/g-{n}"),
        format!("db/pool/{n}"),
    ];
    let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
    let lease = create(store, run.as_str(), &resources).await?;
    for seq in 1..=3 {
        store.append(&run, lease.epoch, line(run.as_str(), seq)).await?;
    }
    store.renew(&run, lease.epoch, Duration::from_secs(60)).await?;
    store.send(&run, "{}".to_owned()).await?;
    store.release(&run, lease.epoch, if n.is_multiple_of(2) { Release::Closed } else { Release::Lease }).await
}

/// All runs at once, each on things of its own, by several clients.
async fn many_disjoint_runs(clients: &[PostgresStore], what: &str) {
    let started = Instant::now();
    let answers = join_all((0..RUNS).map(|n| life(&clients[n % clients.len()], n))).await;
    println!("{what}: {RUNS} runs of 7 calls in {:?}", started.elapsed());
    let failed: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {RUNS} runs failed: {:?}", failed.len(), failed.first());
    let heads = clients[0].list().await.unwrap();
    assert_eq!(heads.len(), RUNS);
    for (n, head) in heads.iter().enumerate() {
        assert_eq!((head.length, head.epoch, head.closed), (4, 1, n.is_multiple_of(2)), "{head:?}");
        assert_eq!(head.resources.len(), if n.is_multiple_of(2) { 0 } else { 3 }, "{head:?}");
    }
}

async fn deadlocks() -> u32 {
    let sql = format!("SELECT deadlocks FROM pg_stat_database WHERE datname = '{DATABASE}'");
    // What backends count is seen once they are done with it.
    server().await.execute("postgres", "SELECT pg_stat_clear_snapshot()").await.unwrap();
    server().await.value("postgres", &sql).await.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_runs_on_disjoint_keys_do_not_disturb_each_other() {
    let first = fresh(server().await, 16).await;
    let clients = [first.clone(), same(&first, server().await, 16), same(&first, server().await, 16)];
    many_disjoint_runs(&clients, "directly").await;
    assert_eq!(deadlocks().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_through_pgbouncer() {
    let first = fresh(bouncer().await, 16).await;
    let clients = [first.clone(), same(&first, bouncer().await, 16), same(&first, bouncer().await, 16)];
    many_disjoint_runs(&clients, "through PgBouncer").await;
    assert_eq!(deadlocks().await, 0);
}

/// Keys of a few short parts, empty ones among them, so that many overlap and many nearly do.
fn key(n: u64) -> ResourceKey {
    const PARTS: [&str; 4] = ["a", "a0", "", "é%_"];
    let draw = |place: u64| random(&(n, place));
    let depth = draw(0) % 3 + 1;
    let parts: Vec<&str> =
        (1..=depth).map(|place| PARTS[usize::try_from(draw(place) % PARTS.len() as u64).unwrap()]).collect();
    parts.join("/").as_str().into()
}

#[tokio::test]
async fn keys_overlap_as_the_core_says() {
    let store = fresh(server().await, 2).await;
    let client = server().await.connect(DATABASE, "wakala").await.unwrap();
    let schema = store.schema();
    let mut overlapping = 0;
    for round in 0..40 {
        let held = key(round);
        let run = RunId::from(format!("run-{round}"));
        create(&store, run.as_str(), &[held.as_str()]).await.unwrap();
        for n in 0..25 {
            let wanted = key(n);
            let sql = format!("SELECT holder FROM {schema}.overlapping_claim($1, '{{}}')");
            let row = client.query_one(&sql, &[&vec![wanted.as_str()]]).await.unwrap();
            let holder: Option<String> = row.get(0);
            let expected = held.overlaps(&wanted);
            overlapping += u32::from(expected);
            assert_eq!(holder.is_some(), expected, "{held:?} against {wanted:?}");
        }
        store.release(&run, 1, Release::Resources).await.unwrap();
    }
    println!("{overlapping} of 1000 pairs overlap");
    assert!((100..900).contains(&overlapping), "{overlapping} of 1000 pairs overlap: the keys prove nothing");
}

/// Claims, takeovers, supersessions and releases on few keys, which overlap in every way: at no time do two runs hold
/// what overlaps, and nobody deadlocks.
async fn scramble(access: &PostgresAccess, seed: u64) {
    const KEYS: [&str; 7] = ["a", "a/b", "a/b/c", "a/b/d", "a/e", "f", "f/g"];
    let store = fresh(access, 16).await;
    let draw = |n: u64, what: u64, below: u64| random(&(seed, n, what)) % below;
    let calls = iter(0..400_u64).map(|n| {
        let store = &store;
        async move {
            let resources: Vec<&str> = (0..=draw(n, 0, 3))
                .map(|place| KEYS[usize::try_from(draw(n, 10 + place, KEYS.len() as u64)).unwrap()])
                .collect();
            let run = RunId::from(format!("run-{}", draw(n, 1, 60)));
            let other = RunId::from(format!("run-{}", draw(n, 2, 60)));
            let answer = match draw(n, 3, 5) {
                0 => create(store, run.as_str(), &resources).await.map(drop),
                1 => {
                    let mut new = new_run(run.as_str(), &resources);
                    new.supersedes = vec![other, format!("run-{}", draw(n, 4, 60)).as_str().into()];
                    store.create(new).await.map(drop)
                }
                2 => {
                    store.acquire(&run, &keys(&resources), &terms("thief"), Takeover::Forced).await.map(drop)
                }
                3 => store.release(&run, draw(n, 5, 3) + 1, Release::Resources).await,
                _ => store.append(&run, draw(n, 5, 3) + 1, line(run.as_str(), draw(n, 6, 4))).await,
            };
            if let Err(error) = answer {
                let expected = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound);
                assert!(expected && error.retry() == Retry::Never, "{error:?}");
            }
        }
    });
    let watch = async {
        let mut looks = 0;
        loop {
            let heads = store.list().await.unwrap();
            let mut held: BTreeMap<ResourceKey, RunId> = BTreeMap::new();
            for head in heads {
                for key in head.resources {
                    let other = held.iter().find(|(held, run)| held.overlaps(&key) && **run != head.run);
                    assert!(other.is_none(), "{} holds {key}, and {other:?} too", head.run);
                    held.insert(key, head.run.clone());
                }
            }
            looks += 1;
            if looks == 20 {
                return;
            }
        }
    };
    tokio::join!(calls.buffer_unordered(24).collect::<Vec<()>>(), watch);
    assert!(!store.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_never_hold_what_overlaps() {
    for seed in 0..3 {
        scramble(server().await, seed).await;
        scramble(bouncer().await, seed + 100).await;
    }
    assert_eq!(deadlocks().await, 0);
}

/// A claim waits for one that overlaps and is not decided yet, and for nothing else.
#[tokio::test]
async fn claims_wait_for_what_overlaps_only() {
    let store = fresh(server().await, 4).await;
    let schema = store.schema();
    let mut client = server().await.connect(DATABASE, "wakala").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let sql =
        format!("SELECT outcome FROM {schema}.create_run('slow', 'o', 60000000, '', '', '{{x/y}}', '{{}}')");
    let row = transaction.query_one(&sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "done");

    create(&store, "beside", &["x/z", "y"]).await.unwrap();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { create(&store, "below", &["x/y/z"]).await })
    };
    let waits = format!(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE locktype = 'advisory' AND NOT granted AND query LIKE '%{schema}%'"
    );
    wakala_testbed::wait_until("a claim that waits", Duration::from_secs(30), || async {
        match server().await.value(DATABASE, &waits).await?.as_str() {
            "1" => Ok(()),
            other => Err(format!("{other} wait").into()),
        }
    })
    .await
    .unwrap();
    assert!(!waiting.is_finished());
    transaction.commit().await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("slow"), "{error}");
}
