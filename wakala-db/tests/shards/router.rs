//! The router: to the shard that has the tenant, whatever is known or not.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Transaction};
use wakala_core::{ErrorKind, Retry};
use wakala_db::{Abort, Router, Shard, TenantId};
use wakala_testbed::wait_until;

use crate::rig::{MINUTE, SHARDS, Shards, bouncer, epoch, server, shard, start, tenant};

/// A line in the ledger, with the epoch that the shard has for the tenant.
async fn enter(transaction: &Transaction<'_>, tenant: &TenantId, entry: i64) -> Result<i64, Abort> {
    let sql = "INSERT INTO public.ledger SELECT tenant_id, $2, epoch FROM wakala_shard.owner WHERE tenant_id = $1 RETURNING epoch";
    let rows = transaction.query_typed(sql, &[(&tenant.as_str(), Type::TEXT), (&entry, Type::INT8)]).await?;
    Ok(rows[0].get(0))
}

async fn write(router: &Router, tenant: &TenantId, entry: i64) -> wakala_core::Result<i64> {
    router.run(tenant, async |transaction| enter(transaction, tenant, entry).await).await
}

async fn ledger(shards: &Shards, on: usize, tenant: &TenantId) -> Vec<(i64, i64)> {
    let sql = format!(
        "SELECT coalesce(string_agg(entry || ':' || epoch, ' '), '') FROM public.ledger WHERE tenant_id = '{tenant}'"
    );
    let text = shards.value(on, &sql).await;
    let lines = text.split_whitespace().map(|line| line.split_once(':').unwrap());
    lines.map(|(entry, epoch)| (entry.parse().unwrap(), epoch.parse().unwrap())).collect()
}

/// Moves the tenant as a mover does: the source gives it up, for a moment nobody has it, the destination takes it up,
/// and the directory hears of it last, or never.
async fn moved(shards: &Shards, tenant: &TenantId, from: usize, to: i32, since: i64, told: bool) {
    shards.owns(from, tenant, to, since, "left").await;
    let destination = usize::try_from(to).unwrap();
    tokio::time::sleep(Duration::from_millis(15)).await;
    shards.owns(destination, tenant, to, since, "active").await;
    if told {
        let known = shards.directory.find(tenant).await.unwrap().unwrap();
        shards.directory.flip(tenant, known.epoch, shard(to), epoch(since)).await.unwrap();
    }
}

