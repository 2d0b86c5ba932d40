//! The names that queries may ask for, and what they are made of.

use std::time::SystemTime;

use wakala_core::{Error, MetricQuery, Result, Sample, Unit};

use super::View;
use super::instance::{Counters, Instance, Pool};

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Metric {
    /// A part of each pool, added up.
    Sum(fn(&Pool) -> f64),
    /// Of each pool, the largest.
    Max(fn(&Pool) -> Option<f64>),
    /// What a counter grew by in a second.
    Rate(fn(&Counters) -> f64),
    /// What one counter grew by over what another did.
    Mean { of: fn(&Counters) -> f64, over: fn(&Counters) -> f64 },
}

/// A name, its unit, what it stands for.
const DEFINITIONS: [(&str, Unit, Metric); 13] = [
    ("pgbouncer.clients_active", Unit::Count, Metric::Sum(|pool| pool.clients_active)),
    ("pgbouncer.clients_waiting", Unit::Count, Metric::Sum(|pool| pool.clients_waiting)),
    ("pgbouncer.max_wait_seconds", Unit::Seconds, Metric::Max(|pool| Some(pool.max_wait))),
    (
        "pgbouncer.mean_query_seconds",
        Unit::Seconds,
        Metric::Mean { of: |grown| grown.query_time, over: |grown| grown.queries },
    ),
    (
        "pgbouncer.mean_transaction_seconds",
        Unit::Seconds,
        Metric::Mean { of: |grown| grown.transaction_time, over: |grown| grown.transactions },
    ),
    (
        "pgbouncer.mean_wait_seconds",
        Unit::Seconds,
        Metric::Mean { of: |grown| grown.wait_time, over: |grown| grown.transactions },
    ),
    (
        "pgbouncer.pool_used_ratio",
        Unit::Ratio,
        Metric::Max(|pool| pool.size.map(|size| pool.servers_active / size)),
    ),
    ("pgbouncer.queries_per_second", Unit::PerSecond, Metric::Rate(|grown| grown.queries)),
    ("pgbouncer.servers", Unit::Count, Metric::Sum(|pool| pool.servers)),
    ("pgbouncer.servers_active", Unit::Count, Metric::Sum(|pool| pool.servers_active)),
    ("pgbouncer.servers_idle", Unit::Count, Metric::Sum(|pool| pool.servers_idle)),
    ("pgbouncer.servers_used", Unit::Count, Metric::Sum(|pool| pool.servers_used)),
    ("pgbouncer.transactions_per_second", Unit::PerSecond, Metric::Rate(|grown| grown.transactions)),
];

/// A query that this source can answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    metric: Metric,
    unit: Unit,
    query: &'a MetricQuery,
    /// The place of the only one that is asked for.
    instance: Option<usize>,
}

impl<'a> Asked<'a> {
    /// Refuses what can never be answered.
    pub(super) fn new(operation: &'static str, query: &'a MetricQuery, instances: &[&str]) -> Result<Self> {
        let refuse = |message: String| Err(Error::invalid(operation, message).on("pgbouncer"));
        let Some(&(_, unit, metric)) = DEFINITIONS.iter().find(|(name, ..)| *name == query.name()) else {
            let names: Vec<_> = DEFINITIONS.iter().map(|(name, ..)| *name).collect();
            return refuse(format!("there is no metric {}; there are: {}", query.name(), names.join(", ")));
        };
        let mut instance = None;
        for (label, value) in query.labels() {
            match label {
                "database" => {}
                "instance" => {
                    instance = instances.iter().position(|name| *name == value);
                    if instance.is_none() {
                        let known = instances.join(", ");
                        return refuse(format!(
                            "{query} asks for an instance that was not given; there are: {known}"
                        ));
                    }
                }
                "user" if metric.needs_two() => {
                    return refuse(format!(
                        "{query} asks for a user, but PgBouncer counts by databases; ask for a database"
                    ));
                }
                "user" => {}
                _ => {
                    let users = if metric.needs_two() { "" } else { ", user" };
                    return refuse(format!(
                        "{query} asks for a label {label}; {} has: database, instance{users}",
                        query.name()
                    ));
                }
            }
        }
        Ok(Self { metric, unit, query, instance })
    }

    /// Whether one look is not enough.
    pub(super) fn needs_two(&self) -> bool {
        self.metric.needs_two()
    }

    /// Those that are asked for, with their places.
    pub(super) fn instances<'v>(
        &self,
        view: &'v View,
    ) -> impl Iterator<Item = (usize, Option<&'v Instance>)> {
        let wanted = self.instance;
        let all = view.instances.iter().map(|outcome| outcome.as_ref().ok()).enumerate();
        all.filter(move |(place, _)| wanted.is_none_or(|wanted| wanted == *place))
    }

    /// The value of `view`, or since `base`.
    pub(super) fn sample(&self, view: &View, base: Option<&View>, time: SystemTime) -> Option<Sample> {
        let (mut answered, mut expected) = (0_u32, 0_u32);
        let (mut sum, mut largest, mut over) = (0.0_f64, None::<f64>, 0.0_f64);
        let database = self.query.label("database");
        for (place, instance) in self.instances(view) {
            expected += 1;
            let Some(instance) = instance.filter(|instance| self.is_known_to(instance)) else { continue };
            let pools = instance.pools.iter().filter(|pool| self.picks(pool));
            match self.metric {
                Metric::Sum(part) => sum += pools.map(part).sum::<f64>(),
                Metric::Max(part) => {
                    // Without a pool nobody waits, and nothing of it is used.
                    let of_instance = pools.filter_map(part).fold(0.0, f64::max);
                    largest = Some(largest.map_or(of_instance, |largest| largest.max(of_instance)));
                }
                Metric::Rate(_) | Metric::Mean { .. } => {
                    let before = base.and_then(|base| base.instances.get(place)?.as_ref().ok());
                    let Some((before, grown)) =
                        before.and_then(|before| Some((before, instance.growth(before, database)?)))
                    else {
                        continue;
                    };
                    match self.metric {
                        Metric::Mean { of, over: whole } => {
                            sum += of(&grown);
                            over += whole(&grown);
                        }
                        Metric::Rate(part) => {
                            let time = instance.at.saturating_duration_since(before.at);
                            sum += part(&grown) / time.as_secs_f64();
                        }
                        Metric::Sum(_) | Metric::Max(_) => {}
                    }
                }
            }
            answered += 1;
        }
        let value = match self.metric {
            _ if answered == 0 => None,
            Metric::Max(_) => largest,
            // Nothing by nothing is no number, and says nothing.
            Metric::Mean { .. } => Some(sum / over),
            Metric::Sum(_) | Metric::Rate(_) => Some(sum),
        };
        let value = value.filter(|value| value.is_finite())?;
        Some(Sample::new(time, value, self.unit).with_coverage(answered, expected))
    }

    /// Whether the instance has what the labels ask for; of a user it knows by the pools only.
    fn is_known_to(&self, instance: &Instance) -> bool {
        let database = self.query.label("database");
        database.is_none_or(|name| instance.databases.contains_key(name))
            && (self.query.label("user").is_none() || instance.pools.iter().any(|pool| self.picks(pool)))
    }

    fn picks(&self, pool: &Pool) -> bool {
        self.query.label("database").is_none_or(|name| pool.database == name)
            && self.query.label("user").is_none_or(|name| pool.user == name)
    }
}

impl Metric {
    fn needs_two(self) -> bool {
        matches!(self, Self::Mean { .. } | Self::Rate(_))
    }
}
