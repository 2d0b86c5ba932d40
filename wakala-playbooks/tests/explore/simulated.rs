//! Traffic spike response on the simulated production, where calls take time and an autoscaler has a will of its own.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};
use wakala_core::sim::{Load, World};
use wakala_core::testing::explore::{Explore, Scene, Snapshot};
use wakala_core::{Autoscaler as _, ManualClock, Result, RunContext, ScalableTarget as _, Setting as _};
use wakala_playbooks::rapid_scale::{RapidScale, Simulated};

use super::shown;

const API: &str = "wakala-api";
const VARIABLES: [(&str, &str); 3] =
    [("AGGRESSIVE_CACHING", ""), ("RATE_LIMIT_REQUESTS", ""), ("RATE_LIMIT_WINDOW", "")];

/// Looks at the world in no time: the calls that it makes take theirs on a clock of their own.
fn look(world: &World) -> Result<Snapshot> {
    let clock = ManualClock::default();
    let cx = RunContext::new("look".into(), Arc::new(clock.clone()));
    let read = async {
        let pairs: [(&str, Value); 4] = [
            ("api-floor", json!(world.autoscaler(API).observe(&cx).await?.map(|state| state.bounds))),
            ("cache", json!(world.target("redis-cache").observe(&cx).await?.desired)),
            ("limits", json!(world.environment(API, VARIABLES).read(&cx).await?.value)),
            ("nodes", json!(world.node_pool("workers-general", 1).read(&cx).await?.value)),
        ];
        Ok(pairs.map(|(step, value)| (step.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>())
    };
    let mut read = pin!(clock.run(read));
    loop {
        if let Poll::Ready(snapshot) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return snapshot;
        }
    }
}

fn scene() -> Scene {
    let world = World::production(7).with_load(Load::constant(600.0)).build().unwrap();
    world.pass(Duration::from_secs(600));
    let mut parameters = RapidScale::default();
    parameters.soak = Duration::from_secs(120);
    parameters.rehearsal = true;
    let playbook = parameters.playbook(&Simulated::new(&world)).unwrap();
    let clock = world.clock();
    Scene::new(&clock, playbook, move || look(&world).unwrap())
}

#[test]
fn rapid_scale_holds_in_a_simulated_production() {
    let found = Explore::new(scene).without_single().with_random(40).run();
    shown(&found);
    found.assert_clean();
}
