//! Resize pools: other sizes for the pools of all PgBouncers, verified on each, watched for a while.
//!
//! The runbook's "Connection Pool Scaling" as one playbook, with what it leaves out: the servers' connections are counted
//! before anything is touched, the source of the configuration is changed and not a file that a restart forgets, every
//! process reloads, and each key is read back from each of them.
//!
//! ```text
//! preflight       pools x processes against max_connections, a rollout's surge included
//! resize          the keys, written, reloaded, read back from every process
//! soak            five minutes in which no client waits for long
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wakala_core::guard;
use wakala_core::{
    Error, MetricQuery, MetricsSource, OnFailure, Playbook, PlaybookStep, Preflight, Result, Soak, StepId,
    shared_step,
};
use wakala_db::{PoolChange, PoolMode};

mod pgbouncers;

pub use pgbouncers::PgBouncers;

/// The step that changes the pools.
const RESIZE: &str = "resize";

/// How long the step may take: a ConfigMap takes its time to reach the processes, there and back.
const STEP_LIMIT: Duration = Duration::from_secs(600);

const INTERVAL: Duration = Duration::from_secs(15);
const FAIL_LIMIT: u32 = 3;

/// What the playbook needs of a production.
///
/// Nothing here may do I/O: the parts are made first, and asked when the playbook is planned.
pub trait Production {
    /// The step of that name that brings `change` into force on every process and verifies it.
    fn resize(&self, id: StepId, change: &PoolChange) -> Arc<dyn PlaybookStep>;

    /// Checks of the whole plan: whether the servers can bear `change`.
    fn preflight(&self, change: &PoolChange) -> Vec<Arc<dyn Preflight>>;

    /// What says how clients fare. As given nothing does, and a soak is refused.
    fn metrics(&self) -> Option<PoolMetrics> {
        None
    }
}

/// The metrics of the pools that the playbook reads, each over all processes.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    /// The source.
    pub source: Arc<dyn MetricsSource>,
    /// How many clients wait for a server connection.
    pub clients_waiting: MetricQuery,
    /// How long the one that has waited longest has waited, in seconds.
    pub max_wait: MetricQuery,
}

impl PoolMetrics {
    /// `pgbouncer.clients_waiting` and `pgbouncer.max_wait_seconds` of `source`.
    pub fn new(source: Arc<dyn MetricsSource>) -> Self {
        Self {
            source,
            clients_waiting: "pgbouncer.clients_waiting".into(),
            max_wait: "pgbouncer.max_wait_seconds".into(),
        }
    }

    /// Reads these instead.
    #[must_use]
    pub fn with_queries(
        mut self,
        clients_waiting: impl Into<MetricQuery>,
        max_wait: impl Into<MetricQuery>,
    ) -> Self {
        self.clients_waiting = clients_waiting.into();
        self.max_wait = max_wait.into();
        self
    }
}

/// What a database's line shall have; what is `None` stays as it is.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolSizes {
    /// Server connections of each user, in each process.
    pub pool_size: Option<u32>,
    /// Further ones for clients that have waited.
    pub reserve_pool: Option<u32>,
    /// How many are kept open.
    pub min_pool_size: Option<u32>,
    /// The most of all users, in each process; 0 is no limit.
    pub max_db_connections: Option<u32>,
    /// When a server connection goes back.
    pub pool_mode: Option<PoolMode>,
}

impl PoolSizes {
    /// A pool of that size, and a reserve.
    pub fn new(pool_size: u32, reserve_pool: u32) -> Self {
        Self { pool_size: Some(pool_size), reserve_pool: Some(reserve_pool), ..Self::default() }
    }
}

/// The parameters of the playbook. As given they are the runbook's.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResizePools {
    /// By the name of the database.
    pub databases: BTreeMap<String, PoolSizes>,
    /// Keys of `[pgbouncer]`.
    pub settings: BTreeMap<String, String>,
    /// How long to watch afterwards; nothing is watched where it is zero.
    #[serde(with = "humantime_serde")]
    pub soak: Duration,
    /// How long a client may wait for a connection while it is watched.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// How many clients may wait at once while it is watched; any number where it is `None`.
    pub max_clients_waiting: Option<u32>,
    /// How long that may be unknown.
    #[serde(with = "humantime_serde")]
    pub blind_for: Duration,
    /// What becomes of the change where the soak does not pass. As given it is taken back: pools that make clients wait
    /// are too small, or too large for their server.
    pub on_failure: OnFailure,
}

impl Default for ResizePools {
    fn default() -> Self {
        let settings = [
            ("pool_mode", "transaction"),
            ("max_client_conn", "5000"),
            ("default_pool_size", "100"),
            ("reserve_pool_size", "20"),
            ("reserve_pool_timeout", "5"),
            ("server_lifetime", "3600"),
            ("server_idle_timeout", "600"),
        ];
        Self {
            databases: [("wakala", PoolSizes::new(100, 20)), ("wakala_read", PoolSizes::new(200, 30))]
                .map(|(name, sizes)| (name.to_owned(), sizes))
                .into(),
            settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            soak: Duration::from_secs(300),
            max_wait: Duration::from_secs(1),
            max_clients_waiting: None,
            blind_for: Duration::from_secs(120),
            on_failure: OnFailure::TakeBack,
        }
    }
}

impl ResizePools {
    /// No change, to which [databases](Self::with_database) and [settings](Self::with_setting) are added; the times are the
    /// default's.
    pub fn nothing() -> Self {
        Self { databases: BTreeMap::new(), settings: BTreeMap::new(), ..Self::default() }
    }

