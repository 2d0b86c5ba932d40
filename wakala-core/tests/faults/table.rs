//! Each call of each step fails in each way.

use std::collections::BTreeSet;
use std::sync::Arc;

use wakala_core::testing::{Fault, Faults};
use wakala_core::{MemoryStore, OnFailure, Status};

use crate::world::{STEPS, World};

const POLICIES: [OnFailure; 2] = [OnFailure::KeepAndHold, OnFailure::TakeBack];

/// Runs one case to its end, and everything back; `None` where no call met the fault.
async fn case(step: &str, faults: &Faults, policy: OnFailure, what: &str) -> Option<Status> {
    let world = World::new();
    let before = world.snapshot();
    let playbook = world.playbook(policy, step, faults);
    let engine = world.engine(Arc::new(MemoryStore::new()));
    let report =
        world.run(what, &engine, &playbook).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    world.assert_true(what, &report, &before);
    if policy == OnFailure::TakeBack {
        let ends = [Status::Succeeded, Status::Compensated, Status::Stuck];
        assert!(ends.contains(&report.status), "{what}: {report}");
    }
    let status = report.status;
    let met = faults.reached();

    faults.clear();
    for pass in ["the first", "the second"] {
        let what = format!("{what}, {pass} revert");
        let report =
            world.revert(&what, &engine, &playbook).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!(report.status, Status::Compensated, "{what}: {report}");
        assert_eq!(world.snapshot(), before, "{what}: the world is not as it was");
        assert!(report.residuals.is_empty() && report.obligations.is_empty(), "{what}: {report}");
    }
    met.then_some(status)
}

#[tokio::test]
async fn every_call_of_every_step_fails_once_in_every_way() {
    let mut met = BTreeSet::new();
    let mut cases = 0;
    for step in STEPS {
        for method in ["apply", "observe", "settle"] {
            for nth in 1..=3 {
                for fault in Fault::ALL {
                    for policy in POLICIES {
                        let what = format!("call {nth} of {step}.{method} fails as {fault:?}, {policy:?}");
                        let faults = Faults::new().on(method, nth, fault);
                        if case(step, &faults, policy, &what).await.is_some() {
                            met.insert((step, method));
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(met.len(), STEPS.len() * 3, "some calls never met their fault: {met:?}");
    assert!(cases >= 4 * 3 * 6 * 2, "only {cases} cases met their fault");
}

/// Faults that last: the run must end by itself, and say so.
#[tokio::test]
async fn every_call_of_every_step_fails_for_good_in_every_way() {
    for step in STEPS {
        for method in ["apply", "observe", "settle"] {
            for fault in Fault::ALL {
                for policy in POLICIES {
                    let what = format!("every {step}.{method} fails as {fault:?}, {policy:?}");
                    let faults = Faults::new().from(method, 1, fault);
                    let status = case(step, &faults, policy, &what).await;
                    let status = status.unwrap_or_else(|| panic!("{what}: not met"));
                    // An effect whose answers are lost is found by looking. Looks and waits themselves have no effect
                    // to find, and where all of them fail nobody can tell.
                    let found = match method {
                        "apply" => fault.has_effect(),
                        "settle" => fault != Fault::Rejected,
                        _ => false,
                    };
                    assert_eq!(status == Status::Succeeded, found, "{what}: {status}");
                }
            }
        }
    }
}

/// One unknown fate and then a refusal, a second unknown fate, silence: what is known stays true.
#[tokio::test]
async fn faults_follow_each_other() {
    for step in STEPS {
        for first in Fault::ALL {
            for second in Fault::ALL {
                for blind in [None, Some(2), Some(3)] {
                    let what = format!("{step}: {first:?}, {second:?}, blind from look {blind:?} on");
                    let mut faults = Faults::new().on("apply", 1, first).on("apply", 2, second);
                    if let Some(nth) = blind {
                        faults = faults.from("observe", nth, Fault::RequestLost);
                    }
                    for policy in POLICIES {
                        case(step, &faults, policy, &what).await;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn every_undo_fails_once_in_every_way() {
    for step in STEPS {
        for fault in Fault::ALL {
            for lasting in [false, true] {
                let what = format!("{step}.undo fails as {fault:?}, lasting {lasting}");
                let (world, faults) = (World::new(), Faults::new());
                let before = world.snapshot();
                let playbook = world.playbook(OnFailure::KeepAndHold, step, &faults);
                let engine = world.engine(Arc::new(MemoryStore::new()));
                let report = world.run(&what, &engine, &playbook).await.unwrap();
                assert_eq!(report.status, Status::Succeeded, "{what}: {report}");

                let undo = if lasting {
                    faults.clone().from("undo", 1, fault)
                } else {
                    faults.clone().on("undo", 1, fault)
                };
                let report = world.revert(&what, &engine, &playbook).await.unwrap();
                assert!(undo.reached(), "{what}: not met");
                world.assert_true(&what, &report, &before);
                // The others are taken back whatever becomes of this one.
                for other in STEPS.into_iter().filter(|other| *other != step) {
                    assert_eq!(world.snapshot()[other], before[other], "{what}: {other} is not back");
                }
                let stuck = fault == Fault::Rejected || lasting;
                assert_eq!(report.status == Status::Stuck, stuck, "{what}: {report}");

                faults.clear();
                let report = world.revert(&what, &engine, &playbook).await.unwrap();
                assert_eq!(
                    (report.status, world.snapshot()),
                    (Status::Compensated, before),
                    "{what}: {report}"
                );
                assert!(report.residuals.is_empty(), "{what}: {report}");
            }
        }
    }
}

#[tokio::test]
async fn a_step_that_cannot_be_planned_keeps_everything_as_it_is() {
    for step in STEPS {
        for fault in Fault::ALL {
            let what = format!("{step}.plan fails as {fault:?}");
            let (world, faults) = (World::new(), Faults::new().from("plan", 1, fault));
            let before = world.snapshot();
            let playbook = world.playbook(OnFailure::KeepAndHold, step, &faults);
            let engine = world.engine(Arc::new(MemoryStore::new()));
            let error = world.run(&what, &engine, &playbook).await.unwrap_err();
            assert!(
                error.chain().contains(step),
                "{what}: the error does not name the step: {}",
                error.chain()
            );
            assert_eq!(world.snapshot(), before, "{what}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_busy_once_does_not_cost_the_plan() {
    for step in STEPS {
        for fault in [Fault::Retryable { after: None }, Fault::RequestLost] {
            let what = format!("{step}.plan fails once as {fault:?}");
            let (world, faults) = (World::new(), Faults::new().on("plan", 1, fault));
            let playbook = world.playbook(OnFailure::KeepAndHold, step, &faults);
            let engine = world.engine(Arc::new(MemoryStore::new()));
            let report = world.run(&what, &engine, &playbook).await.unwrap();
            assert_eq!((report.status, faults.reached()), (Status::Succeeded, true), "{what}: {report}");
        }
    }
}
