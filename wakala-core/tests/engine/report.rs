//! What a person reads, to the letter.

use std::sync::Arc;

use wakala_core::testing::{Answer, FakeAutoscaler, FakeMetrics, FakeNotifier, FakeSetting, FakeTarget};
use wakala_core::{
    Bounds, Finding, Notification, NotifyStep, Owner, Playbook, RaiseFloor, Revert, ScaleUp, Severity, Soak,
    guard, sequence, step, together,
};

use crate::common::{Bench, MINUTE, denied};

struct Spike {
    bench: Bench,
    limits: FakeSetting<serde_json::Value>,
    playbook: Playbook,
}

fn spike() -> Spike {
    let hpa = Bounds::new(5, 60).unwrap();
    let api = FakeTarget::new("deployment production/api", 10)
        .with_lead_time(MINUTE)
        .with_owner(Owner::new("autoscaler of deployment production/api", hpa));
    let autoscaler = FakeAutoscaler::new(&api, hpa);
    let limits = FakeSetting::new(
        "env of deployment production/api",
        serde_json::json!({ "RATE_LIMIT": "1000" }),
        serde_json::json!({ "RATE_LIMIT": "10000", "AGGRESSIVE_CACHING": "true" }),
    );
    let alert = Notification::new(Severity::High, "traffic spike");
    let metrics = FakeMetrics::new().with("error_rate", Answer::Value(0.001));
    let guard = guard::metric(Arc::new(metrics), "error_rate").below(0.01);
    let mut preflight = wakala_core::testing::MockPreflight::new();
    preflight
        .expect_check()
        .returning(|_, _| Ok(vec![Finding::warning("50 replicas take 450 of 500 connections")]));
    let playbook = Playbook::builder("spike")
        .with_description("Traffic spike: more of everything, for an hour.")
        .then(together([
            sequence([
                step(RaiseFloor::to(Arc::new(autoscaler), 50).step("api-floor"))
                    .temporary(MINUTE * 60)
                    .into(),
                step(ScaleUp::to(Arc::new(api.clone()), 50).step("api")).into(),
            ]),
            step(limits.step("limits")).temporary(MINUTE * 60).into(),
        ]))
        .then(step(NotifyStep::new("alert", Arc::new(FakeNotifier::new()), alert)).best_effort())
        .then(Soak::new("soak", MINUTE * 10).with_guard(guard))
        .with_preflight(preflight)
        .build()
        .unwrap();
    Spike { bench: Bench::new(), limits, playbook }
}

/// The test's own text, shifted to where its first line begins.
fn text(lines: &str) -> String {
    let lines: Vec<_> = lines.trim_end().lines().skip(1).collect();
    let indent = lines[0].len() - lines[0].trim_start().len();
    lines.iter().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect()
}

#[track_caller]
fn assert_text(seen: &impl ToString, expected: &str) {
    let (seen, expected) = (seen.to_string(), text(expected));
    assert_eq!(seen, expected, "\n--- seen ---\n{seen}\n--- expected ---\n{expected}");
}

#[tokio::test]
async fn a_plan_shows_order_differences_and_what_to_know() {
    let Spike { bench, playbook, .. } = spike();
    let plan = bench.plan(&playbook).await.unwrap();
    let hash = &plan.hash()[..12];
    assert_text(
        &plan.to_string().replace(hash, "HASH"),
        "
        Plan of spike (sha256 HASH)
        Traffic spike: more of everything, for an hour.
        made 2026-01-01T00:00:00Z, valid for 15m; once a step fails: keep what there is and hold

        side by side
          in this order
            ~ api-floor: raise the floor of the autoscaler of deployment production/api  [exact undo, temporary: back within 1h, about 1s]
                  min  5 -> 50
            ~ api: scale deployment production/api  [exact undo, about 2m]
                  size  10 -> 50
                ! autoscaler of deployment production/api keeps the size within 5..60 and takes 50 back; raise its floor first
          ~ limits: set env of deployment production/api  [exact undo, temporary: back within 1h, about 1s]
                AGGRESSIVE_CACHING  (none) -> true
                RATE_LIMIT          1000 -> 10000
        ~ alert: notify fake notifier  [undo: none, a message cannot be taken back, a failure is only noted, about 1s]
              message   (none) -> traffic spike
              severity  (none) -> high
        * soak: watch until 10m are covered
              error_rate: error_rate below 0.01

        Preflight
          ok       guard error_rate of soak has data; now error_rate is 0.0010
          WARNING  50 replicas take 450 of 500 connections

        Needs permission for
          fake: move bounds autoscaler of deployment production/api
          fake: scale deployment production/api
          fake: write env of deployment production/api
        ",
    );
}

