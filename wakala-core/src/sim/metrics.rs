//! The metrics of a world, as a monitoring system would give them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::api::Shared;
use super::history::{Frame, WorkloadFrame};
use super::state::State;
use crate::{Error, ErrorKind, MetricQuery, MetricsSource, Result, RunContext, Sample, Unit};

/// Every metric that there is, with its unit.
const METRICS: [(&str, Unit); 12] = [
    ("cache_connections", Unit::Count),
    ("cache_hit_ratio", Unit::Ratio),
    ("cpu_utilisation", Unit::Ratio),
    ("database_connections", Unit::Count),
    ("database_utilisation", Unit::Ratio),
    ("error_rate", Unit::Ratio),
    ("latency_p95", Unit::Seconds),
    ("queue_depth", Unit::Count),
    ("replicas_desired", Unit::Count),
    ("replicas_ready", Unit::Count),
    ("requests", Unit::PerSecond),
    ("requests_rejected", Unit::PerSecond),
];

/// The metrics of a world. From [`World::metrics`](super::World::metrics).
///
/// Samples are taken every [scrape interval](super::WorldBuilder::with_scrape_interval) and stand for the time since
/// the one before, so the newest may be that old. The label `workload` selects a workload; without it a metric is that
/// of all of them together. Unknown values of labels select nothing.
///
/// | metric | unit | |
/// |---|---|---|
/// | `error_rate` | ratio | failed requests of those answered or failed; without requests no sample |
/// | `latency_p95` | s | mean of the seconds' 95th percentiles; without requests no sample |
/// | `cpu_utilisation` | ratio | of what ready pods request; needs a workload |
/// | `queue_depth` | count | requests that wait |
/// | `requests`, `requests_rejected` | 1/s | made by clients, refused by the rate limit |
/// | `replicas_desired`, `replicas_ready` | count | |
/// | `database_connections`, `database_utilisation` | count, ratio | of the world |
/// | `cache_connections`, `cache_hit_ratio` | count, ratio | of the world |
#[derive(Clone, Debug)]
pub struct SimMetrics {
    pub(super) world: Arc<Shared>,
}

impl SimMetrics {
    /// The names of all metrics.
    pub fn names() -> impl Iterator<Item = &'static str> {
        METRICS.into_iter().map(|(name, _)| name)
    }

    async fn ask(&self, cx: &RunContext) -> Result<()> {
        let latency = {
            let state = self.world.state();
            self.world.call_latency + state.faults.call_latency(state.second)
        };
        cx.sleep(latency).await?;
        let state = self.world.state();
        if state.faults.metrics_fail(state.second) {
            return Err(
                Error::new(ErrorKind::Unavailable, "query", "no answer; is it up?").on("the metrics source")
            );
        }
        Ok(())
    }

    /// The sample that was taken at that second.
    fn sample(&self, state: &State, query: &MetricQuery, unit: Unit, at: u64) -> Option<Sample> {
        if state.faults.has_gap(at, query.name()) {
            return None;
        }
        let frames = window(&state.frames, at, self.world.scrape_interval);
        let value = evaluate(frames, query)?;
        let sample = Sample::new(self.world.epoch + Duration::from_secs(at), value, unit);
        Some(match state.faults.answering(at) {
            Some(percent) => sample.with_coverage(percent, 100),
            None => sample,
        })
    }

    /// When the newest sample was taken.
    fn newest(&self, state: &State) -> u64 {
        let now = state.faults.frozen_since(state.second).unwrap_or(state.second);
        now - now % self.world.scrape_interval
    }
}

fn unit(query: &MetricQuery) -> Result<Unit> {
    METRICS.into_iter().find(|(name, _)| *name == query.name()).map(|(_, unit)| unit).ok_or_else(|| {
        let known = SimMetrics::names().collect::<Vec<_>>().join(", ");
        Error::invalid("query", format!("there is no such metric; there are: {known}")).on(query)
    })
}

/// The frames since the sample before the one taken at that second.
fn window(frames: &[Frame], at: u64, interval: u64) -> &[Frame] {
    let index = |second: u64| usize::try_from(second).map_or(frames.len(), |index| index.min(frames.len()));
    let from = if at == 0 { 0 } else { at.saturating_sub(interval) + 1 };
    &frames[index(from)..index(at + 1)]
}

fn evaluate(frames: &[Frame], query: &MetricQuery) -> Option<f64> {
    let mut labels = query.labels();
    if labels.any(|(label, _)| label != "workload") {
        return None;
    }
    let last = frames.last()?;
    let workload = query.label("workload");
    if let Some(name) = workload {
        last.workload(name)?;
    }
    let of = |frame: &Frame, value: fn(&WorkloadFrame) -> f64| -> f64 {
        let chosen = |frame: &&WorkloadFrame| workload.is_none_or(|name| frame.name == name);
        frame.workloads.iter().filter(chosen).map(value).sum()
    };
    let sum = |value: fn(&WorkloadFrame) -> f64| frames.iter().map(|frame| of(frame, value)).sum::<f64>();
    let mean = |value: fn(&WorkloadFrame) -> f64| sum(value) / frames.len() as f64;
    match (query.name(), workload) {
        ("error_rate", _) => {
            let (served, failed) = (sum(|frame| frame.served), sum(|frame| frame.failed));
            (served + failed > 0.0).then(|| failed / (served + failed))
        }
        ("latency_p95", _) => {
            let seen: Vec<f64> = frames
                .iter()
                .filter_map(|frame| match workload {
                    Some(name) => frame.workload(name)?.latency_p95_seconds,
                    None => frame.latency_p95_seconds,
                })
                .collect();
            (!seen.is_empty()).then(|| seen.iter().sum::<f64>() / seen.len() as f64)
        }
        ("cpu_utilisation", Some(name)) => (last.workload(name)?.ready > 0).then(|| mean(|frame| frame.cpu)),
        ("queue_depth", _) => Some(of(last, |frame| frame.queue)),
        ("replicas_desired", _) => Some(of(last, |frame| frame.desired.into())),
        ("replicas_ready", _) => Some(of(last, |frame| frame.ready.into())),
        ("requests", _) => Some(mean(|frame| frame.load)),
        ("requests_rejected", _) => Some(mean(|frame| frame.rejected)),
        ("database_connections", None) => last.database.as_ref().map(|database| database.connections.into()),
        ("database_utilisation", None) => last.database.as_ref().map(|database| database.utilisation),
        ("cache_connections", None) => last.cache.as_ref().map(|cache| cache.connections.into()),
        ("cache_hit_ratio", None) => last.cache.as_ref().map(|cache| cache.hit_ratio),
        _ => None,
    }
}

#[async_trait]
impl MetricsSource for SimMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        let unit = unit(query)?;
        self.ask(cx).await?;
        let state = self.world.state();
        if state.faults.has_gap(state.second, query.name()) {
            return Ok(None);
        }
        Ok(self.sample(&state, query, unit, self.newest(&state)))
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        let unit = unit(query)?;
        self.ask(cx).await?;
        let state = self.world.state();
        let interval = usize::try_from(self.world.scrape_interval).unwrap_or(usize::MAX);
        let oldest = state.second.saturating_sub(window.as_secs());
        let scrapes =
            (oldest.next_multiple_of(self.world.scrape_interval)..=self.newest(&state)).step_by(interval);
        Ok(scrapes.filter_map(|at| self.sample(&state, query, unit, at)).collect())
    }
}
