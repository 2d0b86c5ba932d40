//! Windows, sample counts, traffic, quality.

use wakala_core::testing::Answer;
use wakala_core::{Aggregate, ErrorKind, Guard, Unit};

use crate::{MINUTE, SECOND, World};

#[tokio::test]
async fn the_newest_sample_is_judged_as_ever() {
    let value = |value| Answer::Value(value);
    for (answer, expected) in [
        (value(0.001), "pass: error_rate is 0.0010"),
        (value(0.01), "FAIL: error_rate is 0.0100, must be below 0.01"),
        (value(f64::NAN), "no verdict: error_rate is not a number"),
        (
            value(f64::NEG_INFINITY),
            "no verdict: error_rate is infinite, as where something is divided by nothing",
        ),
        (Answer::Absent, "no verdict: error_rate has no data"),
        (
            Answer::Old(0.001, SECOND * 61),
            "no verdict: the newest sample of error_rate is 1m 1s old, 1m is the limit",
        ),
        (Answer::Ahead(0.001, SECOND * 60), "pass: error_rate is 0.0010"),
        (
            Answer::Ahead(0.001, MINUTE * 60),
            "no verdict: the newest sample of error_rate is 1h ahead of the clock here, 1m is the limit",
        ),
        (
            Answer::Partial { value: 0.001, answered: 4, expected: 10 },
            "no verdict: error_rate from only 4 of 10",
        ),
        (
            Answer::Error(ErrorKind::Unavailable),
            "source error: latest on error_rate: the fake source cannot be asked",
        ),
    ] {
        let mut world = World::new();
        world.metrics = world.metrics.with("error_rate", answer);
        assert_eq!(world.says(&world.metric("error_rate").below(0.01)).await, expected);
    }
}

#[tokio::test]
async fn the_limit_itself_is_broken_on_either_side() {
    let world = World::with([("ready", 0.9)]);
    assert_eq!(
        world.says(&world.metric("ready").above(0.9)).await,
        "FAIL: ready is 0.9000, must be above 0.9"
    );
    assert!(world.says(&world.metric("ready").above(0.89)).await.starts_with("pass"));
    assert!(world.says(&world.metric("ready").below(0.9)).await.starts_with("FAIL"));
}

#[tokio::test]
async fn aggregates_of_a_window() {
    let world = World::new();
    // Of the 21 samples in five minutes the last five are bad.
    world.script("errors", [(MINUTE * 60, Answer::Value(0.0)), (MINUTE, Answer::Value(0.021))]);
    for (aggregate, limit, expected) in [
        (
            Aggregate::Latest,
            0.02,
            "FAIL: errors is 0.0210 (latest of 21 samples within 5m), must be below 0.02",
        ),
        (Aggregate::Max, 0.02, "FAIL: errors is 0.0210 (max of 21 samples within 5m), must be below 0.02"),
        (Aggregate::Mean, 0.0051, "pass: errors is 0.0050 (mean of 21 samples within 5m)"),
        (
            Aggregate::Mean,
            0.005,
            "FAIL: errors is 0.0050 (mean of 21 samples within 5m), must be below 0.005",
        ),
        (Aggregate::Min, 0.02, "pass: errors is 0.0000 (min of 21 samples within 5m)"),
        (Aggregate::Quantile(0.7), 0.02, "pass: errors is 0.0000 (quantile 0.7 of 21 samples within 5m)"),
        (
            Aggregate::Quantile(0.9),
            0.02,
            "FAIL: errors is 0.0210 (quantile 0.9 of 21 samples within 5m), must be below 0.02",
        ),
    ] {
        let guard = world.metric("errors").below(limit).over(MINUTE * 5, aggregate);
        assert_eq!(world.says(&guard).await, expected);
    }
}

#[tokio::test]
async fn a_window_without_enough_samples_tells_nothing() {
    let mut world = World::new();
    world.script("errors", [(SECOND * 30, Answer::Value(0.0))]);
    let guard = world.metric("errors").below(0.01).over(MINUTE * 5, Aggregate::Mean).with_min_samples(4);
    assert_eq!(world.says(&guard).await, "no verdict: 3 usable samples of errors within 5m, 4 are needed");
    assert!(world.says(&guard.with_min_samples(3)).await.starts_with("pass"));

    // A source without history has one sample, which is no window unless somebody says that it is.
    world.metrics = world.metrics.without_history();
    let guard = world.metric("errors").below(0.01).over(MINUTE * 5, Aggregate::Mean);
    assert!(world.says(&guard).await.contains("1 usable samples of errors within 5m, 2 are needed"));
    assert!(world.says(&guard.with_min_samples(1)).await.starts_with("pass"));
}

