//! The names that queries may ask for, and what they are made of.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wakala_core::{Error, Look, MetricQuery, Result, Sample, Unit};

use super::info::{Counters, Facts, Lag};
use super::queue::{Depth, RedisQueue};
use super::site::{Failure, Seen, SeenNode};
use super::visit::NodeLook;
use crate::config::NodeAddress;

type Part = fn(&Facts) -> Option<f64>;
type Growth = fn(&Counters) -> f64;

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Metric {
    /// The growth of one thing for that of another.
    Mean {
        of: Growth,
        over: Growth,
    },
    Lag(fn(&Lag) -> Option<f64>),
    Ping {
        quantile: f64,
    },
    Queue(fn(&Depth) -> Option<f64>),
    Rate(Growth),
    Sum(Part),
    Worst(Part),
    WorstRate(fn(&Counters) -> Option<f64>),
}

/// A name, its unit, what it stands for.
type Definition = (&'static str, Unit, Metric);

const DEFINITIONS: [Definition; 27] = {
    use Metric::{Lag, Mean, Ping, Queue, Rate, Sum, Worst, WorstRate};
    use Unit::{Bytes, Count, PerSecond, Ratio, Seconds};
    [
        ("redis.clients_blocked", Count, Sum(|facts| facts.blocked)),
        ("redis.clients_connected", Count, Sum(|facts| facts.clients)),
        ("redis.clients_limit", Count, Sum(|facts| facts.max_clients)),
        ("redis.clients_used_ratio", Ratio, Worst(|facts| Some(facts.places_taken? / facts.max_clients?))),
        ("redis.commands_per_second", PerSecond, Rate(|grown| grown.commands)),
        ("redis.connections_per_second", PerSecond, Rate(|grown| grown.connections)),
        ("redis.connections_rejected_per_second", PerSecond, Rate(|grown| grown.rejected)),
        ("redis.evictions_per_second", PerSecond, Rate(|grown| grown.evicted)),
        ("redis.expirations_per_second", PerSecond, Rate(|grown| grown.expired)),
        ("redis.hit_ratio", Ratio, Mean { of: |grown| grown.hits, over: |grown| grown.hits + grown.misses }),
        ("redis.keys", Count, Sum(|facts| Some(facts.keys))),
        ("redis.main_thread_used_ratio", Ratio, WorstRate(|grown| grown.main_thread)),
        ("redis.memory_fragmentation_ratio", Ratio, Worst(|facts| facts.fragmentation)),
        ("redis.memory_limit_bytes", Bytes, Sum(|facts| facts.memory_limit)),
        ("redis.memory_resident_bytes", Bytes, Sum(|facts| facts.resident)),
        ("redis.memory_used_bytes", Bytes, Sum(|facts| facts.memory)),
        ("redis.memory_used_ratio", Ratio, Worst(|facts| Some(facts.memory_limited? / facts.memory_limit?))),
        ("redis.nodes", Count, Sum(|_| Some(1.0))),
        ("redis.ping_p50_seconds", Seconds, Ping { quantile: 0.5 }),
        ("redis.ping_p99_seconds", Seconds, Ping { quantile: 0.99 }),
        ("redis.queue_depth", Count, Queue(|depth| depth.waiting)),
        ("redis.queue_pending", Count, Queue(|depth| depth.pending)),
        (
            "redis.replicas",
            Count,
            Sum(|facts| Some(facts.replicas.iter().map(|_| 1.0).fold(0.0, |sum, one| sum + one))),
        ),
        ("redis.replication_lag_bytes", Bytes, Lag(|lag| lag.bytes)),
        ("redis.replication_lag_seconds", Seconds, Lag(|lag| lag.seconds)),
        ("redis.reads_hit_per_second", PerSecond, Rate(|grown| grown.hits)),
        ("redis.reads_missed_per_second", PerSecond, Rate(|grown| grown.misses)),
    ]
};

/// Which nodes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Any,
    Master,
    Replica,
}

/// A query that this source can answer.
#[derive(Debug)]
pub(super) struct Asked {
    metric: Metric,
    unit: Unit,
    node: Option<NodeAddress>,
    role: Role,
    /// The place of the only one that is asked for.
    queue: Option<usize>,
}

/// A look with what came before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) look: &'a Look<Seen>,
    /// From which growth is measured.
    pub(super) base: Option<&'a Seen>,
    /// Those whose pings count, the look itself included.
    pub(super) recent: &'a [Arc<Look<Seen>>],
}

/// The value, and of how many of those that should have had a part in it.
#[derive(Clone, Copy, Debug, Default)]
struct Gathered {
    value: Option<f64>,
    answered: u32,
    expected: u32,
}

