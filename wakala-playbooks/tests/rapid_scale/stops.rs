//! Somebody stops the run: at any moment the report is what the world is.

use std::time::Duration;

use wakala_core::sim::{CallFailure, Fault};
use wakala_core::{Approval, Revert, RunReport, Status, StepOutcome, Stop};

use crate::site::{MINUTE, SECOND, Settings, Site, WRITERS, assert_describes, assert_says, calm};

/// From within the first call to the end of the soak.
fn moments() -> Vec<Duration> {
    let early = [10, 30, 50, 70, 90, 200, 1000, 2000, 5000].map(Duration::from_millis);
    let later = [10, 30, 60, 100, 106, 110, 130, 137, 150, 180, 213, 240, 400, 600, 780]
        .map(|seconds| seconds * SECOND);
    early.into_iter().chain(later).collect()
}

async fn stopped(site: &Site, after: Duration, stop: Stop) -> (Settings, RunReport) {
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    let approval = Approval::of(&plan, "test");
    let interrupt = async {
        site.world.context().sleep(after).await.unwrap();
        site.run.stop(stop);
    };
    let run = site.engine.run(&site.playbook, &plan, &approval, &site.run);
    let (report, ()) = site.world.run(async { tokio::join!(run, interrupt) }).await;
    (before, report.unwrap())
}

#[tokio::test]
async fn kept_at_any_moment() {
    for after in moments() {
        let site = Site::new(calm());
        let (before, report) = stopped(&site, after, Stop::Keep).await;
        assert_eq!(report.status, Status::Stopped, "after {after:?}\n{report}");
        assert_says(&report.reason, &["stopped as asked", "kept"]);
        let settings = site.settings().await;
        assert_describes(&report, &before, &settings);
        // It is at its end: nothing moves any more but what the autoscaler does.
        site.world.pass(MINUTE);
        assert_eq!(site.settings().await.but_api(), settings.but_api());
        // What was kept can be taken back later, in another process too.
        let reverted = site.revert_until_done(Revert::Everything).await;
        assert_eq!(reverted.status, Status::Compensated, "after {after:?}\n{reverted}");
        site.world.pass(15 * MINUTE);
        assert_eq!(site.settings().await, before, "after {after:?}\n{reverted}");
    }
}

#[tokio::test]
async fn taken_back_at_any_moment() {
    for after in moments() {
        let site = Site::new(calm());
        let (before, report) = stopped(&site, after, Stop::TakeBack).await;
        let settings = site.settings().await;
        assert_describes(&report, &before, &settings);
        for step in ["api-floor", "cache", "limits"] {
            assert_eq!(settings.of(step), before.of(step), "{step} after {after:?}\n{report}");
        }
        assert_eq!(settings.of("nodes")["min"], before.of("nodes")["min"]);
        // The API's pods stay until its autoscaler has looked, and with them their nodes.
        let all_back = settings.of("nodes") == before.of("nodes");
        let expected = if all_back { Status::Compensated } else { Status::Held };
        assert_eq!(report.status, expected, "after {after:?}\n{report}");
        assert_says(&report.reason, &["stopped as asked"]);
        assert_eq!(report.obligations.is_empty(), all_back);

        let reverted = site.revert_until_done(Revert::Everything).await;
        assert_eq!(reverted.status, Status::Compensated, "after {after:?}\n{reverted}");
        site.world.pass(15 * MINUTE);
        assert_eq!(site.settings().await, before, "after {after:?}\n{reverted}");
    }
}

#[tokio::test]
async fn a_stop_finishes_the_call_that_is_under_way() {
    // The write of the floor takes 10 s to time out, its effect made; the stop comes in its middle.
    let site = Site::new(calm());
    site.sabotage("api-floor", Fault::writes_fail("wakala-api", CallFailure::TimeoutAfterEffect, 1));
    let (before, report) = stopped(&site, 5 * SECOND, Stop::Keep).await;
    assert_eq!(report.status, Status::Stopped, "{report}");
    let after = site.settings().await;
    assert_eq!(after.of("api-floor")["min"], 50, "the call that was begun had its effect");
    assert_eq!(report.step("api-floor").unwrap().outcome, StepOutcome::Unverified, "{report}");
    assert_eq!(report.step("api").unwrap().outcome, StepOutcome::NotBegun);
    assert_describes(&report, &before, &after);
}

#[tokio::test]
async fn a_stop_in_the_soak_says_how_far_it_was() {
    let site = Site::new(calm());
    let (before, report) = stopped(&site, 8 * MINUTE, Stop::Keep).await;
    assert_eq!(report.status, Status::Stopped);
    for step in WRITERS {
        assert_eq!(report.step(step).unwrap().outcome, StepOutcome::Done, "{step}\n{report}");
    }
    let closed =
        report.journal.iter().map(|entry| entry.record.to_string()).find(|line| line.contains("soak: NOT"));
    assert_says(closed.unwrap(), &["NOT PASSED, stopped as asked"]);
    assert_describes(&report, &before, &site.settings().await);
    assert_eq!(report.obligations.len(), 3);
}

#[tokio::test]
async fn a_stop_before_the_run_begins_nothing() {
    let site = Site::new(calm());
    site.run.stop(Stop::Keep);
    let before = site.settings().await;
    let report = site.respond().await;
    assert_eq!(report.status, Status::Stopped, "{report}");
    assert!(report.steps.iter().all(|step| step.outcome == StepOutcome::NotBegun), "{report}");
    assert_eq!((report.residuals.len(), report.obligations.len()), (0, 0));
    assert_eq!(site.settings().await, before);
}
