//! Every part of a world that implements a trait of the core keeps its contract.

use wakala_core::sim::{Fault, Load, World};
use wakala_core::testing::conformance::{SettingCase, SourceCase, StepCase, TargetCase};
use wakala_core::{MetricQuery, RaiseFloor, ScalableTarget, ScaleUp, Setting};

use crate::{API, MINUTE, POOL};

const VARIABLES: [(&str, &str); 1] = [("AGGRESSIVE_CACHING", "true")];

fn world() -> World {
    World::production(1).with_load(Load::constant(600.0)).without_hpa().build().unwrap()
}

mod deployment {
    wakala_core::target_conformance!(super::deployment);
}

mod stateful_set {
    wakala_core::target_conformance!(super::stateful_set);
}

mod node_pool {
    wakala_core::target_conformance!(super::node_pool);
}

mod node_pool_setting {
    wakala_core::setting_conformance!(super::node_pool_setting);
}

mod environment {
    wakala_core::setting_conformance!(super::environment);
}

mod floor {
    wakala_core::setting_conformance!(super::floor);
}

mod scale_step {
    wakala_core::step_conformance!(super::scale_step);
}

mod environment_step {
    wakala_core::step_conformance!(super::environment_step);
}

mod metrics {
    wakala_core::source_conformance!(super::metrics);
}

async fn deployment() -> TargetCase {
    let world = world();
    TargetCase::shared(world.target(API))
        .with_missing(world.target("nobody").as_ref().clone())
        .on(&world.clock())
}

async fn stateful_set() -> TargetCase {
    let world = world();
    TargetCase::shared(world.target("redis-cache"))
        .with_missing(world.target("nobody").as_ref().clone())
        .on(&world.clock())
}

async fn node_pool() -> TargetCase {
    let world = world();
    TargetCase::shared(world.pool_target(POOL))
        .with_missing(world.pool_target("nobody").as_ref().clone())
        .on(&world.clock())
}

async fn node_pool_setting() -> SettingCase<impl Setting> {
    let world = world();
    SettingCase::new(world.node_pool(POOL, 12)).on(&world.clock()).with_limit(4 * MINUTE)
}

async fn environment() -> SettingCase<impl Setting> {
    let world = world();
    SettingCase::new(world.environment(API, VARIABLES)).on(&world.clock()).with_limit(4 * MINUTE)
}

async fn floor() -> SettingCase<impl Setting> {
    let world = World::production(1).build().unwrap();
    SettingCase::new(RaiseFloor::to(world.autoscaler(API), 20)).on(&world.clock())
}

async fn scale_step() -> StepCase {
    let world = world();
    let target = world.target(API);
    let (cx, clock) = (world.context(), world.clock());
    StepCase::new(ScaleUp::to(target.clone(), 15).step("scale")).on(&clock).with_limit(4 * MINUTE).with_world(
        move || {
            let (cx, target) = (cx.clone(), target.clone());
            async move { target.observe(&cx).await.unwrap().desired.0.into() }
        },
    )
}

async fn environment_step() -> StepCase {
    let world = world();
    let setting = world.environment(API, VARIABLES);
    let (cx, clock) = (world.context(), world.clock());
    let (step, meddler, meddling) = (setting.clone().step("environment"), setting.clone(), cx.clone());
    StepCase::new(step)
        .on(&clock)
        .with_limit(4 * MINUTE)
        .with_world(move || {
            let (cx, setting) = (cx.clone(), setting.clone());
            async move { serde_json::to_value(setting.read(&cx).await.unwrap().value).unwrap() }
        })
        .with_meddler(move || {
            let (cx, setting) = (meddling.clone(), meddler.clone());
            async move {
                let other = [("AGGRESSIVE_CACHING".to_owned(), Some("perhaps".to_owned()))].into();
                setting.write(&cx, &other, None).await.unwrap();
            }
        })
}

async fn metrics() -> SourceCase {
    let world = world();
    world.pass(10 * MINUTE);
    let query = |workload: &str| MetricQuery::new("error_rate").with_label("workload", workload);
    let down = World::production(1).with_clock(world.clock()).build().unwrap();
    down.inject(Fault::MetricsFailing { lasting: 60 * MINUTE }).unwrap();
    SourceCase::shared(world.metrics(), query(API))
        .with_absent(query("redis-cache"))
        .with_unknown("errors")
        .with_unreachable(down.metrics().as_ref().clone())
        .on(&world.clock())
}