#[tokio::test]
async fn a_window_that_ends_too_long_ago_tells_nothing() {
    let world = World::new();
    world.script("errors", [(MINUTE * 60, Answer::Value(0.0)), (SECOND * 75, Answer::Absent)]);
    let guard = world.metric("errors").below(0.01).over(MINUTE * 5, Aggregate::Mean);
    assert!(world.says(&guard).await.contains("1m 30s old, 1m is the limit"));
    assert!(world.says(&guard.with_max_age(MINUTE * 2)).await.starts_with("pass"));
}

#[tokio::test]
async fn without_traffic_there_is_no_health() {
    let world = World::with([("errors", 0.0), ("requests", 0.0)]);
    let world = World { metrics: world.metrics.with_unit("requests", Unit::PerSecond), ..world };
    let guard = || world.metric("errors").below(0.01).with_min_traffic("requests", 5.0);
    assert_eq!(
        world.says(&guard()).await,
        "no verdict: too little traffic to judge errors: requests is 0.0000/s, must be at least 5/s"
    );
    // Neither are all of two requests failing a failure.
    world.script("errors", [(MINUTE * 60, Answer::Value(1.0))]);
    assert!(world.says(&guard()).await.starts_with("no verdict: too little traffic"));
    world.script("requests", [(MINUTE * 60, Answer::Value(5.0))]);
    assert!(world.says(&guard()).await.starts_with("FAIL"));
    world.script("errors", [(MINUTE * 60, Answer::Value(0.0))]);
    assert!(world.says(&guard()).await.starts_with("pass"));

    world.script("requests", [(MINUTE * 60, Answer::Old(5.0, MINUTE * 2))]);
    assert_eq!(
        world.says(&guard()).await,
        "no verdict: nobody knows whether there is traffic to judge errors: the newest sample of requests is 2m old, 1m \
         is the limit"
    );
    world.script("requests", [(MINUTE * 60, Answer::Error(ErrorKind::Unavailable))]);
    assert!(world.says(&guard()).await.starts_with("source error: latest on requests"));
    world.script("requests", [(MINUTE * 60, Answer::Absent)]);
    assert!(world.says(&guard()).await.ends_with("requests has no data"));
}

#[tokio::test]
async fn the_traffic_of_a_window_is_its_mean() {
    let world = World::with([("errors", 0.0)]);
    // Of the 5 samples in a minute one shows traffic, and it is the newest.
    world.script("requests", [(MINUTE * 60, Answer::Value(0.0)), (SECOND, Answer::Value(50.0))]);
    let guard = world.metric("errors").below(0.01).with_min_traffic("requests", 10.0);
    assert!(world.says(&guard).await.starts_with("pass"));
    let windowed = guard.over(MINUTE, Aggregate::Max);
    assert!(world.says(&windowed).await.starts_with("pass"), "the mean is 10");
    let guard = windowed.with_min_traffic("requests", 10.1);
    assert_eq!(
        world.says(&guard).await,
        "no verdict: too little traffic to judge errors: requests is 10.0000 (mean of 5 samples within 1m), must be at \
         least 10.1"
    );
}

#[tokio::test]
async fn values_that_cannot_be_are_no_measurements() {
    let world = World::with([("availability", 99.9)]);
    let guard = world.metric("availability").above(0.9).with_possible_values(0.0..=1.0);
    assert_eq!(
        world.says(&guard).await,
        "no verdict: availability is 99.9, which cannot be: it lies within 0..1"
    );
    // What the metric can have is not what its traffic can have.
    let world = World::with([("availability", 0.99), ("requests", 50.0)]);
    let guard = world.metric("availability").above(0.9).with_possible_values(0.0..=1.0);
    assert_eq!(world.says(&guard.with_min_traffic("requests", 5.0)).await, "pass: availability is 0.9900");
}

#[test]
fn conditions_read_as_they_are_meant() {
    let world = World::new();
    let errors = || world.metric("errors");
    for (guard, expected) in [
        (errors().below(0.01), "errors below 0.01"),
        (errors().above(3.0).over(MINUTE * 5, Aggregate::Min), "min of errors over 5m above 3"),
        (errors().below(1.0).with_min_traffic("requests", 5.0), "errors below 1, with requests at least 5"),
        (errors().below_baseline_times(1.5), "errors below 1.5 times its baseline of 10m"),
        (
            errors().above_baseline_times(0.8).with_slack(0.1).with_baseline_over(MINUTE * 60),
            "errors above 0.8 times its baseline of 1h minus 0.1",
        ),
    ] {
        assert_eq!(guard.condition(), expected);
    }
    assert_eq!(errors().below(0.01).named("e").id().as_str(), "e");
}
