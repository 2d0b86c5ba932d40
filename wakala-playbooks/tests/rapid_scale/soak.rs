//! What goes wrong after the effects, and on the way to them: capacity is kept and the report says why.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wakala_core::sim::{CallFailure, Fault};
use wakala_core::{
    Autoscaler as _, Bounds, EffectKnown, Error, ErrorKind, Notification, Notifier, Record, Result, Revert,
    RunContext, RunReport, Status, StepOutcome,
};
use wakala_playbooks::rapid_scale::{RapidScale, Simulated};

use crate::site::{MINUTE, SECOND, Site, WRITERS, assert_describes, assert_says, calm, intents};

/// Time that the soak covered, and why it did not pass.
fn closed(report: &RunReport) -> (Duration, Option<String>) {
    let closed = report.journal.iter().find_map(|entry| match &entry.record {
        Record::SoakClosed { covered, failure, .. } => Some((*covered, failure.clone())),
        _ => None,
    });
    closed.unwrap_or_else(|| panic!("the soak was not reached\n{report}"))
}

/// From the soak's opening to its end.
fn lasted(report: &RunReport) -> Duration {
    let at = |wanted: fn(&Record) -> bool| {
        report.journal.iter().find(|entry| wanted(&entry.record)).map(|entry| entry.at).unwrap()
    };
    let opened = at(|record| matches!(record, Record::SoakOpened { .. }));
    at(|record| matches!(record, Record::SoakClosed { .. })).duration_since(opened).unwrap()
}

/// Runs into a fault that strikes when the soak opens, or so long after.
async fn soaked(faults: Vec<(Duration, Fault)>) -> (Site, RunReport) {
    let site = Site::new(calm());
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    let approval = wakala_core::Approval::of(&plan, "test");
    let (opened, is_open) = tokio::sync::oneshot::channel();
    site.at_intent("soak", move || opened.send(()).unwrap());
    let strike = async {
        is_open.await.unwrap();
        let cx = site.world.context();
        for (after, fault) in faults {
            cx.sleep(after).await.unwrap();
            site.world.inject(fault).unwrap();
        }
    };
    let run = site.engine.run(&site.playbook, &plan, &approval, &site.run);
    let (report, ()) = site.world.run(async { tokio::join!(run, strike) }).await;
    let report = report.unwrap();
    assert_describes(&report, &before, &site.settings().await);
    (site, report)
}

/// Held, with everything in force that was done before the soak.
async fn assert_kept(site: &Site, report: &RunReport) {
    assert_eq!(report.status, Status::Held, "{report}");
    assert_says(&report.reason, &["soak soak did not pass", "what was done is kept"]);
    for step in WRITERS {
        assert_eq!(report.step(step).unwrap().outcome, StepOutcome::Done, "{step}\n{report}");
    }
    let settings = site.settings().await;
    assert_eq!((settings.api(), &settings.of("nodes")["desired"]), (50, &30.into()));
    assert_eq!(report.obligations.len(), 3, "what is temporary is owed back all the same\n{report}");
}

#[tokio::test]
async fn metrics_that_stay_away_hold_the_run_after_the_blind_limit() {
    for fault in [
        Fault::metrics_gone(60 * MINUTE),
        Fault::MetricsGone { metric: Some("error_rate".into()), lasting: 60 * MINUTE },
        Fault::MetricsFailing { lasting: 60 * MINUTE },
        Fault::MetricsFrozen { lasting: 60 * MINUTE },
        Fault::MetricsPartial { percent: 30, lasting: 60 * MINUTE },
    ] {
        let (site, report) = soaked(vec![(3 * MINUTE, fault.clone())]).await;
        assert_kept(&site, &report).await;
        let (covered, failure) = closed(&report);
        assert_says(failure.unwrap(), &["error-rate", "without verdict for 5m"]);
        // Frozen samples count until they are too old.
        assert!((150 * SECOND..=300 * SECOND).contains(&covered), "{fault:?}: {covered:?}");
        assert!((450 * SECOND..=600 * SECOND).contains(&lasted(&report)), "{fault:?}: {:?}", lasted(&report));
    }
}

#[tokio::test]
async fn a_gap_in_the_metrics_is_soaked_again() {
    let (_, report) = soaked(vec![(3 * MINUTE, Fault::metrics_gone(2 * MINUTE))]).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert!(closed(&report).0 >= 10 * MINUTE);
    assert!((12 * MINUTE..=13 * MINUTE).contains(&lasted(&report)), "{:?}", lasted(&report));
}

