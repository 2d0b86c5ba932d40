//! Ending a run early.

use wakala_core::testing::{Answer, FakeMetrics, FakeTarget};
use wakala_core::{
    Approval, Playbook, Record, RunHandle, RunReport, Soak, Status, StepOutcome, Stop, Units, guard, step,
    together,
};

use crate::common::{
    Bench, MINUTE, SECOND, Slow, denied, node, outcome, playbook, residuals, scale_up, setting,
};

fn stop_requests(report: &RunReport) -> usize {
    report.journal.iter().filter(|entry| matches!(entry.record, Record::Controlled { .. })).count()
}

#[tokio::test]
async fn a_call_under_way_is_seen_to_its_end() {
    for (stop, status, value) in [(Stop::Keep, Status::Stopped, 2), (Stop::TakeBack, Status::Compensated, 1)]
    {
        let (bench, limit, later) = (Bench::new(), setting("limit"), setting("later"));
        let slow = Slow { step: limit.step("limit"), takes: SECOND * 20, attentive: false };
        let playbook = playbook([step(slow), node(&later, "later")]);
        let report = bench.run_and_stop(&playbook, SECOND * 10, stop).await;
        assert_eq!((report.status, limit.value(), later.writes().len()), (status, value, 0), "{report}");
        assert_eq!(limit.writes()[0].value, 2, "the call was cut short");
        assert_eq!(outcome(&report, "later"), &StepOutcome::NotBegun);
        assert_eq!(stop_requests(&report), 1);
        if stop == Stop::Keep {
            assert_eq!(outcome(&report, "limit"), &StepOutcome::Unverified);
            assert_eq!(residuals(&report), [("limit", false)]);
        } else {
            assert_eq!(report.residuals, []);
        }
    }
}

#[tokio::test]
async fn waiting_for_an_effect_ends_at_once() {
    for (stop, status, size) in [(Stop::Keep, Status::Stopped, 50), (Stop::TakeBack, Status::Compensated, 10)]
    {
        let (bench, later) = (Bench::new(), setting("later"));
        let target = FakeTarget::new("api", 10).with_lead_time(MINUTE);
        let playbook = playbook([step(scale_up(&target, 50)), node(&later, "later")]);
        let report = bench.run_and_stop(&playbook, SECOND * 10, stop).await;
        assert_eq!((report.status, target.size()), (status, Units(size)), "{report}");
        assert_eq!(bench.elapsed(), SECOND * 10);
        assert_eq!(later.writes(), []);
    }
}

#[tokio::test]
async fn a_soak_ends_at_once() {
    for (stop, status, value) in [(Stop::Keep, Status::Stopped, 2), (Stop::TakeBack, Status::Compensated, 1)]
    {
        let (bench, limit) = (Bench::new(), setting("limit"));
        let metrics = FakeMetrics::new().with("error_rate", Answer::Value(0.001));
        let guard = guard::metric(std::sync::Arc::new(metrics), "error_rate").below(0.01);
        let soak = Soak::new("soak", MINUTE * 10).with_guard(guard);
        let playbook = Playbook::builder("p").then(node(&limit, "limit")).then(soak).build().unwrap();
        let report = bench.run_and_stop(&playbook, SECOND * 175, stop).await;
        assert_eq!((report.status, limit.value()), (status, value), "{report}");
        let closed = report.journal.iter().find_map(|entry| match &entry.record {
            Record::SoakClosed { covered, failure, .. } => Some((*covered, failure.clone())),
            _ => None,
        });
        assert_eq!(closed, Some((SECOND * 165, Some("stopped as asked".to_owned()))));
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_before_it_starts_does_nothing() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let playbook = playbook([node(&limit, "limit")]);
    let plan = bench.plan(&playbook).await.unwrap();
    let run = RunHandle::new("run-1");
    run.stop(Stop::TakeBack);
    let approval = Approval::of(&plan, "ana");
    let report = bench.drive(bench.engine.run(&playbook, &plan, &approval, &run)).await.unwrap();
    assert_eq!((report.status, limit.writes().len()), (Status::Compensated, 0));
    assert_eq!(outcome(&report, "limit"), &StepOutcome::NotBegun);
}

#[tokio::test]
async fn the_first_request_counts() {
    let run = RunHandle::new("run-1");
    run.stop(Stop::Keep);
    run.stop(Stop::TakeBack);
    assert_eq!(run.stop_requested(), Some(Stop::Keep));
}

/// A sibling that failed by itself does not make the engine deaf to what the person asked for.
#[tokio::test]
async fn a_request_counts_also_where_another_step_failed() {
    for (stop, status, value) in [(Stop::TakeBack, Status::Compensated, 1), (Stop::Keep, Status::Held, 2)] {
        let bench = Bench::new();
        let (bad, slow) = (setting("bad"), setting("slow").with_lead_time(MINUTE));
        bad.fail_next(denied());
        let playbook = Playbook::builder("p")
            .then(together([node(&bad, "bad").into(), node(&slow, "slow").into()]))
            .build()
            .unwrap();
        let report = bench.run_and_stop(&playbook, SECOND * 10, stop).await;
        assert_eq!((report.status, slow.value()), (status, value), "{report}");
        assert_eq!(stop_requests(&report), 1, "{report}");
        assert!(report.reason.contains("step bad failed"), "{}", report.reason);
    }
}

/// What a person asks for comes before what the playbook says.
#[tokio::test]
async fn keep_keeps_also_where_the_playbook_would_take_back() {
    let bench = Bench::new();
    let (bad, slow) = (setting("bad"), setting("slow").with_lead_time(MINUTE));
    bad.fail_next(denied());
    let playbook = Playbook::builder("p")
        .then(together([node(&bad, "bad").into(), node(&slow, "slow").into()]))
        .with_on_failure(wakala_core::OnFailure::TakeBack)
        .build()
        .unwrap();
    let report = bench.run_and_stop(&playbook, SECOND * 10, Stop::Keep).await;
    assert_eq!((report.status, slow.value()), (Status::Held, 2), "{report}");
}

/// A step that notices the request by itself has stopped, not failed.
#[tokio::test]
async fn an_attentive_step_is_stopped_and_not_failed() {
    let (bench, limit) = (Bench::new(), setting("limit"));
    let slow = Slow { step: limit.step("limit"), takes: SECOND * 20, attentive: true };
    let report = bench.run_and_stop(&playbook([step(slow)]), SECOND * 10, Stop::Keep).await;
    assert_eq!((report.status, limit.writes().len()), (Status::Stopped, 0), "{report}");
}

/// Undo runs under its own scope: the request that ends the run does not end it.
#[tokio::test]
async fn an_undo_is_not_cancelled_by_the_request_that_asked_for_it() {
    let (bench, limit) = (Bench::new(), setting("limit").with_lead_time(MINUTE));
    let attentive = Slow { step: limit.step("limit"), takes: SECOND, attentive: true };
    let report = bench.run_and_stop(&playbook([step(attentive)]), SECOND * 10, Stop::TakeBack).await;
    assert_eq!((report.status, limit.value(), limit.effects()), (Status::Compensated, 1, 2), "{report}");
}
