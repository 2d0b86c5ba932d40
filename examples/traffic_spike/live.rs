//! The very same playbook against real systems.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use wakala_aws::AwsConfig;
use wakala_core::{
    Approval, Clock as _, Engine, LogNotifier, Notifier, Plan, Revert, RunHandle, RunReport, SqliteStore,
    Status, Stop, SystemClock,
};
use wakala_k8s::Cluster;
use wakala_playbooks::notify::WebhookNotifier;
use wakala_playbooks::rapid_scale::KubernetesEks;
use wakala_playbooks::report::Page;

use crate::Failure;
use crate::args::{Args, Interrupt, LiveOptions};
use crate::view::View;

mod testbed;

/// Where the playbook runs.
struct Site {
    production: KubernetesEks,
    /// Keeps started servers alive.
    _servers: Option<wakala_testbed::Production>,
}

pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let options = &args.live_options;
    // For the alert, where no webhook is given, and for what the libraries have to say.
    let level = tracing_subscriber::filter::LevelFilter::WARN;
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    let view = if args.json { View::silent() } else { View::of_stdout() };
    let site = if options.testbed { testbed::start(&view).await? } else { connect(options).await? };

    let clock = Arc::new(SystemClock::new());
    view.set_origin(clock.now());
    let store = SqliteStore::open(&options.runs).await?;
    let engine =
        Engine::new().with_clock(clock).with_observer(Arc::new(view.clone())).with_store(Arc::new(store));
    let production = site.production.clone().with_notifier(notifier()?);
    let playbook = args.parameters.playbook().playbook(&production)?;
    let person = std::env::var("USER").unwrap_or_else(|_| "on-call".to_owned());
    if let Some(run) = options.resume.as_ref().or(options.take_back.as_ref()) {
        let run = RunHandle::new(run.as_str()).by(person);
        let report = if options.resume.is_some() {
            stop_on_ctrl_c(&run, options.on_interrupt, &view);
            engine.resume(&playbook, &run).await?
        } else {
            engine.revert(&playbook, &run, Revert::Temporary).await?
        };
        view.finish();
        return show(args, None, &report);
    }
    let plan = engine.plan(&playbook).await?;
    view.line(&format!("{plan}"));

    let run = RunHandle::generate().by(person.as_str());
    if !approved(args, &plan)? {
        view.line("Not approved; nothing was changed.");
        return Ok(ExitCode::FAILURE);
    }
    stop_on_ctrl_c(&run, options.on_interrupt, &view);
    let mut report = engine.run(&playbook, &plan, &Approval::of(&plan, person), &run).await?;
    let status = report.status;
    if options.revert && matches!(status, Status::Succeeded | Status::Held | Status::Stopped) {
        view.line(&format!("\n{report}"));
        report = engine.revert(&playbook, &run, Revert::Temporary).await?;
    }
    view.finish();
    show(args, Some(&plan), &report)?;
    Ok(if status == Status::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn connect(options: &LiveOptions) -> Result<Site, Failure> {
    let cluster = match &options.kubeconfig {
        Some(path) => Cluster::from_kubeconfig(path, None).await?,
        None => Cluster::infer().await?,
    };
    let mut aws = AwsConfig::new();
    if let Some(url) = &options.aws_endpoint {
        aws = aws.with_endpoint_url(url);
    }
    let aws = aws.load().await?;
    let production =
        KubernetesEks::new(&cluster, &options.namespace, &aws, &options.cluster, &options.node_group);
    Ok(Site { production, _servers: None })
}

/// Who is alerted. A webhook's address is a secret, so it comes by the environment and not by the command line.
fn notifier() -> Result<Arc<dyn Notifier>, Failure> {
    if let Ok(url) = std::env::var("WAKALA_SLACK_WEBHOOK") {
        return Ok(Arc::new(WebhookNotifier::slack(url.into())?));
    }
    if let Ok(url) = std::env::var("WAKALA_WEBHOOK") {
        return Ok(Arc::new(WebhookNotifier::json(url.into())?));
    }
    Ok(Arc::new(LogNotifier))
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

fn stop_on_ctrl_c(run: &RunHandle, interrupt: Interrupt, view: &View) {
    let (run, view) = (run.clone(), view.clone());
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let (stop, what) = match interrupt {
                Interrupt::Keep => (Stop::Keep, "kept"),
                Interrupt::Revert => (Stop::TakeBack, "taken back"),
            };
            view.line(&format!("Ctrl-C: stopping after the call that is under way; what was done is {what}"));
            run.stop(stop);
        }
    });
}

#[derive(Serialize)]
struct Document<'a> {
    example: &'static str,
    mode: &'static str,
    plan_hash: Option<String>,
    plan: Option<&'a Plan>,
    run: &'a RunReport,
}

/// The report; success where the run did what it was to do, all or back.
fn show(args: &Args, plan: Option<&Plan>, report: &RunReport) -> Result<ExitCode, Failure> {
    let done = matches!(report.status, Status::Succeeded | Status::Compensated);
    let code = if done { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        let plan_hash = plan.map(Plan::hash);
        let document = Document { example: "traffic_spike", mode: "live", plan_hash, plan, run: report };
        println!("{}", serde_json::to_string(&document)?);
        return Ok(code);
    }
    println!("\n{report}");
    if !report.obligations.is_empty() {
        // The report speaks of revert: this is how.
        println!("What is owed goes back with the same options and --take-back {}.\n", report.run_id);
    }
    if !args.no_page {
        let page = Page::new("Traffic spike, live").with_run(report);
        let page = plan.into_iter().fold(page, Page::with_plan);
        std::fs::write(&args.page, page.render())
            .map_err(|error| format!("cannot write the page {}: {error}", args.page.display()))?;
        println!("Page: {}", args.page.display());
    }
    Ok(code)
}
