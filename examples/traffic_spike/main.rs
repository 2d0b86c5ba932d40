//! What happens when traffic multiplies within minutes, and what does the playbook do about it?
//!
//! Runs the runbook's "Traffic Spike Response" end to end: an alarm, a plan, an approval, the run, its soak, and at last
//! the revert of what was temporary.
//!
//! ```text
//! cargo run -p wakala-examples --example traffic_spike                       simulated, a recorded spike
//! cargo run -p wakala-examples --example traffic_spike -- --policy playbook  one answer only
//! cargo run -p wakala-examples --example traffic_spike -- --json             one JSON report
//! cargo run -p wakala-examples --features live --example traffic_spike -- --live --testbed
//!                                                        a real control plane and an AWS endpoint on loopback
//! cargo run -p wakala-examples --features live --example traffic_spike -- --live
//!                                                        the cluster of your kubeconfig, and EKS
//! ```

use std::process::ExitCode;

use clap::Parser as _;
use wakala_core::Status;

mod args;
#[cfg(feature = "live")]
mod live;
mod page;
mod simulate;
#[cfg(test)]
mod tests;
mod view;

use args::{Args, Policy};
use simulate::Outcome;
use view::View;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ran = if args.live { live(&args).await } else { simulated(&args).await };
    match ran {
        Ok(code) => code,
        Err(error) => {
            // The library's errors say on one line what happened, to what, and what to do.
            match error.downcast_ref::<wakala_core::Error>() {
                Some(error) => eprintln!("error: {}", error.chain()),
                None => eprintln!("error: {error}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn simulated(args: &Args) -> Result<ExitCode, Failure> {
    let policies: Vec<Policy> = args.policy.map_or(Policy::ALL.to_vec(), |policy| vec![policy]);
    let mut outcomes = Vec::new();
    for policy in policies {
        // Only the playbook is worth watching live; the others are there to compare.
        let view = if args.json || policy != Policy::Playbook { View::silent() } else { View::of_stdout() };
        outcomes.push(simulate::run(policy, args, &view).await?);
    }
    if args.json {
        println!("{}", serde_json::to_string(&simulate::Document::new(args, &outcomes))?);
    } else {
        print!("{}", simulate::Table(&outcomes));
    }
    if !args.no_page && !args.json {
        std::fs::write(&args.page, page::render(args, &outcomes))
            .map_err(|error| format!("cannot write the page {}: {error}", args.page.display()))?;
        println!("\nPage with charts: {}", args.page.display());
    }
    let missed = outcomes.iter().filter_map(Outcome::status).any(|status| status != Status::Succeeded);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(feature = "live")]
async fn live(args: &Args) -> Result<ExitCode, Failure> {
    live::run(args).await
}

#[cfg(not(feature = "live"))]
async fn live(_: &Args) -> Result<ExitCode, Failure> {
    Err("this build has no real providers; add the feature: \
         cargo run -p wakala-examples --features live --example traffic_spike -- --live"
        .into())
}
