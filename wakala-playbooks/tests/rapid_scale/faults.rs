//! Each way in which a call can fail, at each step that writes.

use wakala_core::sim::{CallFailure, Fault};
use wakala_core::{EffectKnown, ErrorKind, Record, Revert, Status, StepOutcome};

use crate::site::{MINUTE, Settings, Site, WRITERS, assert_describes, assert_says, calm, intents};

const FAILURES: [CallFailure; 6] = [
    CallFailure::Conflict,
    CallFailure::Denied,
    CallFailure::RateLimited,
    CallFailure::TimeoutAfterEffect,
    CallFailure::TimeoutBeforeEffect,
    CallFailure::Unavailable,
];

/// More than a step has attempts.
const EVERY_TIME: u32 = 100;

fn object(step: &str) -> &'static str {
    match step {
        "cache" => "redis-cache",
        "nodes" => "workers-general",
        _ => "wakala-api",
    }
}

fn kind(failure: CallFailure) -> ErrorKind {
    match failure {
        CallFailure::Conflict => ErrorKind::Conflict,
        CallFailure::Denied => ErrorKind::Denied,
        CallFailure::RateLimited => ErrorKind::RateLimited,
        CallFailure::Unavailable => ErrorKind::Unavailable,
        _ => ErrorKind::DeadlineExceeded,
    }
}

/// What each step has written, in the words of the world's log.
fn written(step: &str) -> &'static str {
    match step {
        "nodes" => "node pool workers-general: nodes ",
        "cache" => "statefulset production/redis-cache: replicas ",
        "api-floor" => "HorizontalPodAutoscaler production/wakala-api: bounds ",
        "api" => "deployment production/wakala-api: replicas ",
        _ => "environment of deployment production/wakala-api: ",
    }
}

/// Runs the playbook while the calls of one step fail that often.
async fn run_with(step: &str, failure: CallFailure, calls: u32) -> (Site, Settings, wakala_core::RunReport) {
    let site = Site::new(calm());
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    site.sabotage(step, Fault::writes_fail(object(step), failure, calls));
    let report = site.run(&plan).await.unwrap();
    println!("{step} {failure:?} x {calls}\n{report}");
    (site, before, report)
}

/// The run is over, and all that it left is in its report; then everything goes back.
async fn takes_everything_back(site: &Site, before: &Settings) {
    // The provider is well again; the autoscaler lowers the API in its own time.
    let heal = site.world.clock();
    heal.advance(MINUTE);
    let reverted = site.revert_until_done(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    assert_eq!((reverted.residuals.len(), reverted.obligations.len()), (0, 0), "{reverted}");
    site.world.pass(15 * MINUTE);
    assert_eq!(site.settings().await, *before, "{reverted}");
}

#[tokio::test]
async fn one_failed_call_is_survived_without_a_double_effect() {
    for step in WRITERS {
        for failure in FAILURES.into_iter().filter(|failure| *failure != CallFailure::Denied) {
            let (site, before, report) = run_with(step, failure, 1).await;
            assert_eq!(report.status, Status::Succeeded, "{step} {failure:?}\n{report}");
            assert_eq!(report.step(step).unwrap().outcome, StepOutcome::Done);
            // A call that may have had its effect is looked at before it is repeated.
            let tries = if failure == CallFailure::TimeoutAfterEffect { 1 } else { 2 };
            assert_eq!(intents(&report, step), tries, "{step} {failure:?}\n{report}");
            for step in WRITERS {
                assert_eq!(site.logged(written(step)), 1, "{step}\n{:#?}", site.world.log());
            }
            assert_describes(&report, &before, &site.settings().await);
            takes_everything_back(&site, &before).await;
        }
    }
}

#[tokio::test]
async fn calls_that_keep_failing_hold_the_run_with_nothing_of_that_step() {
    for step in WRITERS {
        for failure in FAILURES.into_iter().filter(|failure| *failure != CallFailure::TimeoutAfterEffect) {
            if step == "api" && failure == CallFailure::TimeoutBeforeEffect {
                // Takes so long that the autoscaler gets there first.
                continue;
            }
            let (site, before, report) = run_with(step, failure, EVERY_TIME).await;
            assert_eq!(report.status, Status::Held, "{step} {failure:?}\n{report}");
            let StepOutcome::Failed { effect, failure: why } = &report.step(step).unwrap().outcome else {
                panic!("{step} {failure:?}\n{report}");
            };
            assert_eq!((*effect, why.kind), (EffectKnown::None, kind(failure)), "{report}");
            assert_says(&report.reason, &[&format!("step {step} failed"), "what was done is kept"]);
            assert_says(&report.reason, &[object(step)]);
            let tries = intents(&report, step);
            match (step, failure) {
                (_, CallFailure::Denied) => assert_eq!(tries, 1, "{step} {failure:?}\n{report}"),
                // Calls that time out use up the step's time before its attempts.
                ("nodes", _) => assert!((6..=20).contains(&tries), "{failure:?} {tries}\n{report}"),
                _ => assert_eq!(tries, 5, "{step} {failure:?}\n{report}"),
            }

            let after = site.settings().await;
            if step != "api" {
                assert_eq!(after.of(step), before.of(step), "{report}");
            }
            assert_describes(&report, &before, &after);
            assert!(!report.journal.iter().any(|entry| matches!(entry.record, Record::SoakOpened { .. })));
        }
    }
}

#[tokio::test]
async fn the_autoscaler_does_what_lost_calls_did_not() {
    // Four time-outs of 10 s: two rounds of the autoscaler, whose floor is raised.
    let (site, before, report) = run_with("api", CallFailure::TimeoutBeforeEffect, 4).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.logged("HorizontalPodAutoscaler production/wakala-api: replicas 9 -> 50"), 1);
    assert_eq!((site.logged(written("api")), site.settings().await.api()), (0, 50));
    assert_describes(&report, &before, &site.settings().await);
}

