//! The spike against a simulated production.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use wakala_core::sim::{Frame, Load, Summary, World};
use wakala_core::{
    Approval, Clock, Error, MetricQuery, MetricsSource, Plan, Result, Revert, RunHandle, RunReport, Status,
};
use wakala_playbooks::rapid_scale::Simulated;

use crate::args::{Args, Policy, Trace};
use crate::view::{View, stamp};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The p95 latency that clients are promised.
pub(crate) const OBJECTIVE: Duration = SECOND;

/// How long the last value of the trace goes on, so that what is left over can be taken back too.
const AFTERMATH: Duration = Duration::from_secs(15 * 60);

/// How one policy met the spike.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) policy: Policy,
    pub(crate) frames: Vec<Frame>,
    pub(crate) summary: Summary,
    pub(crate) response: Option<Response>,
}

/// What the playbook did.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) alarm: Duration,
    pub(crate) plan: Plan,
    pub(crate) run: RunReport,
    /// The same run after its temporary changes were taken back.
    pub(crate) reverted: RunReport,
}

impl Outcome {
    pub(crate) fn status(&self) -> Option<Status> {
        self.response.as_ref().map(|response| response.run.status)
    }
}

impl Trace {
    fn load(self) -> Result<Load> {
        // Scaled so that ten replicas of 100 requests per second are busy before the spike, not more.
        match self {
            Self::Crane => Load::from_csv(include_str!("../data/crane_01_spike_1m.csv"), 90.0),
            Self::Tweets => Load::from_csv(include_str!("../data/nab_tweets_aapl_spike_5m.csv"), 0.2),
            Self::Elb => Load::from_csv(include_str!("../data/nab_aws_elb_spike_5m.csv"), 4.0),
        }
    }

    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::Crane => {
                "a production service of the Crane data set, 2021-10-17, one value a minute (Apache-2.0)"
            }
            Self::Tweets => {
                "mentions on Twitter of the NAB data set, 2015-03-31, one value per 5 minutes (MIT)"
            }
            Self::Elb => {
                "requests at a load balancer of the NAB data set, 2014-04-22, one value per 5 minutes (MIT)"
            }
        }
    }
}

/// Runs the whole trace, and a quarter of an hour more, under `policy`.
pub(crate) async fn run(policy: Policy, args: &Args, view: &View) -> Result<Outcome> {
    let load = args.trace.load()?.with_noise(0.02);
    let length = load.duration() + AFTERMATH;
    let builder = World::production(args.seed).with_load(load);
    let world = if policy == Policy::None { builder.without_hpa() } else { builder }.build()?;
    let response = match policy {
        Policy::None | Policy::Hpa => None,
        Policy::Playbook => {
            let watching = view.watch(&world, args.pace);
            let both = async {
                tokio::select! {
                    biased;
                    response = answer(&world, args, length, view) => response,
                    never = watching => match never {},
                }
            };
            world.run(both).await?
        }
    };
    world.pass_until(length);
    view.finish();
    Ok(Outcome { policy, frames: world.history(), summary: world.summary(), response })
}

/// What people and the playbook do, from the alarm to the revert.
async fn answer(world: &World, args: &Args, length: Duration, view: &View) -> Result<Option<Response>> {
    let clock = world.clock();
    let playbook = args.parameters.playbook().playbook(&Simulated::new(world))?;
    let Some(alarm) = alarm(world, length).await? else { return Ok(None) };
    view.line(&format!("{} ALARM: the p95 latency is above {OBJECTIVE:?}", stamp(alarm)));

    let engine = world.engine().with_observer(Arc::new(view.clone()));
    let plan = engine.plan(&playbook).await?;
    view.line(&format!("\n{plan}"));
    clock.sleep(args.reaction).await;

    let run = RunHandle::new(format!("traffic-spike-{}", args.seed));
    let report = engine.run(&playbook, &plan, &Approval::of(&plan, "on-call"), &run).await?;
    view.line(&format!("\n{report}"));

    calm(world, length).await?;
    view.line(&format!("{} the spike is over: taking back what was temporary", stamp(world.elapsed())));
    let mut reverted = engine.revert(&playbook, &run, Revert::Temporary).await?;
    // What would do harm now is left for later: nodes, until the autoscaler has taken their pods away.
    while reverted.status == Status::Held && world.elapsed() < length {
        clock.sleep(5 * MINUTE).await;
        reverted = engine.revert(&playbook, &run, Revert::Temporary).await?;
    }
    view.line(&format!("\n{reverted}"));
    Ok(Some(Response { alarm, plan, run: report, reverted }))
}

