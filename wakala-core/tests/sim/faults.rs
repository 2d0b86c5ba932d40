//! What goes wrong, goes wrong as said.

use wakala_core::sim::{CallFailure, Fault, World};
use wakala_core::{ErrorKind, Retry, ScalableTarget, ScalableTargetExt, ScaleOptions, Setting, Units};

use crate::{API, MINUTE, POOL, SECOND, api};

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
async fn requests_fail_for_want_of_replicas_and_of_nothing_else() {
    let world = World::production_after_spike(1).without_hpa().build().unwrap();
    let (cx, target) = (world.context(), world.target(API));
    world.inject(Fault::too_few_replicas(API, 40, 5, 60 * MINUTE)).unwrap();
    let mut seen = Vec::new();
    for size in [50, 40, 39, 40] {
        world.run(target.scale_to(&cx, Units(size), 5 * MINUTE)).await.unwrap();
        world.pass(MINUTE);
        seen.push(world.snapshot().error_rate);
    }
    assert_eq!(seen, [Some(0.0), Some(0.0), Some(0.05), Some(0.0)]);
}
