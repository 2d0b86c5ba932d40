//! The journal's store fails.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::store::Journal;
use wakala_core::testing::{FakeSetting, Fault, Faults, FaultyStore};
use wakala_core::{
    Clock, Entry, MemoryStore, OnFailure, Playbook, Record, RunStore, Status, StepOutcome, sequence, step,
    together,
};

use crate::world::{STEPS, World};

/// The records of a run without trouble: the first is written by `create`, the others by `append`.
async fn records() -> u64 {
    let (world, none) = (World::new(), Faults::new());
    let playbook = world.playbook(OnFailure::KeepAndHold, "", &none);
    let report = world.run("plain", &world.engine(Arc::new(MemoryStore::new())), &playbook).await.unwrap();
    assert_eq!(report.status, Status::Succeeded);
    report.journal.len() as u64
}

async fn entries(memory: &MemoryStore) -> Vec<Entry> {
    let journal = Journal::read(&memory.load(&"run-1".into()).await.unwrap());
    assert_eq!(journal.damage, None);
    journal.entries
}

/// From the first record on that cannot be written, nothing more is done, also where the store is back at once; the
/// report says so, and the world can be brought back.
#[tokio::test]
async fn a_record_that_cannot_be_written_ends_the_run() {
    let appends = records().await - 1;
    assert!(appends > 10);
    for nth in 1..=appends {
        for fault in Fault::ALL {
            for lasting in [false, true] {
                let what = format!("append {nth} of {appends} fails as {fault:?}, lasting {lasting}");
                let (world, memory) = (World::new(), Arc::new(MemoryStore::new()));
                let before = world.snapshot();
                let faults = Faults::new();
                let faults =
                    if lasting { faults.from("append", nth, fault) } else { faults.on("append", nth, fault) };
                let store = FaultyStore::shared(Arc::clone(&memory) as _, &faults);
                let engine = world.engine(Arc::new(store));
                let playbook = world.playbook(OnFailure::TakeBack, "", &Faults::new());
                let report = world.run(&what, &engine, &playbook).await.unwrap();
                assert!(faults.reached(), "{what}");

                // Every effect has its intent in the journal, and no write came after the store had failed.
                let intents = entries(&memory).await;
                for (id, effects) in world.effects() {
                    let intended = intents.iter().any(
                        |entry| matches!(&entry.record, Record::Intent { step, .. } if step.as_str() == id),
                    );
                    assert!(effects == 0 || intended, "{what}: {id} was done without a record of its intent");
                }
                // Writing the end is tried again: nothing depends on it any more but that the run can be taken back.
                let mended = nth == appends && !lasting && fault != Fault::Rejected;
                if fault.has_effect() || mended {
                    // The record is there although its answer was not.
                    assert_eq!(report.status, Status::Succeeded, "{what}: {report}");
                } else {
                    assert_eq!(report.status, Status::Held, "{what}: {report}");
                    assert!(
                        report.reason.contains("the run's journal cannot be written"),
                        "{what}: {report}"
                    );
                    if !lasting && nth < appends {
                        assert!(
                            matches!(intents.last().unwrap().record, Record::Ended { .. }),
                            "{what}: the journal lacks its end although the store is back"
                        );
                    }
                }
                world.assert_true(&what, &report, &before);

                faults.clear();
                let reverted = world.revert(&what, &engine, &playbook).await;
                if matches!(entries(&memory).await.last().unwrap().record, Record::Ended { .. }) {
                    let report = reverted.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                    assert_eq!(
                        (report.status, world.snapshot()),
                        (Status::Compensated, before),
                        "{what}: {report}"
                    );
                }
            }
        }
    }
}

/// A step side by side must not act on because it has not noticed, also where the store is back at once.
#[tokio::test]
async fn siblings_stop_as_soon_as_the_journal_is_lost() {
    let world = World::new();
    let setting = |name| FakeSetting::new(name, 1, 2).with_lead_time(Duration::from_secs(30));
    let (slow, after, other) = (setting("slow"), setting("after"), setting("other"));
    let node = |setting: &FakeSetting<i32>, id| step(setting.step(id)).into();
    let playbook = Playbook::builder("p")
        .then(together([sequence([node(&slow, "slow"), node(&after, "after")]), node(&other, "other")]))
        .build()
        .unwrap();
    // Slow's intent, slow accepted; then the intent of the other, which is lost.
    let faults = Faults::new().on("append", 3, Fault::RequestLost);
    let store = FaultyStore::new(MemoryStore::new(), &faults);
    let report = world.run("siblings", &world.engine(Arc::new(store)), &playbook).await.unwrap();
    assert!(faults.reached());
    assert_eq!(report.status, Status::Held, "{report}");
    assert_eq!((slow.value(), after.value(), other.value()), (2, 1, 1), "{report}");
    assert_eq!(report.step("slow").unwrap().outcome, StepOutcome::Unverified);
    assert_eq!(report.step("after").unwrap().outcome, StepOutcome::NotBegun);
}

