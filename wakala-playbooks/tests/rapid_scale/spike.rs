//! The whole of it: the spike is met, and what was temporary goes back.

use wakala_core::sim::Database;
use wakala_core::{Approval, ErrorKind, Record, Revert, RunHandle, Status, StepOutcome};
use wakala_playbooks::rapid_scale::RapidScale;

use crate::site::{MINUTE, SECOND, Site, WRITERS, assert_describes, assert_says, calm, spike};

#[tokio::test]
async fn the_spike_is_met() {
    let site = Site::new(spike());
    site.world.pass(6 * MINUTE);
    let hurt = site.world.snapshot();
    assert!(hurt.workload("wakala-api").unwrap().over_objective, "the spike must hurt: {hurt:?}");

    let before = site.settings().await;
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let after = site.settings().await;
    assert_describes(&report, &before, &after);
    for step in WRITERS.into_iter().chain(["alert"]) {
        assert_eq!(report.step(step).unwrap().outcome, StepOutcome::Done, "{step}\n{report}");
    }

    let frame = site.world.snapshot();
    let api = frame.workload("wakala-api").unwrap();
    assert_eq!((api.desired, api.ready, api.outdated, api.autoscaler), (50, 50, 0, Some((50, 50))));
    assert_eq!(frame.workload("redis-cache").unwrap().ready, 5);
    assert_eq!(frame.pool("workers-general").unwrap().ready, 30);

    // In every second of the soak.
    let soak = usize::try_from(RapidScale::default().soak.as_secs()).unwrap();
    let history = site.world.history();
    for frame in history.iter().rev().take(soak) {
        let api = frame.workload("wakala-api").unwrap();
        assert!(!api.over_objective, "at {} s: {:?}", frame.second, api.latency_p95_seconds);
    }
    let (covered, failure) = report
        .journal
        .iter()
        .find_map(|entry| match &entry.record {
            Record::SoakClosed { covered, failure, .. } => Some((*covered, failure.clone())),
            _ => None,
        })
        .unwrap();
    assert_eq!(failure, None);
    assert!(covered >= 10 * MINUTE, "covered {covered:?}");
}

#[tokio::test]
async fn revert_puts_back_what_was_temporary_and_leaves_the_capacity() {
    let site = Site::new(spike());
    let before = site.settings().await;
    let report = site.respond().await;
    let owed: Vec<_> = report.obligations.iter().map(|owed| (owed.step.as_str(), owed.due)).collect();
    let due = report.started_at + RapidScale::default().temporary_for;
    assert_eq!(owed, [("nodes", due), ("api-floor", due), ("limits", due)]);

    let reverted = site.revert(Revert::Temporary).await;
    let after = site.settings().await;
    assert_eq!(after.of("api-floor"), before.of("api-floor"));
    assert_eq!(after.of("limits"), before.of("limits"));
    assert_eq!(after.of("nodes")["min"], before.of("nodes")["min"]);
    // Fifty pods do not fit on ten nodes: the nodes stay until the autoscaler took the pods away.
    assert_eq!(after.of("nodes")["desired"], 30);
    assert_eq!((after.api(), &after.of("cache")["size"]), (50, &5.into()));
    assert_eq!(reverted.status, Status::Held, "{reverted}");
    assert_describes(&reverted, &before, &after);
    let owed: Vec<_> = reverted.obligations.iter().map(|owed| owed.step.as_str()).collect();
    assert_eq!(owed, ["nodes"]);

    // The spike is over: the autoscaler lowers the API, and the nodes can go.
    site.world.pass_until(100 * MINUTE);
    let reverted = site.revert_until_done(Revert::Temporary).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    assert_eq!(reverted.obligations, []);
    let settled = site.settings().await;
    assert_eq!(settled.of("nodes"), before.of("nodes"));
    assert!(settled.api() < 20, "{settled:?}");
    // The cache was not temporary: it is left to a gradual scale-down, and the report says so.
    assert_eq!(settled.of("cache")["size"], 5);
    assert_eq!(reverted.step("cache").unwrap().outcome, StepOutcome::Done);
}

#[tokio::test]
async fn reverting_twice_changes_nothing_more() {
    let site = Site::new(calm());
    site.respond().await;
    let once = site.revert_until_done(Revert::Temporary).await;
    assert_eq!(once.status, Status::Compensated, "{once}");
    let (settings, log) = (site.settings().await, site.world.log());
    let twice = site.revert(Revert::Temporary).await;
    assert_eq!(twice.status, Status::Compensated, "{twice}");
    assert_eq!((site.settings().await, site.world.log()), (settings, log));
    assert_eq!(twice.steps, once.steps);
}

