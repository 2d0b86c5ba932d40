//! A metrics source whose calls fail by a script.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Faults;
use crate::{MetricQuery, MetricsSource, Permission, Result, RunContext, Sample};

/// A metrics source whose `latest` and `range` fail by a script.
#[derive(Clone, Debug)]
pub struct FaultyMetrics {
    inner: Arc<dyn MetricsSource>,
    faults: Faults,
}

impl FaultyMetrics {
    /// Wraps `source`.
    pub fn new(source: impl MetricsSource, faults: &Faults) -> Self {
        Self::shared(Arc::new(source), faults)
    }

    /// Wraps a source that others hold too.
    pub fn shared(source: Arc<dyn MetricsSource>, faults: &Faults) -> Self {
        Self { inner: source, faults: faults.clone() }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MetricsSource for FaultyMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        self.faults.call("latest", &query.to_string(), self.inner.latest(cx, query)).await
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        self.faults.call("range", &query.to_string(), self.inner.range(cx, query, window)).await
    }

    fn permissions(&self) -> Vec<Permission> {
        self.inner.permissions()
    }
}