#[tokio::test]
async fn a_run_that_cannot_be_recorded_is_not_begun() {
    for fault in Fault::ALL {
        let world = World::new();
        let before = world.snapshot();
        let faults = Faults::new().on("create", 1, fault);
        let engine = world.engine(Arc::new(FaultyStore::new(MemoryStore::new(), &faults)));
        let playbook = world.playbook(OnFailure::KeepAndHold, "", &Faults::new());
        let answer = world.run(&format!("{fault:?}"), &engine, &playbook).await;
        if fault.has_effect() {
            // It is recorded, although the answer was lost.
            assert_eq!(answer.unwrap().status, Status::Succeeded, "{fault:?}");
            continue;
        }
        let error = answer.unwrap_err();
        assert!(error.chain().contains("run-1"), "{fault:?}: {}", error.chain());
        assert_eq!(world.snapshot(), before, "{fault:?}");
    }
}

#[tokio::test]
async fn a_store_that_fails_at_the_end_does_not_cost_the_report() {
    for fault in Fault::ALL {
        let world = World::new();
        let faults = Faults::new().from("release", 1, fault);
        let engine = world.engine(Arc::new(FaultyStore::new(MemoryStore::new(), &faults)));
        let playbook = world.playbook(OnFailure::KeepAndHold, "", &Faults::new());
        let report = world.run(&format!("{fault:?}"), &engine, &playbook).await.unwrap();
        assert_eq!(report.status, Status::Succeeded);
        assert!(report.reason.contains("could not be given back"), "{fault:?}: {}", report.reason);
    }
}

/// A store that hangs ends the run in minutes.
#[tokio::test]
async fn a_store_that_never_answers_does_not_hang_the_run() {
    let world = World::new();
    let faults = Faults::new().from("append", 2, Fault::Hang).from("load", 1, Fault::Hang).from(
        "release",
        1,
        Fault::Hang,
    );
    let engine = world.engine(Arc::new(FaultyStore::new(MemoryStore::new(), &faults)));
    let playbook = world.playbook(OnFailure::KeepAndHold, "", &Faults::new());
    let report = world.run("hanging store", &engine, &playbook).await.unwrap();
    assert_eq!(report.status, Status::Held);
    assert!(world.clock.monotonic() <= Duration::from_secs(400), "took {:?}", world.clock.monotonic());
}

/// The store fails while a run is taken back: what was not taken back is in the report.
#[tokio::test]
async fn a_record_that_cannot_be_written_ends_taking_back() {
    let (world, none) = (World::new(), Faults::new());
    let playbook = world.playbook(OnFailure::KeepAndHold, "", &none);
    let engine = world.engine(Arc::new(MemoryStore::new()));
    world.run("plain", &engine, &playbook).await.unwrap();
    let undone =
        world.revert("plain", &engine, &playbook).await.unwrap().journal.len() as u64 - records().await;
    assert!(undone >= 9);
    for nth in 1..=undone {
        for fault in Fault::ALL {
            let what = format!("append {nth} of {undone} while taking back fails as {fault:?}");
            let (world, faults) = (World::new(), Faults::new());
            let before = world.snapshot();
            let engine = world.engine(Arc::new(FaultyStore::new(MemoryStore::new(), &faults)));
            let playbook = world.playbook(OnFailure::KeepAndHold, "", &none);
            world.run(&what, &engine, &playbook).await.unwrap();
            let faults = faults.clone().on("append", faults.calls("append") + nth, fault);
            let report = world.revert(&what, &engine, &playbook).await.unwrap();
            assert!(faults.reached(), "{what}");
            world.assert_true(&what, &report, &before);
            let mended = nth == undone && fault != Fault::Rejected;
            let expected = if fault.has_effect() || mended { Status::Compensated } else { Status::Held };
            assert_eq!(report.status, expected, "{what}: {report}");

            if let Ok(report) = world.revert(&what, &engine, &playbook).await {
                assert_eq!(
                    (report.status, world.snapshot()),
                    (Status::Compensated, before),
                    "{what}: {report}"
                );
            } else {
                assert_eq!(
                    (nth, fault),
                    (undone, Fault::Rejected),
                    "{what}: the run cannot be taken back any more"
                );
            }
        }
    }
    assert_eq!(STEPS.len(), 4);
}