    /// Sets what a database's line shall have.
    #[must_use]
    pub fn with_database(mut self, name: impl Into<String>, sizes: PoolSizes) -> Self {
        self.databases.insert(name.into(), sizes);
        self
    }

    /// Sets a key of `[pgbouncer]`.
    #[must_use]
    pub fn with_setting(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.settings.insert(key.into(), value.to_string());
        self
    }

    /// The change that the parameters stand for.
    pub fn change(&self) -> PoolChange {
        let mut change = PoolChange::new();
        for (name, sizes) in &self.databases {
            let PoolSizes { pool_size, reserve_pool, min_pool_size, max_db_connections, pool_mode } = sizes;
            if let Some(size) = pool_size {
                change = change.with_pool_size(name, *size);
            }
            if let Some(size) = reserve_pool {
                change = change.with_reserve_pool(name, *size);
            }
            if let Some(size) = min_pool_size {
                change = change.with_min_pool_size(name, *size);
            }
            if let Some(most) = max_db_connections {
                change = change.with_max_db_connections(name, *most);
            }
            if let Some(mode) = pool_mode {
                change = change.with_pool_mode(name, *mode);
            }
        }
        self.settings.iter().fold(change, |change, (key, value)| change.with_setting(key, value))
    }

    /// The playbook on `production`. Does no I/O.
    ///
    /// # Errors
    /// `InvalidConfig` for parameters that can never work; all of them are named at once.
    pub fn playbook(&self, production: &dyn Production) -> Result<Playbook> {
        let (change, metrics) = (self.change(), production.metrics());
        self.validate(&change, metrics.as_ref())?;
        let mut builder = Playbook::builder("resize-pools")
            .with_description("Other sizes for the pools of all PgBouncers, verified on each.")
            .with_on_failure(self.on_failure)
            .then(shared_step(production.resize(RESIZE.into(), &change)).with_limit(STEP_LIMIT));
        if let Some(metrics) = metrics.filter(|_| !self.soak.is_zero()) {
            builder = builder.then(self.watched(&metrics));
        }
        for check in production.preflight(&change) {
            builder = builder.with_shared_preflight(check);
        }
        builder.build()
    }

    fn watched(&self, metrics: &PoolMetrics) -> Soak {
        let of = |query: &MetricQuery| guard::metric(Arc::clone(&metrics.source), query.clone());
        // A process that does not answer may be the one whose clients wait.
        let max_wait =
            of(&metrics.max_wait).below(self.max_wait.as_secs_f64()).with_min_coverage(1.0).named("max-wait");
        let soak = Soak::new("soak", self.soak)
            .with_interval((self.soak / 5).clamp(Duration::from_millis(100), INTERVAL))
            .with_grace((self.soak / 5).min(Duration::from_secs(60)))
            .with_fail_limit(FAIL_LIMIT)
            .with_blind_limit(self.blind_for)
            .with_guard(max_wait);
        match self.max_clients_waiting {
            Some(most) => soak.with_guard(
                of(&metrics.clients_waiting)
                    .below(f64::from(most) + 1.0)
                    .with_min_coverage(1.0)
                    .named("clients-waiting"),
            ),
            None => soak,
        }
    }

    fn validate(&self, change: &PoolChange, metrics: Option<&PoolMetrics>) -> Result<()> {
        let mut wrong = Vec::new();
        if change.is_empty() {
            wrong.push("no database and no setting is named, so nothing would change".to_owned());
        }
        for (name, sizes) in &self.databases {
            if sizes.pool_size == Some(0) {
                wrong.push(format!("pool_size of {name} is 0, which would leave nobody a connection"));
            }
            if let (Some(min), Some(size)) = (sizes.min_pool_size, sizes.pool_size)
                && min > size
            {
                wrong.push(format!("min_pool_size of {name} is {min}, above its pool_size {size}"));
            }
            if *sizes == PoolSizes::default() {
                wrong.push(format!("nothing is wanted of database {name}; leave it out"));
            }
        }
        if !self.soak.is_zero() {
            if metrics.is_none() {
                wrong.push(
                    "soak needs metrics that the production lacks; give it some, or set it to 0s".to_owned(),
                );
            }
            if self.max_wait.is_zero() {
                wrong.push("max_wait is 0s, which no wait is below; 1s is usual".to_owned());
            }
            if self.blind_for.is_zero() {
                wrong.push("blind_for is 0s, one missing sample would end the run; 2m is usual".to_owned());
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid("build", wrong.join("; ")).on("playbook resize-pools"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_runbooks_file() {
        assert_eq!(
            ResizePools::default().change().to_string(),
            "wakala pool_size 100, wakala reserve_pool 20, wakala_read pool_size 200, wakala_read reserve_pool 30, \
             default_pool_size 100, max_client_conn 5000, pool_mode transaction, reserve_pool_size 20, \
             reserve_pool_timeout 5, server_idle_timeout 600, server_lifetime 3600"
        );
    }

    #[test]
    fn parameters_come_from_json_with_the_rest_as_given() {
        let text = r#"{"databases": {"app": {"pool_size": 9, "pool_mode": "session"}}, "settings": {}, "soak": "0s"}"#;
        let read: ResizePools = serde_json::from_str(text).unwrap();
        assert_eq!(read.change().to_string(), "app pool_mode session, app pool_size 9");
        assert_eq!((read.soak, read.max_wait), (Duration::ZERO, Duration::from_secs(1)));
        let again: ResizePools = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
