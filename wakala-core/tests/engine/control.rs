//! What others ask of a run, through the store.

use std::time::Duration;

use wakala_core::{
    Clock as _, Control, ErrorKind, Playbook, Record, RunCondition, RunHandle, RunReport, Status,
    StepOutcome, gate,
};

use crate::common::{Bench, MINUTE, SECOND, node, outcome, playbook, setting};

/// Runs, and somebody in another process asks something at each of these times.
async fn run_and_ask(bench: &Bench, playbook: &Playbook, asked: Vec<(Duration, Control)>) -> RunReport {
    let plan = bench.plan(playbook).await.unwrap();
    let (run, approval) = (RunHandle::new("run-1"), wakala_core::Approval::of(&plan, "ana"));
    let asking = async {
        for (at, control) in asked {
            bench.clock.sleep(at.saturating_sub(bench.elapsed())).await;
            let other = bench.engine.clone().with_owner("a shell");
            other.ask(&"run-1".into(), control, "bo", "the shop is full").await.unwrap();
        }
    };
    let both = async { tokio::join!(bench.engine.run(playbook, &plan, &approval, &run), asking) };
    bench.drive(both).await.0.unwrap()
}

#[tokio::test]
async fn a_pause_lets_no_further_effect_begin_and_costs_the_steps_no_time() {
    let bench = Bench::new();
    let (a, b) = (setting("a").with_lead_time(MINUTE), setting("b").with_lead_time(SECOND * 30));
    let playbook = playbook([node(&a, "a"), node(&b, "b").with_limit(MINUTE)]);
    let asked = vec![(SECOND * 20, Control::Pause), (MINUTE * 30, Control::Resume)];
    let report = run_and_ask(&bench, &playbook, asked).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let begun = report
        .journal
        .iter()
        .find(|entry| matches!(&entry.record, Record::Intent { step, .. } if step.as_str() == "b"));
    let late = begun.unwrap().at.duration_since(report.started_at).unwrap();
    assert!(late >= MINUTE * 30 && late <= MINUTE * 30 + SECOND * 2, "b began after {late:?}");
    let lines: Vec<_> = report.journal.iter().map(|entry| entry.record.to_string()).collect();
    assert!(lines.contains(&"asked to pause by bo: the shop is full".to_owned()), "{lines:#?}");
}

#[tokio::test]
async fn a_cancelled_run_keeps_or_takes_back() {
    for (control, status, value) in
        [(Control::CancelKeep, Status::Stopped, 2), (Control::CancelRevert, Status::Compensated, 1)]
    {
        let bench = Bench::new();
        let (a, b) = (setting("a").with_lead_time(MINUTE), setting("b"));
        let playbook = playbook([node(&a, "a"), node(&b, "b")]);
        let report = run_and_ask(&bench, &playbook, vec![(SECOND * 20, control)]).await;
        assert_eq!((report.status, a.value(), b.value()), (status, value, 1), "{report}");
        assert!(report.reason.contains("stopped as asked by bo"), "{}", report.reason);
        assert_eq!(*outcome(&report, "b"), StepOutcome::NotBegun);
    }
}

/// Paused, and then cancelled: the pause does not hold the end up.
#[tokio::test]
async fn a_paused_run_can_be_cancelled() {
    let (bench, a, b) = (Bench::new(), setting("a").with_lead_time(MINUTE), setting("b"));
    let playbook = playbook([node(&a, "a"), node(&b, "b")]);
    let asked = vec![(SECOND * 20, Control::Pause), (MINUTE * 5, Control::CancelRevert)];
    let report = run_and_ask(&bench, &playbook, asked).await;
    assert_eq!((report.status, a.value(), b.effects()), (Status::Compensated, 1, 0), "{report}");
    assert!(bench.elapsed() < MINUTE * 6);
}

#[tokio::test]
async fn an_abandoned_run_leaves_everything_as_it_is() {
    let (bench, a, b) = (Bench::new(), setting("a").with_lead_time(MINUTE), setting("b"));
    let playbook = playbook([node(&a, "a").temporary(MINUTE * 60), node(&b, "b")]);
    let report = run_and_ask(&bench, &playbook, vec![(SECOND * 20, Control::Abandon)]).await;
    assert_eq!((report.status, a.value(), b.effects()), (Status::Abandoned, 2, 0), "{report}");
    assert_eq!(report.reason, "abandoned by bo (the shop is full); everything is left as it is");
    let owed = bench.engine.obligations().await.unwrap();
    assert_eq!(owed.iter().map(|(_, owed)| owed.step.as_str()).collect::<Vec<_>>(), ["a"]);
}

