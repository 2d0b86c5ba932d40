//! Taking it back, as far as that does no harm.

use std::time::Duration;

use wakala_aws::NodeGroupSize;
use wakala_core::{ErrorKind, RunHandle, RunReport, Status, StepOutcome, Stop};
use wakala_testbed::aws::{Fault, Operation, UpdateOutcome};

use crate::rig::{Rig, outcome, until};

#[tokio::test]
async fn min_goes_back_and_desired_is_left_to_whoever_drains() {
    let rig = Rig::start().await;
    let run = rig.run_to_30().await;
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert!(
        matches!(outcome(&report), StepOutcome::Deferred(left) if left.starts_with("desired stays 30 (was 10)")),
        "{report}"
    );
    assert_eq!(rig.sizes().await, (2, 30, 50));
    assert_eq!(rig.asked()[1..], [(Some(2), None, None)]);

    // Again, nothing is written, and the answer is the same until somebody has lowered it.
    let report = rig.revert(&run).await;
    assert!(matches!(outcome(&report), StepOutcome::Deferred(_)), "{report}");
    assert_eq!(rig.updates().len(), 2);
    rig.set(None, Some(10)).await;
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
}

#[tokio::test]
async fn desired_goes_back_where_that_was_asked_for() {
    let rig = Rig::start().await;
    let run = rig.run(NodeGroupSize::at_least(rig.group(), 30).shrinking_on_undo()).await;
    assert!(run.plan.to_string().contains("whatever a PodDisruptionBudget says"), "{}", run.plan);
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(rig.sizes().await, (2, 10, 50));
    assert_eq!(rig.asked()[1..], [(Some(2), Some(10), None)]);
    let tokens = rig.tokens();
    assert_ne!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn a_raised_maximum_goes_back_once_desired_fits_below_it() {
    let rig = Rig::with_sizes(2, 10, 20).await;
    let run = rig.run(NodeGroupSize::at_least(rig.group(), 30).raising_max(true)).await;
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert!(report.to_string().contains("max stays 30 (was 20) until desired is at most 20"), "{report}");
    assert_eq!(rig.sizes().await, (2, 30, 30));
    rig.set(None, Some(20)).await;
    let report = rig.revert(&run).await;
    assert_eq!(rig.sizes().await, (2, 20, 20));
    assert!(matches!(outcome(&report), StepOutcome::NotOurs(_)), "{report}");
}

#[tokio::test]
async fn what_somebody_changed_since_is_left_alone() {
    let rig = Rig::start().await;
    let run = rig.run_to_30().await;
    rig.set(Some(12), None).await;
    rig.endpoint.clear_calls();
    let report = rig.revert(&run).await;
    assert!(
        matches!(outcome(&report), StepOutcome::NotOurs(what) if what.contains("min 12, desired 30, max 50")),
        "{report}"
    );
    assert!(rig.updates().is_empty());
}

#[tokio::test]
async fn undo_survives_lost_answers_and_a_busy_group() {
    let rig = Rig::start().await;
    let run = rig.run(NodeGroupSize::at_least(rig.group(), 30).shrinking_on_undo()).await;
    rig.label_update().await;
    let update = Operation::UpdateNodegroupConfig;
    rig.endpoint.inject(update, Fault::error(409, "ResourceInUseException", "not in Active State"));
    rig.endpoint.inject(update, Fault::dropped_connection().after_effect());
    rig.endpoint.inject(Operation::DescribeNodegroup, Fault::server_error());
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(rig.sizes().await, (2, 10, 50));
    assert_eq!(rig.endpoint.faults_left(), 0);
}

#[tokio::test]
async fn an_undo_whose_update_fails_says_so_and_can_be_repeated() {
    let rig = Rig::start().await;
    let run = rig.run(NodeGroupSize::at_least(rig.group(), 30).shrinking_on_undo()).await;
    rig.endpoint.script_update(UpdateOutcome::Failed {
        code: "AccessDenied".to_owned(),
        message: "The service-linked role was deleted.".to_owned(),
    });
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Stuck, "{report}");
    assert!(
        matches!(outcome(&report), StepOutcome::UndoFailed(failure)
            if failure.kind == ErrorKind::Denied && failure.message.contains("service-linked role")),
        "{report}"
    );
    assert_eq!(rig.sizes().await, (30, 30, 50));
    let report = rig.revert(&run).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(rig.sizes().await, (2, 10, 50));
}

/// Stops the run and has it taken back while its update is in progress.
async fn stopped_midway(rig: &Rig) -> RunReport {
    rig.endpoint.set_update_duration(Duration::from_secs(2));
    let handle = RunHandle::generate();
    let run = rig.run_as(NodeGroupSize::at_least(rig.group(), 30).shrinking_on_undo(), handle.clone());
    let stop = async {
        until("the update has begun", || async {
            !rig.endpoint.calls_of(Operation::DescribeUpdate).is_empty()
        })
        .await;
        rig.endpoint.set_update_duration(Duration::from_millis(100));
        handle.stop(Stop::TakeBack);
    };
    tokio::join!(run, stop).0.report
}

#[tokio::test]
async fn undo_waits_for_the_update_that_is_in_progress() {
    let rig = Rig::start().await;
    let report = stopped_midway(&rig).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(rig.sizes().await, (2, 10, 50));
    assert_eq!(rig.asked(), [(Some(30), Some(30), None), (Some(2), Some(10), None)]);
}

#[tokio::test]
async fn an_update_that_failed_after_all_needs_no_undo() {
    let rig = Rig::start().await;
    rig.endpoint
        .script_update(UpdateOutcome::Failed { code: "Unknown".to_owned(), message: "no".to_owned() });
    let report = stopped_midway(&rig).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(rig.sizes().await, (2, 10, 50));
    assert_eq!(rig.updates().len(), 1);
}
