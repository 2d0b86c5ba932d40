//! Guards that could guard nothing are found out before anything changes.

use std::time::Duration;

use wakala_core::testing::Answer;
use wakala_core::{Aggregate, ErrorKind, Guard, MetricGuard, Unit};

use crate::{MINUTE, SECOND, World};

#[test]
fn numbers_that_are_none_are_refused() {
    let world = World::new();
    let m = || world.metric("m");
    let over = |aggregate| m().below(0.1).over(MINUTE, aggregate);
    let refused: Vec<(MetricGuard, &str)> = vec![
        (m().below(f64::NAN), "the limit NaN is no number"),
        (m().above(f64::NEG_INFINITY), "the limit -inf is no number"),
        (m().below(f64::INFINITY), "the limit inf is no number"),
        (m().below(0.1).over(Duration::ZERO, Aggregate::Mean), "the window is empty"),
        (m().below(0.1).over(Duration::MAX, Aggregate::Mean), "longer than ten years"),
        (over(Aggregate::Mean).with_min_samples(0), "0 samples are always there"),
        (m().below(0.1).with_min_samples(3), "several samples need a window"),
        (over(Aggregate::Quantile(0.0)), "0 is no quantile"),
        (over(Aggregate::Quantile(95.0)), "95 is no quantile"),
        (over(Aggregate::Quantile(f64::NAN)), "NaN is no quantile"),
        (m().below(0.1).with_max_age(Duration::ZERO), "no sample is ever of age 0"),
        (m().below(0.1).with_min_coverage(1.1), "1.1 of those asked is no share"),
        (m().below(0.1).with_min_coverage(f64::NAN), "NaN of those asked is no share"),
        (m().below(0.1).with_min_traffic("r", 0.0), "at least 0 of r is no least traffic"),
        (m().below(0.1).with_min_traffic("r", f64::NAN), "at least NaN of r is no least traffic"),
        (m().below(0.1).with_slack(0.1), "a slack means nothing without a baseline"),
        (m().below(0.1).with_baseline_over(MINUTE), "a baseline's window means nothing without"),
        (m().below(0.1).with_min_baseline(3), "a baseline's number of samples means nothing without"),
        (m().below_baseline_times(0.0), "0 times a baseline is no limit"),
        (m().below_baseline_times(f64::INFINITY), "inf times a baseline is no limit"),
        (m().below_baseline_times(2.0).with_slack(-0.1), "-0.1 is no slack"),
        (m().below_baseline_times(2.0).with_min_baseline(0), "at least 1 sample"),
        (m().below_baseline_times(2.0).with_baseline_over(Duration::ZERO), "a baseline needs a time"),
        (m().below(0.1).with_possible_values(1.0..=0.0), "the possible values have no range"),
        (m().below(4.1).with_possible_values(0.0..=4.0), "it could never fail: m lies within 0..4"),
        (m().above(4.0).with_possible_values(0.0..=4.0), "it could never hold: m lies within 0..4"),
    ];
    for (guard, expected) in refused {
        let error = guard.named("g").check().unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::InvalidConfig, "g"));
        assert!(error.to_string().contains(expected), "{error}, must contain {expected}");
    }
    for guard in [
        m().below(0.1),
        m().below(0.1).with_min_samples(1).with_min_coverage(0.0),
        over(Aggregate::Quantile(1.0)).with_min_samples(1).with_min_traffic("r", 0.1),
        m().below(4.0).with_possible_values(0.0..=4.0),
        m().above_baseline_times(0.8).with_slack(0.0).with_min_baseline(1).with_baseline_over(SECOND),
        // Some differences are negative: the unit must tell, and nothing was asked yet.
        m().below(-1.0),
        m().below(5.0),
    ] {
        guard.check().unwrap();
    }
}

#[tokio::test]
async fn a_proof_is_the_verdict_where_the_limit_can_be_broken() {
    let world = World::with([("error_rate", 0.001)]);
    assert_eq!(world.proof(&world.metric("error_rate").below(0.01)).await, "pass: error_rate is 0.0010");
    assert!(world.proof(&world.metric("error_rate").below(0.001)).await.starts_with("FAIL"));
}

#[tokio::test]
async fn a_proof_finds_limits_that_nothing_or_everything_breaks() {
    let world = World::with([("error_rate", 0.001), ("queue", 3.0), ("utilisation", 1.3)]);
    let world = World { metrics: world.metrics.with_unit("queue", Unit::Count), ..world };
    for (guard, expected) in [
        (
            world.metric("error_rate").below(1.0),
            "no verdict: it could never fail: error_rate lies within 0..1, must be below 1; choose a limit that can be \
             broken; a ratio is 0.05 where one says 5 %",
        ),
        (
            world.metric("queue").above(-1.0),
            "no verdict: it could never fail: queue lies within 0..inf, must be above -1; choose a limit that can be \
             broken",
        ),
        (
            world.metric("queue").below(0.0),
            "no verdict: it could never hold: queue lies within 0..inf, must be below 0; choose a limit that can be kept",
        ),
        (world.metric("queue").below(100.0), "pass: queue is 3.0000"),
        (world.metric("utilisation").below(1.5), "pass: utilisation is 1.3000"),
        // What it can have is known better than by its unit.
        (world.metric("error_rate").below(1.2).with_possible_values(0.0..=4.0), "pass: error_rate is 0.0010"),
    ] {
        assert_eq!(world.proof(&guard).await, expected);
        let also_over = guard.over(MINUTE, Aggregate::Max);
        let verdict = expected.split_inclusive(':').next().unwrap();
        assert!(world.proof(&also_over).await.starts_with(verdict));
    }
}

#[tokio::test]
async fn a_proof_needs_data() {
    let world = World::new();
    world.script("misspelt", [(MINUTE * 60, Answer::Absent)]);
    let guard = world.metric("misspelt").below(0.01);
    assert_eq!(
        world.proof(&guard).await,
        "no verdict: misspelt has no data; check its name and labels, and that somebody exports it"
    );
    assert_eq!(world.says(&guard).await, "no verdict: misspelt has no data");
    let text = world.proof(&world.metric("nobody_exports_it").below(0.01)).await;
    assert!(text.starts_with("source error: latest on nobody_exports_it"), "{text}");
}
