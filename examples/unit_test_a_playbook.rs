//! How do I unit-test a playbook?
//!
//! A small playbook of a team's own, and its tests: with mocks, with fakes in virtual time, with faults, and against the
//! simulated production. Half an hour of watching takes milliseconds.
//!
//! ```text
//! cargo test -p wakala-examples --example unit_test_a_playbook
//! ```

use std::sync::Arc;
use std::time::Duration;

use wakala_core::{
    LogNotifier, MetricsSource, Notification, Notifier, NotifyStep, Playbook, Result, ScaleUp, Severity,
    SharedTarget, Soak, guard, step,
};

/// Tells people, brings the workers to twenty, and watches the queue for half an hour.
pub fn drain_queue(
    workers: SharedTarget,
    metrics: Arc<dyn MetricsSource>,
    notifier: Arc<dyn Notifier>,
) -> Result<Playbook> {
    let alert = Notification::new(Severity::Warning, "the queue is long: scaling the workers");
    Playbook::builder("drain-queue")
        .then(step(NotifyStep::new("alert", notifier, alert)).best_effort())
        .then(step(ScaleUp::to(workers, 20).step("workers")))
        .then(
            Soak::new("soak", Duration::from_secs(1800))
                .with_guard(guard::metric(metrics, "queue_depth").below(100.0)),
        )
        .build()
}

fn main() -> Result<()> {
    // The playbook is only made here: it needs no connection, so its shape can be printed anywhere.
    let world = wakala_core::sim::World::production(1).build()?;
    let playbook = drain_queue(world.target("wakala-worker"), world.metrics(), Arc::new(LogNotifier))?;
    println!("{}: see the tests in {}", playbook.name(), file!());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wakala_core::sim::World;
    use wakala_core::testing::{
        Answer, FakeMetrics, FakeNotifier, FakeTarget, Fault, Faults, FaultyTarget, MockNotifier,
        MockScalableTarget, context,
    };
    use wakala_core::{
        Approval, Bounds, Capability, Clock, Engine, ErrorKind, ManualClock, Observation, RunHandle,
        RunReport, Status, Units,
    };

    const MINUTE: Duration = Duration::from_secs(60);

    async fn run(clock: &ManualClock, playbook: &Playbook) -> Result<RunReport> {
        let engine = Engine::new().with_clock(Arc::new(clock.clone()));
        let run = async {
            let plan = engine.plan(playbook).await?;
            engine.run(playbook, &plan, &Approval::of(&plan, "test"), &RunHandle::new("test")).await
        };
        clock.run(run).await
    }

    fn short_queue() -> Arc<FakeMetrics> {
        Arc::new(FakeMetrics::new().with("queue_depth", Answer::Value(12.0)))
    }

    /// With mocks: each call and its arguments are spelled out.
    #[tokio::test]
    async fn scales_once_and_tells_people_once() {
        let mut workers = MockScalableTarget::new();
        workers.expect_id().return_const("workers");
        workers.expect_resource().return_const("workers");
        workers.expect_permissions().returning(Vec::new);
        workers.expect_capability().returning(|| Capability::new(Bounds { min: Units(0), max: Units(100) }));
        // For the plan, before the effect, and for the effect itself.
        workers.expect_observe().times(3).returning(|_| Ok(Observation::new(4, 4)));
        workers.expect_observe().returning(|_| Ok(Observation::new(20, 20)));
        workers
            .expect_set_desired()
            .once()
            .withf(|_, desired, _| *desired == Units(20))
            .returning(|_, desired, _| Ok(Observation::new(desired, 4)));
        let mut notifier = MockNotifier::new();
        notifier.expect_destination().return_const("test");
        notifier.expect_notify().once().returning(|_, _| Ok(()));

        let playbook = drain_queue(Arc::new(workers), short_queue(), Arc::new(notifier)).unwrap();
        let report = run(&ManualClock::default(), &playbook).await.unwrap();
        assert_eq!(report.status, Status::Succeeded, "{report}");
    }

    /// With fakes in virtual time: what it does when the queue stays long.
    #[tokio::test]
    async fn a_long_queue_ends_the_soak_and_keeps_the_workers() {
        let (clock, _) = context();
        let workers = FakeTarget::new("workers", 4).with_lead_time(MINUTE);
        let metrics = FakeMetrics::new();
        metrics.script(
            "queue_depth",
            [(Duration::ZERO, Answer::Value(12.0)), (10 * MINUTE, Answer::Value(4000.0))],
        );
        let notifier = FakeNotifier::new();

        let playbook =
            drain_queue(Arc::new(workers.clone()), Arc::new(metrics), Arc::new(notifier.clone())).unwrap();
        let report = run(&clock, &playbook).await.unwrap();
        assert_eq!(report.status, Status::Held, "{report}");
        assert!(report.reason.contains("queue_depth is 4000"), "{}", report.reason);
        assert_eq!(workers.size(), Units(20));
        assert_eq!(notifier.sent().len(), 1);
        assert!(clock.monotonic() < 12 * MINUTE);
    }

    /// A metric that does not exist must not look like an empty queue.
    #[tokio::test]
    async fn a_blind_guard_keeps_the_playbook_from_starting() {
        let (clock, _) = context();
        let workers = FakeTarget::new("workers", 4);
        let blind = Arc::new(FakeMetrics::new().with("queue_depth", Answer::Absent));
        let playbook = drain_queue(Arc::new(workers.clone()), blind, Arc::new(FakeNotifier::new())).unwrap();
        let error = run(&clock, &playbook).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert_eq!(workers.size(), Units(4));
    }

    /// With faults: each way in which the one write can fail.
    #[tokio::test]
    async fn a_write_that_fails_is_made_once_or_reported() {
        for fault in Fault::ALL {
            let (clock, _) = context();
            let workers = FakeTarget::new("workers", 4);
            let faults = Faults::new().on("set_desired", 1, fault);
            let faulty = FaultyTarget::new(workers.clone(), &faults);
            let playbook =
                drain_queue(Arc::new(faulty), short_queue(), Arc::new(FakeNotifier::new())).unwrap();
            let report = run(&clock, &playbook).await.unwrap();
            let (status, effects) = match fault {
                Fault::Rejected => (Status::Held, 0),
                _ => (Status::Succeeded, 1),
            };
            assert_eq!((report.status, workers.effects()), (status, effects), "{fault:?}: {report}");
        }
    }

    /// Against the simulated production: pods that need nodes, start-up times, metrics that follow.
    #[tokio::test]
    async fn drains_the_queue_of_the_simulated_production() {
        let world = World::production(1).build().unwrap();
        let playbook =
            drain_queue(world.target("wakala-worker"), world.metrics(), Arc::new(FakeNotifier::new()))
                .unwrap();
        let report = run(&world.clock(), &playbook).await.unwrap();
        assert_eq!(report.status, Status::Succeeded, "{report}");
        assert_eq!(world.snapshot().workload("wakala-worker").map(|workers| workers.ready), Some(20));
    }
}
