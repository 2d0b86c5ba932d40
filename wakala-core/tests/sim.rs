//! The simulated production, used as a user of the crate would.
#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::Duration;

use wakala_core::sim::{
    Cache, CallFailure, Database, Fault, Hpa, Load, NodePool, Portion, Workload, World, WorldBuilder,
};
use wakala_core::{
    Applied, Approval, Autoscaler, Bounds, ErrorKind, Finding, FindingLevel, MetricQuery, MetricsSource,
    Playbook, RaiseFloor, Retry, Revert, RunHandle, RunReport, ScalableTarget, ScalableTargetExt,
    ScaleOptions, ScaleUp, Setting, Soak, Status, Undone, Units, guard, sequence, step, together,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const API: &str = "wakala-api";
const POOL: &str = "workers-general";

fn spike() -> WorldBuilder {
    let load = Load::spike(600.0, 3000.0, 5 * MINUTE, 3 * MINUTE, 30 * MINUTE).with_noise(0.02);
    World::production(42).with_load(load)
}

fn rapid_scale(world: &World, replicas: u32, nodes: u32) -> Playbook {
    let variables = [("RATE_LIMIT_REQUESTS", "10000"), ("AGGRESSIVE_CACHING", "true")];
    Playbook::builder("rapid-scale")
        .then(together([
            sequence([
                step(RaiseFloor::to(world.autoscaler(API), replicas).step("api-floor")).into(),
                step(ScaleUp::to(world.target(API), replicas).step("api-replicas")).into(),
            ]),
            step(ScaleUp::to(world.target("redis-cache"), 5).step("cache-replicas")).into(),
            step(world.node_pool(POOL, nodes).step("nodes")).into(),
        ]))
        .then(step(world.environment(API, variables).step("api-environment")).temporary(60 * MINUTE))
        .then(
            Soak::new("soak", 10 * MINUTE)
                .with_guard(guard::metric(world.metrics(), "error_rate").below(0.01))
                .with_guard(guard::metric(world.metrics(), "latency_p95").below(1.0)),
        )
        .with_preflight(world.capacity())
        .build()
        .unwrap()
}

async fn respond(world: &World, engine: &wakala_core::Engine, run: &RunHandle) -> RunReport {
    let playbook = rapid_scale(world, 50, 30);
    let plan = world.run(engine.plan(&playbook)).await.unwrap();
    let approval = Approval::of(&plan, "test");
    world.run(engine.run(&playbook, &plan, &approval, run)).await.unwrap()
}

fn api(world: &World) -> wakala_core::sim::WorkloadFrame {
    world.snapshot().workload(API).unwrap().clone()
}

#[tokio::test]
async fn a_spike_hurts_the_autoscaler_lags_and_the_playbook_helps() {
    let (nobody, hpa, playbook) =
        (spike().without_hpa().build().unwrap(), spike().build().unwrap(), spike().build().unwrap());
    playbook.pass_until(6 * MINUTE);
    let report = respond(&playbook, &playbook.engine(), &RunHandle::new("run")).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let [nobody, hpa, playbook] = [nobody, hpa, playbook].map(|world| {
        world.pass_until(60 * MINUTE);
        world.summary()
    });
    assert_eq!((nobody.seconds, playbook.seconds), (3600, 3600));
    assert_eq!(nobody.requests, playbook.requests, "the load does not depend on what is done about it");
    assert!(nobody.minutes_over_objective > 30.0, "{nobody:?}");
    assert!(nobody.failed > 1.5 * hpa.failed && hpa.failed > 100.0 * playbook.failed.max(1.0));
    assert!(hpa.rejected > 500_000.0 && playbook.rejected < hpa.rejected / 10.0);
    assert!(hpa.minutes_over_objective > 5.0 * playbook.minutes_over_objective, "{hpa:?} {playbook:?}");
    assert!(playbook.replica_hours[API] > hpa.replica_hours[API]);
    for summary in [nobody, hpa, playbook] {
        let ended = summary.served + summary.failed + summary.rejected;
        assert!((summary.requests - ended).abs() < 1e-3 * summary.requests, "lost requests: {summary:?}");
    }
}

#[tokio::test]
async fn revert_brings_back_what_the_run_changed() {
    let world = spike().build().unwrap();
    let (engine, run) = (world.engine(), RunHandle::new("run"));
    world.pass_until(6 * MINUTE);
    respond(&world, &engine, &run).await;
    world.pass_until(60 * MINUTE);
    let playbook = rapid_scale(&world, 50, 30);
    world.run(engine.revert(&playbook, &run, Revert::Everything)).await.unwrap();
    world.pass(SECOND);
    let frame = world.snapshot();
    let (api, pool) = (frame.workload(API).unwrap(), frame.pool(POOL).unwrap());
    assert_eq!(api.autoscaler, Some((5, 50)));
    // 50 pods do not fit on 10 nodes: the floor is gone, the nodes wait for the autoscaler.
    assert_eq!(pool.desired, 30);
    world.pass(15 * MINUTE);
    world.run(engine.revert(&playbook, &run, Revert::Everything)).await.unwrap();
    world.pass(MINUTE);
    let frame = world.snapshot();
    assert_eq!((frame.pool(POOL).unwrap().desired, frame.workload(API).unwrap().pending), (10, 0));
    assert!(frame.workload(API).unwrap().desired <= 12);
    let environment = world.environment(API, [("AGGRESSIVE_CACHING", "true")]);
    let value = world.run(environment.read(&world.context())).await.unwrap().value;
    assert_eq!(value["AGGRESSIVE_CACHING"], None);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_history_and_another_does_not() {
    let history = async |seed: u64, polls: u64| {
        let world = World::production(seed).with_load(Load::constant(900.0).with_noise(0.2)).build().unwrap();
        let cx = world.context();
        world.run(world.target(API).set_desired(&cx, Units(20), ScaleOptions::default())).await.unwrap();
        for _ in 0..polls {
            world.pass(20 * MINUTE / u32::try_from(polls).unwrap());
            world.snapshot();
        }
        world.pass_until(21 * MINUTE);
        serde_json::to_string(&(world.history(), world.log(), world.summary())).unwrap()
    };
    // How often somebody looks does not matter either.
    assert_eq!(history(1, 1).await, history(1, 300).await);
    assert_ne!(history(1, 1).await, history(2, 1).await);
}

#[tokio::test]
async fn the_autoscaler_takes_a_plain_scale_back_and_keeps_a_raised_floor() {
    let world = World::production(1).build().unwrap();
    let (cx, target, autoscaler) = (world.context(), world.target(API), world.autoscaler(API));
    world.pass(2 * MINUTE);
    let seen = world.run(target.set_desired(&cx, Units(50), ScaleOptions::default())).await.unwrap();
    let owner = seen.owner.unwrap();
    assert_eq!(
        (owner.name.as_str(), owner.bounds.max),
        ("HorizontalPodAutoscaler production/wakala-api", Units(50))
    );
    world.pass(15 * SECOND);
    assert!(api(&world).desired <= 12, "the autoscaler takes 50 back within a round");

    let bounds = Bounds::new(30, 50).unwrap();
    let state = world.run(autoscaler.observe(&cx)).await.unwrap().unwrap();
    world.run(autoscaler.set_bounds(&cx, bounds, state.version.as_ref())).await.unwrap();
    world.pass(10 * MINUTE);
    assert_eq!(api(&world).desired, 30);

    let stale =
        world.run(autoscaler.set_bounds(&cx, Bounds::new(1, 2).unwrap(), state.version.as_ref())).await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
    world.run(autoscaler.set_bounds(&cx, Bounds::new(5, 20).unwrap(), None)).await.unwrap();
    world.pass(15 * SECOND);
    assert_eq!(api(&world).desired, 20, "a lower ceiling cuts at once");
    let zero = world.run(autoscaler.rehearse(&cx, Bounds::new(0, 2).unwrap())).await.unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::InvalidConfig);
    let none = world.autoscaler("redis-cache");
    assert_eq!(world.run(none.observe(&cx)).await.unwrap(), None);
    assert_eq!(world.run(none.set_bounds(&cx, bounds, None)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn pods_without_a_node_wait_for_one() {
    let world = World::production(1).without_hpa().build().unwrap();
    let (cx, target) = (world.context(), world.target(API));
    let late = world.run(target.scale_to(&cx, Units(50), 2 * MINUTE)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    assert!(late.to_string().contains("pods unschedulable: insufficient cpu on 10 of 10 nodes"), "{late}");
    let pool = world.pool_target(POOL);
    world.run(pool.scale_to(&cx, Units(30), 3 * MINUTE)).await.unwrap();
    let seen = world.run(target.wait_ready(&cx, Units(50), MINUTE)).await.unwrap();
    assert_eq!((seen.ready, seen.problem), (Units(50), None));
}

#[tokio::test]
async fn targets_keep_the_contract() {
    let world = World::production(1).without_hpa().build().unwrap();
    let cx = world.context();
    let targets: [Arc<dyn ScalableTarget>; 3] =
        [world.target(API), world.target("redis-cache"), world.pool_target(POOL)];
    for target in targets {
        let before = world.run(target.observe(&cx)).await.unwrap();
        assert!(before.settled && before.owner.is_none());
        let size = Units(before.desired.0 + 2);
        let checked = world.run(target.set_desired(&cx, size, ScaleOptions::dry_run())).await.unwrap();
        assert_eq!(checked, before, "a dry run changes nothing");
        let once =
            world.run(target.set_desired(&cx, size, ScaleOptions::if_version(before.version.clone()))).await;
        assert_eq!((once.as_ref().unwrap().desired, once.as_ref().unwrap().settled), (size, false));
        let again = world.run(target.set_desired(&cx, size, ScaleOptions::default())).await.unwrap();
        assert_eq!(again.version, once.unwrap().version, "the same size is no change");
        let stale =
            world.run(target.set_desired(&cx, Units(1), ScaleOptions::if_version(before.version))).await;
        assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
        let absurd = world.run(target.set_desired(&cx, Units(u32::MAX), ScaleOptions::default())).await;
        assert_eq!(absurd.unwrap_err().kind(), ErrorKind::InvalidConfig);
        let ready = world.run(target.wait_ready(&cx, size, 10 * MINUTE)).await.unwrap();
        assert_eq!((ready.desired, ready.ready, ready.settled), (size, size, true));
    }
    let unknown = world.run(world.target("nobody").observe(&cx)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(unknown.to_string().contains("nobody") && unknown.to_string().contains(API), "{unknown}");
    let below = world.run(world.pool_target(POOL).set_desired(&cx, Units(2), ScaleOptions::default())).await;
    assert_eq!(below.unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_changed_environment_restarts_within_surge_and_unavailable() {
    let world = World::production(1).with_load(Load::constant(1000.0)).without_hpa().build().unwrap();
    let cx = world.context();
    let setting = world.environment(API, [("AGGRESSIVE_CACHING", "true")]);
    let current = world.run(setting.read(&cx)).await.unwrap();
    let desired = setting.desired(&current.value).unwrap();
    let warnings = setting.warnings(&current.value, &desired);
    assert_eq!(
        warnings,
        [
            "restarts all pods of deployment production/wakala-api (10 now), with at most 25 % more; meanwhile \
          capacity may drop by 25 %"
        ]
    );
    let wrote = world.run(setting.write(&cx, &desired, current.version.as_ref())).await.unwrap();
    assert_eq!(wrote, Applied::Changed);
    world.pass(4 * MINUTE);
    let during: Vec<_> = world.history().iter().map(|frame| frame.workload(API).unwrap().clone()).collect();
    assert_eq!(during.iter().map(|api| api.ready).min(), Some(8));
    assert_eq!(during.iter().map(|api| api.pods).max(), Some(13));
    assert_eq!(api(&world).outdated, 0);
    assert!(api(&world).cpu < 0.8, "a quarter of the load no longer arrives: {:?}", api(&world));

    // Back again, and only what was touched.
    let now = world.run(setting.read(&cx)).await.unwrap();
    let undone = world.run(setting.restore(&cx, &current.value, &desired, &now)).await.unwrap();
    assert_eq!(undone, Undone::Restored);
    let limit = world.environment(API, [("RATE_LIMIT_REQUESTS", "1")]);
    let value = world.run(limit.read(&cx)).await.unwrap().value;
    assert_eq!(value["RATE_LIMIT_REQUESTS"].as_deref(), Some("1000"));
}

#[tokio::test]
async fn calls_fail_as_the_fault_says() {
    let world = World::production(1).without_hpa().build().unwrap();
    let (cx, target) = (world.context(), world.target(API));
    let cases = [
        (CallFailure::RateLimited, ErrorKind::RateLimited, Retry::Safe { after: Some(SECOND) }, false),
        (CallFailure::Denied, ErrorKind::Denied, Retry::Never, false),
        (CallFailure::Conflict, ErrorKind::Conflict, Retry::Never, false),
        (CallFailure::Unavailable, ErrorKind::Unavailable, Retry::ObserveFirst, false),
        (CallFailure::TimeoutBeforeEffect, ErrorKind::DeadlineExceeded, Retry::ObserveFirst, false),
        (CallFailure::TimeoutAfterEffect, ErrorKind::DeadlineExceeded, Retry::ObserveFirst, true),
    ];
    for (size, (failure, kind, retry, effect)) in (11..).zip(cases) {
        world.inject(Fault::writes_fail(API, failure, 1)).unwrap();
        let before = world.run(target.observe(&cx)).await.unwrap().desired;
        let error =
            world.run(target.set_desired(&cx, Units(size), ScaleOptions::default())).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{failure:?}");
        let after = world.run(target.observe(&cx)).await.unwrap().desired;
        assert_eq!(after, if effect { Units(size) } else { before }, "{failure:?}");
        world.run(target.set_desired(&cx, Units(size), ScaleOptions::default())).await.unwrap();
    }
    world.inject(Fault::reads_fail(API, CallFailure::Unavailable, 1)).unwrap();
    assert!(world.run(target.observe(&cx)).await.is_err() && world.run(target.observe(&cx)).await.is_ok());
    world.inject(Fault::ApiOutage { lasting: MINUTE }).unwrap();
    assert_eq!(world.run(target.observe(&cx)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    world.pass(MINUTE);
    world.run(target.observe(&cx)).await.unwrap();
    world.inject(Fault::CallLatency { latency: 5 * SECOND, lasting: MINUTE }).unwrap();
    let start = world.elapsed();
    world.run(target.observe(&cx)).await.unwrap();
    assert!(world.elapsed() - start >= 5 * SECOND);
    assert_eq!(world.inject(Fault::crash("nobody", 1)).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn pods_and_nodes_fail_as_the_fault_says() {
    let world = World::production(1).without_hpa().build().unwrap();
    let cx = world.context();
    world.inject(Fault::crash(API, 4)).unwrap();
    world.pass(SECOND);
    assert_eq!(api(&world).ready, 6);
    world.pass(MINUTE);
    assert_eq!(api(&world).ready, 10);

    world.inject(Fault::image_broken(API, 10 * MINUTE)).unwrap();
    let error = world.run(world.target(API).scale_to(&cx, Units(12), 2 * MINUTE)).await.unwrap_err();
    assert!(error.to_string().contains("2 pods cannot pull their image"), "{error}");
    world.pass(10 * MINUTE);
    assert_eq!(api(&world).ready, 12);

    world.inject(Fault::NodesLost { pool: POOL.to_owned(), nodes: 3 }).unwrap();
    world.pass(2 * SECOND);
    assert!(world.snapshot().pool(POOL).unwrap().ready == 7 && api(&world).ready < 12);
    world.pass(3 * MINUTE);
    assert!(world.snapshot().pool(POOL).unwrap().ready == 10 && api(&world).ready == 12);

    let setting = world.node_pool(POOL, 20);
    let current = world.run(setting.read(&cx)).await.unwrap();
    let desired = setting.desired(&current.value).unwrap();
    assert_eq!((desired.min, desired.desired, desired.max), (Units(20), Units(20), Units(50)));
    world.inject(Fault::nodes_stuck(POOL, 5 * MINUTE)).unwrap();
    world.run(setting.write(&cx, &desired, None)).await.unwrap();
    let late = world.run(world.pool_target(POOL).wait_ready(&cx, Units(20), 4 * MINUTE)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    world.pass(5 * MINUTE);
    world.inject(Fault::nodes_out_of_capacity(POOL, 10 * MINUTE)).unwrap();
    let more = world.node_pool(POOL, 25);
    let desired = more.desired(&desired).unwrap();
    world.run(more.write(&cx, &desired, None)).await.unwrap();
    let error = world.run(more.convergence(&cx, &desired)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InsufficientCapacity);
    let too_many = world.node_pool(POOL, 51).desired(&desired).unwrap_err();
    assert!(too_many.to_string().contains("above its maximum of 50"), "{too_many}");
}

#[tokio::test]
async fn metrics_are_sampled_and_missing_is_not_zero() {
    let world = World::production(1).build().unwrap();
    let (cx, metrics) = (world.context(), world.metrics());
    let query = MetricQuery::new("requests").with_label("workload", API);
    let latest = async |query: &MetricQuery| world.run(metrics.latest(&cx, query)).await;
    world.pass(100 * SECOND);
    let sample = latest(&query).await.unwrap().unwrap();
    assert!((sample.value - 600.0).abs() < 12.0, "{sample:?}");
    assert_eq!(world.clock().now_since(sample.time), 10 * SECOND);
    let range = world.run(metrics.range(&cx, &query, MINUTE)).await.unwrap();
    assert_eq!(range.len(), 4);
    assert!(range.windows(2).all(|pair| pair[0].time < pair[1].time));

    let unknown = MetricQuery::new("error_rate").with_label("workload", "nobody");
    assert_eq!(latest(&unknown).await.unwrap(), None);
    let idle = MetricQuery::new("error_rate").with_label("workload", "redis-cache");
    assert_eq!(latest(&idle).await.unwrap(), None, "no requests, no error rate");
    assert_eq!(latest(&"errors".into()).await.unwrap_err().kind(), ErrorKind::InvalidConfig);

    world.inject(Fault::MetricsFrozen { lasting: 2 * MINUTE }).unwrap();
    world.pass(MINUTE);
    assert_eq!(latest(&query).await.unwrap().unwrap(), sample);
    world.pass(MINUTE);
    world.inject(Fault::metrics_gone(MINUTE)).unwrap();
    assert_eq!(latest(&query).await.unwrap(), None);
    world.pass(MINUTE);
    assert!(world.run(metrics.range(&cx, &query, 2 * MINUTE)).await.unwrap().len() <= 5, "the gap stays");
    world.inject(Fault::MetricsPartial { percent: 30, lasting: MINUTE }).unwrap();
    world.pass(30 * SECOND);
    assert_eq!(latest(&query).await.unwrap().unwrap().coverage.ratio(), 0.3);
    world.inject(Fault::MetricsFailing { lasting: MINUTE }).unwrap();
    assert_eq!(latest(&query).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

trait Ago {
    fn now_since(&self, time: std::time::SystemTime) -> Duration;
}

impl Ago for wakala_core::ManualClock {
    fn now_since(&self, time: std::time::SystemTime) -> Duration {
        let age = wakala_core::Clock::now(self).duration_since(time).unwrap();
        Duration::from_secs(age.as_secs())
    }
}

#[tokio::test]
async fn the_database_fails_what_is_beyond_it_and_the_autoscaler_does_not_see_it() {
    let builder = || {
        World::builder(1)
            .with_load(Load::constant(800.0))
            .with_workload(
                Workload::new("api", 10)
                    .serves_load(1.0)
                    .with_capacity_per_replica(100.0)
                    .with_connections_per_replica(10, 0),
            )
            .with_hpa(Hpa::on("api", 5, 20))
    };
    let well = builder().with_database(Database::new(203)).build().unwrap();
    well.pass(10 * MINUTE);
    assert_eq!(well.summary().failed, 0.0);
    let few = builder().with_database(Database::new(83)).build().unwrap();
    few.pass(10 * MINUTE);
    let share = few.summary().failed / few.summary().requests;
    assert!((share - 0.2).abs() < 1e-6, "a fifth of the connections is refused: {share}");
    let slow = builder().with_database(Database::new(203)).build().unwrap();
    slow.inject(Fault::DatabaseSlow { factor: 4.0, lasting: 5 * MINUTE }).unwrap();
    slow.pass(4 * MINUTE);
    let frame = slow.snapshot();
    assert!(frame.latency_p95_seconds > Some(5.0) && frame.workloads[0].cpu < 0.5, "{frame:?}");
    assert!(frame.workloads[0].desired <= 10);
    slow.pass(10 * MINUTE);
    assert_eq!(slow.snapshot().error_rate, Some(0.0));
}

async fn findings(world: &World, replicas: u32, nodes: u32) -> Vec<Finding> {
    let playbook = rapid_scale(world, replicas, nodes);
    world.run(world.engine().plan(&playbook)).await.unwrap().findings().to_vec()
}

#[tokio::test]
async fn the_capacity_chain_names_what_does_not_fit() {
    let world = || World::production(1);
    let ok = findings(&world().build().unwrap(), 50, 30).await;
    assert!(ok.iter().all(|finding| finding.level == FindingLevel::Ok), "{ok:?}");
    assert!(
        ok.iter().any(|finding| finding.text.contains("tightest link is database connections")),
        "{ok:?}"
    );

    let refused = async |builder: WorldBuilder, nodes: u32, words: &[&str]| {
        let findings = findings(&builder.build().unwrap(), 50, nodes).await;
        let refusals: Vec<_> = findings.iter().filter(|f| f.level == FindingLevel::Refusal).collect();
        assert_eq!(refusals.len(), 1, "{findings:?}");
        for word in words {
            assert!(refusals[0].text.contains(word), "no {word:?} in {:?}", refusals[0].text);
        }
    };
    refused(
        world(),
        12,
        &["of 50 pods of deployment production/wakala-api", "insufficient cpu", "to at least 24 nodes"],
    )
    .await;
    let small = NodePool::new("spare", 1).with_bounds(1, 1);
    refused(world().with_node_pool(small), 12, &["node pool workers-general to at least"]).await;
    let database = Database::new(600);
    refused(world().with_database(database), 30, &["(50 + 13 surge) x 10", "= 680", "597 are accepted"])
        .await;
    let cache = Cache::new(50, 0.7).on_workload("redis-cache");
    refused(world().with_cache(cache), 30, &["(50 + 13 surge) x 5", "= 335", "250 are accepted"]).await;

    let tight = findings(&world().build().unwrap(), 50, 22).await;
    let warnings: Vec<_> = tight.iter().filter(|f| f.level == FindingLevel::Warning).collect();
    assert!(warnings.len() == 1 && warnings[0].text.contains("surge pods fit on no node"), "{tight:?}");
}

#[test]
fn worlds_that_cannot_be_are_refused() {
    let world = || World::builder(1).with_workload(Workload::new("api", 3));
    world().build().unwrap();
    for (builder, says) in [
        (world().with_workload(Workload::new("api", 1)), "rename one"),
        (world().with_hpa(Hpa::on("web", 1, 2)), "web"),
        (world().with_hpa(Hpa::on("api", 3, 2)), "min 3 is above max 2"),
        (world().with_hpa(Hpa::on("api", 0, 2)), "at least 1"),
        (world().with_hpa(Hpa::on("api", 1, 2)).with_hpa(Hpa::on("api", 1, 2)), "two autoscalers"),
        (world().with_hpa(Hpa::on("api", 1, 2).with_cpu_target(0.0)), "CPU target"),
        (world().with_node_pool(NodePool::new("n", 5).with_bounds(6, 9)), "desired 5 is outside of 6..9"),
        (
            world().with_node_pool(NodePool::new("n", 1).with_node(4000, 4000, 2)),
            "1 of its pods fit on no node",
        ),
        (world().with_workload(Workload::new("web", 1).on_pool("gpu")), "gpu"),
        (world().with_cache(Cache::new(10, 1.5)), "hit ratio"),
        (world().with_cache(Cache::new(10, 0.5).on_workload("redis")), "redis"),
        (world().with_database(Database::new(3)), "leave none"),
        (world().with_fault(MINUTE, Fault::crash("web", 1)), "web"),
        (world().with_load(Load::constant(f64::INFINITY)), "not a load"),
        (world().with_scrape_interval(Duration::ZERO), "scrape interval"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(says), "no {says:?} in {error}");
    }
}

#[tokio::test]
async fn a_rollout_that_needs_its_surge_is_refused_where_there_is_no_room() {
    let world = World::builder(1)
        .with_workload(
            Workload::new("api", 2)
                .with_max_surge(Portion::Count(1))
                .with_max_unavailable(Portion::Count(0))
                .with_requests(1000, 100),
        )
        .with_node_pool(NodePool::new("n", 1).with_bounds(1, 1).with_node(2500, 1000, 10))
        .build()
        .unwrap();
    let playbook = Playbook::builder("restart")
        .then(step(world.environment("api", [("MODE", "fast")]).step("environment")))
        .with_preflight(world.capacity())
        .build()
        .unwrap();
    let plan = world.run(world.engine().plan(&playbook)).await.unwrap();
    let refusals: Vec<_> = plan.refusals().map(|finding| finding.text.as_str()).collect();
    assert!(
        refusals.len() == 1 && refusals[0].contains("cannot go on; not even node pool n at its maximum of 1"),
        "{refusals:?}"
    );
}