async fn under_load(shards: &Shards) {
    let id = shards.tenant("busy").await;
    let (router, next, stop) =
        (shards.router(), Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients = (0..8).map(|_| {
        let (router, next, stop, id) = (router.clone(), Arc::clone(&next), Arc::clone(&stop), id.clone());
        tokio::spawn(async move {
            let mut written = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let entry = next.fetch_add(1, Ordering::Relaxed);
                let since = write(&router, &id, entry).await.unwrap_or_else(|error| panic!("{error:?}"));
                written.push((entry, since));
            }
            written
        })
    });
    let clients: Vec<_> = clients.collect();
    for since in 2..=13 {
        let at = next.load(Ordering::Relaxed);
        wait_until("some writes", MINUTE, || async {
            if next.load(Ordering::Relaxed) > at + 40 { Ok(()) } else { Err("few".into()) }
        })
        .await
        .unwrap();
        let (from, to) = if since % 2 == 0 { (1, 2) } else { (2, 1) };
        moved(shards, &id, from, to, since, since % 3 == 0).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    let mut found = Vec::new();
    for on in [1, 2] {
        let lines = ledger(shards, on, &id).await;
        let odd = i64::try_from(on).unwrap() % 2;
        assert!(lines.iter().all(|(_, since)| since % 2 == odd), "written where it was not");
        found.extend(lines);
    }
    acknowledged.sort_unstable();
    found.sort_unstable();
    assert!(acknowledged.len() > 12 * 40);
    assert_eq!(acknowledged, found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_nothing_of_moves_under_load() {
    under_load(&Shards::at(server().await).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_nothing_of_moves_through_pgbouncer_either() {
    under_load(&Shards::at(bouncer().await).await).await;
}

#[tokio::test]
async fn one_refusal_is_followed_once_and_remembered() {
    let server = Box::leak(Box::new(start().await));
    let shards = Shards::on(server, server).await;
    let (id, router) = (shards.tenant("moved").await, shards.router());
    assert_eq!(write(&router, &id, 1).await.unwrap(), 1);
    moved(&shards, &id, 1, 2, 2, false).await;
    for entry in 2..6 {
        assert_eq!(write(&router, &id, entry).await.unwrap(), 2);
    }
    assert_eq!((shards.entries(1).await, shards.entries(2).await), (2, 4));
    let routed = router.route(&id).await.unwrap();
    assert_eq!((routed.shard, routed.epoch), (shard(2), epoch(2)));
}

#[tokio::test]
async fn a_stale_directory_does_not_take_a_router_back() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("ahead").await, shards.router().with_ttl(Duration::ZERO));
    moved(&shards, &id, 1, 2, 2, false).await;
    assert_eq!(write(&router, &id, 1).await.unwrap(), 2);
    for _ in 0..3 {
        assert_eq!(router.route(&id).await.unwrap().epoch, epoch(2));
    }
}

#[tokio::test]
async fn shards_that_point_at_each_other_are_given_up_in_time() {
    let server = Box::leak(Box::new(start().await));
    let shards = Shards::on(server, server).await;
    let patience = Duration::from_millis(600);
    let (id, router) = (shards.tenant("forlorn").await, shards.router().with_patience(patience));
    shards.owns(1, &id, 2, 2, "left").await;
    shards.owns(2, &id, 1, 2, "left").await;
    let started = Instant::now();
    let error = write(&router, &id, 1).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Exhausted), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(error.chain().contains("is not on shard"), "{}", error.chain());
    let entries = shards.entries(1).await + shards.entries(2).await;
    assert!((3..100).contains(&entries), "{entries}");
    assert!(ledger(&shards, 1, &id).await.is_empty() && ledger(&shards, 2, &id).await.is_empty());

    // Once somebody has it, the same router finds it.
    shards.owns(2, &id, 2, 3, "active").await;
    shards.owns(1, &id, 2, 3, "left").await;
    assert_eq!(write(&router, &id, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn a_shard_that_claims_ever_later_owners_is_given_up_in_time_too() {
    let server = Box::leak(Box::new(start().await));
    let shards = Shards::on(server, server).await;
    for (on, other) in [(1, 2), (2, 1)] {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION wakala_shard.enter(tenant text, epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM nextval('wakala_shard.entries');
                 RAISE EXCEPTION 'over there' USING ERRCODE = 'WK001', DETAIL = format('shard={other} epoch=%s', epoch + 1);
             END $$"
        );
        shards.sql(on, &sql).await;
    }
    let router = shards.router().with_patience(Duration::from_millis(600));
    let error = write(&router, &shards.tenant("chased").await, 1).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Exhausted, "{error:?}");
    let entries = shards.entries(1).await + shards.entries(2).await;
    assert!((3..150).contains(&entries), "{entries}");
}

#[tokio::test]
async fn known_tenants_are_served_and_followed_while_the_directory_is_down() {
    let shards = Shards::at(server().await).await;
    let control = start().await;
    let directory = crate::rig::empty(&control, 4).await.with_limit(Duration::from_secs(1));
    for shard in shards.directory.shards().await.unwrap() {
        directory.add_shard(&shard).await.unwrap();
    }
    let (stays, moves) = (shards.tenant("stays").await, shards.tenant("moves").await);
    for id in [&stays, &moves] {
        directory.register(id, shard(1)).await.unwrap();
    }
    let router = Shards { directory, ..shards }.router().with_ttl(Duration::from_millis(10));
    let shards = Shards::at(server().await).await;
    for id in [&stays, &moves] {
        write(&router, id, 1).await.unwrap();
    }
    control.stop().await.unwrap();
    moved(&shards, &moves, 1, 2, 2, false).await;
    for entry in 2..10 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert_eq!(write(&router, &stays, entry).await.unwrap(), 1);
        assert_eq!(write(&router, &moves, entry).await.unwrap(), 2);
    }
    let error = write(&router, &tenant("never seen"), 1).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error:?}"
    );
    control.start().await.unwrap();
    let error = write(&router, &tenant("never seen"), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test]
async fn an_unknown_tenant_is_an_error_until_it_is_registered() {
    let shards = Shards::at(server().await).await;
    let (router, id) = (shards.router(), tenant(&format!("late of {}", shards.directory.schema())));
    let error = write(&router, &id, 1).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never), "{error:?}");
    shards.directory.register(&id, shard(1)).await.unwrap();
    shards.owns(1, &id, 1, 1, "active").await;
    let written =
        wait_until("the tenant", MINUTE, || async { Ok(write(&router, &id, 1).await?) }).await.unwrap();
    assert_eq!(written, 1);
}

#[derive(Debug)]
struct OutOfStock(u32);

impl std::fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} left", self.0)
    }
}

impl std::error::Error for OutOfStock {}

