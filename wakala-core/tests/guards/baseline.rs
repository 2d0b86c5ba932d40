//! How it was before the run, as what later values are compared with.

use wakala_core::testing::Answer;
use wakala_core::{Aggregate, ErrorKind, Guard, MetricGuard, Result};

use crate::{MINUTE, SECOND, World};

async fn calibrated(world: &World, guard: &MetricGuard) -> Result<f64> {
    guard.calibrate(&world.cx()).await.map(|baseline| baseline.expect("it compares with a baseline"))
}

async fn refusal(world: &World, guard: MetricGuard, kind: ErrorKind) -> String {
    let error = calibrated(world, &guard).await.unwrap_err();
    assert_eq!((error.kind(), error.subject()), (kind, "errors"));
    // Who proves without having calibrated learns of it too.
    assert_eq!(world.proof(&guard).await, format!("no verdict: {}", error.chain()));
    error.to_string()
}

#[tokio::test]
async fn a_baseline_is_the_mean_of_ten_minutes_or_as_asked() {
    let world = World::new();
    let half_an_hour = [(MINUTE * 30, Answer::Value(0.04)), (MINUTE * 5, Answer::Value(0.02))];
    world.script("errors", half_an_hour);
    let guard = || world.metric("errors").below_baseline_times(1.5);
    let near =
        |value: f64, expected: f64| assert!((value - expected).abs() < 1e-3, "{value} is not {expected}");
    near(calibrated(&world, &guard()).await.unwrap(), 0.03);
    near(calibrated(&world, &guard().with_baseline_over(MINUTE * 5)).await.unwrap(), 0.02);
    near(calibrated(&world, &guard().over(MINUTE, Aggregate::Max)).await.unwrap(), 0.04);
    near(calibrated(&world, &guard().over(MINUTE, Aggregate::Latest)).await.unwrap(), 0.03);
    assert_eq!(world.metric("errors").below(0.1).calibrate(&world.cx()).await.unwrap(), None);
    assert!(world.proof(&guard()).await.starts_with("pass"));
}

