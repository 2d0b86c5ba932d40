//! What guards say, on scripted metrics, in virtual time.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wakala_core::guard::{self, MetricCondition};
use wakala_core::testing::{Answer, FakeMetrics};
use wakala_core::{Clock, Guard, ManualClock, RunContext, Verdict};

mod baseline;
mod combine;
mod history;
mod limits;
mod ready;
mod window;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A source that has been scraped for an hour, and the time.
struct World {
    clock: ManualClock,
    metrics: FakeMetrics,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::default();
        clock.advance(MINUTE * 60);
        Self { clock, metrics: FakeMetrics::new() }
    }

    /// An hour of each series at one value.
    fn with<const N: usize>(series: [(&str, f64); N]) -> Self {
        let mut world = Self::new();
        for (name, value) in series {
            world.metrics = world.metrics.with(name, Answer::Value(value));
        }
        world
    }

    /// From so long ago on, the series answers so.
    fn script<const N: usize>(&self, series: &str, answers: [(Duration, Answer); N]) {
        let now = self.clock.monotonic();
        self.metrics.script(series, answers.map(|(ago, answer)| (now - ago, answer)));
    }

    fn cx(&self) -> RunContext {
        RunContext::new("run-1".into(), Arc::new(self.clock.clone()))
    }

    fn metric(&self, name: &str) -> MetricCondition {
        guard::metric(Arc::new(self.metrics.clone()), name)
    }

    /// What the guard says now.
    async fn says(&self, guard: &impl Guard) -> String {
        guard.evaluate(&self.cx()).await.to_string()
    }

    /// What the guard says before a run.
    async fn proof(&self, guard: &impl Guard) -> String {
        guard.prove(&self.cx()).await.to_string()
    }

    /// What the guard would have said, with how long ago in seconds.
    async fn past(&self, guard: &impl Guard, window: Duration) -> Vec<(u64, char)> {
        let history = guard.history(&self.cx(), window).await.unwrap();
        history.iter().map(|told| self.brief(told)).collect()
    }

    fn brief(&self, (time, verdict): &(SystemTime, Verdict)) -> (u64, char) {
        let letter = match verdict {
            Verdict::Pass(_) => 'P',
            Verdict::Fail(_) => 'F',
            Verdict::Inconclusive(_) => '?',
            _ => 'E',
        };
        (self.clock.now().duration_since(*time).unwrap().as_secs(), letter)
    }
}