#[tokio::test]
async fn a_bad_error_rate_holds_the_run_and_keeps_the_capacity() {
    let fault = Fault::DatabaseSlow { factor: 100.0, lasting: 20 * MINUTE };
    let (site, report) = soaked(vec![(3 * MINUTE, fault)]).await;
    assert_kept(&site, &report).await;
    assert_says(closed(&report).1.unwrap(), &["error-rate: FAIL", "must be below 0.01", "3 times in a row"]);
    assert!(lasted(&report) < 5 * MINUTE, "{:?}", lasted(&report));
}

#[tokio::test]
async fn pods_that_crash_once_are_waited_for_and_pods_that_keep_crashing_are_not() {
    let (_, report) = soaked(vec![(3 * MINUTE, Fault::crash("wakala-api", 20))]).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert!(lasted(&report) > 10 * MINUTE, "a time with pods missing does not count: {:?}", lasted(&report));

    let again = std::iter::repeat_n((20 * SECOND, Fault::crash("wakala-api", 20)), 9);
    let (site, report) = soaked(again.collect()).await;
    assert_kept(&site, &report).await;
    assert_says(closed(&report).1.unwrap(), &["api-ready: FAIL", "must be at least 50"]);
}

#[tokio::test]
async fn a_truce_that_somebody_breaks_holds_the_run() {
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    let approval = wakala_core::Approval::of(&plan, "test");
    let break_it = async {
        let cx = site.world.context();
        cx.sleep(6 * MINUTE).await.unwrap();
        let bounds = Bounds::new(10, 50).unwrap();
        site.world.autoscaler("wakala-api").set_bounds(&cx, bounds, None).await.unwrap();
    };
    let run = site.engine.run(&site.playbook, &plan, &approval, &site.run);
    let (report, ()) = site.world.run(async { tokio::join!(run, break_it) }).await;
    let report = report.unwrap();
    assert_eq!(report.status, Status::Held, "{report}");
    assert_says(
        &report.reason,
        &["truce: FAIL", "HorizontalPodAutoscaler production/wakala-api keeps 10..50"],
    );

    // Theirs by now, so it is left alone; the rest goes back.
    let reverted = site.revert_until_done(Revert::Temporary).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    assert!(matches!(reverted.step("api-floor").unwrap().outcome, StepOutcome::NotOurs(_)), "{reverted}");
    assert_eq!(site.settings().await.of("api-floor")["min"], 10);
}

#[tokio::test]
async fn nodes_out_of_capacity_are_named_and_the_api_keeps_what_it_got() {
    let site = Site::new(calm());
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    site.sabotage("nodes", Fault::nodes_out_of_capacity("workers-general", 120 * MINUTE));
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Held, "{report}");
    assert_says(
        &report.reason,
        &["step nodes failed", "node pool workers-general", "use another type or pool"],
    );
    assert_says(&report.reason, &["step api failed", "of 50 ready", "unschedulable"]);
    let StepOutcome::Failed { effect, failure } = &report.step("nodes").unwrap().outcome else {
        panic!("{report}")
    };
    assert_eq!((*effect, failure.kind), (EffectKnown::Some, ErrorKind::InsufficientCapacity));
    assert_eq!(
        report.step("limits").unwrap().outcome,
        StepOutcome::NotBegun,
        "no restart without room\n{report}"
    );

    // More than there were, on the nodes that there are.
    let api = site.world.snapshot().workload("wakala-api").unwrap().clone();
    assert_eq!((api.desired, api.autoscaler), (50, Some((50, 50))));
    assert!((20..50).contains(&api.ready) && api.pending > 0, "{api:?}");
    assert_describes(&report, &before, &site.settings().await);

    let reverted = site.revert_until_done(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    site.world.pass(15 * MINUTE);
    assert_eq!(site.settings().await, before);
}

