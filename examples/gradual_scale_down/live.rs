//! The very same playbook against a real cluster, guarded by what its pods count.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use wakala_core::{
    Approval, Clock as _, Engine, Event, Notice, Observer, Plan, RunHandle, RunInfo, RunReport, Status, Stop,
    SystemClock,
};
use wakala_k8s::{Cluster, PodMetric, PodMetrics, Workload};
use wakala_playbooks::gradual_scale_down::{ApiMetrics, Kubernetes};

use crate::Failure;
use crate::args::{Args, LiveOptions};

mod testbed;

use testbed::Testbed;

pub(crate) async fn run(args: &Args) -> Result<Status, Failure> {
    let options = &args.live_options;
    let level = tracing_subscriber::filter::LevelFilter::WARN;
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    let started = if options.testbed { Some(Testbed::start(args).await?) } else { None };
    if started.is_none() && !args.fault.is_empty() {
        return Err("faults are for the simulation and the testbed, not for a real cluster".into());
    }
    let cluster = match (&started, &options.kubeconfig) {
        (Some(testbed), _) => testbed.cluster().await?,
        (None, Some(path)) => Cluster::from_kubeconfig(path, None).await?,
        (None, None) => Cluster::infer().await?,
    };

    let clock = Arc::new(SystemClock::new());
    let (origin, testbed) = (clock.now(), started.clone());
    let view = View { silent: args.json, origin, testbed };
    let engine = Engine::new().with_clock(clock).with_observer(Arc::new(view));
    let namespace = started.as_ref().map_or(options.namespace.as_str(), Testbed::namespace);
    let production = production(&cluster, namespace, options);
    let playbook = args.parameters.playbook().playbook(&production)?;
    let plan = engine.plan(&playbook).await?;
    if !args.json {
        println!("{plan}");
    }
    if !approved(args, &plan)? {
        println!("Not approved; nothing was changed.");
        return Ok(Status::Stopped);
    }
    let run = RunHandle::generate();
    stop_on_ctrl_c(&run);
    let approver = std::env::var("USER").unwrap_or_else(|_| "on-call".to_owned());
    let report = engine.run(&playbook, &plan, &Approval::of(&plan, approver), &run).await?;
    show(args, &plan, &report)?;
    Ok(report.status)
}

/// The share of failed requests over all ready pods of the API, as their counters grow.
fn production(cluster: &Cluster, namespace: &str, options: &LiveOptions) -> Kubernetes {
    let api = Workload::deployment(cluster, namespace, "wakala-api");
    let (errors, requests) = (options.errors_metric.as_str(), options.requests_metric.as_str());
    let errors = PodMetric::ratio_of_increases(errors, requests);
    let source = PodMetrics::of(&api)
        .with_metric("error_rate", errors)
        .with_metric("requests", PodMetric::rate(requests));
    let metrics = ApiMetrics::new(Arc::new(source), "error_rate").with_requests("requests");
    Kubernetes::new(cluster, namespace, metrics)
}

/// Asks the person at the terminal. Without one, only `--yes` approves.
fn approved(args: &Args, plan: &Plan) -> Result<bool, Failure> {
    if let Some(refusal) = plan.refusals().next() {
        return Err(format!("the preflight refused the plan: {}", refusal.text).into());
    }
    if args.live_options.yes {
        return Ok(true);
    }
    if args.json || !std::io::stdin().is_terminal() {
        return Err("nobody is there to approve the plan; read it, then add --yes".into());
    }
    print!("Type yes to approve this plan ({}): ", &plan.hash()[..12]);
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn stop_on_ctrl_c(run: &RunHandle) {
    let run = run.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("Ctrl-C: stopping after the call that is under way; what was done is kept");
            run.stop(Stop::Keep);
        }
    });
}

/// Prints what happens as it happens, and lets the testbed have its troubles.
#[derive(Debug)]
struct View {
    silent: bool,
    origin: SystemTime,
    testbed: Option<Testbed>,
}

impl View {
    fn line(&self, at: SystemTime, text: &str) {
        if !self.silent {
            let seconds = at.duration_since(self.origin).unwrap_or_default().as_secs();
            println!("{:>3}:{:02}  {text}", seconds / 60, seconds % 60);
        }
    }
}

impl Observer for View {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        if let (Some(testbed), Some(record)) = (&self.testbed, event.record()) {
            testbed.note(record);
        }
        match event {
            Event::Record(entry) => self.line(entry.at, &entry.record.to_string()),
            Event::Notice { at, notice: Notice::Guard { guard, verdict, .. } } => {
                self.line(*at, &format!("  {guard}: {verdict}"));
            }
            Event::Notice { at, notice: Notice::Retrying { step, error, after } } => {
                self.line(*at, &format!("{step}: {error}; again in {after:?}"));
            }
            _ => {}
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    example: &'static str,
    mode: &'static str,
    plan_hash: String,
    plan: &'a Plan,
    run: &'a RunReport,
}

fn show(args: &Args, plan: &Plan, report: &RunReport) -> Result<(), Failure> {
    if args.json {
        let mode = "live";
        let document =
            Document { example: "gradual_scale_down", mode, plan_hash: plan.hash(), plan, run: report };
        println!("{}", serde_json::to_string(&document)?);
    } else {
        println!("\n{report}");
    }
    Ok(())
}
