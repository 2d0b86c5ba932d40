//! The engine: how many crashes it survives, and what its records cost.
//!
//! ```text
//! engine [KILLS]                    the benchmark; explore's numbers come in WAKALA_EXPLORED, as JSON
//! engine worker FOLDER RUN          one process of the crash test, to be killed
//! ```

use std::error::Error;

use serde_json::{Value, json};

mod kills;
mod overhead;
mod site;
mod worker;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, folder, run] = arguments.as_slice()
        && mode == "worker"
    {
        return worker::work(folder.as_ref(), run).await;
    }
    let kills = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(200);
    let explored: Value = match std::env::var("WAKALA_EXPLORED") {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Value::Null,
    };
    let overhead = overhead::measure().await?;
    let crashes = kills::measure(kills).await?;
    println!(
        "{}",
        json!({
            "bench": "engine",
            "explore_schedules": explored["schedules"],
            "explore_violations": explored["violations"],
            "explore_seconds": explored["seconds"],
            "kills": crashes.kills,
            "runs": crashes.runs,
            "lost_runs": crashes.lost_runs,
            "double_effects": crashes.double_effects,
            "resume_ms_median": crashes.resume_ms_median,
            "sqlite_ratio_vs_bare": overhead.sqlite_ratio_vs_bare,
            "memory_us_per_step": overhead.memory_us_per_step,
        })
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => f64::NAN,
        values if values.len().is_multiple_of(2) => f64::midpoint(values[middle - 1], values[middle]),
        values => values[middle],
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
