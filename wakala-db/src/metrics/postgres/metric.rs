//! The names that queries may ask for, and what they are made of.

use wakala_core::{Error, MetricQuery, Result, Sample, Unit};

use super::server::{Lag, Server, Sessions};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    Active,
    Connections,
    Free,
    Idle,
    IdleInTransaction,
    LagBytes,
    LagSeconds,
    Limit,
    LockWaiters,
    LongestIdleInTransaction,
    LongestStatement,
    LongestTransaction,
    Prepared,
    SlotRetained,
    SlotsInactive,
    SlotsLost,
    Standbys,
    Used,
}

/// A name, what it stands for, its unit, the labels that it takes.
type Definition = (&'static str, Metric, Unit, &'static [&'static str]);

const DATABASE: &[&str] = &["database"];

const DEFINITIONS: [Definition; 18] = {
    use Metric::{
        Active, Connections, Free, Idle, IdleInTransaction, LagBytes, LagSeconds, Limit, LockWaiters,
        LongestIdleInTransaction, LongestStatement, LongestTransaction, Prepared, SlotRetained,
        SlotsInactive, SlotsLost, Standbys, Used,
    };
    use Unit::{Bytes, Count, Ratio, Seconds};
    [
        ("postgres.connections", Connections, Count, &["database", "state", "wait_class"]),
        ("postgres.connections_active", Active, Count, &["database", "wait_class"]),
        ("postgres.connections_free", Free, Count, &[]),
        ("postgres.connections_idle", Idle, Count, DATABASE),
        ("postgres.connections_idle_in_transaction", IdleInTransaction, Count, DATABASE),
        ("postgres.connections_limit", Limit, Count, DATABASE),
        ("postgres.connections_used_ratio", Used, Ratio, DATABASE),
        ("postgres.lock_waiters", LockWaiters, Count, DATABASE),
        ("postgres.longest_idle_in_transaction_seconds", LongestIdleInTransaction, Seconds, DATABASE),
        ("postgres.longest_statement_seconds", LongestStatement, Seconds, DATABASE),
        ("postgres.longest_transaction_seconds", LongestTransaction, Seconds, DATABASE),
        ("postgres.prepared_transactions", Prepared, Count, DATABASE),
        ("postgres.replication_lag_bytes", LagBytes, Bytes, &["standby"]),
        ("postgres.replication_lag_seconds", LagSeconds, Seconds, &["standby"]),
        ("postgres.slot_retained_bytes", SlotRetained, Bytes, &["slot"]),
        ("postgres.slots_inactive", SlotsInactive, Count, &[]),
        ("postgres.slots_lost", SlotsLost, Count, &[]),
        ("postgres.standbys", Standbys, Count, &[]),
    ]
};

/// The states as labels, and as the server has them.
const STATES: [(&str, &str); 7] = [
    ("active", "active"),
    ("disabled", "disabled"),
    ("fastpath_function_call", "fastpath function call"),
    ("idle", "idle"),
    ("idle_in_transaction", "idle in transaction"),
    ("idle_in_transaction_aborted", "idle in transaction (aborted)"),
    // Since version 18.
    ("starting", "starting"),
];
const ACTIVE: [&str; 2] = ["active", "fastpath function call"];
const IN_TRANSACTION: [&str; 2] = ["idle in transaction", "idle in transaction (aborted)"];
/// The label of those that wait for nothing.
const NO_WAIT: &str = "none";
const WAIT_CLASSES: [&str; 11] = [
    "Activity",
    "BufferPin",
    "Client",
    "Extension",
    "IO",
    "IPC",
    "InjectionPoint",
    "LWLock",
    "Lock",
    "Timeout",
    NO_WAIT,
];

/// A query that this source can answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    metric: Metric,
    unit: Unit,
    query: &'a MetricQuery,
}

impl<'a> Asked<'a> {
    /// Refuses what can never be answered.
    pub(super) fn new(
        (operation, subject): (&'static str, &str),
        query: &'a MetricQuery,
        replication: bool,
    ) -> Result<Self> {
        let refuse = |message: String| Err(Error::invalid(operation, message).on(subject));
        let Some(&(_, metric, unit, labels)) = DEFINITIONS.iter().find(|(name, ..)| *name == query.name())
        else {
            let names: Vec<_> = DEFINITIONS.iter().map(|(name, ..)| *name).collect();
            return refuse(format!("there is no metric {}; there are: {}", query.name(), names.join(", ")));
        };
        if metric.is_of_replication() && !replication {
            return refuse(format!("{} was left out by without_replication; ask without that", query.name()));
        }
        for (label, value) in query.labels() {
            if !labels.contains(&label) {
                let known = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
                return refuse(format!("{query} asks for a label {label}; {} has: {known}", query.name()));
            }
            let known = match label {
                "state" => STATES.map(|(label, _)| label).to_vec(),
                "wait_class" => WAIT_CLASSES.to_vec(),
                _ => continue,
            };
            if !known.contains(&value) {
                return refuse(format!(
                    "{query} asks for no {label} that there is; choose one of {}",
                    known.join(", ")
                ));
            }
        }
        Ok(Self { metric, unit, query })
    }

    /// The value, and of how many of those that should have had a part in it.
    pub(super) fn sample(&self, server: &Server, time: std::time::SystemTime) -> Option<Sample> {
        let value = self.value(server)?;
        let sample = Sample::new(time, value.value, self.unit);
        let sample = match value.coverage {
            Some((answered, expected)) => sample.with_coverage(answered, expected),
            None => sample,
        };
        value.value.is_finite().then_some(sample)
    }

    fn value(&self, server: &Server) -> Option<Value> {
        let database = self.query.label("database");
        if database.is_some_and(|database| !server.databases.contains_key(database)) {
            return None;
        }
        let sessions = || server.sessions.iter().filter(|s| database.is_none_or(|name| s.database == name));
        let count =
            |picked: &dyn Fn(&Sessions) -> bool| sum(sessions().filter(|s| picked(s)).map(|s| s.count));
        let all = || count(&|_| true);
        let wait_class = self.query.label("wait_class");
        let waits =
            |s: &Sessions| wait_class.is_none_or(|class| s.wait_class.as_deref().unwrap_or(NO_WAIT) == class);
        // A session that does not track its activity is in no state that anybody knows.
        let known = count(&Sessions::is_tracked);
        let coverage = (known < all()).then(|| (whole(known), whole(all())));
        let by_state = |value: f64| (known > 0.0 || coverage.is_none()).then_some(Value { value, coverage });
        let longest =
            |ages: &dyn Fn(&Sessions) -> Option<f64>| sessions().filter_map(ages).fold(0.0, f64::max);
        let limit = || match database.and_then(|name| server.databases.get(name).copied().flatten()) {
            Some(own) => own.min(server.limit),
            None => server.limit,
        };

        match self.metric {
            Metric::Active => by_state(count(&|s| s.is_one_of(&ACTIVE) && waits(s))),
            Metric::Connections => match self.query.label("state") {
                Some("disabled") => Some(count(&|s| s.is_one_of(&["disabled"]) && waits(s)).into()),
                Some(label) => {
                    let state = STATES.iter().find(|(known, _)| *known == label).map(|(_, state)| *state)?;
                    by_state(count(&|s| s.is_one_of(&[state]) && waits(s)))
                }
                None => Some(count(&waits).into()),
            },
            // One place is this source's own.
            Metric::Free => Some((server.limit - all() - 1.0).max(0.0).into()),
            Metric::Idle => by_state(count(&|s| s.is_one_of(&["idle"]))),
            Metric::IdleInTransaction => by_state(count(&|s| s.is_one_of(&IN_TRANSACTION))),
            Metric::Limit => Some(limit().into()),
            Metric::LockWaiters => Some(count(&|s| s.wait_class.as_deref() == Some("Lock")).into()),
            Metric::LongestIdleInTransaction => {
                by_state(longest(&|s| s.in_state.filter(|_| s.is_one_of(&IN_TRANSACTION))))
            }
            Metric::LongestStatement => by_state(longest(&|s| s.statement.filter(|_| s.is_one_of(&ACTIVE)))),
            Metric::LongestTransaction => {
                let prepared = prepared(server, database).map(|(_, age)| age).fold(0.0, f64::max);
                by_state(longest(&|s| s.transaction).max(prepared))
            }
            Metric::Prepared => Some(sum(prepared(server, database).map(|(count, _)| count)).into()),
            Metric::Used => Some((all() / limit()).into()),
            Metric::LagBytes => self.lag(server, |lag| lag.bytes),
            Metric::LagSeconds => self.lag(server, |lag| lag.seconds),
            Metric::SlotRetained => match self.query.label("slot") {
                Some(name) => server.slots.get(name)?.retained.map(Value::from),
                None => Some(server.slots.values().filter_map(|s| s.retained).fold(0.0, f64::max).into()),
            },
            Metric::SlotsInactive => Some(number(server.slots.values().filter(|s| !s.active)).into()),
            Metric::SlotsLost => Some(number(server.slots.values().filter(|s| s.lost)).into()),
            Metric::Standbys => Some(number(server.standbys.iter()).into()),
        }
    }

    /// The largest lag of those asked for: its own, on a standby that is not asked for another's.
    fn lag(&self, server: &Server, part: impl Fn(&Lag) -> Option<f64>) -> Option<Value> {
        let standby = self.query.label("standby");
        if let (None, Some(own)) = (standby, &server.replay) {
            return part(own).map(Value::from);
        }
        let asked = server.standbys.iter().filter(|(name, _)| standby.is_none_or(|wanted| name == wanted));
        let lags: Vec<_> = asked.map(|(_, lag)| part(lag)).collect();
        let value = lags.iter().copied().flatten().reduce(f64::max)?;
        let coverage = (number(lags.iter().flatten()), number(lags.iter()));
        Some(Value { value, coverage: Some((whole(coverage.0), whole(coverage.1))) })
    }
}

impl Metric {
    fn is_of_replication(self) -> bool {
        use Metric::{LagBytes, LagSeconds, SlotRetained, SlotsInactive, SlotsLost, Standbys};
        matches!(self, LagBytes | LagSeconds | SlotRetained | SlotsInactive | SlotsLost | Standbys)
    }
}

impl Sessions {
    fn is_one_of(&self, states: &[&str]) -> bool {
        self.state.as_deref().is_some_and(|state| states.contains(&state))
    }

    fn is_tracked(&self) -> bool {
        self.state.as_deref().is_some_and(|state| state != "disabled")
    }
}

#[derive(Clone, Copy, Debug)]
struct Value {
    value: f64,
    /// Where it is not the whole.
    coverage: Option<(u32, u32)>,
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self { value, coverage: None }
    }
}

fn prepared(server: &Server, database: Option<&str>) -> impl Iterator<Item = (f64, f64)> {
    let prepared = server.prepared.iter();
    prepared.filter(move |(name, _)| database.is_none_or(|wanted| *name == wanted)).map(|(_, both)| *both)
}

/// From 0 on: the sum of no floats at all is -0, and would be shown as that.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

fn number<T>(things: impl Iterator<Item = T>) -> f64 {
    f64::from(u32::try_from(things.count()).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of connections")]
fn whole(number: f64) -> u32 {
    number as u32
}
