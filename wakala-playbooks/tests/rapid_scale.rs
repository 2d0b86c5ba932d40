//! The playbook on the simulated production.

use std::time::Duration;

use wakala_core::sim::{Load, World};
use wakala_core::{Approval, Revert, RunHandle, RunReport, Status};
use wakala_playbooks::rapid_scale::{RapidScale, Simulated};

const MINUTE: Duration = Duration::from_secs(60);

fn spike() -> World {
    let load = Load::spike(600.0, 3000.0, 5 * MINUTE, 3 * MINUTE, 60 * MINUTE).with_noise(0.02);
    World::production(7).with_load(load).build().unwrap()
}

async fn respond(world: &World, parameters: &RapidScale) -> (RunHandle, RunReport) {
    let (engine, run) = (world.engine(), RunHandle::new("spike"));
    let playbook = parameters.playbook(&Simulated::new(world)).unwrap();
    let plan = world.run(engine.plan(&playbook)).await.unwrap();
    println!("{plan}");
    let report = world.run(engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &run)).await.unwrap();
    println!("{report}");
    let reverted = world.run(engine.revert(&playbook, &run, Revert::Temporary)).await.unwrap();
    println!("{reverted}");
    (run, report)
}

#[tokio::test]
async fn the_spike_is_met() {
    let world = spike();
    world.pass(10 * MINUTE);
    let (_, report) = respond(&world, &RapidScale::default()).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
}
