//! The way down, and the way back from each of its steps.

use wakala_core::sim::{CallFailure, Fault};
use wakala_core::{Clock as _, Revert, Status, StepOutcome};

use crate::site::{API, MINUTE, SECOND, Site, WORKER, assert_says, quiet, soak, with};

#[tokio::test]
async fn all_goes_down_step_by_step_and_is_watched_at_each() {
    let site = Site::new(quiet());
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.sizes(API), [50, 40, 30, 20, 15]);
    assert_eq!(site.sizes(WORKER), [30, 24, 18, 12, 9]);
    assert_eq!((site.size(API), site.size(WORKER)), ((15, 15), (9, 9)));
    for fraction in ["0.8", "0.6", "0.4", "0.3"] {
        let (lasted, covered, failure) = soak(&report, &format!("soak-{fraction}")).unwrap();
        assert_eq!(failure, None);
        assert!(covered >= 10 * MINUTE && lasted >= 10 * MINUTE, "{fraction}: {covered:?} in {lasted:?}");
    }
    // Nobody noticed.
    for frame in site.world.history() {
        assert_eq!(frame.error_rate, Some(0.0), "at {} s", frame.second);
    }
    assert_eq!(report.obligations, [], "a descent is for good");
}

#[tokio::test]
async fn minimums_are_kept_and_what_is_at_its_minimum_is_left_alone() {
    let parameters = with(|p| (p.api_minimum, p.worker_minimum) = (25, 30));
    let site = Site::with(quiet(), &parameters);
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!((site.sizes(API), site.sizes(WORKER)), (vec![50, 40, 30, 25], vec![30]));
    assert!(report.step("api-0.3").is_some_and(|step| step.outcome != StepOutcome::NotBegun), "{report}");
}

/// Errors come with each of the sizes in turn, and go with it.
#[tokio::test]
async fn errors_at_any_step_bring_the_size_before_it_back() {
    for (fraction, api, worker) in [
        ("0.8", [50, 40], [30, 24]),
        ("0.6", [40, 30], [24, 18]),
        ("0.4", [30, 20], [18, 12]),
        ("0.3", [20, 15], [12, 9]),
    ] {
        let fault = Fault::too_few_replicas(API, api[0], 5, 600 * MINUTE);
        let site = Site::new(quiet().with_fault(SECOND, fault));
        let report = site.descend().await;
        assert_eq!(report.status, Status::Compensated, "{fraction}\n{report}");
        let why = [
            &format!("soak soak-{fraction} did not pass"),
            "error-rate: FAIL",
            "is 0.0500, must be below 0.01",
            "3 times in a row",
            "and stopped there",
        ];
        assert_says(&report.reason, &why);
        // Both go back, to where all was well last; nothing more is made smaller.
        assert_eq!(
            (site.size(API), site.size(WORKER)),
            ((api[0], api[0]), (worker[0], worker[0])),
            "{report}"
        );
        assert_eq!((site.smallest(API), site.smallest(WORKER)), (api[1], worker[1]), "{report}");
        for step in ["api", "worker"] {
            let outcome = &report.step(&format!("{step}-{fraction}")).unwrap().outcome;
            assert_eq!(*outcome, StepOutcome::TakenBack, "{step}\n{report}");
        }
        let (lasted, covered, _) = soak(&report, &format!("soak-{fraction}")).unwrap();
        assert!(lasted < 2 * MINUTE && covered < MINUTE, "{fraction}: {covered:?} in {lasted:?}");
        // It stays there, and is well.
        site.world.pass(10 * MINUTE);
        assert_eq!((site.size(API).0, site.world.snapshot().error_rate), (api[0], Some(0.0)));
    }
}

#[tokio::test]
async fn a_size_that_cannot_bear_the_load_is_found_out() {
    // Enough for 30 replicas and not for 20.
    let busy = quiet().with_load(wakala_core::sim::Load::constant(2400.0));
    let site = Site::new(busy);
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(&report.reason, &["soak-0.4 did not pass", "error-rate: FAIL"]);
    assert_eq!((site.size(API), site.size(WORKER)), ((30, 30), (18, 18)));
}

#[tokio::test]
async fn one_bad_sample_is_no_reason_to_turn_round() {
    let site = Site::new(quiet());
    let world = site.world.clone();
    site.at("soak-0.6", move || {
        world.inject(Fault::too_few_replicas(API, 50, 5, 20 * SECOND)).unwrap();
    });
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let (lasted, ..) = soak(&report, "soak-0.6").unwrap();
    assert!(lasted > 10 * MINUTE, "the count begins anew: {lasted:?}");
}

#[tokio::test]
async fn calls_that_fail_are_tried_again_or_end_where_all_was_well() {
    for failure in [
        CallFailure::RateLimited,
        CallFailure::Unavailable,
        CallFailure::TimeoutAfterEffect,
        CallFailure::Conflict,
    ] {
        let site = Site::new(quiet());
        site.sabotage("api-0.6", Fault::writes_fail(API, failure, 2));
        let report = site.descend().await;
        assert_eq!(report.status, Status::Succeeded, "{failure:?}\n{report}");
        assert_eq!(site.sizes(API), [50, 40, 30, 20, 15], "{failure:?}");
    }
    let site = Site::new(quiet());
    site.sabotage("api-0.6", Fault::writes_fail(API, CallFailure::Denied, 1));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(&report.reason, &["step api-0.6 failed", "not permitted", "where the last soak had passed"]);
    assert_eq!((site.size(API), site.size(WORKER)), ((40, 40), (24, 24)), "the worker goes back with it");
}

#[tokio::test]
async fn the_way_back_waits_until_what_came_back_is_at_work() {
    let fault = Fault::too_few_replicas(API, 40, 5, 600 * MINUTE);
    let site = Site::new(quiet().with_fault(SECOND, fault));
    let report = site.descend().await;
    let back = report.journal.iter().find(|entry| entry.record.to_string() == "api-0.6: taken back").unwrap();
    let asked =
        report.journal.iter().find(|entry| entry.record.to_string() == "api-0.6: taking back").unwrap();
    // A pod takes 25 seconds at least.
    assert!(back.at.duration_since(asked.at).unwrap() >= 25 * SECOND, "{report}");
    assert!(site.world.clock().now() >= back.at);

    // Pods that never come are a person's.
    let fault = Fault::too_few_replicas(API, 40, 5, 600 * MINUTE);
    let site = Site::new(quiet().with_fault(SECOND, fault));
    site.sabotage("soak-0.6", Fault::image_broken(API, 600 * MINUTE));
    let report = site.descend().await;
    assert_eq!(report.status, Status::Stuck, "{report}");
    assert_says(&report.reason, &["api-0.6 could not be taken back", "a person must look"]);
    assert_says(&report, &["UNDO FAILED", "of 40 ready", "cannot pull their image"]);
    assert_eq!(site.size(API).0, 40, "it is asked for all the same");
}

#[tokio::test]
async fn a_finished_descent_can_be_taken_back_as_a_whole() {
    let site = Site::new(quiet());
    let report = site.descend().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let report =
        site.world.run(site.engine.revert(&site.playbook, &site.run, Revert::Everything)).await.unwrap();
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!((site.size(API), site.size(WORKER)), ((50, 50), (30, 30)));
}
