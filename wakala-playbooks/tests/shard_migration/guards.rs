//! Guards before hand-overs, and pauses.

use std::sync::Arc;

use wakala_core::testing::{Answer, FakeMetrics};
use wakala_core::{Control, Revert, RunHandle, Status, guard};
use wakala_db::MoveOptions;
use wakala_playbooks::shard_migration::MoveSite;

use crate::rig::{Rig, Start, until};

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_is_handed_over_while_a_guard_fails() {
    let rig = Rig::new(2, 30).await;
    let metrics = FakeMetrics::new().with("latency", Answer::Value(0.1));
    let host = rig.host("guarded", &[1, 2], MoveOptions::default());
    let guard = guard::metric(Arc::new(metrics.clone()), "latency").below(0.5).named("latency");
    let site = MoveSite::new(host.clone()).with_guard(guard);
    let process = rig.process(site.clone(), &host);
    let run = RunHandle::new("guarded").by("ana");
    let (report, ()) = tokio::join!(
        process.drives(Start::Anew(&run), true, async || panic!("it came to the gate")),
        async {
            until("the copy", async || host.facts().await.unwrap().is_copied()).await;
            drop(metrics.clone().with("latency", Answer::Value(0.9)));
        }
    );
    assert_eq!(report.status, Status::Held, "{report}");
    assert!(report.reason.contains("latency"), "{}", report.reason);
    assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await], [1, 1]);
    // Nothing is lost meanwhile: changes go on to flow.
    rig.app(1).await.batch_execute("UPDATE account SET balance = 4").await.unwrap();
    until("the stream", async || {
        rig.value(2, "SELECT count(*) FROM account WHERE balance = 4").await == "90"
    })
    .await;

    drop(metrics.clone().with("latency", Answer::Value(0.1)));
    let process = rig.process(site, &host);
    let report = process.drives(Start::Resumed(&run), false, async || ()).await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await], [2, 2]);
    let report = process.engine.revert(&process.playbook, &run, Revert::Everything).await.unwrap();
    assert_eq!(report.status, Status::Compensated, "{report}");
    rig.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_the_copy_and_changes_flow() {
    let rig = Rig::new(1, 3000).await;
    let mut options = MoveOptions::default();
    (options.chunk_bytes, options.streams) = (32 << 10, 1);
    options.copy_bytes_per_second = Some(400_000);
    let host = rig.host("paused", &[1], options);
    let process = rig.process(MoveSite::new(host.clone()), &host);
    let run = RunHandle::new("paused").by("ana");
    let ask = async |control| process.engine.ask(run.id(), control, "bo", "lunch").await.unwrap();
    let (report, ()) = tokio::join!(process.drives(Start::Anew(&run), true, async || ()), async {
        until("some chunks", async || host.facts().await.unwrap().chunks > 0).await;
        ask(Control::Pause).await;
        until("the pause", async || host.status().following).await;
        let held = host.facts().await.unwrap();
        assert!(held.chunks < held.chunks_total, "{held:?}");
        let app = rig.app(1).await;
        app.batch_execute("UPDATE account SET balance = 77 WHERE id = (SELECT min(id) FROM account)")
            .await
            .unwrap();
        let seen = "SELECT count(*) FROM account WHERE balance = 77";
        until("the stream", async || rig.value(2, seen).await == "1").await;
        assert_eq!(host.facts().await.unwrap().chunks, held.chunks);
        host.copy_rate().set(None);
        ask(Control::Resume).await;
    });
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(rig.value(2, "SELECT count(*) FROM account").await, "3000");
    rig.assert_clean().await;
}
