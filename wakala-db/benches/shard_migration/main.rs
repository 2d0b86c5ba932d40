//! Moves a tenant between two servers under writers, and measures each part against what there is without the mover, in
//! one run, by turns.
//!
//! ```text
//! shard_migration [PERCENT]    the benchmark; PERCENT of the rows (100: the tenant that is moved has 56 MB)
//! shard_migration mover        one move in a process of its own, for its memory; what it needs comes in variables
//! ```
//!
//! Ratios are medians over rounds, each of one measurement and its peer. Its last line is one JSON object.

use std::error::Error;
use std::time::Duration;

use serde_json::json;

mod catch_up;
mod copy;
mod memory;
mod moves;
mod native;
mod others;
mod pause;
mod pipe;
mod site;
mod writers;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|mode| mode == "mover") {
        return memory::work().await;
    }
    let percent = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(100);
    let site = site::Site::new(percent).await?;
    let ledger = writers::Ledger::default();
    let copied = copy::measure(&site, &ledger).await?;
    let memory = memory::measure(&site, &ledger).await?;
    let caught_up = catch_up::measure(&site, percent).await?;
    let paused = pause::measure(&site, &ledger).await?;
    let others = others::measure(&site, &ledger).await?;
    let kept = ledger.count(&site).await?;
    println!(
        "{}",
        json!({
            "bench": "shard-migration",
            "copy_ratio": round(copied.one_stream),
            "copy_two_streams_ratio": round(copied.two_streams),
            "vs_native_sync": round(copied.vs_native),
            "catchup_vs_native": round(caught_up.vs_native),
            "whole_ratio": round(copied.whole),
            "pause_ms_median": round(paused.median),
            "pause_ms_p99": round(paused.p99),
            "others_p99_ratio": round(others.ratio),
            "mover_rss_mb": round(memory),
            "lost": kept.lost,
            "duplicated": kept.duplicated,
            "others_errors": others.errors,
            "ack_gap_ms_p99": round(paused.gap_p99),
            "moves": paused.moves,
            "writes": kept.writes,
            "catchup_tx_per_second": caught_up.rate.round(),
            "raw_mb_per_second": round(copied.raw_rate),
        })
    );
    Ok(())
}

fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last * percent + 50) / 100).copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 50)
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