#[tokio::test]
async fn what_the_application_gives_up_is_not_committed_and_its_reason_comes_back() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("given up").await, shards.router());
    let error = router
        .run(&id, async |transaction| {
            enter(transaction, &id, 1).await?;
            Err::<(), _>(Abort::because(OutOfStock(3)))
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::Never), "{error:?}");
    assert_eq!(error.source().unwrap().downcast_ref::<OutOfStock>().unwrap().0, 3);
    let ours = wakala_core::Error::invalid("sell", "no such thing");
    let ours = std::sync::Mutex::new(Some(ours));
    let take = async |_: &Transaction<'_>| Err::<(), _>(Abort::from(ours.lock().unwrap().take().unwrap()));
    assert_eq!(router.run(&id, take).await.unwrap_err().operation(), "sell");
    assert_eq!(ledger(&shards, 1, &id).await, []);
}

#[derive(Debug)]
struct Wrapped(tokio_postgres::Error);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("could not be stored")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_work_is_followed_too_also_within_errors_of_the_applications() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("guarded").await, shards.router());
    shards.owns(2, &id, 2, 2, "active").await;
    let guard = format!(
        "DO $$ BEGIN
             IF current_database() = '{}' THEN
                 RAISE EXCEPTION 'not here' USING ERRCODE = 'WK001', DETAIL = 'shard=2 epoch=2';
             END IF;
         END $$",
        SHARDS[0]
    );
    let since = router
        .run(&id, async |transaction| {
            let since = enter(transaction, &id, 1).await?;
            transaction.batch_execute(&guard).await.map_err(|error| Abort::because(Wrapped(error)))?;
            Ok(since)
        })
        .await
        .unwrap();
    assert_eq!(since, 2);
    assert_eq!((ledger(&shards, 1, &id).await, ledger(&shards, 2, &id).await), (vec![], vec![(1, 2)]));
}

#[tokio::test]
async fn a_failed_statement_that_is_passed_over_is_not_taken_for_a_commit() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("careless").await, shards.router());
    let error = router
        .run(&id, async |transaction| {
            enter(transaction, &id, 1).await?;
            let _ = transaction.batch_execute("SELECT 1 / 0").await;
            Ok(())
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::Never), "{error:?}");
    assert!(error.to_string().contains("one of its statements failed"), "{error}");
    assert_eq!(ledger(&shards, 1, &id).await, []);
    assert_eq!(write(&router, &id, 2).await.unwrap(), 1);
}