#[tokio::test]
async fn everything_goes_back_after_a_run_that_was_held() {
    for step in WRITERS {
        // Just as often as the step tries.
        let tries = if step == "nodes" { 20 } else { 5 };
        let (site, before, report) = run_with(step, CallFailure::RateLimited, tries).await;
        assert_eq!(report.status, Status::Held, "{step}\n{report}");
        takes_everything_back(&site, &before).await;
    }
}

#[tokio::test]
async fn an_answer_lost_each_time_is_one_effect() {
    for step in WRITERS {
        let (site, before, report) = run_with(step, CallFailure::TimeoutAfterEffect, EVERY_TIME).await;
        // Those steps of the API that come later meet the same fault.
        let later = if object(step) == "wakala-api" {
            WRITERS.iter().position(|name| *name == step).unwrap()
        } else {
            9
        };
        for (place, name) in WRITERS.into_iter().enumerate() {
            let lost = name == step || (place > later && object(name) == "wakala-api");
            assert!(intents(&report, name) == 1, "{name}, lost: {lost}\n{report}");
            assert_eq!(site.logged(written(name)), 1, "{name}\n{report}");
        }
        assert_eq!(report.status, Status::Succeeded, "{step}\n{report}");
        assert_describes(&report, &before, &site.settings().await);
    }
}

#[tokio::test]
async fn undo_repeats_until_it_is_through() {
    for failure in FAILURES.into_iter().filter(|failure| *failure != CallFailure::Denied) {
        let site = Site::new(calm());
        let before = site.settings().await;
        site.respond().await;
        for object in ["wakala-api", "redis-cache", "workers-general"] {
            site.world.inject(Fault::writes_fail(object, failure, 1)).unwrap();
        }
        let reverted = site.revert_until_done(Revert::Everything).await;
        assert_eq!(reverted.status, Status::Compensated, "{failure:?}\n{reverted}");
        site.world.pass(15 * MINUTE);
        assert_eq!(site.settings().await, before, "{failure:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_stuck_and_said() {
    let site = Site::new(calm());
    let before = site.settings().await;
    site.respond().await;
    site.world.inject(Fault::writes_fail("workers-general", CallFailure::Denied, 1)).unwrap();
    let reverted = site.revert(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Stuck, "{reverted}");
    assert_says(&reverted.reason, &["nodes", "could not be taken back", "a person must look"]);
    assert_says(&reverted, &["UNDO FAILED", "node pool workers-general", "not permitted"]);
    // All else went back all the same.
    let after = site.settings().await;
    for step in ["cache", "api-floor", "limits"] {
        assert_eq!(after.of(step), before.of(step), "{step}");
    }
    assert_describes(&reverted, &before, &after);

    let reverted = site.revert_until_done(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    site.world.pass(15 * MINUTE);
    assert_eq!(site.settings().await, before);
}