#[tokio::test]
async fn nodes_and_pods_that_never_get_ready_end_at_the_steps_limit() {
    for (step, fault, words) in [
        ("nodes", Fault::nodes_stuck("workers-general", 120 * MINUTE), "10 of 30 nodes ready"),
        ("api", Fault::image_broken("wakala-api", 120 * MINUTE), "9 of 50 ready"),
        ("cache", Fault::image_broken("redis-cache", 120 * MINUTE), "2 of 5 ready"),
        ("limits", Fault::image_broken("wakala-api", 120 * MINUTE), "of 50 pods restarted and ready"),
    ] {
        let site = Site::new(calm());
        let (before, plan) = (site.settings().await, site.plan().await.unwrap());
        site.sabotage(step, fault);
        let report = site.run(&plan).await.unwrap();
        assert_eq!(report.status, Status::Held, "{step}\n{report}");
        assert_says(&report.reason, &[&format!("step {step} failed"), "not in force after", words]);
        assert_describes(&report, &before, &site.settings().await);
        let limit = plan.step(&step.into()).unwrap().limit();
        let took = report.step(step).unwrap().took;
        assert!((limit..limit + MINUTE).contains(&took), "{step} took {took:?} of {limit:?}");
    }
}

#[tokio::test]
async fn an_outage_of_every_provider_is_lived_through() {
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    site.sabotage("limits", Fault::ApiOutage { lasting: 40 * SECOND });
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.logged("environment of deployment production/wakala-api: "), 1);
}

#[tokio::test]
async fn an_outage_without_end_holds_the_run_and_says_what_it_does_not_know() {
    let site = Site::new(calm());
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    site.sabotage("api", Fault::ApiOutage { lasting: 30 * MINUTE });
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Held, "{report}");
    assert_says(
        &report.reason,
        &["step nodes failed", "step cache failed", "step api failed", "internal error"],
    );
    for step in ["nodes", "cache"] {
        assert!(
            !report.residuals.iter().find(|left| left.step.as_str() == step).unwrap().certain,
            "{report}"
        );
    }
    site.world.pass(30 * MINUTE);
    assert_describes(&report, &before, &site.settings().await);
    let reverted = site.revert_until_done(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    site.world.pass(15 * MINUTE);
    assert_eq!(site.settings().await.but_api(), before.but_api());
}

#[tokio::test]
async fn slow_providers_only_take_longer() {
    let slow =
        calm().with_fault(Duration::ZERO, Fault::CallLatency { latency: 4 * SECOND, lasting: 60 * MINUTE });
    let site = Site::new(slow);
    let before = site.settings().await;
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    for step in WRITERS {
        // None where the autoscaler, its floor raised, was there first.
        assert!(intents(&report, step) <= 1, "{step}\n{report}");
    }
    assert_describes(&report, &before, &site.settings().await);
}

#[derive(Debug)]
struct DeadLine;

#[async_trait]
impl Notifier for DeadLine {
    fn destination(&self) -> String {
        "the pager".to_owned()
    }

    async fn notify(&self, _: &RunContext, _: &Notification) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "notify", "nobody picks up").on("the pager"))
    }
}

#[tokio::test]
async fn an_alert_that_fails_is_only_noted() {
    let world = calm().build().unwrap();
    world.pass(10 * MINUTE);
    let production = Simulated::new(&world).with_notifier(Arc::new(DeadLine));
    let playbook = RapidScale::default().playbook(&production).unwrap();
    let site = Site::of(world, playbook);
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let StepOutcome::Failed { failure, .. } = &report.step("alert").unwrap().outcome else {
        panic!("{report}")
    };
    assert_says(failure, &["the pager", "nobody picks up"]);
    assert!(!report.residuals.iter().any(|left| left.step.as_str() == "alert"), "{report}");
    // Capacity does not wait for it.
    let begun = |wanted: &str| {
        let is_it =
            |record: &Record| matches!(record, Record::Intent { step, .. } if step.as_str() == wanted);
        report.journal.iter().find(|entry| is_it(&entry.record)).unwrap().at
    };
    assert_eq!(begun("nodes").duration_since(begun("alert")).unwrap_or_default().as_secs(), 0);
}

#[tokio::test]
async fn reads_that_fail_are_repeated_wherever_they_come() {
    for object in ["wakala-api", "redis-cache", "workers-general"] {
        for failure in [CallFailure::RateLimited, CallFailure::Unavailable, CallFailure::TimeoutBeforeEffect]
        {
            let site = Site::new(calm());
            let (before, plan) = (site.settings().await, site.plan().await.unwrap());
            site.world.inject(Fault::reads_fail(object, failure, 3)).unwrap();
            let report = site.run(&plan).await.unwrap();
            assert_eq!(report.status, Status::Succeeded, "{object} {failure:?}\n{report}");
            assert_describes(&report, &before, &site.settings().await);
        }
    }
}
