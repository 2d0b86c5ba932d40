//! What the runbook gets wrong, and that the playbook does not: the commands to the letter beside the playbook.

use std::collections::BTreeMap;

use wakala_core::sim::{Database, Fault, Load, World};
use wakala_core::{Applied, Record, ScalableTargetExt as _, Setting as _, Status};
use wakala_core::{Revert, ScalableTarget as _, ScaleOptions};

use crate::site::{MINUTE, SECOND, Site, assert_says, calm};

/// How many rolling restarts of the API there were.
fn restarts(world: &World) -> usize {
    let outdated: Vec<_> =
        world.history().iter().map(|frame| frame.workload("wakala-api").unwrap().outdated > 0).collect();
    outdated.windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

/// Erratum 1: an autoscaler takes back what is scaled by hand within one of its rounds.
#[tokio::test]
async fn a_count_scaled_by_hand_is_taken_back_and_ours_is_not() {
    let site = Site::new(calm().with_load(Load::constant(300.0)));
    assert_eq!(site.settings().await.api(), 5);
    let by_hand = async {
        let api = site.world.target("wakala-api");
        api.set_desired(&site.world.context(), 50.into(), ScaleOptions::default()).await.unwrap();
    };
    site.world.run(by_hand).await;
    assert_eq!(site.settings().await.api(), 50);
    site.world.pass(16 * SECOND);
    assert_eq!(site.settings().await.api(), 5, "the autoscaler must fight");
    // Waiting for what was asked for never ends, which is what the runbook's reader would do.
    let api = site.world.target("wakala-api");
    let scaled = site.world.run(api.scale_to(&site.world.context(), 50.into(), 5 * MINUTE)).await;
    assert!(scaled.is_err(), "{scaled:?}");

    let site = Site::new(calm().with_load(Load::constant(300.0)));
    let report = site.respond().await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let start = usize::try_from(site.second(report.started_at)).unwrap();
    for frame in &site.world.history()[start + 1..] {
        assert_eq!(frame.workload("wakala-api").unwrap().desired, 50, "at {} s", frame.second);
    }
    // Nor later, for as long as the floor is up.
    site.world.pass(30 * MINUTE);
    assert_eq!(site.settings().await.api(), 50);
}

/// Erratum 3: each `kubectl set env` is a rolling restart of its own.
#[tokio::test]
async fn all_template_changes_are_one_restart() {
    let site = Site::new(calm());
    let commands = async {
        let cx = site.world.context();
        for variables in [
            BTreeMap::from([("RATE_LIMIT_REQUESTS", "10000"), ("RATE_LIMIT_WINDOW", "60")]),
            BTreeMap::from([("AGGRESSIVE_CACHING", "true")]),
        ] {
            let env = site.world.environment("wakala-api", variables);
            let current = env.read(&cx).await.unwrap();
            let desired = env.desired(&current.value).unwrap();
            assert_eq!(env.write(&cx, &desired, None).await.unwrap(), Applied::Changed);
            cx.sleep(5 * MINUTE).await.unwrap();
        }
    };
    site.world.run(commands).await;
    assert_eq!(restarts(&site.world), 2);

    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    let warned = plan.step(&"limits".into()).unwrap().step.warnings.join("; ");
    assert_says(&warned, &["restarts all", "capacity may drop by"]);
    let report = site.run(&plan).await.unwrap();
    assert_eq!(restarts(&site.world), 1, "{report}");
    assert_says(
        site.world.log().iter().map(|seen| seen.text.as_str()).collect::<Vec<_>>().join("\n"),
        &["AGGRESSIVE_CACHING=true, RATE_LIMIT_REQUESTS=10000, RATE_LIMIT_WINDOW=60"],
    );
    // It was seen through before the soak began, and came after the capacity.
    let at = |wanted: &str| {
        report.journal.iter().position(|entry| entry.record.to_string().starts_with(wanted)).unwrap_or_else(
            || {
                panic!("{wanted} is not in the journal\n{report}");
            },
        )
    };
    assert!(at("limits: done") < at("soak: watching"));
    for step in ["api", "cache", "nodes"] {
        assert!(at(&format!("{step}: done")) < at("limits: applying"), "{step}");
    }
}

/// Erratum 4: nothing ever lowers the rate limits again.
#[tokio::test]
async fn rate_limits_are_owed_back_and_come_back() {
    let site = Site::new(calm());
    let before = site.settings().await;
    let report = site.respond().await;
    assert!(report.obligations.iter().any(|owed| owed.step.as_str() == "limits"), "{report}");
    assert_says(&report, &["Owed back", "limits"]);
    site.revert(Revert::Temporary).await;
    assert_eq!(site.settings().await.of("limits"), before.of("limits"));
    assert_eq!(site.settings().await.of("limits")["AGGRESSIVE_CACHING"], serde_json::Value::Null);
    assert_eq!(restarts(&site.world), 2, "one there, one back");
}

/// Erratum 5: nobody checks that pods start, nodes exist, or the database takes the connections.
#[tokio::test]
async fn the_chain_is_checked_before_and_effects_after() {
    let too_small = calm().with_database(Database::new(600).with_queries_per_second(2000.0));
    let site = Site::new(too_small);
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    assert_says(plan.refusals().next().unwrap(), &["database connections", "= 680", "597 are accepted"]);
    site.run(&plan).await.unwrap_err();
    assert_eq!(site.settings().await, before);

    // Where it fits, the tightest link is named.
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    assert_says(&plan, &["the tightest link is"]);
    // No step is done before its effect is seen, and the run not before the soak.
    let report = site.run(&plan).await.unwrap();
    let seen_ready =
        |what: &str| site.world.log().iter().find(|seen| seen.text.contains(what)).unwrap().second;
    let done = |wanted: &str| {
        let is_it = |record: &Record| matches!(record, Record::Verified { step } if step.as_str() == wanted);
        let at = report.journal.iter().find(|entry| is_it(&entry.record)).unwrap().at;
        site.second(at)
    };
    assert!(done("nodes") >= seen_ready("workers-general: all 30 nodes ready"));
    assert!(done("api") >= seen_ready("wakala-api: all 50 pods ready"));
    assert!(done("cache") >= seen_ready("redis-cache: all 5 pods ready"));
    assert!(report.ended_at.duration_since(report.started_at).unwrap() > 10 * MINUTE);
    // A pod that never starts is found out.
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    site.sabotage("api", Fault::image_broken("wakala-api", 60 * MINUTE));
    assert_eq!(site.run(&plan).await.unwrap().status, Status::Held);
}

/// Erratum 11: a cluster autoscaler takes a desired size back that no minimum keeps.
#[tokio::test]
async fn the_minimum_goes_up_with_the_nodes_in_one_write() {
    let site = Site::new(calm());
    site.respond().await;
    let written: Vec<_> = site
        .world
        .log()
        .into_iter()
        .filter(|seen| seen.text.starts_with("node pool workers-general: nodes"))
        .map(|seen| seen.text)
        .collect();
    assert_eq!(written, ["node pool workers-general: nodes 10 in 5..50 -> 30 in 30..50"]);
    site.revert_until_done(Revert::Temporary).await;
    let after = site.settings().await;
    assert_eq!((&after.of("nodes")["min"], &after.of("nodes")["desired"]), (&5.into(), &10.into()));
}
