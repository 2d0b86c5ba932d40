//! How do tenants get to another shard while they are in use, and what if one must go back?
//!
//! ```text
//! cargo run -p wakala-examples --example shard_migration
//! cargo run -p wakala-examples --example shard_migration -- --seed 7 --rows 5000
//! ```
//!
//! Starts two databases of its own (Debian's package `postgresql`), loads eight tenants, lets writers work on all of them, and
//! moves a quarter of the tenants with the playbook `shard_migration`. It shows the plan, progress, how long writers were held
//! up and what the verification found; then takes one tenant back, ends the move, and compares every write that was ever
//! acknowledged with what the shards have. It fails where one is lost or is there twice.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use wakala_core::{
    Approval, Control, Engine, Event, Notice, Observer, Plan, Result, RunCondition, RunHandle, RunInfo,
    Status,
};
use wakala_db::{MoveEvent, MoveHost, MoveObserver, MoveOptions, MoveSpec, TenantId};
use wakala_playbooks::shard_migration::{Attended, GATE, MoveSite, ShardMigration};

mod ledger;
mod shards;

use ledger::Ledger;
use shards::{Shards, shard};

/// Those that are moved, small ones first.
const MOVED: [i64; 2] = [3, 7];

/// Moves a quarter of the tenants of a shard to another one while they are in use.
#[derive(Debug, Parser)]
#[command(name = "shard_migration")]
struct Args {
    /// Seed of what the writers write.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Rows of the smallest tenant; the largest has eight times as many.
    #[arg(long, default_value_t = 2000)]
    rows: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match show(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn show(args: &Args) -> Result<bool> {
    println!("-- two databases, eight tenants on shard 1, a writer for each");
    let shards = Shards::start(args.rows).await?;
    let tenants = MOVED.map(TenantId::from).to_vec();
    let spec = MoveSpec::new("quarter".parse()?, shard(1)?, shard(2)?, tenants)?;
    // Slow enough to be watched.
    let mut options = MoveOptions::default();
    (options.chunk_bytes, options.copy_bytes_per_second) = (64 << 10, Some(1_500_000));
    let [source, destination] = [1, 2].map(|number| shards.access(number));
    let host = MoveHost::with_observer(
        spec,
        source?,
        destination?,
        shards.directory.clone(),
        options,
        Arc::new(Pauses),
    );
    // What the routers of the applications ask on each shard: once for a shard, long before its first move.
    host.install().await?;
    let ledger = Ledger::begin(&shards, args.seed);
    let playbook = ShardMigration::default().playbook(&MoveSite::new(host.clone()))?;
    let engine = Engine::new()
        .with_mail_interval(Duration::from_millis(100))
        .with_observer(Arc::new(Attended::new(host.clone(), Arc::new(Lines))));

    println!("\n-- the plan, which changes nothing\n");
    let plan = engine.plan(&playbook).await?;
    println!("{plan}");
    println!("-- the run, as ana approves it");
    let (run, approval) = (RunHandle::new("quarter-1"), Approval::of(&plan, "ana"));
    let (report, decided) =
        tokio::join!(engine.run(&playbook, &plan, &approval, &run), decide(&engine, &host, &plan, &run));
    decided?;
    let report = report?;
    println!("\n{report}");

    let verdict = ledger.end(&shards).await?;
    println!(
        "-- the ledger: every write that was ever acknowledged, looked up on the shard that serves its tenant"
    );
    println!("{verdict}");
    let places = [shards.place(MOVED[0]).await?, shards.place(MOVED[1]).await?];
    println!("tenant {} is on shard {}, tenant {} on shard {}", MOVED[0], places[0], MOVED[1], places[1]);
    Ok(report.status == Status::Succeeded && verdict.is_clean() && places == [2, 1])
}

/// What a person does at the gate: takes one tenant back, sees that nothing differs, and lets the rest be cleaned up.
async fn decide(engine: &Engine, host: &MoveHost, plan: &Plan, run: &RunHandle) -> Result<()> {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match engine.summary(run.id()).await.map(|summary| summary.condition) {
            Ok(RunCondition::AwaitingApproval(_)) => break,
            Ok(RunCondition::Ended(_)) => return Ok(()),
            _ => {}
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tenant = TenantId::from(MOVED[1]);
    println!("\n-- at the gate: tenant {tenant} is taken back, with all that was written since");
    host.take_back(&tenant).await?;
    let found = host.verify("back").await?;
    println!(
        "  {} rows compared, {}",
        found.rows(),
        if found.is_equal() { "all the same" } else { "SOME DIFFER" }
    );
    println!("\n-- bo lets the cleanup go on: it keeps each tenant where it is served");
    let control = if found.is_equal() {
        Control::Approve { gate: GATE.into(), plan_hash: plan.hash() }
    } else {
        Control::Reject { gate: GATE.into() }
    };
    engine.ask(run.id(), control, "bo", "one is back, the other may stay").await.map(drop)
}

/// Tells how long writers were held up.
#[derive(Debug)]
struct Pauses;

impl MoveObserver for Pauses {
    fn on_event(&self, event: &MoveEvent) {
        match event {
            MoveEvent::Opened { tenant, shard, pause } => {
                let pause = pause.as_secs_f64() * 1e3;
                println!("    tenant {tenant} is served by shard {shard}; its writers waited {pause:.1} ms");
            }
            MoveEvent::Verified { table, rows } => println!("    {table}: {rows} rows compared"),
            MoveEvent::FenceGaveWay { tenant } => println!("    writers of tenant {tenant} go first"),
            _ => {}
        }
    }
}

/// Shows the journal as it is written, and the progress between its lines.
#[derive(Debug)]
struct Lines;

impl Observer for Lines {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        match event {
            Event::Record(entry) => println!("  {}", entry.record),
            Event::Notice { notice: Notice::Progress { note, total, .. }, .. } if *total > 0 => {
                println!("    {note}");
            }
            _ => {}
        }
    }
}
