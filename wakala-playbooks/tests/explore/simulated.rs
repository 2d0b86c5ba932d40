//! Both playbooks on the simulated production, where calls take time and an autoscaler has a will of its own.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};
use wakala_core::sim::{Load, World};
use wakala_core::testing::explore::{Explore, Scene, Snapshot};
use wakala_core::{
    Autoscaler as _, Error, ManualClock, RunContext, ScalableTarget as _, Setting as _, Units,
};
use wakala_playbooks::{gradual_scale_down, rapid_scale};

use super::production::{gradual_scale_down, rapid_scale};
use super::shown;

const RANDOM: usize = 200;

const API: &str = "wakala-api";
const WORKER: &str = "wakala-worker";
const VARIABLES: [(&str, &str); 3] =
    [("AGGRESSIVE_CACHING", ""), ("RATE_LIMIT_REQUESTS", ""), ("RATE_LIMIT_WINDOW", "")];

/// Looks at the world in no time: the calls that it makes take theirs on a clock of their own. What the autoscaler sets by
/// itself, the size of the API, is not looked at.
fn look(world: &World) -> Snapshot {
    let clock = ManualClock::default();
    let cx = RunContext::new("look".into(), Arc::new(clock.clone()));
    let read = async {
        let autoscaler = world.autoscaler(API);
        let (worker, resource) = (world.target(WORKER), world.target(WORKER).resource());
        let floor = autoscaler.resource();
        let bounds = json!(autoscaler.observe(&cx).await?.map(|state| state.bounds));
        let pairs: [(&str, Value); 5] = [
            (floor.as_str(), bounds),
            ("cache", json!(world.target("redis-cache").observe(&cx).await?.desired)),
            ("limits", json!(world.environment(API, VARIABLES).read(&cx).await?.value)),
            ("nodes", json!(world.node_pool("workers-general", 1).read(&cx).await?.value)),
            (resource.as_str(), json!(worker.observe(&cx).await?.desired)),
        ];
        Ok::<Snapshot, Error>(pairs.map(|(step, value)| (step.to_owned(), value)).into())
    };
    let mut read = pin!(clock.run(read));
    loop {
        if let Poll::Ready(snapshot) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return snapshot.unwrap();
        }
    }
}

fn spike() -> Scene {
    let world = World::production(7).with_load(Load::constant(600.0)).build().unwrap();
    world.pass(Duration::from_secs(600));
    let playbook = rapid_scale().playbook(&rapid_scale::Simulated::new(&world)).unwrap();
    Scene::new(&world.clock(), playbook, move || look(&world))
}

fn descent() -> Scene {
    let world = World::production_after_spike(7).with_load(Load::constant(1000.0)).build().unwrap();
    world.pass(Duration::from_secs(600));
    let playbook = gradual_scale_down().playbook(&gradual_scale_down::Simulated::new(&world)).unwrap();
    let (clock, worker) = (world.clock(), world.target(WORKER).resource());
    let sizes = world.clone();
    Scene::new(&clock, playbook, move || look(&world)).with_sizes(move || {
        let size = sizes.snapshot().workload(WORKER).map(|workload| Units(workload.desired));
        size.map(|size| (worker.clone(), size)).into_iter().collect()
    })
}

#[test]
fn rapid_scale_holds_in_a_simulated_production() {
    let found = Explore::new(spike).without_single().with_random(RANDOM).run();
    shown(&found);
    found.assert_clean();
}

#[test]
fn gradual_scale_down_holds_in_a_simulated_production() {
    let found = Explore::new(descent).without_single().with_random(RANDOM).run();
    shown(&found);
    found.assert_clean();
}
