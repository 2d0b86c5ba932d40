//! A run goes on in another process from wherever its journal ends.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::store::{Release, Takeover};
use wakala_core::testing::{
    Answer, FakeMetrics, FakeSetting, FakeTarget, Fault, Faults, FaultyStep, FaultyStore,
};
use wakala_core::{
    Approval, Clock as _, Engine, ErrorKind, MemoryStore, Playbook, Record, Revert, RunCondition, RunHandle,
    RunReport, RunStore, Soak, Status, guard, step,
};

use crate::common::{Bench, MINUTE, SECOND, denied, node, playbook, setting};

/// Another process on the same store and clock.
fn other(bench: &Bench) -> Engine {
    bench.engine.clone().with_owner("the other process")
}

fn by_ana() -> RunHandle {
    RunHandle::new("run-1").by("ana")
}

/// Runs for a while, and then the process is gone.
async fn run_and_crash(bench: &Bench, playbook: &Playbook, after: Duration) {
    let plan = bench.plan(playbook).await.unwrap();
    let (run, approval) = (RunHandle::new("run-1"), Approval::of(&plan, "ana"));
    let crash = bench.clock.sleep(after);
    bench
        .drive(async {
            tokio::select! {
                biased;
                () = crash => {}
                report = bench.engine.run(playbook, &plan, &approval, &run) => panic!("it came to its end: {report:?}"),
            }
        })
        .await;
}

async fn resume(bench: &Bench, playbook: &Playbook) -> RunReport {
    bench.drive(other(bench).resume(playbook, &by_ana().by_force())).await.unwrap()
}

fn lines(report: &RunReport) -> Vec<String> {
    report.journal.iter().map(|entry| entry.record.to_string()).collect()
}

#[tokio::test]
async fn what_is_on_its_way_is_waited_for_and_the_rest_is_done() {
    let bench = Bench::new();
    let (a, b) = (setting("a").with_lead_time(MINUTE), setting("b"));
    let playbook = playbook([node(&a, "a"), node(&b, "b")]);
    run_and_crash(&bench, &playbook, SECOND * 20).await;
    assert_eq!((a.value(), b.value()), (2, 1));
    let report = resume(&bench, &playbook).await;
    assert_eq!((report.status, a.effects(), b.effects()), (Status::Succeeded, 1, 1), "{report}");
    assert_eq!(bench.elapsed(), MINUTE, "it was waited for no longer than needed");
    let expected = [
        "test approved by ana",
        "a: applying",
        "a: accepted",
        "taken over by the other process, as ana decided, by force",
        "a: done",
        "b: applying",
        "b: done",
        "SUCCEEDED: every step is in force and every soak passed",
    ];
    assert_eq!(lines(&report), expected);
    let epochs: Vec<_> = report.journal.iter().map(|entry| entry.epoch).collect();
    assert_eq!(epochs, [1, 1, 1, 2, 2, 2, 2, 2]);
}

/// The effect happened and its answer was never recorded: it is found in place and not repeated.
#[tokio::test]
async fn an_intent_without_result_is_observed_first() {
    for (fault, effects) in [(Fault::HangAfterEffect, 1), (Fault::Hang, 1)] {
        let (bench, a) = (Bench::new(), setting("a"));
        let faults = Faults::new().on("apply", 1, fault);
        let playbook = playbook([step(FaultyStep::new(a.step("a"), &faults))]);
        run_and_crash(&bench, &playbook, SECOND * 20).await;
        assert!(faults.reached());
        let report = resume(&bench, &playbook).await;
        assert_eq!((report.status, a.value(), a.effects()), (Status::Succeeded, 2, effects), "{report}");
        let adopted = report.journal.iter().any(|entry| matches!(entry.record, Record::Adopted { .. }));
        assert_eq!(adopted, fault == Fault::HangAfterEffect, "{report}");
    }
}

#[tokio::test]
async fn what_somebody_changed_meanwhile_holds_the_run() {
    let (bench, a) = (Bench::new(), setting("a"));
    let faults = Faults::new().on("apply", 1, Fault::Hang);
    let playbook = playbook([step(FaultyStep::new(a.step("a"), &faults))]);
    run_and_crash(&bench, &playbook, SECOND * 20).await;
    a.meddle(77);
    let report = resume(&bench, &playbook).await;
    assert_eq!((report.status, a.value()), (Status::Held, 77), "{report}");
    assert!(report.reason.contains("1 -> 77"), "{}", report.reason);
}

