//! What a world looked like, second by second, and what it adds up to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The world in one second.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Seconds since the start.
    pub second: u64,
    /// Requests per second that clients made.
    pub load: f64,
    /// Requests per second that could be served in all.
    pub capacity: f64,
    /// Requests answered well in this second, those answered by edge and clients' caches among them.
    pub served: f64,
    /// Requests that failed or timed out in this second.
    pub failed: f64,
    /// Requests that the rate limit refused in this second.
    pub rejected: f64,
    /// Requests that wait.
    pub queue: f64,
    /// The 95th percentile of the latency in seconds, of the slowest workload; `None` without requests.
    pub latency_p95_seconds: Option<f64>,
    /// Failed requests as a share of those that were answered or failed; `None` where there were none.
    pub error_rate: Option<f64>,
    /// The workloads, as they were given to the builder.
    pub workloads: Vec<WorkloadFrame>,
    /// The node pools, as they were given to the builder.
    pub pools: Vec<PoolFrame>,
    /// The database, where there is one.
    pub database: Option<DatabaseFrame>,
    /// The cache, where there is one.
    pub cache: Option<CacheFrame>,
}

impl Frame {
    /// The workload of that name.
    pub fn workload(&self, name: &str) -> Option<&WorkloadFrame> {
        self.workloads.iter().find(|workload| workload.name == name)
    }

    /// The node pool of that name.
    pub fn pool(&self, name: &str) -> Option<&PoolFrame> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

/// One workload in one second. Fields as in [`Frame`], for this workload alone, where they have the same name.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadFrame {
    /// Its name.
    pub name: String,
    /// Replicas that are wanted.
    pub desired: u32,
    /// Pods that there are, ready or not.
    pub pods: u32,
    /// Pods that work.
    pub ready: u32,
    /// Pods that are on no node.
    pub pending: u32,
    /// Pods that a rolling restart has yet to replace.
    pub outdated: u32,
    /// The bounds of its autoscaler.
    pub autoscaler: Option<(u32, u32)>,
    /// Requests per second that clients made.
    pub load: f64,
    /// Requests per second that could be served.
    pub capacity: f64,
    /// CPU used by the ready pods, as a share of what they request.
    pub cpu: f64,
    /// Requests that wait.
    pub queue: f64,
    /// Requests answered well.
    pub served: f64,
    /// Requests that failed or timed out.
    pub failed: f64,
    /// Requests that the rate limit refused.
    pub rejected: f64,
    /// The 95th percentile of the latency in seconds; `None` without requests.
    pub latency_p95_seconds: Option<f64>,
    /// Whether that is above the workload's objective.
    pub over_objective: bool,
}

/// One node pool in one second.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolFrame {
    /// Its name.
    pub name: String,
    /// Nodes that are wanted.
    pub desired: u32,
    /// Nodes that there are, ready or not.
    pub nodes: u32,
    /// Nodes that work.
    pub ready: u32,
}

/// The database in one second.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseFrame {
    /// Connections that workloads hold or want to hold.
    pub connections: u32,
    /// Connections that it accepts from workloads.
    pub max_connections: u32,
    /// Queries asked per second.
    pub queries: f64,
    /// Queries asked as a share of those it can answer; above 1 where it is overloaded.
    pub utilisation: f64,
}

/// The cache in one second.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheFrame {
    /// Connections that workloads hold or want to hold.
    pub connections: u32,
    /// Connections that it accepts.
    pub max_connections: u32,
    /// The share of requests that it answers.
    pub hit_ratio: f64,
}

/// Something that happened in the world, for charts and logs.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occurrence {
    /// Seconds since the start.
    pub second: u64,
    /// What happened.
    pub text: String,
}

/// What a span of time adds up to.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many seconds it spans.
    pub seconds: u64,
    /// Minutes in which some workload's p95 latency was above its objective.
    pub minutes_over_objective: f64,
    /// Requests that clients made.
    pub requests: f64,
    /// Requests answered well.
    pub served: f64,
    /// Requests that failed or timed out.
    pub failed: f64,
    /// Requests that the rate limit refused.
    pub rejected: f64,
    /// The worst p95 latency of any second, in seconds.
    pub worst_p95_seconds: f64,
    /// Hours of pods on nodes, by workload.
    pub replica_hours: BTreeMap<String, f64>,
    /// Hours of nodes, from when they were asked for.
    pub node_hours: f64,
}

