//! The descent in a simulated production.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use wakala_core::sim::{Fault, World};
use wakala_core::{Approval, Error, Event, Observer, Plan, Record, Result, RunHandle, RunInfo, RunReport};
use wakala_playbooks::gradual_scale_down::Simulated;

use crate::args::{Args, Trouble, What};
use crate::timeline::Timeline;

const API: &str = "wakala-api";
/// Until everybody has gone home.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// What the playbook did, and how the production was meanwhile.
#[derive(Debug, Serialize)]
pub(crate) struct Descent {
    example: &'static str,
    mode: &'static str,
    seed: u64,
    faults: Vec<String>,
    plan_hash: String,
    plan: Plan,
    pub(crate) timeline: Timeline,
    pub(crate) run: RunReport,
}

/// Plans, approves and runs; ten minutes after the world's start.
pub(crate) async fn run(args: &Args) -> Result<Descent> {
    let parameters = args.parameters.playbook();
    for Trouble { what: _, at } in &args.fault {
        if !parameters.fractions.contains(at) {
            let there = parameters.fractions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("nothing can go wrong at {at}: the fractions are {there}");
            return Err(Error::invalid("fault", message).on("gradual_scale_down"));
        }
    }
    let builder = World::production_after_spike(args.seed);
    let world = if args.autoscaler { builder } else { builder.without_hpa() }.build()?;
    let playbook = parameters.playbook(&Simulated::new(&world))?;
    world.pass(Duration::from_secs(600));

    let saboteur = Saboteur { world: world.clone(), troubles: args.fault.clone() };
    let engine = world.engine().with_observer(Arc::new(saboteur));
    let handle = RunHandle::new(format!("descent-{}", args.seed));
    let descent = async {
        let plan = engine.plan(&playbook).await?;
        let report = engine.run(&playbook, &plan, &Approval::of(&plan, "on-call"), &handle).await?;
        Ok::<_, Error>((plan, report))
    };
    let (plan, report) = world.run(descent).await?;
    Ok(Descent {
        example: "gradual_scale_down",
        mode: "simulation",
        seed: args.seed,
        faults: args.fault.iter().map(ToString::to_string).collect(),
        plan_hash: plan.hash(),
        plan,
        timeline: Timeline::of(&world, &report),
        run: report,
    })
}

/// Lets things go wrong as soon as the playbook watches what it has just done.
#[derive(Debug)]
struct Saboteur {
    world: World,
    troubles: Vec<Trouble>,
}

impl Observer for Saboteur {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        let Some(Record::SoakOpened { soak, .. }) = event.record() else { return };
        for Trouble { what, at } in &self.troubles {
            if soak.as_str() != format!("soak-{at}") {
                continue;
            }
            let ready = self.world.snapshot().workload(API).map_or(0, |api| api.desired);
            let fault = match what {
                What::ErrorRate => Fault::too_few_replicas(API, ready + 1, 5, LONG),
                What::MetricsGone => Fault::metrics_gone(LONG),
            };
            // The workload is the simulation's own, so that there is nothing to refuse.
            let _ = self.world.inject(fault);
        }
    }
}

impl fmt::Display for Descent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, timeline, run, faults, .. } = self;
        writeln!(f, "{plan}")?;
        for fault in faults {
            writeln!(f, "Injected: {fault}\n")?;
        }
        writeln!(f, "{timeline}\n{run}")
    }
}