/// Who drives a run is asked first; a lapsed lease frees nothing; nobody decides without a name.
#[tokio::test]
async fn an_orphan_is_visible_and_keeps_its_resources_until_somebody_decides() {
    let (bench, a) = (Bench::with_virtual_store(), setting("a").with_lead_time(MINUTE * 5));
    let playbook = playbook([node(&a, "a")]);
    run_and_crash(&bench, &playbook, SECOND * 20).await;
    let engine = other(&bench);
    let condition = async || engine.summary(&"run-1".into()).await.unwrap().condition;
    assert!(matches!(condition().await, RunCondition::Running(_)));
    let error = bench.drive(engine.resume(&playbook, &by_ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().contains("its lease lasts for"), "{}", error.chain());

    bench.clock.advance(MINUTE * 2);
    assert!(matches!(condition().await, RunCondition::Orphaned(_)));
    a.meddle(1);
    let plan = bench.plan(&playbook).await.unwrap();
    let (approval, second) = (Approval::of(&plan, "bo"), RunHandle::new("run-2"));
    let error = bench.drive(engine.run(&playbook, &plan, &approval, &second)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().contains("run run-1 holds it"), "{}", error.chain());
    for unnamed in [RunHandle::new("run-1"), RunHandle::new("run-1").by("  ")] {
        let error = bench.drive(engine.resume(&playbook, &unnamed)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        let error = bench.drive(engine.abandon(&unnamed, "why not")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    }
    let error = bench.drive(engine.abandon(&by_ana(), " ")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");

    bench.drive(engine.abandon(&by_ana(), "gone with its host")).await.unwrap();
    assert_eq!(condition().await, RunCondition::Ended(Status::Abandoned));
    let plan = bench.plan(&playbook).await.unwrap();
    let (approval, third) = (Approval::of(&plan, "bo"), RunHandle::new("run-3"));
    let report = bench.drive(engine.run(&playbook, &plan, &approval, &third)).await.unwrap();
    assert_eq!(report.status, Status::Succeeded);
}

/// The former owner comes back after another process took the run over: it writes nothing and does nothing.
#[tokio::test]
async fn a_stale_owner_does_nothing_more() {
    let bench = Bench::with_virtual_store();
    let (a, b) = (setting("a").with_lead_time(MINUTE), setting("b"));
    let playbook = playbook([node(&a, "a"), node(&b, "b")]);
    let plan = bench.plan(&playbook).await.unwrap();
    let (first, approval) = (RunHandle::new("run-1"), Approval::of(&plan, "ana"));
    let taking_over = async {
        bench.clock.sleep(SECOND * 20).await;
        other(&bench).revert(&playbook, &by_ana().by_force(), Revert::Everything).await
    };
    let stale = bench.engine.run(&playbook, &plan, &approval, &first);
    let (stale, taken) = bench.drive(async { tokio::join!(stale, taking_over) }).await;
    let (stale, taken) = (stale.unwrap(), taken.unwrap());
    assert_eq!((stale.status, taken.status), (Status::Superseded, Status::Compensated), "{stale}\n{taken}");
    assert_eq!((a.value(), b.value(), b.effects()), (1, 1, 0));
    assert!(stale.reason.contains("somebody else drives the run"), "{}", stale.reason);
    let kept = bench.engine.report(&"run-1".into()).await.unwrap();
    assert_eq!(kept.journal, taken.journal, "the stale owner wrote");
}

/// Held, mended, and gone on with.
#[tokio::test]
async fn a_held_run_goes_on_where_it_failed() {
    let bench = Bench::new();
    let (a, b) = (setting("a"), setting("b"));
    let playbook = playbook([node(&a, "a"), node(&b, "b")]);
    b.fail_next(denied());
    assert_eq!(bench.run(&playbook).await.status, Status::Held);
    let report = bench.drive(bench.engine.resume(&playbook, &by_ana())).await.unwrap();
    assert_eq!((report.status, a.effects(), b.value()), (Status::Succeeded, 1, 2), "{report}");
    let error = bench.drive(bench.engine.resume(&playbook, &by_ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().contains("at its end (SUCCEEDED)"), "{}", error.chain());
}

#[tokio::test]
async fn a_playbook_that_changed_blocks_the_run_visibly() {
    let bench = Bench::new();
    let (a, b) = (setting("a").with_lead_time(MINUTE), setting("b"));
    let planned = playbook([node(&a, "a"), node(&b, "b")]);
    run_and_crash(&bench, &planned, SECOND * 20).await;
    let changed = [
        (playbook([node(&a, "a")]), "it lacks step b"),
        (playbook([node(&a, "a"), node(&b, "c")]), "it lacks step b"),
        (playbook([node(&b, "b"), node(&a, "a")]), "its order"),
    ];
    for (changed, words) in changed {
        let error = bench.drive(other(&bench).resume(&changed, &by_ana().by_force())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.chain().contains(words), "{}", error.chain());
        let summary = bench.engine.summary(&"run-1".into()).await.unwrap();
        let RunCondition::Blocked(why) = &summary.condition else { panic!("{:?}", summary.condition) };
        assert!(why.contains(words), "{why}");
        assert_eq!(b.effects(), 0);
    }
    let report = resume(&bench, &planned).await;
    assert_eq!((report.status, b.value()), (Status::Succeeded, 2), "{report}");
}

#[tokio::test]
async fn a_plan_that_was_not_begun_in_time_is_not_begun_later() {
    let (bench, a) = (Bench::new(), setting("a"));
    let playbook = playbook([node(&a, "a")]);
    let plan = bench.plan(&playbook).await.unwrap();
    let run = RunHandle::new("run-1");
    let waiting = bench.engine.run_when_approved(&playbook, &plan, &run);
    bench
        .drive(async {
            tokio::select! {
                biased;
                () = bench.clock.sleep(MINUTE) => {}
                report = waiting => panic!("{report:?}"),
            }
        })
        .await;
    bench.clock.advance(MINUTE * 20);
    let error = bench.drive(other(&bench).resume(&playbook, &by_ana().by_force())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().contains("was not begun while its plan was valid"), "{}", error.chain());
    assert_eq!(a.effects(), 0);
}

/// What was being taken back is taken back to its end, and never done again.
#[tokio::test]
async fn taking_back_is_gone_on_with() {
    let bench = Bench::new();
    let (a, b) = (setting("a"), setting("b"));
    let faults = Faults::new().on("undo", 1, Fault::HangAfterEffect);
    let playbook = playbook([node(&a, "a"), step(FaultyStep::new(b.step("b"), &faults))]);
    bench.run(&playbook).await;
    let run = RunHandle::new("run-1");
    let revert = bench.engine.revert(&playbook, &run, Revert::Everything);
    bench
        .drive(async {
            tokio::select! {
                biased;
                () = bench.clock.sleep(SECOND * 10) => {}
                report = revert => panic!("{report:?}"),
            }
        })
        .await;
    assert_eq!((a.value(), b.value()), (2, 1));
    let report = resume(&bench, &playbook).await;
    assert_eq!((report.status, a.value(), b.value()), (Status::Compensated, 1, 1), "{report}");
    assert_eq!(report.residuals, []);
}

fn soaked(a: &FakeSetting<u32>, metrics: &FakeMetrics) -> Playbook {
    let guard = guard::metric(Arc::new(metrics.clone()), "error_rate").below(0.01);
    let soak = Soak::new("soak", MINUTE * 10).with_guard(guard);
    Playbook::builder("test").then(node(a, "a")).then(soak).build().unwrap()
}

/// After a short absence a soak goes on from what was covered.
#[tokio::test]
async fn a_soak_goes_on_from_what_was_covered() {
    let (bench, a) = (Bench::new(), setting("a"));
    let metrics = FakeMetrics::new().with("error_rate", Answer::Value(0.001));
    let playbook = soaked(&a, &metrics);
    run_and_crash(&bench, &playbook, MINUTE * 6 + SECOND).await;
    let report = resume(&bench, &playbook).await;
    assert_eq!((report.status, bench.elapsed()), (Status::Succeeded, MINUTE * 10 + SECOND), "{report}");
}

/// A stopped process gives nothing back by itself, and a store tells what it kept.
#[tokio::test]
async fn leases_of_the_same_run_never_overlap() {
    let store = Arc::new(MemoryStore::new());
    let (bench, a) = (Bench::new(), setting("a"));
    let engine = bench.engine.clone().with_store(store.clone());
    let playbook = playbook([node(&a, "a")]);
    let plan = bench.drive(engine.plan(&playbook)).await.unwrap();
    let (approval, run) = (Approval::of(&plan, "ana"), RunHandle::new("run-1"));
    bench.drive(engine.run(&playbook, &plan, &approval, &run)).await.unwrap();
    let head = store.load(&"run-1".into()).await.unwrap().head;
    assert!(head.closed && head.resources.is_empty(), "{head:?}");
    let terms = wakala_core::store::LeaseTerms { owner: "x".to_owned(), ttl: MINUTE };
    let lease = store.acquire(&"run-1".into(), &[], &terms, Takeover::Lapsed).await.unwrap();
    assert_eq!(lease.epoch, 2);
    assert!(store.release(&"run-1".into(), 1, Release::Closed).await.is_err());
    let report = bench.drive(engine.revert(&playbook, &by_ana(), Revert::Everything)).await;
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Conflict, "the other one holds the lease");
}

/// After an absence in which nobody watched, a soak is filled in from a history, and begins anew without one.
#[tokio::test]
async fn time_that_nobody_watched_is_not_covered() {
    for (script, took) in [
        // Well all the time, as the source remembers.
        (vec![(0, Answer::Value(0.001))], MINUTE * 10),
        // Broken for a while in between: anew from then on. Twenty samples fail in a row, so it ends at once instead.
        (
            vec![(0, Answer::Value(0.001)), (420, Answer::Value(0.2)), (440, Answer::Value(0.001))],
            SECOND * 435 + MINUTE * 10,
        ),
    ] {
        let (bench, a) = (Bench::new(), setting("a"));
        let metrics = FakeMetrics::new();
        metrics.script(
            "error_rate",
            script.iter().map(|(at, answer)| (Duration::from_secs(*at), answer.clone())),
        );
        let playbook = soaked(&a, &metrics);
        run_and_crash(&bench, &playbook, MINUTE * 6 + SECOND).await;
        bench.clock.advance(MINUTE * 3);
        let report = resume(&bench, &playbook).await;
        assert_eq!(report.status, Status::Succeeded, "{report}");
        let late = bench.elapsed().saturating_sub(took);
        assert!(late <= SECOND * 31, "it took {:?} instead of {took:?}", bench.elapsed());
    }

    let (bench, a) = (Bench::new(), setting("a"));
    let ready = wakala_core::ReadyGuard::new("ready", Arc::new(FakeTarget::new("api", 10)), 10);
    let soak = Soak::new("soak", MINUTE * 10).with_guard(ready);
    let playbook = Playbook::builder("test").then(node(&a, "a")).then(soak).build().unwrap();
    run_and_crash(&bench, &playbook, MINUTE * 6 + SECOND).await;
    bench.clock.advance(MINUTE * 3);
    let report = resume(&bench, &playbook).await;
    assert_eq!((report.status, bench.elapsed()), (Status::Succeeded, MINUTE * 19 + SECOND), "{report}");
}

/// Its last word was written, and then the process was gone: the next one gives back what it held.
#[tokio::test]
async fn an_end_without_giving_back_is_made_up_for() {
    let (mut bench, a) = (Bench::with_virtual_store(), setting("a"));
    let faults = Faults::new().on("release", 1, Fault::Hang);
    let playbook = playbook([node(&a, "a")]);
    let plain = bench.engine.clone();
    bench.engine =
        plain.clone().with_store(Arc::new(FaultyStore::shared(Arc::clone(plain.store()), &faults)));
    run_and_crash(&bench, &playbook, SECOND).await;
    assert!(faults.reached());
    bench.clock.advance(MINUTE * 2);
    assert!(!plain.store().list().await.unwrap()[0].resources.is_empty());
    let report = bench.drive(plain.resume(&playbook, &by_ana())).await.unwrap();
    assert_eq!((report.status, a.effects()), (Status::Succeeded, 1), "{report}");
    let head = &plain.store().list().await.unwrap()[0];
    assert!(head.closed && head.resources.is_empty(), "{head:?}");
    let error = bench.drive(plain.resume(&playbook, &by_ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}
