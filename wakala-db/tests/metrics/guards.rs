//! A playbook that is guarded by what a real server shows.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::FakeSetting;
use wakala_core::{
    Approval, Engine, ErrorKind, MetricQuery, OnFailure, Playbook, RunHandle, RunReport, SettingStep, Soak,
    Status, guard, step,
};
use wakala_db::PostgresMetrics;

use crate::rig::{APP, NOBODY, SHOP, builder, metrics, pool, start};

/// Changes a setting and watches the server for a second and a half.
fn playbook(source: &PostgresMetrics, query: MetricQuery, setting: &FakeSetting<u32>) -> Playbook {
    let soak = Soak::new("soak", Duration::from_millis(1500))
        .with_grace(Duration::ZERO)
        .with_interval(Duration::from_millis(200))
        .with_fail_limit(1)
        .with_guard(guard::metric(Arc::new(source.clone()), query).below(1.0));
    Playbook::builder("change")
        .then(step(SettingStep::new("limit", setting.clone())))
        .then(soak)
        .with_on_failure(OnFailure::TakeBack)
        .build()
        .unwrap()
}

async fn run(playbook: &Playbook) -> wakala_core::Result<RunReport> {
    let engine = Engine::new();
    let plan = engine.plan(playbook).await?;
    engine.run(playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new("run")).await
}

#[tokio::test]
async fn a_change_after_which_sessions_wait_for_locks_is_taken_back() {
    let server = start(builder()).await;
    let source = metrics(&server);
    let waiters = || MetricQuery::new("postgres.lock_waiters").with_label("database", SHOP);
    let setting = FakeSetting::new("limit", 1, 2);
    let report = run(&playbook(&source, waiters(), &setting)).await.unwrap();
    assert_eq!((report.status, setting.value()), (Status::Succeeded, 2), "{report}");

    let setting = FakeSetting::new("limit", 1, 2);
    let change = playbook(&source, waiters(), &setting);
    let trouble = async {
        wakala_testbed::wait_until("the change", Duration::from_secs(20), || async {
            (setting.value() == 2).then_some(()).ok_or_else(|| "not yet".into())
        })
        .await
        .unwrap();
        let holder = server.connect(SHOP, APP).await.unwrap();
        holder.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").await.unwrap();
        crate::rig::send(server.connect(SHOP, APP).await.unwrap(), "SELECT pg_advisory_xact_lock(1)");
        holder
    };
    let (report, _holder) = tokio::join!(run(&change), trouble);
    let report = report.unwrap();
    assert_eq!((report.status, setting.value()), (Status::Compensated, 1), "{report}");
    assert!(report.reason.contains("postgres.lock_waiters"), "{}", report.reason);
}

#[tokio::test]
async fn a_plan_with_a_guard_that_cannot_see_is_refused() {
    let server = start(builder()).await;
    let setting = FakeSetting::new("limit", 1, 2);
    let blind = PostgresMetrics::new("orders", pool(&server, NOBODY));
    for (source, query, hint) in [
        (blind, "postgres.lock_waiters", "GRANT pg_monitor"),
        (metrics(&server), "postgres.lock_waitres", "postgres.lock_waiters"),
        (metrics(&server), "postgres.replication_lag_seconds", "postgres.replication_lag_seconds"),
    ] {
        let error = run(&playbook(&source, query.into(), &setting)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        assert!(error.chain().contains(hint), "{}", error.chain());
    }
    assert_eq!(setting.value(), 1);
}
