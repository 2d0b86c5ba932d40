//! How the parts of a world behave.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::sim::{Database, Fault, Hpa, Load, Workload, World};
use wakala_core::{
    Applied, Autoscaler, Bounds, Clock, ErrorKind, MetricQuery, MetricsSource, Sample, ScalableTarget,
    ScalableTargetExt, ScaleOptions, Setting, Undone, Units,
};

use crate::{API, MINUTE, POOL, SECOND, api};

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
async fn metrics_are_sampled_and_missing_is_not_zero() {
    let world = World::production(1).build().unwrap();
    let (cx, metrics) = (world.context(), world.metrics());
    let query = MetricQuery::new("requests").with_label("workload", API);
    let latest = async |query: &MetricQuery| world.run(metrics.latest(&cx, query)).await;
    world.pass(100 * SECOND);
    let sample = latest(&query).await.unwrap().unwrap();
    assert!((sample.value - 600.0).abs() < 12.0, "{sample:?}");
    assert_eq!(age(&world, &sample), 10 * SECOND);
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

/// In whole seconds: the calls take their time too.
fn age(world: &World, sample: &Sample) -> Duration {
    Duration::from_secs(world.clock().now().duration_since(sample.time).unwrap().as_secs())
}