#[tokio::test]
async fn too_little_is_no_baseline() {
    let world = World::new();
    world.script("errors", [(MINUTE * 2, Answer::Value(0.02))]);
    let guard = || world.metric("errors").below_baseline_times(1.5);
    assert_eq!(
        refusal(&world, guard(), ErrorKind::NotFound).await,
        "calibrate on errors: 9 usable samples of errors within the last 10m, 10 are needed for a baseline; wait, or \
         take a fixed limit"
    );
    assert!(calibrated(&world, &guard().with_min_baseline(9)).await.is_ok());

    world.script("errors", [(MINUTE * 60, Answer::Value(f64::NAN))]);
    let text = refusal(&world, guard(), ErrorKind::NotFound).await;
    assert!(text.contains("0 usable samples") && text.contains("(errors is not a number)"), "{text}");

    world.script("errors", [(MINUTE * 60, Answer::Value(0.02)), (SECOND * 75, Answer::Absent)]);
    let text = refusal(&world, guard(), ErrorKind::NotFound).await;
    assert!(text.contains("1m 30s old"), "{text}");

    world.script("errors", [(MINUTE * 60, Answer::Error(ErrorKind::Unavailable))]);
    assert_eq!(calibrated(&world, &guard()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(world.proof(&guard()).await.starts_with("source error"));
}

#[tokio::test]
async fn samples_without_traffic_are_no_baseline() {
    let world = World::with([("errors", 0.02)]);
    world.script("requests", [(MINUTE * 60, Answer::Value(0.1)), (SECOND * 60, Answer::Value(50.0))]);
    let guard = world.metric("errors").below_baseline_times(1.5).with_min_traffic("requests", 5.0);
    let text = refusal(&world, guard.clone(), ErrorKind::NotFound).await;
    assert!(text.contains("5 usable samples") && text.contains("too little traffic"), "{text}");
    assert!(calibrated(&world, &guard.clone().with_min_baseline(5)).await.is_ok());
    // Each sample is taken or left by the traffic of its own time, also where the guard judges a window.
    let windowed = guard.with_min_traffic("requests", 20.0).over(MINUTE, Aggregate::Mean);
    assert!(calibrated(&world, &windowed.with_min_baseline(5)).await.is_ok());
}

#[tokio::test]
async fn nothing_is_no_baseline_without_slack() {
    let world = World::with([("errors", 0.0)]);
    let guard = || world.metric("errors").below_baseline_times(1.5);
    assert_eq!(
        refusal(&world, guard(), ErrorKind::InvalidConfig).await,
        "calibrate on errors: the baseline of errors is 0.0000, so that the limit would be 0.0000, which is of no use; \
         give a slack"
    );
    assert_eq!(calibrated(&world, &guard().with_slack(0.002)).await.unwrap(), 0.0);

    // Nothing falls below nothing.
    let above = || world.metric("errors").above_baseline_times(0.8);
    assert!(refusal(&world, above(), ErrorKind::InvalidConfig).await.contains("of no use"));
    world.script("errors", [(MINUTE * 60, Answer::Value(0.5))]);
    assert_eq!(calibrated(&world, &above()).await.unwrap(), 0.5);
    assert!(refusal(&world, above().with_slack(0.5), ErrorKind::InvalidConfig).await.contains("less slack"));

    world.script("errors", [(MINUTE * 60, Answer::Value(-0.5))]);
    let text = refusal(&world, guard().with_slack(3.0), ErrorKind::InvalidConfig).await;
    assert!(text.contains("a multiple of less than nothing"), "{text}");
}

#[tokio::test]
async fn noise_that_would_break_the_limit_is_found_beforehand() {
    let world = World::new();
    // One error now and then: every other half minute has none.
    let noise = std::array::from_fn::<_, 20, _>(|half| {
        let ago = SECOND * 30 * (20 - u32::try_from(half).unwrap());
        (ago, Answer::Value(if half % 2 == 0 { 0.0 } else { 0.0004 }))
    });
    world.script("errors", noise);
    let guard = || world.metric("errors").below_baseline_times(1.5);
    let text = refusal(&world, guard(), ErrorKind::InvalidConfig).await;
    assert!(
        text.contains(
            "21 of 41 values of errors before the run are themselves not below 1.5 times their baseline"
        ),
        "{text}"
    );
    assert!(text.contains("give a slack of more than 9.268e-5"), "{text}");
    assert!(calibrated(&world, &guard().with_slack(0.0001)).await.is_ok());
    // A window is made of as many bad samples as good ones.
    assert!(calibrated(&world, &guard().over(MINUTE * 5, Aggregate::Mean)).await.is_ok());
    // Who wants it better than before is not told that it was worse.
    let better = world.metric("errors").below_baseline_times(0.5);
    assert!(calibrated(&world, &better).await.is_ok());
}

#[tokio::test]
async fn noise_is_what_the_guards_own_window_makes_of_it() {
    let world = World::new();
    world.script("errors", [(MINUTE * 60, Answer::Value(0.01)), (MINUTE * 2, Answer::Value(0.03))]);
    let guard = world.metric("errors").below_baseline_times(2.0).over(MINUTE, Aggregate::Mean);
    // The last two minutes are far above twice the mean of all ten, and their own minutes show it.
    let text = refusal(&world, guard, ErrorKind::InvalidConfig).await;
    assert!(text.contains("5 of 40 values of errors"), "{text}");
}

#[tokio::test]
async fn one_outlier_makes_no_noise() {
    let world = World::new();
    let outlier = [
        (MINUTE * 10, Answer::Value(0.01)),
        (MINUTE * 5, Answer::Value(0.05)),
        (SECOND * 290, Answer::Value(0.01)),
    ];
    world.script("errors", outlier);
    assert!(calibrated(&world, &world.metric("errors").below_baseline_times(1.5)).await.is_ok());
}

#[tokio::test]
async fn a_baseline_may_make_a_limit_that_nothing_breaks() {
    let world = World::with([("utilisation", 0.7)]);
    let text = world.proof(&world.metric("utilisation").below_baseline_times(1.5)).await;
    assert!(text.starts_with("no verdict: it could never fail: utilisation lies within 0..1"), "{text}");
}
