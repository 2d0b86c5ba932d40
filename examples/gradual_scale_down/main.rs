//! How does a production get small again after a peak without anybody noticing, and what happens if somebody would?
//!
//! Runs the runbook's "Gradual Scale Down" end to end: a plan, an approval, four steps down, ten minutes of watching at
//! each; on errors, or without metrics, back to the last healthy size.
//!
//! ```text
//! cargo run -p wakala-examples --example gradual_scale_down
//! cargo run -p wakala-examples --example gradual_scale_down -- --autoscaler              an HPA owns the API's size
//! cargo run -p wakala-examples --example gradual_scale_down -- --fault error-rate-at=0.6
//! cargo run -p wakala-examples --example gradual_scale_down -- --fault metrics-gone-at=0.6
//! cargo run -p wakala-examples --example gradual_scale_down -- --json                    one JSON report
//! cargo run -p wakala-examples --features live --example gradual_scale_down -- --live --testbed --yes \
//!     --rehearsal --soak 20s                              a real control plane on loopback, whose pods serve metrics
//! cargo run -p wakala-examples --features live --example gradual_scale_down -- --live    your kubeconfig's cluster
//! ```
//!
//! It ends with failure where the descent did not come to its end, for whatever reason.

use std::process::ExitCode;

use clap::Parser as _;
use wakala_core::Status;

mod args;
#[cfg(feature = "live")]
mod live;
mod simulate;
#[cfg(test)]
mod tests;
mod timeline;

use args::Args;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ran = if args.live { live(&args).await } else { simulated(&args).await };
    match ran {
        Ok(Status::Succeeded) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
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

async fn simulated(args: &Args) -> Result<Status, Failure> {
    let descent = simulate::run(args).await?;
    if args.json {
        println!("{}", serde_json::to_string(&descent)?);
    } else {
        print!("{descent}");
    }
    Ok(descent.run.status)
}

#[cfg(feature = "live")]
async fn live(args: &Args) -> Result<Status, Failure> {
    live::run(args).await
}

#[cfg(not(feature = "live"))]
async fn live(_: &Args) -> Result<Status, Failure> {
    Err("this build has no real providers; add the feature: \
         cargo run -p wakala-examples --features live --example gradual_scale_down -- --live"
        .into())
}
