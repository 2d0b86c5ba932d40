//! What those that are left must be able to bear, looked at right before the effect.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::{Answer, FakeMetrics, FakeTarget};
use wakala_core::{ErrorKind, Retry, ScaleDown, StepPlan, Unit, Units};

use super::{API, Bench, assert_says};

const AGAIN: Retry = Retry::Safe { after: Some(Duration::from_secs(15)) };

type Condition = fn(ScaleDown, Arc<FakeMetrics>) -> ScaleDown;

fn load(step: ScaleDown, metrics: Arc<FakeMetrics>) -> ScaleDown {
    step.with_load(metrics, "requests", 100.0)
}

fn connections(step: ScaleDown, metrics: Arc<FakeMetrics>) -> ScaleDown {
    step.with_connections(metrics, "requests", 100.0)
}

fn says(metrics: &FakeMetrics, answer: Answer) {
    metrics.script("requests", [(Duration::ZERO, answer)]);
}

/// A step from 50 to 30 with a condition, and what its metric says.
async fn bench(condition: Condition, value: f64) -> (Bench, Arc<FakeMetrics>, StepPlan) {
    let metrics = Arc::new(FakeMetrics::new().with_unit("requests", Unit::PerSecond));
    let bench = Bench::with(FakeTarget::new(API, 50), |step| condition(step, metrics.clone()));
    says(&metrics, Answer::Value(value));
    let plan = bench.plan().await.unwrap();
    (bench, metrics, plan)
}

#[tokio::test]
async fn a_load_that_the_rest_could_not_bear_keeps_the_size() {
    let (bench, metrics, plan) = bench(load, 3001.0).await;
    assert_says(plan.warnings.join("; "), &["requests is 3001/s now, more than 30 can bear at 100/s each"]);
    let error = bench.apply(&plan).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never));
    assert_says(error, &[API, "3001/s", "each of 30", "100/s is the limit", "nothing was made smaller"]);
    assert_eq!(bench.target.writes().len(), 0);
    says(&metrics, Answer::Value(3000.0));
    bench.apply(&plan).await.unwrap();
    assert_eq!(bench.target.size(), Units(30));
}

#[tokio::test]
async fn connections_are_waited_for_until_they_drain() {
    let (bench, metrics, plan) = bench(connections, 4200.0).await;
    let error = bench.apply(&plan).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::RateLimited, AGAIN));
    assert_says(error, &[API, "4200/s, more than 30 can hold at 100/s each", "waiting until it drains"]);
    assert_eq!(bench.target.writes().len(), 0);
    says(&metrics, Answer::Value(2999.0));
    bench.apply(&plan).await.unwrap();
    assert_eq!(bench.target.size(), Units(30));
}

#[tokio::test]
async fn no_data_is_never_few() {
    for condition in [load as Condition, connections] {
        let (bench, metrics, plan) = bench(condition, 1.0).await;
        assert_eq!(plan.warnings, Vec::<String>::new());
        let partial = Answer::Partial { value: 1.0, answered: 8, expected: 10 };
        for (words, answer) in [
            ("has no data", Answer::Absent),
            ("could not be asked", Answer::Error(ErrorKind::Unavailable)),
            ("could not be asked", Answer::Hang),
            ("is 1m 1s old", Answer::Old(1.0, Duration::from_secs(61))),
            ("from only 8 of 10", partial),
            ("is not a number", Answer::Value(f64::NAN)),
        ] {
            says(&metrics, answer);
            let error = bench.apply(&plan).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, AGAIN), "{words}");
            assert_says(error, &[API, words, "nothing is made smaller"]);
            let planned = bench.plan().await.unwrap();
            assert_says(planned.warnings.join("; "), &[words, "when the step's turn comes"]);
        }
        assert_eq!(bench.target.writes().len(), 0);
    }
}

#[tokio::test]
async fn a_share_that_makes_no_sense_is_refused() {
    for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let metrics = Arc::new(FakeMetrics::new());
        let bench = Bench::with(FakeTarget::new(API, 50), |step| step.with_load(metrics, "requests", share));
        let error = bench.plan().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{share}");
    }
}
