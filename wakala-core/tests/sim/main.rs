//! The simulated production, used as a user of the crate would.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use wakala_core::sim::{
    Cache, Database, Fault, Hpa, Load, NodePool, Workload, WorkloadFrame, World, WorldBuilder,
};
use wakala_core::{
    Approval, Engine, ErrorKind, Playbook, RaiseFloor, Revert, RunHandle, RunReport, ScalableTarget,
    ScaleOptions, ScaleUp, Setting, Soak, Status, Units, guard, sequence, step, together,
};

mod behaviour;
mod capacity;
#[cfg(feature = "testing")]
mod conformance;
mod faults;

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

async fn respond(world: &World, engine: &Engine, run: &RunHandle) -> RunReport {
    let playbook = rapid_scale(world, 50, 30);
    let plan = world.run(engine.plan(&playbook)).await.unwrap();
    let approval = Approval::of(&plan, "test");
    world.run(engine.run(&playbook, &plan, &approval, run)).await.unwrap()
}

fn api(world: &World) -> WorkloadFrame {
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
