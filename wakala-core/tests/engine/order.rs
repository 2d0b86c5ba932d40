//! Sequences, side-by-side groups, and what follows from a failure.

use wakala_core::testing::{Fault, Faults, FaultyStep};
use wakala_core::{EffectKnown, OnFailure, Playbook, Record, Status, StepOutcome, sequence, step, together};

use crate::common::{Bench, MINUTE, SECOND, denied, lost, node, outcome, playbook, residuals, setting};

#[tokio::test]
async fn a_sequence_waits_until_each_step_is_in_force() {
    let bench = Bench::new();
    let (a, b) = (setting("a").with_lead_time(MINUTE), setting("b"));
    let report = bench.run(&playbook([node(&a, "a"), node(&b, "b")])).await;
    assert_eq!(report.status, Status::Succeeded);
    assert!(b.writes()[0].at >= a.writes()[0].at + MINUTE);
}

#[tokio::test]
async fn a_group_runs_side_by_side() {
    let bench = Bench::new();
    let settings = ["a", "b", "c"].map(|name| setting(name).with_lead_time(MINUTE));
    let parts = settings.iter().zip(["a", "b", "c"]).map(|(setting, id)| node(setting, id).into());
    let playbook = Playbook::builder("p").then(together(parts)).build().unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!(report.status, Status::Succeeded);
    assert!(bench.elapsed() < MINUTE + SECOND * 5, "took {:?}", bench.elapsed());
}

/// The intent is in the journal before the effect is made, and nothing else comes between.
#[tokio::test]
async fn an_intent_is_recorded_before_each_effect() {
    let (bench, a) = (Bench::new(), setting("a").with_lead_time(MINUTE));
    let report = bench.run(&playbook([node(&a, "a")])).await;
    let records: Vec<_> = report.journal.iter().map(|entry| entry.record.to_string()).collect();
    assert_eq!(
        records,
        [
            "test approved by ana",
            "a: applying",
            "a: accepted",
            "a: done",
            "SUCCEEDED: every step is in force and every soak passed"
        ]
    );
    assert_eq!(bench.lines(), records, "whoever watches sees the journal");
    let places: Vec<_> = report.journal.iter().map(|entry| entry.seq).collect();
    assert_eq!(places, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_failing_step_lets_its_siblings_finish_and_keeps_later_parts_from_starting() {
    let bench = Bench::new();
    let (bad, slow, after_slow, last) =
        (setting("bad"), setting("slow").with_lead_time(MINUTE), setting("after"), setting("last"));
    bad.fail_next(denied());
    let group = together([
        node(&bad, "bad").into(),
        sequence([node(&slow, "slow").into(), node(&after_slow, "after").into()]),
    ]);
    let playbook = Playbook::builder("p").then(group).then(node(&last, "last")).build().unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!(report.status, Status::Held);
    assert_eq!(report.reason, "step bad failed (write: no permission; grant it); what was done is kept");
    assert_eq!((slow.value(), after_slow.value(), last.value(), bad.value()), (2, 2, 1, 1));
    assert_eq!(outcome(&report, "last"), &StepOutcome::NotBegun);
    assert_eq!(residuals(&report), [("slow", true), ("after", true)]);
}

#[tokio::test]
async fn keep_and_hold_keeps_what_it_got() {
    let bench = Bench::new();
    let (a, b, c) = (setting("a"), setting("b"), setting("c"));
    b.fail_next(denied());
    let report = bench.run(&playbook([node(&a, "a"), node(&b, "b"), node(&c, "c")])).await;
    assert_eq!(report.status, Status::Held);
    assert_eq!((a.value(), b.value(), c.value()), (2, 1, 1));
    let StepOutcome::Failed { effect: EffectKnown::None, failure } = outcome(&report, "b") else {
        panic!("{report}")
    };
    assert_eq!(failure.message, "write: no permission; grant it");
}

/// Last begun first, and with the step that failed, since a failed call may have had an effect.
#[tokio::test]
async fn take_back_undoes_in_reverse_with_the_failing_step() {
    let bench = Bench::new();
    let (a, b, c, d) = (setting("a"), setting("b"), setting("c"), setting("d"));
    let faults = Faults::new().from("settle", 1, Fault::Rejected);
    let failing = step(FaultyStep::new(c.step("c"), &faults));
    let playbook = Playbook::builder("p")
        .then(node(&a, "a"))
        .then(node(&b, "b"))
        .then(failing)
        .then(node(&d, "d"))
        .with_on_failure(OnFailure::TakeBack)
        .build()
        .unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!([&a, &b, &c, &d].map(|setting| setting.value()), [1, 1, 1, 1]);
    assert_eq!(d.writes(), []);
    let undone: Vec<_> = bench
        .observer
        .records()
        .into_iter()
        .filter_map(|record| match record {
            Record::Undone { step, .. } => Some(step.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(undone, ["c", "b", "a"]);
    assert_eq!(report.residuals, []);
}

/// Unwinding waits for the siblings, and takes them back too.
#[tokio::test]
async fn take_back_waits_for_siblings() {
    let bench = Bench::new();
    let (bad, slow) = (setting("bad"), setting("slow").with_lead_time(MINUTE));
    bad.fail_next(denied());
    let playbook = Playbook::builder("p")
        .then(together([node(&bad, "bad").into(), node(&slow, "slow").into()]))
        .with_on_failure(OnFailure::TakeBack)
        .build()
        .unwrap();
    let report = bench.run(&playbook).await;
    assert_eq!((report.status, slow.value(), slow.effects()), (Status::Compensated, 1, 2));
    assert!(slow.writes()[1].at >= slow.writes()[0].at + MINUTE);
}

#[tokio::test]
async fn a_best_effort_failure_is_noted_and_the_run_goes_on() {
    let bench = Bench::new();
    let (alert, last) = (setting("alert"), setting("last"));
    alert.fail_next(denied());
    let report = bench.run(&playbook([node(&alert, "alert").best_effort(), node(&last, "last")])).await;
    assert_eq!((report.status, last.value()), (Status::Succeeded, 2));
    assert!(matches!(outcome(&report, "alert"), StepOutcome::Failed { effect: EffectKnown::None, .. }));
    assert!(report.reason.contains("step alert failed"), "the reason hides the failure: {}", report.reason);
}

#[tokio::test]
async fn several_failures_are_all_in_the_reason() {
    let bench = Bench::new();
    let (a, b) = (setting("a"), setting("b"));
    a.fail_next(denied());
    b.fail_next(lost());
    b.fail_next(denied());
    let playbook =
        Playbook::builder("p").then(together([node(&a, "a").into(), node(&b, "b").into()])).build().unwrap();
    let report = bench.run(&playbook).await;
    assert!(report.reason.contains("step a failed") && report.reason.contains("step b failed"), "{report}");
}

/// Where nothing is to be waited for, one record says that the effect was accepted and is in force.
#[tokio::test]
async fn what_is_in_force_at_once_is_recorded_once() {
    let (bench, a) = (Bench::new(), setting("a"));
    let report = bench.run(&playbook([node(&a, "a")])).await;
    let records: Vec<_> = report.journal.iter().map(|entry| entry.record.to_string()).collect();
    assert_eq!(records[1..3], ["a: applying", "a: done"]);
    assert_eq!(*outcome(&report, "a"), wakala_core::StepOutcome::Done);
}