impl Summary {
    pub(super) fn of(frames: &[Frame]) -> Self {
        let mut summary = Self::default();
        for frame in frames {
            summary.seconds += 1;
            if frame.workloads.iter().any(|workload| workload.over_objective) {
                summary.minutes_over_objective += 1.0;
            }
            summary.requests += frame.load;
            summary.served += frame.served;
            summary.failed += frame.failed;
            summary.rejected += frame.rejected;
            summary.worst_p95_seconds =
                summary.worst_p95_seconds.max(frame.latency_p95_seconds.unwrap_or_default());
            for workload in &frame.workloads {
                let placed = f64::from(workload.pods - workload.pending);
                match summary.replica_hours.get_mut(&workload.name) {
                    Some(hours) => *hours += placed,
                    None => {
                        summary.replica_hours.insert(workload.name.clone(), placed);
                    }
                }
            }
            summary.node_hours += frame.pools.iter().map(|pool| f64::from(pool.nodes)).sum::<f64>();
        }
        summary.minutes_over_objective = round(summary.minutes_over_objective / 60.0);
        summary.node_hours = round(summary.node_hours / 3600.0);
        summary.replica_hours.values_mut().for_each(|hours| *hours = round(*hours / 3600.0));
        for total in [&mut summary.requests, &mut summary.served, &mut summary.failed, &mut summary.rejected]
        {
            *total = total.round();
        }
        summary
    }
}

/// One frame that stands for several: rates are means, the latency is the worst, all else is as in the last of them.
pub(super) fn merge(frames: &[Frame]) -> Option<Frame> {
    let mut merged = frames.last()?.clone();
    let mean = |of: &dyn Fn(&Frame) -> f64| round(frames.iter().map(of).sum::<f64>() / frames.len() as f64);
    // `None` is less than any number.
    let worst = |of: &dyn Fn(&Frame) -> Option<f64>| {
        frames.iter().map(of).fold(None, |worst, next| if next > worst { next } else { worst })
    };
    merged.load = mean(&|frame| frame.load);
    merged.capacity = mean(&|frame| frame.capacity);
    merged.served = mean(&|frame| frame.served);
    merged.failed = mean(&|frame| frame.failed);
    merged.rejected = mean(&|frame| frame.rejected);
    merged.latency_p95_seconds = worst(&|frame| frame.latency_p95_seconds);
    let answered = merged.served + merged.failed;
    merged.error_rate = (answered > 0.0).then(|| round(merged.failed / answered));
    for (index, workload) in merged.workloads.iter_mut().enumerate() {
        workload.load = mean(&|frame| frame.workloads[index].load);
        workload.capacity = mean(&|frame| frame.workloads[index].capacity);
        workload.cpu = mean(&|frame| frame.workloads[index].cpu);
        workload.served = mean(&|frame| frame.workloads[index].served);
        workload.failed = mean(&|frame| frame.workloads[index].failed);
        workload.rejected = mean(&|frame| frame.workloads[index].rejected);
        workload.latency_p95_seconds = worst(&|frame| frame.workloads[index].latency_p95_seconds);
        workload.over_objective = frames.iter().any(|frame| frame.workloads[index].over_objective);
    }
    Some(merged)
}

/// Four decimals: enough for every chart, and short as JSON.
pub(super) fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::sim::{Load, World};

    #[test]
    fn merged_frames_keep_totals_and_the_worst() {
        let minute = Duration::from_secs(60);
        let load = Load::spike(500.0, 3000.0, minute, minute, minute).with_noise(0.1);
        let world = World::production(1).with_load(load).build().unwrap();
        world.pass(10 * minute);
        let (all, few) = (world.history(), world.history_every(Duration::from_secs(15)));
        assert_eq!((few.len(), few[0].second, few[1].second, few[40].second), (41, 0, 15, 600));
        let total = |frames: &[super::Frame]| frames[1..].iter().map(|frame| frame.failed).sum::<f64>();
        assert!(total(&all) > 1000.0 && (total(&all) - 15.0 * total(&few)).abs() < 1.0);
        let worst = |frames: &[super::Frame]| {
            frames.iter().filter_map(|frame| frame.latency_p95_seconds).fold(0.0, f64::max)
        };
        assert_eq!(worst(&all), worst(&few));
        let text = serde_json::to_string(&few).unwrap();
        assert_eq!(serde_json::from_str::<Vec<super::Frame>>(&text).unwrap(), few);
    }
}