impl Asked {
    /// Refuses what can never be answered. `one_server`: a server that counts whatever its role is.
    pub(super) fn new(
        (operation, subject): (&'static str, &str),
        query: &MetricQuery,
        queues: &[RedisQueue],
        one_server: bool,
    ) -> Result<Self> {
        let refuse = |message: String| Err(Error::invalid(operation, message).on(subject));
        let name = query.name();
        let Some(&(_, unit, metric)) = DEFINITIONS.iter().find(|(known, ..)| *known == name) else {
            let names: Vec<_> = DEFINITIONS.iter().map(|(name, ..)| *name).collect();
            return refuse(format!("there is no metric {name}; there are: {}", names.join(", ")));
        };
        let of_queues = matches!(metric, Metric::Queue(_));
        if of_queues && queues.is_empty() {
            return refuse(format!("{name} needs a queue; give one by with_queue"));
        }
        let (mut node, mut role, mut queue) = (None, None, None);
        for (label, value) in query.labels() {
            match label {
                "node" if !of_queues => match value.parse() {
                    Ok(address) => node = Some(address),
                    Err(_) => return refuse(format!("{query} asks for a node that is no host:port")),
                },
                "queue" if of_queues => {
                    queue = queues.iter().position(|queue| queue.name() == value);
                    if queue.is_none() {
                        let known: Vec<_> = queues.iter().map(RedisQueue::name).collect();
                        let known = known.join(", ");
                        return refuse(format!(
                            "{query} asks for a queue that was not given; there are: {known}"
                        ));
                    }
                }
                "role" if !of_queues => {
                    role = Some(match value {
                        "any" => Role::Any,
                        "master" => Role::Master,
                        "replica" => Role::Replica,
                        _ => {
                            return refuse(format!(
                                "{query} asks for no role; choose any, master or replica"
                            ));
                        }
                    });
                }
                _ => {
                    let known = if of_queues { "queue" } else { "node, role" };
                    return refuse(format!("{query} asks for a label {label}; {name} has: {known}"));
                }
            }
        }
        let default = if one_server || node.is_some() { Role::Any } else { Role::Master };
        Ok(Self { metric, unit, node, role: role.unwrap_or(default), queue })
    }

    /// Whether one look is not enough.
    pub(super) fn needs_two(&self) -> bool {
        matches!(self.metric, Metric::Mean { .. } | Metric::Rate(_) | Metric::WorstRate(_))
    }

    /// Why those that are asked for are missing; `None` where one is not.
    pub(super) fn failures<'a>(&self, seen: &'a Seen) -> Option<Vec<&'a Failure>> {
        let failures: Option<Vec<_>> = match self.metric {
            Metric::Queue(_) => self.queues(seen).map(|queue| queue.as_ref().err()).collect(),
            _ => self.nodes(seen).map(|node| node.outcome.as_ref().err()).collect(),
        };
        failures.filter(|failures| !failures.is_empty())
    }

    pub(super) fn sample(&self, at: At<'_>) -> Option<Sample> {
        let gathered = match self.metric {
            Metric::Lag(part) => self.lag(&at.look.seen, part),
            Metric::Mean { of, over } => self.mean(at, of, over),
            Metric::Ping { quantile } => {
                self.worst(&at.look.seen, |node, _| quantile_of(&pings(at.recent, &node.address), quantile))
            }
            Metric::Queue(part) => {
                gather(self.queues(&at.look.seen).map(|queue| part(queue.as_ref().ok()?)), sum)
            }
            Metric::Rate(growth) => {
                let rate = |grown: Counters, time: Duration| Some(growth(&grown) / time.as_secs_f64());
                self.growth(at, sum, rate)
            }
            Metric::Sum(part) => {
                gather(self.nodes(&at.look.seen).map(|node| part(&node.outcome.as_ref().ok()?.facts)), sum)
            }
            Metric::Worst(part) => self.worst(&at.look.seen, |_, look| part(&look.facts)),
            Metric::WorstRate(part) => {
                self.growth(at, f64::max, |grown, time| Some(part(&grown)? / time.as_secs_f64()))
            }
        };
        let value = gathered.value.filter(|value| value.is_finite())?;
        let time: SystemTime = at.look.time;
        Some(Sample::new(time, value, self.unit).with_coverage(gathered.answered, gathered.expected))
    }

    fn nodes<'a>(&self, seen: &'a Seen) -> impl Iterator<Item = &'a SeenNode> {
        let role = self.role;
        let in_role = move |node: &&SeenNode| match role {
            Role::Any => true,
            Role::Master => !node.is_replica,
            Role::Replica => node.is_replica,
        };
        let node = self.node.clone();
        seen.nodes
            .iter()
            .filter(in_role)
            .filter(move |seen| node.as_ref().is_none_or(|node| seen.address == *node))
    }

    fn queues<'a>(&self, seen: &'a Seen) -> impl Iterator<Item = &'a Result<Depth, Failure>> {
        let wanted = self.queue;
        let all = seen.queues.iter().enumerate();
        all.filter(move |(place, _)| wanted.is_none_or(|wanted| wanted == *place)).map(|(_, queue)| queue)
    }

    fn worst(&self, seen: &Seen, part: impl Fn(&SeenNode, &NodeLook) -> Option<f64>) -> Gathered {
        gather(self.nodes(seen).map(|node| part(node, node.outcome.as_ref().ok()?)), f64::max)
    }

    fn grown<'a>(&self, at: At<'a>) -> impl Iterator<Item = Option<(Counters, Duration)>> {
        self.nodes(&at.look.seen).map(move |node| {
            let now = node.outcome.as_ref().ok()?;
            let before =
                at.base?.nodes.iter().find(|before| before.address == node.address)?.outcome.as_ref().ok()?;
            // A server that was started anew counts anew.
            let same = now.facts.run_id == before.facts.run_id;
            let grown = same.then(|| now.facts.counters.since(&before.facts.counters))??;
            Some((grown, now.at.saturating_duration_since(before.at)))
        })
    }

    fn growth(
        &self,
        at: At<'_>,
        together: fn(f64, f64) -> f64,
        part: impl Fn(Counters, Duration) -> Option<f64>,
    ) -> Gathered {
        gather(self.grown(at).map(|grown| grown.and_then(|(grown, time)| part(grown, time))), together)
    }

    fn mean(&self, at: At<'_>, of: Growth, over: Growth) -> Gathered {
        let (mut above, mut below) = (0.0, 0.0);
        let mut gathered = gather(
            self.grown(at).map(|grown| {
                let (grown, _) = grown?;
                above += of(&grown);
                below += over(&grown);
                Some(0.0)
            }),
            sum,
        );
        // Nothing of nothing is no number, and says nothing.
        gathered.value = gathered.value.map(|_| above / below);
        gathered
    }

    /// The largest: as the masters have it, of all their replicas; of replicas alone, as they themselves have it.
    fn lag(&self, seen: &Seen, part: fn(&Lag) -> Option<f64>) -> Gathered {
        let nodes: Vec<_> = self.nodes(seen).collect();
        if nodes.iter().all(|node| node.is_replica) {
            return gather(
                nodes.iter().map(|node| part(node.outcome.as_ref().ok()?.facts.own_lag.as_ref()?)),
                f64::max,
            );
        }
        let masters = nodes.iter().filter(|node| !node.is_replica);
        let lags = masters.flat_map(|node| {
            let known = node.outcome.as_ref().map(|look| look.facts.replicas.as_slice()).unwrap_or_default();
            let missing = usize::try_from(node.replicas).unwrap_or(usize::MAX).saturating_sub(known.len());
            known.iter().map(part).chain(std::iter::repeat_n(None, missing)).collect::<Vec<_>>()
        });
        gather(lags, f64::max)
    }
}

