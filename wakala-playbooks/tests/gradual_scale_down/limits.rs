//! The optional limits: rate, projected load, connections.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wakala_core::sim::Load;
use wakala_core::{
    Clock as _, ErrorKind, MetricQuery, MetricsSource, Record, Result, RunContext, RunReport, Sample, Status,
    Unit,
};
use wakala_playbooks::gradual_scale_down::{ApiMetrics, Production as _, Simulated};

use crate::site::{API, MINUTE, Rewired, SECOND, Site, WORKER, assert_says, quiet, with};

#[tokio::test]
async fn more_at_once_than_the_rate_allows_is_refused_while_planning() {
    let site = Site::with(quiet(), &with(|p| p.max_removed_per_minute = Some(9)));
    let error = site.plan().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_says(&error, &["10 fewer at once, from 50 to 40", "9 in 1m", "choose smaller steps"]);

    let parameters = with(|p| {
        p.max_removed_per_minute = Some(10);
        p.fractions = vec![0.8, 0.6];
    });
    let site = Site::with(quiet(), &parameters);
    let plan = site.plan().await.unwrap();
    assert_says(&plan, &["never below 5, at most 10 fewer in 1m", "never below 3, at most 10 fewer in 1m"]);
    assert_eq!(site.run(&plan).await.unwrap().status, Status::Succeeded);
}

#[tokio::test]
async fn a_projected_overload_ends_the_descent_before_anybody_notices() {
    let parameters = with(|p| p.max_requests_per_api_replica = Some(70.0));
    let site = Site::with(quiet().with_load(Load::constant(2000.0)), &parameters);
    let plan = site.plan().await.unwrap();
    assert_says(&plan, &["is 2000/s now, more than 20 can bear at 70/s each"]);
    let report = site.run(&plan).await.unwrap();
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(&report.reason, &["step api-0.4 failed", "100.0/s for each of 20", "70/s is the limit"]);
    assert_eq!((site.smallest(API), site.size(API), site.size(WORKER)), (30, (30, 30), (18, 18)));
    let errors = site.world.history().iter().filter(|frame| frame.error_rate > Some(0.0)).count();
    assert_eq!(errors, 0, "nobody noticed");
}

/// How often a step was tried.
fn tries(report: &RunReport, wanted: &str) -> usize {
    let is_intent =
        |record: &Record| matches!(record, Record::Intent { step, .. } if step.as_str() == wanted);
    report.journal.iter().filter(|entry| is_intent(&entry.record)).count()
}

/// Connections that last: 12 000 of them until somebody is told to go, and from then on fewer by the second.
#[derive(Debug)]
struct Lasting {
    others: Arc<dyn MetricsSource>,
    drain_from: Duration,
    each_second: f64,
}

#[async_trait]
impl MetricsSource for Lasting {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        if query.name() != "connections" {
            return self.others.latest(cx, query).await;
        }
        let draining = cx.clock().monotonic().saturating_sub(self.drain_from).as_secs_f64();
        let left = (12_000.0 - draining * self.each_second).max(0.0);
        Ok(Some(Sample::new(cx.clock().now(), left, Unit::Count)))
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        self.others.range(cx, query, window).await
    }
}

/// A replica holds 400, so that 30 can hold them all and 20 only 8000.
async fn with_connections(each_second: f64) -> (Site, RunReport) {
    let world = quiet().build().unwrap();
    world.pass(10 * MINUTE);
    let simulated = Simulated::new(&world);
    let of_simulation = simulated.metrics();
    // From about when the step's turn comes.
    let drain_from = world.clock().monotonic() + 20 * MINUTE;
    let source = Arc::new(Lasting { others: of_simulation.source, drain_from, each_second });
    let metrics = ApiMetrics::new(source, of_simulation.error_rate).with_connections("connections");
    let parameters = with(|p| p.connections_per_api_replica = Some(400.0));
    let playbook = parameters.playbook(&Rewired { simulated, metrics }).unwrap();
    let site = Site::of(world, playbook);
    let report = site.descend().await;
    (site, report)
}

#[tokio::test]
async fn a_step_waits_until_connections_have_drained() {
    // Enough are gone after 200 seconds.
    let (site, report) = with_connections(20.0).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.sizes(API), [50, 40, 30, 20, 15]);
    assert_eq!((tries(&report, "api-0.6"), tries(&report, "worker-0.4")), (1, 1));
    assert!((12..=15).contains(&tries(&report, "api-0.4")), "{report}");
    let took = report.step("api-0.4").unwrap().took;
    assert!((190 * SECOND..230 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test]
async fn connections_that_do_not_drain_end_the_descent_where_they_are_held() {
    let (site, report) = with_connections(1.0).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    let why = ["step api-0.4 failed", "more than 20 can hold at 400 each", "where the last soak had passed"];
    assert_says(&report.reason, &why);
    assert_eq!((site.smallest(API), site.size(API), site.size(WORKER)), (30, (30, 30), (18, 18)));
    assert!(report.step("api-0.4").unwrap().took <= 10 * MINUTE + 5 * SECOND);
}