#[tokio::test]
async fn reverting_everything_brings_back_all() {
    let site = Site::new(calm());
    let before = site.settings().await;
    site.respond().await;
    let reverted = site.revert_until_done(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    assert_eq!(reverted.residuals, []);
    site.world.pass(10 * MINUTE);
    assert_eq!(site.settings().await, before);
}

#[tokio::test]
async fn a_second_run_on_the_same_targets_is_refused_while_the_first_goes_on() {
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    let second = async {
        site.world.context().sleep(30 * SECOND).await.unwrap();
        let run = RunHandle::new("the-second");
        let approval = Approval::of(&plan, "somebody else");
        let error = site.engine.run(&site.playbook, &plan, &approval, &run).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_says(error.chain(), &["spike"]);
        // Nor can the first be reverted in its middle.
        let error = site.engine.revert(&site.playbook, &site.run, Revert::Everything).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_says(error.chain(), &["run spike", "drives it", "by force"]);
    };
    let approval = Approval::of(&plan, "test");
    let first = site.engine.run(&site.playbook, &plan, &approval, &site.run);
    let (report, ()) = site.world.run(async { tokio::join!(first, second) }).await;
    assert_eq!(report.unwrap().status, Status::Succeeded);

    // Once it is at its end, another may go, and finds nothing to do.
    let before = site.settings().await;
    let third = RunHandle::new("the-third");
    let plan = site.plan().await.unwrap();
    let approval = Approval::of(&plan, "test");
    let report = site.world.run(site.engine.run(&site.playbook, &plan, &approval, &third)).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    for step in WRITERS {
        assert_eq!(report.step(step).unwrap().outcome, StepOutcome::WasSo, "{step}\n{report}");
    }
    assert_eq!(report.residuals, []);
    assert_eq!(site.settings().await, before);
}

#[tokio::test]
async fn the_runbooks_numbers_arrive() {
    let site = Site::new(calm());
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let after = site.settings().await;
    assert_eq!(after.api(), 50);
    assert_eq!(after.of("api-floor")["min"], 50);
    assert_eq!(after.of("cache")["size"], 5);
    assert_eq!((&after.of("nodes")["min"], &after.of("nodes")["desired"]), (&30.into(), &30.into()));
    assert_eq!(
        *after.of("limits"),
        serde_json::json!({
            "AGGRESSIVE_CACHING": "true", "RATE_LIMIT_REQUESTS": "10000", "RATE_LIMIT_WINDOW": "60"
        })
    );
}

#[tokio::test]
async fn other_numbers_arrive_too() {
    let mut parameters = RapidScale::default();
    parameters.api_replicas = 24;
    parameters.cache_replicas = 3;
    parameters.nodes = 16;
    parameters.rate_limit_requests = 4321;
    parameters.rate_limit_window = 30 * SECOND;
    parameters.aggressive_caching = false;
    let site = Site::with(calm(), &parameters);
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let after = site.settings().await;
    assert_eq!((after.api(), &after.of("cache")["size"]), (24, &3.into()));
    assert_eq!((&after.of("api-floor")["min"], &after.of("api-floor")["max"]), (&24.into(), &50.into()));
    assert_eq!((&after.of("nodes")["min"], &after.of("nodes")["desired"]), (&16.into(), &16.into()));
    assert_eq!(
        *after.of("limits"),
        serde_json::json!({
            "AGGRESSIVE_CACHING": null, "RATE_LIMIT_REQUESTS": "4321", "RATE_LIMIT_WINDOW": "30"
        })
    );
}

#[tokio::test]
async fn what_is_larger_already_stays() {
    let mut parameters = RapidScale::default();
    parameters.api_replicas = 6;
    parameters.cache_replicas = 1;
    parameters.nodes = 7;
    let site = Site::with(calm(), &parameters);
    let before = site.settings().await;
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let after = site.settings().await;
    assert_eq!(report.step("api").unwrap().outcome, StepOutcome::WasSo);
    // Fewer than before only by the autoscaler, which the caching leaves with less to do.
    assert!((7..=before.api()).contains(&after.api()), "{after:?}");
    assert_eq!(after.of("cache"), before.of("cache"));
    assert_eq!(after.of("nodes")["desired"], before.of("nodes")["desired"]);
    assert_eq!((&after.of("nodes")["min"], &after.of("api-floor")["min"]), (&7.into(), &6.into()));
    assert_describes(&report, &before, &after);
}

#[tokio::test]
async fn raised_ceilings_go_back_as_far_as_the_size_allows() {
    let small = calm().with_database(Database::new(1200).with_queries_per_second(2000.0));
    let mut parameters = RapidScale::default();
    parameters.api_replicas = 60;
    parameters.nodes = 55;
    parameters.raise_ceilings = true;
    let site = Site::with(small, &parameters);
    let before = site.settings().await;
    let plan = site.plan().await.unwrap();
    let warned: Vec<_> = plan.steps().iter().flat_map(|planned| planned.step.warnings.clone()).collect();
    assert_says(warned.join("\n"), &["the ceiling is raised from 50 to 60"]);
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let after = site.settings().await;
    assert_eq!(*after.of("api-floor"), serde_json::json!({"min": 60, "max": 60}));
    assert_eq!(*after.of("nodes"), serde_json::json!({"min": 55, "max": 55, "desired": 55}));

    // At once: the floors are back, the ceilings are not, since they would cut what runs.
    let reverted = site.revert(Revert::Temporary).await;
    assert_eq!(reverted.status, Status::Held, "{reverted}");
    let after = site.settings().await;
    assert_eq!(*after.of("api-floor"), serde_json::json!({"min": 5, "max": 60}));
    assert_eq!(*after.of("nodes"), serde_json::json!({"min": 5, "max": 55, "desired": 55}));
    assert_eq!(after.api(), 60);
    assert_says(&reverted, &["api-floor", "the ceiling stays 60", "revert again later"]);

    let reverted = site.revert_until_done(Revert::Temporary).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    let after = site.settings().await;
    assert_eq!((after.of("api-floor"), after.of("nodes")), (before.of("api-floor"), before.of("nodes")));
}

#[tokio::test]
async fn a_workload_without_autoscaler_is_scaled_alone() {
    let site = Site::new(calm().without_hpa());
    let before = site.settings().await;
    let plan = site.plan().await.unwrap();
    assert!(plan.step(&"api-floor".into()).unwrap().step.is_no_change());
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.settings().await.api(), 50);
    let reverted = site.revert_until_done(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    assert_eq!(site.settings().await, before);
    assert_eq!(site.world.snapshot().workload("wakala-api").unwrap().desired, 10);
}
