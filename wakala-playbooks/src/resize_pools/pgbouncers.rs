//! The playbook on real PgBouncers.

use std::fmt;
use std::sync::Arc;

use wakala_core::{PlaybookStep, Preflight, StepId};
use wakala_db::{ConfigHome, Console, PgBouncerPools, PoolBudget, PoolChange};

use super::{PoolMetrics, Production};

type Budget = dyn Fn(PoolBudget) -> PoolBudget + Send + Sync;

/// A group of PgBouncer processes that read one configuration.
#[derive(Clone)]
pub struct PgBouncers {
    home: Arc<dyn ConfigHome>,
    instances: Vec<Console>,
    budget: Arc<Budget>,
    metrics: Option<PoolMetrics>,
}

impl fmt::Debug for PgBouncers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBouncers")
            .field("home", &self.home)
            .field("instances", &self.instances)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

impl PgBouncers {
    /// The processes at `instances`, all of them, which read what is kept at `home`. Name the servers by
    /// [`with_budget`](Self::with_budget): without them every plan is refused.
    pub fn new(home: Arc<dyn ConfigHome>, instances: impl IntoIterator<Item = Console>) -> Self {
        Self {
            home,
            instances: instances.into_iter().collect(),
            budget: Arc::new(|budget| budget),
            metrics: None,
        }
    }

    /// Says what the budget is made of: the servers, how many users there are, how many processes a rollout adds.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # fn at(home: Arc<dyn wakala_db::ConfigHome>, console: wakala_db::Console) -> wakala_playbooks::resize_pools::PgBouncers {
    /// use wakala_db::ServerLimit;
    /// use wakala_playbooks::resize_pools::PgBouncers;
    ///
    /// PgBouncers::new(home, [console])
    ///     .with_budget(|budget| budget.with_limit(ServerLimit::new("db:5432", 500)).with_users(2).with_surge(1))
    /// # }
    /// ```
    #[must_use]
    pub fn with_budget(mut self, budget: impl Fn(PoolBudget) -> PoolBudget + Send + Sync + 'static) -> Self {
        self.budget = Arc::new(budget);
        self
    }

    /// Reads how clients fare from these metrics.
    #[must_use]
    pub fn with_metrics(mut self, metrics: PoolMetrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    fn pools(&self, change: &PoolChange) -> PgBouncerPools {
        PgBouncerPools::new(Arc::clone(&self.home), self.instances.iter().cloned(), change.clone())
    }
}

impl Production for PgBouncers {
    fn resize(&self, id: StepId, change: &PoolChange) -> Arc<dyn PlaybookStep> {
        Arc::new(self.pools(change).step(id))
    }

    fn preflight(&self, change: &PoolChange) -> Vec<Arc<dyn Preflight>> {
        vec![Arc::new((self.budget)(PoolBudget::of(&self.pools(change))))]
    }

    fn metrics(&self) -> Option<PoolMetrics> {
        self.metrics.clone()
    }
}