#[tokio::test]
async fn a_commit_without_an_answer_is_not_repeated() {
    let shards = Shards::at(server().await).await;
    let (id, link) = (shards.tenant("open").await, shards.server.link().unwrap());
    let router = shards.router();
    let through = Shard::new(shard(1), "127.0.0.1", link.port(), SHARDS[0]);
    shards.directory.update_shard(&through).await.unwrap();
    write(&router, &id, 1).await.unwrap();
    link.lose_reply_to("SELECT 1; COMMIT");
    let error = write(&router, &id, 2).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst), "{error:?}");
    assert_eq!(link.replies_lost(), 1);
    link.restore().await.unwrap();
    assert_eq!(ledger(&shards, 1, &id).await, [(1, 1), (2, 1)]);

    // Before the commit nothing can have happened. The entry is tried again; the work itself is the caller's.
    link.lose_reply_to("enter");
    assert_eq!(write(&router, &id, 3).await.unwrap(), 1);
    assert_eq!(link.replies_lost(), 2);
    link.lose_reply_to("INSERT");
    let error = write(&router, &id, 4).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error:?}"
    );
    assert_eq!(link.replies_lost(), 3);
    assert_eq!(ledger(&shards, 1, &id).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_were_in_the_way_of_each_other_run_again() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("contended").await, shards.router().with_patience(MINUTE));
    shards.sql(1, &format!("INSERT INTO public.account VALUES ('{id}', 0)")).await;
    let tries = Arc::new(AtomicI64::new(0));
    let clients = (0..8).map(|_| {
        let (router, id, tries) = (router.clone(), id.clone(), Arc::clone(&tries));
        tokio::spawn(async move {
            for _ in 0..10 {
                let add = async |transaction: &Transaction<'_>| {
                    tries.fetch_add(1, Ordering::Relaxed);
                    let key = [(&id.as_str() as _, Type::TEXT)];
                    let sql = "SELECT balance FROM public.account WHERE tenant_id = $1";
                    let balance: i64 = transaction.query_typed(sql, &key).await?[0].get(0);
                    let sql = "UPDATE public.account SET balance = $2 WHERE tenant_id = $1 RETURNING 1";
                    let values = [key[0].clone(), (&(balance + 1) as _, Type::INT8)];
                    transaction.query_typed(sql, &values).await?;
                    Ok(())
                };
                router.run_at(&id, IsolationLevel::Serializable, add).await.unwrap();
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let balance =
        shards.value(1, &format!("SELECT balance FROM public.account WHERE tenant_id = '{id}'")).await;
    assert_eq!(balance, "80");
    assert!(tries.load(Ordering::Relaxed) > 80, "nobody was in anybody's way");
}

#[tokio::test]
async fn a_shard_elsewhere_is_found_and_the_old_pool_let_go() {
    let shards = Shards::at(server().await).await;
    let (id, link) = (shards.tenant("elsewhere").await, shards.server.link().unwrap());
    shards.directory.update_shard(&Shard::new(shard(1), "127.0.0.1", link.port(), SHARDS[0])).await.unwrap();
    let router = shards.router();
    write(&router, &id, 1).await.unwrap();
    shards
        .directory
        .update_shard(&Shard::new(shard(1), "127.0.0.1", shards.server.port(), SHARDS[0]))
        .await
        .unwrap();
    // Nothing has lapsed, but the old address is dead.
    link.cut().await.unwrap();
    assert_eq!(write(&router, &id, 2).await.unwrap(), 1);
}

#[tokio::test]
async fn a_shard_that_starts_again_costs_a_little_patience() {
    let server = Box::leak(Box::new(start().await));
    let shards = Shards::on(server, server).await;
    let (id, router) = (shards.tenant("restarted").await, shards.router().with_patience(MINUTE));
    write(&router, &id, 1).await.unwrap();
    server.kill().await.unwrap();
    let (started, written) = tokio::join!(server.start(), write(&router, &id, 2));
    started.unwrap();
    assert_eq!(written.unwrap(), 1);
}

#[tokio::test]
async fn strict_reads_follow_a_move_and_relaxed_ones_may_not() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("read").await, shards.router());
    write(&router, &id, 1).await.unwrap();
    moved(&shards, &id, 1, 2, 2, false).await;
    let count = async |transaction: &Transaction<'_>| {
        let sql = "SELECT count(*) FROM public.ledger WHERE tenant_id = $1";
        Ok(transaction.query_typed(sql, &[(&id.as_str(), Type::TEXT)]).await?[0].get::<_, i64>(0))
    };
    let relaxed = router.clone().with_strict_reads(false);
    assert_eq!(relaxed.read(&id, count).await.unwrap(), 1, "the old rows");
    assert_eq!(router.read(&id, count).await.unwrap(), 0);
    assert_eq!(relaxed.read(&id, count).await.unwrap(), 0, "what one has learnt counts for all clones");
    let error = router.read(&id, async |transaction| enter(transaction, &id, 9).await).await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
}

#[tokio::test]
async fn work_that_is_dropped_is_rolled_back_and_gives_the_pool_no_broken_connection() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("dropped").await, shards.router());
    for entry in 0..20 {
        let (entered, seen) = tokio::sync::oneshot::channel();
        let entered = std::sync::Mutex::new(Some(entered));
        let work = router.run(&id, async |transaction| {
            enter(transaction, &id, entry).await?;
            entered.lock().unwrap().take().unwrap().send(()).unwrap();
            std::future::pending::<Result<(), Abort>>().await
        });
        tokio::select! {
            answer = work => panic!("{answer:?}"),
            seen = seen => seen.unwrap(),
        }
    }
    assert_eq!(write(&router, &id, 100).await.unwrap(), 1);
    assert_eq!(ledger(&shards, 1, &id).await, [(100, 1)]);
}

#[tokio::test]
async fn transactions_of_ones_own_can_learn_too() {
    let shards = Shards::at(server().await).await;
    let (id, router) = (shards.tenant("own").await, shards.router());
    let routed = router.route(&id).await.unwrap();
    moved(&shards, &id, 1, 2, 2, false).await;
    let connection = routed.pool.get().await.unwrap();
    let values = [(&id.as_str() as _, Type::TEXT), (&routed.epoch.get() as _, Type::INT8)];
    let error = connection.query_typed("SELECT wakala_shard.enter($1, $2)", &values).await.unwrap_err();
    assert!(router.redirected(&id, &error) && !router.redirected(&id, &error));
    assert_eq!(router.route(&id).await.unwrap().shard, shard(2));
    let other = connection.query_typed("SELECT 1 / 0", &[]).await.unwrap_err();
    assert!(!router.redirected(&id, &other));
}