/// Waits until the p95 latency has been above the objective for a minute.
async fn alarm(world: &World, length: Duration) -> Result<Option<Duration>> {
    let mut above = Duration::ZERO;
    while world.elapsed() < length {
        let late = newest(world, "latency_p95").await?.is_some_and(|p95| p95 > OBJECTIVE.as_secs_f64());
        above = if late { above + 15 * SECOND } else { Duration::ZERO };
        if above >= MINUTE {
            return Ok(Some(world.elapsed()));
        }
        world.clock().sleep(15 * SECOND).await;
    }
    Ok(None)
}

/// Waits until the load has been below half of its peak for five minutes, or the trace is over.
async fn calm(world: &World, length: Duration) -> Result<()> {
    let (mut peak, mut below) = (0.0_f64, Duration::ZERO);
    while world.elapsed() < length && below < 5 * MINUTE {
        let load = newest(world, "requests").await?.unwrap_or(peak);
        peak = peak.max(load);
        below = if load < peak / 2.0 { below + 15 * SECOND } else { Duration::ZERO };
        world.clock().sleep(15 * SECOND).await;
    }
    Ok(())
}

async fn newest(world: &World, metric: &str) -> Result<Option<f64>, Error> {
    let query = MetricQuery::new(metric).with_label("workload", "wakala-api");
    Ok(world.metrics().latest(&world.context(), &query).await?.map(|sample| sample.value))
}

/// The JSON report.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    example: &'static str,
    mode: &'static str,
    trace: String,
    seed: u64,
    policies: Vec<PolicyDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct PolicyDocument<'a> {
    policy: &'static str,
    summary: &'a Summary,
    alarm_seconds: Option<u64>,
    plan_hash: Option<String>,
    plan: Option<&'a Plan>,
    run: Option<&'a RunReport>,
    after_revert: Option<&'a RunReport>,
}

impl<'a> Document<'a> {
    pub(crate) fn new(args: &Args, outcomes: &'a [Outcome]) -> Self {
        let policies = outcomes
            .iter()
            .map(|Outcome { policy, summary, response, .. }| PolicyDocument {
                policy: policy.name(),
                summary,
                alarm_seconds: response.as_ref().map(|response| response.alarm.as_secs()),
                plan_hash: response.as_ref().map(|response| response.plan.hash()),
                plan: response.as_ref().map(|response| &response.plan),
                run: response.as_ref().map(|response| &response.run),
                after_revert: response.as_ref().map(|response| &response.reverted),
            })
            .collect();
        let trace = format!("{:?}", args.trace).to_lowercase();
        Self { example: "traffic_spike", mode: "simulation", trace, seed: args.seed, policies }
    }
}

/// What each policy was worth, for people.
pub(crate) struct Table<'a>(pub(crate) &'a [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        type Cell = fn(&Summary) -> String;
        let rows: [(&str, Cell); 6] = [
            ("minutes over the latency objective", |s| format!("{:.1}", s.minutes_over_objective)),
            ("worst p95 latency, s", |s| format!("{:.2}", s.worst_p95_seconds)),
            ("failed requests", |s| format!("{:.0}", s.failed)),
            ("refused by the rate limit", |s| format!("{:.0}", s.rejected)),
            ("API replica-hours", |s| format!("{:.1}", s.replica_hours.get("wakala-api").unwrap_or(&0.0))),
            ("node-hours", |s| format!("{:.1}", s.node_hours)),
        ];
        write!(f, "\n{:36}", "What it was worth")?;
        for outcome in self.0 {
            write!(f, "{:>12}", outcome.policy.name())?;
        }
        for (name, cell) in rows {
            write!(f, "\n{name:36}")?;
            for outcome in self.0 {
                write!(f, "{:>12}", cell(&outcome.summary))?;
            }
        }
        writeln!(f)
    }
}