#[tokio::test]
async fn a_plan_says_where_there_is_nothing_to_do() {
    let Spike { bench, playbook, limits } = spike();
    limits.meddle(serde_json::json!({ "RATE_LIMIT": "10000", "AGGRESSIVE_CACHING": "true" }));
    let plan = bench.plan(&playbook).await.unwrap().to_string();
    let line = "  = limits: set env of deployment production/api  [nothing to do]\n";
    assert!(plan.contains(line), "{plan}");
}

#[tokio::test]
async fn a_report_says_what_is_different_and_what_is_owed() {
    let Spike { bench, playbook, .. } = spike();
    assert_text(
        &bench.run(&playbook).await,
        "
        spike SUCCEEDED: every step is in force and every soak passed
        run run-1, 11m

          api-floor  done
          api        done, 1m
          limits     done
          alert      done

        Changed and not taken back
          api-floor  min: 5 -> 50
                     undo: revert (exact undo)
          api        size: 10 -> 50
                     undo: revert (exact undo)
          limits     AGGRESSIVE_CACHING: (none) -> true
          limits     RATE_LIMIT: 1000 -> 10000
                     undo: revert (exact undo)

        Owed back
          api-floor  by 2026-01-01T01:00:00Z
          limits     by 2026-01-01T01:00:00Z
        ",
    );
    assert_text(
        &bench.revert(&playbook, Revert::Temporary).await,
        "
        spike COMPENSATED: what was temporary is taken back, as asked
        run run-1, 11m

          api-floor  taken back
          api        done, 1m
          limits     taken back
          alert      done

        Changed and not taken back
          api        size: 10 -> 50
                     undo: revert (exact undo)
        ",
    );
    assert_text(
        &bench.revert(&playbook, Revert::Everything).await,
        "
        spike COMPENSATED: everything is taken back, as asked
        run run-1, 11m

          api-floor  taken back
          api        left alone: autoscaler of deployment production/api sets the size, now 50, and follows the load from there
          limits     taken back
          alert      nothing to take back
        ",
    );
}

#[tokio::test]
async fn a_report_of_a_failure_says_why_and_what_is_left() {
    let Spike { bench, playbook, limits } = spike();
    limits.fail_next(denied());
    assert_text(
        &bench.run(&playbook).await,
        "
        spike HELD: step limits failed (write: no permission; grant it); what was done is kept
        run run-1, 1m

          api-floor  done
          api        done, 1m
          limits     FAILED, nothing changed: write: no permission; grant it
          alert      not begun

        Changed and not taken back
          api-floor  min: 5 -> 50
                     undo: revert (exact undo)
          api        size: 10 -> 50
                     undo: revert (exact undo)

        Owed back
          api-floor  by 2026-01-01T01:00:00Z
        ",
    );
}

/// The report is made of the journal alone, and reads the same from the store and through JSON.
#[tokio::test]
async fn a_report_is_the_same_from_the_store_and_through_json() {
    let Spike { bench, playbook, .. } = spike();
    let report = bench.run(&playbook).await;
    let stored = bench.drive(bench.engine.report(&"run-1".into())).await.unwrap();
    assert_eq!(stored, report);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<wakala_core::RunReport>(&json).unwrap(), report);
    assert_eq!(report.to_string(), stored.to_string());
}
