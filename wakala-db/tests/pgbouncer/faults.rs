//! Processes that are down, deaf or cut off, files that go bad between, and a crash in the middle.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use wakala_core::{Applied, ErrorKind, Observed, Phase, PlaybookStep, Retry, RunContext, Undone};
use wakala_db::PoolChange;
use wakala_testbed::wait_until;

use crate::rig::{Meddled, Pair, Slow};

fn cx() -> RunContext {
    RunContext::detached().for_step(&"pools".into(), Phase::Apply, 1)
}

fn nine() -> PoolChange {
    PoolChange::new().with_pool_size("app", 9).with_setting("max_client_conn", 500)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_bad_is_put_back_and_what_it_did_is_undone() {
    let pair = Pair::start().await;
    let before = pair.text();
    for bad in ["max_user_connections = abc\n", "no such line\n", "unknown_key = 1\n"] {
        // In the middle of [pgbouncer]: what follows falls back to the built-in defaults, and 1.18 says all is well.
        let home = Meddled::new(pair.path(), move |path| {
            async move {
                let text = fs::read_to_string(&path).unwrap();
                fs::write(
                    &path,
                    text.replace("max_client_conn = 500\n", &format!("max_client_conn = 500\n{bad}")),
                )
                .unwrap();
            }
            .boxed()
        });
        let step = pair.pools_at(home, nine()).step("pools");
        let plan = step.plan(&cx()).await.unwrap();
        let error = step.apply(&cx(), &plan).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::Never), "{error}");
        let text = error.to_string();
        assert!(text.contains("on one server_lifetime is 3600 and not 900"), "{text}");
        assert!(text.contains("the old text is back, and in force everywhere"), "{text}");
        assert_eq!(pair.text(), before, "to the byte");
        assert_eq!(pair.cells(Some("app"), "pool_size").await, ["5", "5"]);
        assert_eq!(pair.cells(None, "server_lifetime").await, ["900", "900"]);
        assert_eq!(step.observe(&cx(), &plan).await.unwrap(), Observed::AtPrior);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_a_process_does_not_answer() {
    let pair = Pair::start().await;
    let before = pair.text();
    let step = pair.pools(nine()).step("pools");
    let plan = step.plan(&cx()).await.unwrap();

    pair.link.freeze().await.unwrap();
    let error = step.apply(&cx(), &plan).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::DeadlineExceeded, Retry::Safe { after: None }),
        "{error}"
    );
    pair.link.restore().await.unwrap();

    pair.two.stop().await.unwrap();
    let error = step.apply(&cx(), &plan).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error}"
    );
    assert!(error.to_string().contains("pgbouncer two"), "{error}");
    assert_eq!(pair.text(), before);
    assert_eq!(pair.cells_of_one(Some("app"), "pool_size").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_cut_off_after_the_write_leaves_no_half_change() {
    for freeze in [false, true] {
        let pair = Arc::new(Pair::start().await);
        let before = pair.text();
        let meddler = Arc::clone(&pair);
        let home = Meddled::new(pair.path(), move |_| {
            let pair = Arc::clone(&meddler);
            async move { if freeze { pair.link.freeze().await } else { pair.link.cut().await }.unwrap() }
                .boxed()
        });
        let step = pair.pools_at(home, nine()).step("pools");
        let plan = step.plan(&cx()).await.unwrap();
        let error = step.apply(&cx(), &plan).await.unwrap_err();
        // What the second runs with is not known, so nobody may say that nothing happened.
        assert_eq!(error.retry(), Retry::ObserveFirst, "{error}");
        assert!(error.to_string().contains("NOT in force yet: two does not answer"), "{error}");
        assert_eq!(pair.text(), before);
        assert_eq!(pair.cells(Some("app"), "pool_size").await[0], "5");
        assert!(step.observe(&cx(), &plan).await.is_err(), "no answer is no observation");

        pair.link.restore().await.unwrap();
        let observed = wait_until("an observation", Duration::from_secs(10), || async {
            Ok(step.observe(&cx(), &plan).await?)
        });
        assert!(matches!(observed.await.unwrap(), Observed::AtPrior | Observed::Moved(_)));
        assert_eq!(step.apply(&cx(), &plan).await.unwrap(), Applied::Changed);
        assert_eq!(step.observe(&cx(), &plan).await.unwrap(), Observed::AtTarget);
        assert_eq!(pair.cells(Some("app"), "pool_size").await, ["9", "9"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_reload_is_made_good() {
    let pair = Pair::start().await;
    let step = pair.pools(nine()).step("pools");
    let plan = step.plan(&cx()).await.unwrap();
    pair.link.lose_reply_to("RELOAD");
    assert_eq!(step.apply(&cx(), &plan).await.unwrap(), Applied::Changed);
    assert_eq!(pair.link.replies_lost(), 1);
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["9", "9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_write_and_reload_is_seen_and_made_good() {
    let pair = Pair::start().await;
    let before = pair.text();
    let (told, written) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let home = Meddled::new(pair.path(), move |_| {
        told.take().unwrap().send(()).unwrap();
        futures::future::pending().boxed()
    });
    let step = Arc::new(pair.pools_at(home, nine()).step("pools"));
    let plan = step.plan(&cx()).await.unwrap();
    let crashing = tokio::spawn({
        let (step, plan) = (Arc::clone(&step), plan.clone());
        async move { step.apply(&cx(), &plan).await }
    });
    written.await.unwrap();
    crashing.abort();
    assert!(crashing.await.unwrap_err().is_cancelled());
    assert!(pair.text().contains("pool_size=9"));
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["5", "5"], "written, and not reloaded");

    // Another process finds it, from the plan alone.
    let plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    let step = pair.pools(nine()).step("pools");
    let Observed::Moved(how) = step.observe(&cx(), &plan).await.unwrap() else { panic!("not seen") };
    assert!(how.contains("behind.one.databases.app.pool_size: (none) -> 5"), "{how}");
    // Once it is taken back, once it is carried on.
    assert_eq!(step.undo(&cx(), &plan).await.unwrap(), Undone::Restored);
    assert_eq!(pair.text(), before);
    fs::write(pair.path(), pair.text().replace("pool_size=5", "pool_size=9")).unwrap();
    // Only the first of two keys, and only one process reloaded.
    pair.consoles()[0].reload().await.unwrap();
    assert!(matches!(step.observe(&cx(), &plan).await.unwrap(), Observed::Moved(_)));
    assert_eq!(step.apply(&cx(), &plan).await.unwrap(), Applied::Changed);
    assert_eq!(step.observe(&cx(), &plan).await.unwrap(), Observed::AtTarget);
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["9", "9"]);
    step.undo(&cx(), &plan).await.unwrap();
    assert_eq!(pair.text(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wrote_after_us_is_not_written_over_by_the_old_text() {
    let pair = Pair::start().await;
    let home = Meddled::by_somebody(pair.path(), |path| {
        async move { fs::write(&path, fs::read_to_string(&path).unwrap() + "server_lifetime = 60\n").unwrap() }.boxed()
    });
    let step = pair.pools_at(home, nine()).step("pools");
    let plan = step.plan(&cx()).await.unwrap();
    let error = step.apply(&cx(), &plan).await.unwrap_err();
    assert_eq!(error.retry(), Retry::ObserveFirst, "{error}");
    assert!(error.to_string().contains("on one server_lifetime is 60 and not 900"), "{error}");
    assert!(error.to_string().contains("could NOT be put back"), "{error}");
    assert!(pair.text().ends_with("server_lifetime = 60\n"));
    // Ours is in force, beside theirs.
    assert_eq!(step.observe(&cx(), &plan).await.unwrap(), Observed::AtTarget);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_takes_its_time_is_waited_for_and_one_that_never_comes_is_taken_back() {
    let pair = Pair::start().await;
    let before = pair.text();
    let seconds = Duration::from_secs;
    let slow = Slow::new(pair.path(), Some(Duration::from_millis(700)), seconds(20));
    let step = pair.pools_at(slow, nine()).step("pools");
    let plan = step.plan(&cx()).await.unwrap();
    assert_eq!(step.apply(&cx(), &plan).await.unwrap(), Applied::Changed);
    assert_eq!(step.observe(&cx(), &plan).await.unwrap(), Observed::AtTarget);
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["9", "9"]);
    assert_eq!(step.undo(&cx(), &plan).await.unwrap(), Undone::Restored);
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["5", "5"]);
    assert_eq!(pair.text(), before);

    let never = Slow::new(pair.path(), None, seconds(1));
    let step = pair.pools_at(never, nine()).step("pools");
    let plan = step.plan(&cx()).await.unwrap();
    let error = step.apply(&cx(), &plan).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never, "{error}");
    assert!(error.to_string().contains("on one databases.app.pool_size is 5 and not 9"), "{error}");
    assert_eq!(fs::read_to_string(pair.path().with_extension("source")).unwrap(), before);
    assert_eq!(step.observe(&cx(), &plan).await.unwrap(), Observed::AtPrior);
}
