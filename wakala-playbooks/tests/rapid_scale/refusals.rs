//! What is refused before anything is touched.

use std::time::Duration;

use wakala_core::sim::{CallFailure, Database, Fault, Hpa, Load, NodePool, Workload, World, WorldBuilder};
use wakala_core::{Approval, Error, ErrorKind, Plan, Status};
use wakala_playbooks::rapid_scale::{RapidScale, Simulated};

use crate::site::{MINUTE, SECOND, Site, assert_says, calm};

fn with(change: impl FnOnce(&mut RapidScale)) -> RapidScale {
    let mut parameters = RapidScale::default();
    change(&mut parameters);
    parameters
}

#[track_caller]
fn refused(parameters: &RapidScale) -> String {
    let world = calm().build().unwrap();
    let error = parameters.playbook(&Simulated::new(&world)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    error.to_string()
}

#[test]
fn parameters_that_can_never_work_are_named() {
    let cases: [(&str, RapidScale); 19] = [
        ("api_replicas is 0", with(|p| p.api_replicas = 0)),
        ("cache_replicas is 0", with(|p| p.cache_replicas = 0)),
        ("nodes is 0", with(|p| p.nodes = 0)),
        ("rate_limit_requests is 0", with(|p| p.rate_limit_requests = 0)),
        ("rate_limit_window must be whole seconds", with(|p| p.rate_limit_window = Duration::ZERO)),
        ("rate_limit_window must be whole seconds", with(|p| p.rate_limit_window = SECOND / 2)),
        ("rate_limit_window must be whole seconds", with(|p| p.rate_limit_window = SECOND * 3 / 2)),
        ("soak is 9m 59s, at least 10m", with(|p| p.soak = 599 * SECOND)),
        ("soak is 0s, at least 10m", with(|p| p.soak = Duration::ZERO)),
        ("max_error_rate is 0,", with(|p| p.max_error_rate = 0.0)),
        ("max_error_rate is 1,", with(|p| p.max_error_rate = 1.0)),
        ("max_error_rate is -0.1,", with(|p| p.max_error_rate = -0.1)),
        ("max_error_rate is NaN,", with(|p| p.max_error_rate = f64::NAN)),
        ("max_error_rate is inf,", with(|p| p.max_error_rate = f64::INFINITY)),
        ("max_latency_p95 is 0", with(|p| p.max_latency_p95 = Duration::ZERO)),
        ("temporary_for must be longer than the soak", with(|p| p.temporary_for = 10 * MINUTE)),
        ("temporary_for must be longer than the soak", with(|p| p.temporary_for = Duration::ZERO)),
        ("temporary_for is more than a year", with(|p| p.temporary_for = Duration::MAX)),
        ("temporary_for must be longer than the soak", with(|p| p.soak = Duration::MAX)),
    ];
    for (words, parameters) in cases {
        assert_says(refused(&parameters), &["playbook rapid-scale", words]);
    }
}

#[test]
fn all_wrong_parameters_are_named_at_once() {
    let all = with(|p| {
        (p.api_replicas, p.cache_replicas, p.nodes, p.rate_limit_requests) = (0, 0, 0, 0);
        (p.rate_limit_window, p.soak, p.max_latency_p95) = (Duration::ZERO, SECOND, Duration::ZERO);
        (p.max_error_rate, p.temporary_for) = (2.0, SECOND);
    });
    let names = [
        "api_replicas",
        "cache_replicas",
        "nodes",
        "rate_limit_requests",
        "rate_limit_window",
        "soak",
        "max_error_rate",
        "max_latency_p95",
        "temporary_for",
    ];
    assert_says(refused(&all), &names);
}

#[test]
fn a_rehearsal_may_soak_shortly_and_nothing_else() {
    let world = calm().build().unwrap();
    let short = with(|p| (p.soak, p.rehearsal) = (SECOND, true));
    short.playbook(&Simulated::new(&world)).unwrap();
    assert_says(refused(&with(|p| (p.nodes, p.rehearsal) = (0, true))), &["nodes is 0"]);
}

#[test]
fn parameters_left_out_of_a_file_are_the_runbooks() {
    let read: RapidScale = serde_json::from_str(r#"{"nodes": 20, "soak": "15m"}"#).unwrap();
    assert_eq!(read, with(|p| (p.nodes, p.soak) = (20, 15 * MINUTE)));
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<RapidScale>(&written).unwrap(), read);
}

/// Plans, and fails unless the world is as before; running a plan that was refused changes nothing either.
async fn planned(builder: WorldBuilder, parameters: &RapidScale) -> Result<Plan, Error> {
    let site = Site::with(builder, parameters);
    let (settings, log) = (site.settings().await, site.world.log());
    let outcome = match site.plan().await {
        Err(error) => Err(error),
        Ok(plan) => {
            let error = site.run(&plan).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert_says(&error, &["plan rapid-scale", "preflight refused it"]);
            Ok(plan)
        }
    };
    assert_eq!((site.settings().await, site.world.log()), (settings, log));
    outcome
}

fn refusals(plan: &Plan) -> String {
    plan.refusals().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn sizes_above_a_maximum_name_the_object_and_the_way_out() {
    let error = planned(calm(), &with(|p| p.api_replicas = 60)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_says(
        &error,
        &["autoscaler of deployment production/wakala-api", "60", "maximum of 50", "raise the maximum"],
    );

    let error = planned(calm(), &with(|p| p.nodes = 51)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_says(&error, &["node pool workers-general", "51", "maximum of 50", "at most 50"]);

    // Both at once, so that nobody has to come back twice.
    let error = planned(calm(), &with(|p| (p.api_replicas, p.nodes) = (60, 51))).await.unwrap_err();
    assert_says(
        error.chain(),
        &["node pool workers-general", "autoscaler of deployment production/wakala-api"],
    );
}

#[tokio::test]
async fn absurd_sizes_are_refused_also_where_ceilings_may_be_raised() {
    for (change, object) in [
        ((|p| p.api_replicas = u32::MAX) as fn(&mut RapidScale), "wakala-api"),
        (|p| p.cache_replicas = u32::MAX, "redis-cache"),
        (|p| p.nodes = u32::MAX, "node pool workers-general"),
    ] {
        let parameters = with(|p| {
            change(p);
            p.raise_ceilings = true;
        });
        let error = planned(calm(), &parameters).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert_says(error.chain(), &[object, &u32::MAX.to_string()]);
    }
}

#[tokio::test]
async fn connections_that_cannot_fit_name_the_binding_constraint() {
    let small = calm().with_database(Database::new(500).with_queries_per_second(2000.0));
    let plan = planned(small, &RapidScale::default()).await.unwrap();
    // 63 pods at most while it restarts, 10 connections each; the workers hold the rest.
    assert_says(
        refusals(&plan),
        &["database connections", "x 10 of wakala-api", "497 are accepted", "pooler"],
    );
    assert_says(&plan, &["REFUSED  database connections"]);
}

#[tokio::test]
async fn pods_without_a_node_are_refused_with_the_size_that_would_do() {
    let plan = planned(calm(), &with(|p| p.nodes = 12)).await.unwrap();
    assert_says(
        refusals(&plan),
        &["wakala-api", "fit on no node", "resize node pool workers-general to at least"],
    );
}

#[tokio::test]
async fn guards_without_data_refuse_the_plan() {
    for fault in [
        Fault::metrics_gone(20 * MINUTE),
        Fault::MetricsFailing { lasting: 20 * MINUTE },
        Fault::MetricsFrozen { lasting: 20 * MINUTE },
    ] {
        let plan =
            planned(calm().with_fault(5 * MINUTE, fault.clone()), &RapidScale::default()).await.unwrap();
        assert_says(
            refusals(&plan),
            &["guard error-rate of soak", "guard latency-p95 of soak", "mend its metric"],
        );
        assert_eq!(plan.refusals().count(), 2, "{fault:?}: {}", refusals(&plan));
    }
}

#[tokio::test]
async fn objects_that_are_not_there_are_named() {
    let nearly = || {
        World::builder(1)
            .with_load(Load::constant(100.0))
            .with_node_pool(NodePool::new("workers-general", 10).with_bounds(5, 50))
            .with_workload(Workload::new("wakala-api", 10).serves_load(1.0).with_capacity_per_replica(100.0))
            .with_hpa(Hpa::on("wakala-api", 5, 50))
    };
    let of = |builder: WorldBuilder| Site::on(builder.build().unwrap(), &RapidScale::default());
    let error = of(nearly()).plan().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &["redis-cache"]);

    let error = of(World::builder(1)).plan().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(error.chain(), &["wakala-api", "redis-cache", "node pool workers-general"]);
}

#[tokio::test]
async fn a_missing_permission_is_found_while_planning() {
    for (object, subject) in [
        ("wakala-api", "wakala-api"),
        ("redis-cache", "statefulset production/redis-cache"),
        ("workers-general", "node pool workers-general"),
    ] {
        let fault = Fault::writes_fail(object, CallFailure::Denied, 1);
        let error = planned(calm().with_fault(MINUTE, fault), &RapidScale::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_says(error.chain(), &[subject, "not permitted"]);
    }
}

#[tokio::test]
async fn approvals_hold_for_one_plan_and_a_while() {
    let site = Site::new(calm());
    let (before, plan) = (site.settings().await, site.plan().await.unwrap());
    let other = Approval::of_hash("0".repeat(64), "test");
    let error = site.world.run(site.engine.run(&site.playbook, &plan, &other, &site.run)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_says(&error, &["the approval is for another plan"]);

    let different = with(|p| p.soak = 20 * MINUTE).playbook(&Simulated::new(&site.world)).unwrap();
    let approval = Approval::of(&plan, "test");
    let error = site.world.run(site.engine.run(&different, &plan, &approval, &site.run)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_says(&error, &["plan again"]);

    site.world.pass(16 * MINUTE);
    let error = site.run(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_says(&error, &["16m", "plan again"]);
    assert_eq!(site.settings().await.but_api(), before.but_api());
}

#[tokio::test]
async fn a_world_that_moved_since_the_plan_is_not_overrun() {
    // Somebody else raised the nodes' minimum meanwhile: not what was approved.
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    let theirs = site.world.node_pool("workers-general", 12);
    let write = async {
        use wakala_core::Setting as _;
        let (cx, read) = (site.world.context(), theirs.read(&site.world.context()).await.unwrap());
        theirs.write(&cx, &theirs.desired(&read.value).unwrap(), None).await.unwrap();
    };
    site.world.run(write).await;
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Held, "{report}");
    assert_says(
        &report.reason,
        &["step nodes failed", "changed by somebody else since the plan", "min: 5 -> 12"],
    );
    assert_eq!(site.settings().await.of("nodes")["min"], 12);

    // The autoscaler went on from 9 to more: still what was approved.
    let site = Site::new(calm());
    let plan = site.plan().await.unwrap();
    site.world.inject(Fault::somebody_scales("wakala-api", 12)).unwrap();
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.settings().await.api(), 50);
}