/// What is asked before the run looks for the first time is not lost.
#[tokio::test]
async fn a_request_that_comes_before_the_start_counts() {
    let (bench, a) = (Bench::new(), setting("a"));
    let playbook = playbook([node(&a, "a")]);
    let plan = bench.plan(&playbook).await.unwrap();
    let run = RunHandle::new("run-1");
    let asking = async {
        bench.clock.sleep(MINUTE).await;
        let ask = |control| bench.engine.ask(run.id(), control, "bo", "");
        ask(Control::CancelKeep).await.unwrap();
        ask(Control::Approve { gate: "plan".into(), plan_hash: plan.hash() }).await.unwrap();
    };
    let both = async { tokio::join!(bench.engine.run_when_approved(&playbook, &plan, &run), asking) };
    let report = bench.drive(both).await.0.unwrap();
    assert_eq!((report.status, a.effects()), (Status::Stopped, 0), "{report}");
}

#[tokio::test]
async fn nobody_asks_without_a_name_or_of_a_run_that_is_not_there() {
    let bench = Bench::new();
    let ask = async |by| bench.engine.ask(&"run-1".into(), Control::Pause, by, "").await.unwrap_err().kind();
    assert_eq!(ask(" ").await, ErrorKind::InvalidConfig);
    assert_eq!(ask("bo").await, ErrorKind::NotFound);
}

/// A run that waits for its approval holds its resources and shows what is asked.
#[tokio::test]
async fn a_plan_is_approved_by_somebody_else() {
    let (bench, a) = (Bench::new(), setting("a"));
    let playbook = playbook([node(&a, "a")]);
    let plan = bench.plan(&playbook).await.unwrap();
    let run = RunHandle::new("run-1");
    let asking = async {
        bench.clock.sleep(MINUTE).await;
        let summary = bench.engine.summary(run.id()).await.unwrap();
        assert!(matches!(summary.condition, RunCondition::AwaitingApproval(_)), "{:?}", summary.condition);
        let ask = |plan_hash: &str| {
            let control = Control::Approve { gate: "plan".into(), plan_hash: plan_hash.to_owned() };
            bench.engine.ask(run.id(), control, "bo", "go")
        };
        ask("of another plan").await.unwrap();
        bench.clock.sleep(MINUTE).await;
        assert_eq!(a.effects(), 0, "an approval of another plan let it go");
        ask(&plan.hash()).await.unwrap();
    };
    let both = async { tokio::join!(bench.engine.run_when_approved(&playbook, &plan, &run), asking) };
    let report = bench.drive(both).await.0.unwrap();
    assert_eq!((report.status, a.value()), (Status::Succeeded, 2), "{report}");
    assert!(report.journal.iter().any(|entry| entry.record.to_string() == "plan: approved by bo: go"));
}

#[tokio::test]
async fn a_plan_that_is_rejected_or_forgotten_does_nothing() {
    for (control, words) in
        [(Some(Control::Reject { gate: "plan".into() }), "by bo: no"), (None, "nobody decided")]
    {
        let (bench, a) = (Bench::new(), setting("a"));
        let playbook = playbook([node(&a, "a")]);
        let plan = bench.plan(&playbook).await.unwrap();
        let run = RunHandle::new("run-1");
        let asking = async {
            bench.clock.sleep(MINUTE).await;
            if let Some(control) = control {
                bench.engine.ask(run.id(), control, "bo", "no").await.unwrap();
            }
        };
        let both = async { tokio::join!(bench.engine.run_when_approved(&playbook, &plan, &run), asking) };
        let report = bench.drive(both).await.0.unwrap();
        assert_eq!((report.status, a.effects()), (Status::Stopped, 0), "{report}");
        assert!(report.reason.contains(words), "{}", report.reason);
        assert!(bench.engine.runs().await.unwrap().is_empty(), "nothing is left to do");
    }
}

#[tokio::test]
async fn a_gate_lets_the_run_through_once_somebody_approves() {
    for approved in [true, false] {
        let (bench, a, b) = (Bench::new(), setting("a"), setting("b"));
        let question = gate("smaller", "are the phones quiet?");
        let playbook =
            Playbook::builder("test").then(node(&a, "a")).then(question).then(node(&b, "b")).build().unwrap();
        let plan = bench.plan(&playbook).await.unwrap();
        assert!(
            plan.to_string().contains("? smaller: are the phones quiet? (to be approved within 1h)"),
            "{plan}"
        );
        let hash = plan.hash();
        let decision = if approved {
            Control::Approve { gate: "smaller".into(), plan_hash: hash.clone() }
        } else {
            Control::Reject { gate: "smaller".into() }
        };
        // Void: no such gate, and not yet reached.
        let early = Control::Approve { gate: "other".into(), plan_hash: hash };
        let report = run_and_ask(&bench, &playbook, vec![(SECOND, early), (MINUTE, decision)]).await;
        let expected = if approved { (Status::Succeeded, 2) } else { (Status::Held, 1) };
        assert_eq!((report.status, b.value()), expected, "{report}");
        assert_eq!(a.value(), 2);
    }
}
