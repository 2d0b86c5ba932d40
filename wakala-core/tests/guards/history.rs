//! What guards would have said while nobody asked.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::testing::Answer;
use wakala_core::{Aggregate, ErrorKind, Guard, MetricGuard, Verdict, guard};

use crate::{MINUTE, SECOND, World};

#[tokio::test]
async fn one_verdict_for_each_sample_and_none_for_gaps() {
    let world = World::new();
    world.script(
        "errors",
        [
            (MINUTE * 60, Answer::Value(0.0)),
            (SECOND * 75, Answer::Value(0.2)),
            (SECOND * 60, Answer::Absent),
            (SECOND * 30, Answer::Value(f64::NAN)),
            (SECOND * 15, Answer::Value(0.0)),
        ],
    );
    let guard = world.metric("errors").below(0.01);
    assert_eq!(world.past(&guard, SECOND * 90).await, [(90, 'P'), (75, 'F'), (30, '?'), (15, 'P'), (0, 'P')]);
}

/// Whatever the source shows: the past as told now is what was said then.
#[tokio::test]
async fn the_past_is_what_was_said_then() {
    let script = || {
        [
            (MINUTE * 20, Answer::Value(0.0)),
            (MINUTE * 15, Answer::Value(0.03)),
            (MINUTE * 13, Answer::Value(0.0)),
            (MINUTE * 11, Answer::Absent),
            (MINUTE * 8, Answer::Partial { value: 0.0, answered: 1, expected: 10 }),
            (MINUTE * 7, Answer::Value(f64::NAN)),
            (MINUTE * 6, Answer::Value(0.5)),
            (MINUTE * 5, Answer::Value(0.0)),
        ]
    };
    let traffic = || {
        [
            (MINUTE * 20, Answer::Value(100.0)),
            (MINUTE * 18, Answer::Value(1.0)),
            (MINUTE * 17, Answer::Value(100.0)),
            (MINUTE * 4, Answer::Value(f64::NAN)),
            (MINUTE, Answer::Value(100.0)),
        ]
    };
    let guards: [fn(&World) -> MetricGuard; 4] = [
        |world| world.metric("errors").below(0.01),
        |world| world.metric("errors").below(0.01).with_min_traffic("requests", 5.0),
        |world| world.metric("errors").below(0.01).over(MINUTE * 2, Aggregate::Mean).with_min_samples(4),
        |world| {
            let guard = world.metric("errors").below(0.01).with_min_traffic("requests", 50.0);
            guard.over(MINUTE * 3, Aggregate::Quantile(0.8))
        },
    ];
    for (index, guard) in guards.into_iter().enumerate() {
        let world = World::new();
        world.script("errors", script());
        world.script("requests", traffic());
        let told = guard(&world).history(&world.cx(), MINUTE * 18).await.unwrap();
        assert!(told.len() > 40, "guard {index}");
        let kinds = |wanted: fn(&Verdict) -> bool| told.iter().any(|(_, verdict)| wanted(verdict));
        assert!(kinds(|v| v.is_pass()) && kinds(|v| matches!(v, Verdict::Fail(_))), "guard {index}");
        assert!(kinds(|v| matches!(v, Verdict::Inconclusive(_))), "guard {index}");
        // The same world again, asked at each of these moments.
        for (time, verdict) in told {
            let then = World::new();
            let back = then.cx().clock().now().duration_since(time).unwrap();
            let earlier = wakala_core::ManualClock::default();
            earlier.advance(MINUTE * 60 - back);
            then.script("errors", script());
            then.script("requests", traffic());
            let cx = wakala_core::RunContext::new("run-1".into(), Arc::new(earlier));
            assert_eq!(guard(&then).evaluate(&cx).await, verdict, "guard {index}, {back:?} ago");
        }
    }
}

#[tokio::test]
async fn a_source_without_history_yields_what_it_has_and_one_that_fails_nothing() {
    let mut world = World::with([("errors", 0.0)]);
    world.metrics = world.metrics.without_history();
    let guard = || world.metric("errors").below(0.01);
    assert_eq!(world.past(&guard(), MINUTE * 10).await, [(0, 'P')]);

    world.script("errors", [(MINUTE * 60, Answer::Absent)]);
    assert_eq!(world.past(&guard(), MINUTE * 10).await, []);

    world.script("errors", [(MINUTE * 60, Answer::Error(ErrorKind::Unavailable))]);
    assert_eq!(guard().history(&world.cx(), MINUTE * 10).await, None);

    world.script("errors", [(MINUTE * 60, Answer::Value(0.0))]);
    world.script("requests", [(MINUTE * 60, Answer::Error(ErrorKind::Unavailable))]);
    let guard = guard().with_min_traffic("requests", 5.0);
    assert_eq!(guard.history(&world.cx(), MINUTE * 10).await, None);
}

#[tokio::test]
async fn a_clock_that_jumped_makes_no_past() {
    let world = World::new();
    world.script("errors", [(MINUTE * 60, Answer::Ahead(0.0, MINUTE * 30))]);
    assert_eq!(world.metric("errors").below(0.01).history(&world.cx(), MINUTE * 60).await, None);
    let text = world.says(&world.metric("errors").below(0.01)).await;
    assert!(text.contains("ahead of the clock here"), "{text}");

    // A clock that differs a little is borne, and nothing is said of what is yet to come.
    world.script("errors", [(MINUTE * 60, Answer::Ahead(0.0, SECOND * 20))]);
    let past = world.past(&world.metric("errors").below(0.01), MINUTE).await;
    assert_eq!(past, [(55, 'P'), (40, 'P'), (25, 'P'), (10, 'P')]);
}

#[tokio::test]
async fn a_shadow_vouches_for_all_of_the_past() {
    let world = World::with([("errors", 0.5)]);
    let shadow = guard::shadow(world.metric("errors").below(0.01));
    let past = world.past(&shadow, MINUTE).await;
    assert_eq!((past.len(), past[0], past[60]), (61, (60, 'P'), (0, 'P')));
    assert!(past.iter().all(|(_, verdict)| *verdict == 'P'));
    let week = shadow.history(&world.cx(), Duration::from_secs(7 * 24 * 3600)).await.unwrap();
    assert!(week.len() <= 10_002, "{}", week.len());
}