/// All that are there, put together, and how many those are.
fn gather(values: impl Iterator<Item = Option<f64>>, together: fn(f64, f64) -> f64) -> Gathered {
    values.fold(Gathered::default(), |mut gathered, value| {
        gathered.expected += 1;
        if let Some(value) = value.filter(|value| value.is_finite()) {
            gathered.answered += 1;
            gathered.value = Some(gathered.value.map_or(value, |so_far| together(so_far, value)));
        }
        gathered
    })
}

fn sum(one: f64, other: f64) -> f64 {
    one + other
}

fn pings(looks: &[Arc<Look<Seen>>], address: &NodeAddress) -> Vec<Duration> {
    let nodes = looks.iter().filter_map(|look| look.seen.nodes.iter().find(|node| node.address == *address));
    let mut pings: Vec<_> =
        nodes.filter_map(|node| node.outcome.as_ref().ok()).flat_map(|look| look.pings.clone()).collect();
    pings.sort_unstable();
    pings
}

/// By the nearest rank: the smallest that is no less than that share of them.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
fn quantile_of(sorted: &[Duration], quantile: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map(Duration::as_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_the_nearest_rank() {
        let pings: Vec<_> = (1..=200).map(Duration::from_secs).collect();
        assert_eq!(quantile_of(&pings, 0.5), Some(100.0));
        assert_eq!(quantile_of(&pings, 0.99), Some(198.0));
        assert_eq!(quantile_of(&pings[..10], 0.99), Some(10.0));
        assert_eq!(quantile_of(&pings[..1], 0.5), Some(1.0));
        assert_eq!(quantile_of(&[], 0.5), None);
    }

    #[test]
    fn what_is_missing_is_counted_and_not_added() {
        let gathered = gather([Some(1.0), None, Some(2.0), Some(f64::NAN)].into_iter(), sum);
        assert_eq!((gathered.value, gathered.answered, gathered.expected), (Some(3.0), 2, 4));
        assert_eq!(gather([None, None].into_iter(), sum).value, None);
    }

    #[test]
    fn names_are_sorted_and_differ() {
        let names: Vec<_> = DEFINITIONS.iter().map(|(name, ..)| *name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names.len(), sorted.len());
    }
}
