//! Watching after a change.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{Answer, FakeMetrics, FakeSetting};
use wakala_core::{ErrorKind, MetricQuery, OnFailure, Playbook, Record, RunReport, Soak, Status, guard};

use crate::common::{Bench, MINUTE, SECOND, node, setting};

const GOOD: Answer = Answer::Value(0.001);
const BAD: Answer = Answer::Value(0.2);

/// Runs one step and a soak of ten minutes on a source whose answers are scripted from the run's start on.
async fn soaked(
    on_failure: OnFailure,
    script: impl IntoIterator<Item = (u64, Answer)>,
    tune: impl FnOnce(Soak) -> Soak,
) -> (RunReport, FakeSetting<u32>, Duration) {
    let (bench, limit, metrics) = (Bench::new(), setting("limit"), FakeMetrics::new());
    metrics.script(
        "error_rate",
        script.into_iter().map(|(seconds, answer)| (Duration::from_secs(seconds), answer)),
    );
    let guard = guard::metric(Arc::new(metrics), MetricQuery::new("error_rate")).below(0.01);
    let soak = tune(Soak::new("soak", MINUTE * 10)).with_guard(guard);
    let playbook = Playbook::builder("p")
        .then(node(&limit, "limit"))
        .then(soak)
        .with_on_failure(on_failure)
        .build()
        .unwrap();
    let report = bench.run(&playbook).await;
    (report, limit, bench.elapsed())
}

fn covered(report: &RunReport) -> Duration {
    let closed = report.journal.iter().find_map(|entry| match &entry.record {
        Record::SoakClosed { covered, .. } => Some(*covered),
        _ => None,
    });
    closed.unwrap_or_else(|| panic!("the soak was not closed: {report}"))
}

#[tokio::test]
async fn a_soak_takes_its_time_and_passes() {
    let (report, limit, took) = soaked(OnFailure::KeepAndHold, [(0, GOOD)], |soak| soak).await;
    assert_eq!((report.status, limit.value(), took), (Status::Succeeded, 2, MINUTE * 10));
    assert_eq!(covered(&report), MINUTE * 10);
}

/// Time without samples is not covered: the soak lasts longer by it.
#[tokio::test]
async fn only_time_with_samples_counts() {
    let gap = [(0, GOOD), (120, Answer::Absent), (240, GOOD)];
    let (report, _, took) = soaked(OnFailure::KeepAndHold, gap, |soak| soak).await;
    assert_eq!(report.status, Status::Succeeded);
    assert_eq!(covered(&report), MINUTE * 10);
    // The sample at 105 s stands for the 15 s until the next was missing.
    assert_eq!(took, MINUTE * 12 - SECOND * 15);
}

#[tokio::test]
async fn a_failing_guard_holds_or_takes_back() {
    for (policy, status, value) in
        [(OnFailure::KeepAndHold, Status::Held, 2), (OnFailure::TakeBack, Status::Compensated, 1)]
    {
        let (report, limit, took) = soaked(policy, [(0, GOOD), (300, BAD)], |soak| soak).await;
        assert_eq!((report.status, limit.value()), (status, value), "{report}");
        // Three rounds of 15 s in a row: at 300 s, 315 s, 330 s.
        assert_eq!(took, SECOND * 330);
        assert!(
            report.reason.contains(
                "soak soak did not pass (error_rate: FAIL: error_rate is 0.2000, must be below 0.01"
            ),
            "{}",
            report.reason
        );
    }
}

#[tokio::test]
async fn single_failures_do_not_end_a_soak_and_begin_it_anew() {
    let (report, _, took) =
        soaked(OnFailure::KeepAndHold, [(0, GOOD), (300, BAD), (325, GOOD)], |soak| soak).await;
    assert_eq!(report.status, Status::Succeeded);
    // The last failure is that at 315 s.
    assert_eq!(took, SECOND * 315 + MINUTE * 10);
}

#[tokio::test]
async fn failures_in_the_grace_time_do_not_count() {
    // Alive before the run, failing right after the change.
    let script = [(0, BAD), (90, GOOD)];
    let (report, _, took) =
        soaked(OnFailure::KeepAndHold, script.clone(), |soak| soak.with_grace(MINUTE * 2)).await;
    assert_eq!((report.status, took), (Status::Succeeded, SECOND * 75 + MINUTE * 10), "{report}");
    let (report, _, _) = soaked(OnFailure::KeepAndHold, script, |soak| soak.with_grace(Duration::ZERO)).await;
    assert_eq!(report.status, Status::Held);
}

#[tokio::test]
async fn a_blind_soak_comes_to_an_end() {
    for blind in [
        Answer::Absent,
        Answer::Error(ErrorKind::Unavailable),
        Answer::Old(0.001, MINUTE * 5),
        Answer::Partial { value: 0.001, answered: 1, expected: 4 },
        Answer::Value(f64::NAN),
    ] {
        let script = [(0, GOOD), (60, blind.clone())];
        let (report, limit, took) = soaked(OnFailure::KeepAndHold, script, |soak| soak).await;
        assert_eq!((report.status, limit.value()), (Status::Held, 2), "{blind:?}");
        assert!(report.reason.contains("without verdict for 5m"), "{blind:?}: {}", report.reason);
        assert_eq!(took, MINUTE * 6 - SECOND * 15, "{blind:?}");
    }
}

/// A source that does not answer is as blind as one that has nothing to say, and does not stop the run for ever.
#[tokio::test]
async fn a_source_that_hangs_is_blind() {
    let (report, _, took) =
        soaked(OnFailure::KeepAndHold, [(0, GOOD), (60, Answer::Hang)], |soak| soak).await;
    assert_eq!(report.status, Status::Held);
    assert!(report.reason.contains("no answer within one round"), "{}", report.reason);
    assert!(took <= MINUTE * 7, "took {took:?}");
}

#[tokio::test]
async fn turns_of_a_guard_are_recorded_once_each() {
    let script = [(0, GOOD), (120, Answer::Absent), (240, GOOD)];
    let (report, _, _) = soaked(OnFailure::KeepAndHold, script, |soak| soak).await;
    let turns = report.journal.iter().filter(|entry| matches!(entry.record, Record::GuardTurned { .. }));
    assert_eq!(turns.count(), 3, "{:#?}", report.journal);
}
