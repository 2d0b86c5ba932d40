//! What AWS answers when it does not do what was asked.

use std::time::Duration;

use wakala_aws::{AwsConfig, NodeGroup, NodeGroupSize};
use wakala_core::{
    ErrorKind, Record, Retry, RunContext, ScalableTarget as _, ScaleOptions, SecretString, Status, Units,
    step,
};
use wakala_testbed::aws::{Fault, HealthIssue, Operation, UpdateOutcome};

use crate::rig::{POLL, Rig, Run, config};

const UPDATE: Operation = Operation::UpdateNodegroupConfig;

fn was_adopted(run: &Run) -> bool {
    run.report.journal.iter().any(|entry| matches!(entry.record, Record::Adopted { .. }))
}

/// Every update carries one token, whatever number of calls it took.
fn assert_one_token(rig: &Rig, calls: usize) {
    let mut tokens = rig.tokens();
    assert_eq!(tokens.len(), calls);
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
}

#[tokio::test]
async fn a_busy_group_is_asked_again_under_the_same_token() {
    let rig = Rig::start().await;
    let busy = Fault::error(409, "ResourceInUseException", "Nodegroup cannot be updated as it is not Active");
    rig.endpoint.inject(UPDATE, busy.times(3));
    let run = rig.run_to_30().await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_one_token(&rig, 4);
    assert_eq!(rig.sizes().await, (30, 30, 50));
}

#[tokio::test]
async fn throttling_is_safe_to_repeat_also_in_disguise() {
    let rig = Rig::start().await;
    rig.endpoint.inject(UPDATE, Fault::throttled());
    rig.endpoint.inject(UPDATE, Fault::request_limit_exceeded());
    rig.endpoint.inject(Operation::DescribeUpdate, Fault::throttled().times(2));
    let run = rig.run_to_30().await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_one_token(&rig, 3);
    assert_eq!(rig.endpoint.faults_left(), 0);
}

#[tokio::test]
async fn a_lost_answer_is_adopted_and_not_repeated() {
    for fault in [Fault::dropped_connection(), Fault::server_error(), Fault::error(504, "Timeout", "late")] {
        let rig = Rig::start().await;
        rig.endpoint.set_update_duration(Duration::from_millis(1500));
        rig.endpoint.inject(UPDATE, fault.clone().after_effect());
        let run = rig.run_to_30().await;
        assert_eq!(run.report.status, Status::Succeeded, "{fault:?}: {}", run.report);
        assert!(was_adopted(&run), "{fault:?}");
        assert_eq!(rig.updates().len(), 1, "{fault:?}");
        assert_eq!(rig.sizes().await, (30, 30, 50));
    }
}

#[tokio::test]
async fn a_call_that_hangs_ends_by_its_own_limit() {
    let mut rig = Rig::start().await;
    rig.aws = config(&rig.endpoint).with_call_timeout(Duration::from_millis(500)).load().await.unwrap();
    rig.endpoint.inject(UPDATE, Fault::hang().after_effect());
    rig.endpoint.inject(Operation::DescribeUpdate, Fault::hang());
    let run = rig.run_to_30().await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_eq!(rig.updates().len(), 1);

    rig.endpoint.inject(Operation::DescribeNodegroup, Fault::hang());
    let error = rig.group().observe(&RunContext::detached()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, Retry::Safe { after: None }));
}

#[tokio::test]
async fn a_write_that_was_lost_before_it_took_effect_is_repeated() {
    for fault in [Fault::dropped_connection(), Fault::server_error()] {
        let rig = Rig::start().await;
        rig.endpoint.inject(UPDATE, fault.clone());
        let run = rig.run_to_30().await;
        assert_eq!(run.report.status, Status::Succeeded, "{fault:?}: {}", run.report);
        assert_one_token(&rig, 2);
        assert_eq!(rig.sizes().await, (30, 30, 50));
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_and_not_tried_again() {
    let rig = Rig::start().await;
    rig.endpoint.inject(UPDATE, Fault::access_denied());
    let run = rig.run_to_30().await;
    let (kind, message) = run.failure();
    assert_eq!(kind, ErrorKind::Denied);
    for word in [
        "update_nodegroup_config on node group prod/api",
        "allow eks:UpdateNodegroupConfig on arn:aws:eks:us-east-1:*:nodegroup/prod/api/*",
        "request ",
    ] {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
    assert_eq!(rig.updates().len(), 1);
    assert_eq!(rig.sizes().await, (2, 10, 50));

    rig.endpoint.inject(Operation::DescribeNodegroup, Fault::access_denied());
    let error = rig.refused(NodeGroupSize::at_least(rig.group(), 30)).await;
    assert!(error.chain().contains("allow eks:DescribeNodegroup on "), "{}", error.chain());
}

fn no_addresses() -> UpdateOutcome {
    UpdateOutcome::Failed {
        code: "InsufficientFreeAddresses".to_owned(),
        message: "One or more subnets do not have enough free IP addresses.".to_owned(),
    }
}

fn assert_failed_for_addresses(run: &Run) {
    let (kind, message) = run.failure();
    assert_eq!(kind, ErrorKind::InsufficientCapacity, "{message}");
    let words =
        "failed, the sizes are as before: InsufficientFreeAddresses: One or more subnets do not have enough";
    assert!(message.contains(words), "{message}");
    assert!(message.contains("node group prod/api: ConfigUpdate "), "{message}");
}

#[tokio::test]
async fn a_failed_update_ends_the_step_with_its_reason() {
    let rig = Rig::start().await;
    rig.endpoint.script_update(no_addresses());
    let run = rig.run_to_30().await;
    assert_failed_for_addresses(&run);
    assert_eq!(rig.sizes().await, (2, 10, 50));
    assert_eq!(rig.updates().len(), 1);
    let reverted = rig.revert(&run).await;
    assert_eq!(reverted.status, Status::Compensated, "{reverted}");
    assert_eq!(rig.updates().len(), 1);
}

#[tokio::test]
async fn an_update_that_fails_after_its_answer_was_lost_is_found_too() {
    let rig = Rig::start().await;
    rig.endpoint.set_update_duration(Duration::from_secs(3));
    rig.endpoint.script_update(no_addresses());
    rig.endpoint.inject(UPDATE, Fault::dropped_connection().after_effect());
    let run = rig.run_to_30().await;
    assert!(was_adopted(&run));
    assert_failed_for_addresses(&run);
    assert_eq!(rig.updates().len(), 1);
}

#[tokio::test]
async fn a_degraded_group_is_waited_for_and_its_issue_is_the_reason() {
    let rig = Rig::start().await;
    for group in [rig.group(), rig.uncounted()] {
        rig.endpoint.script_update(UpdateOutcome::Degraded(vec![HealthIssue::launch_failures()]));
        let node = step(NodeGroupSize::at_least(group.with_poll(POLL), 30).step("nodes"));
        let run = rig.run_node(node.with_limit(Duration::from_secs(2))).await;
        let (kind, message) = run.failure();
        assert_eq!(kind, ErrorKind::DeadlineExceeded, "{message}");
        for word in [
            "not in force after 2s",
            "AsgInstanceLaunchFailures: Could not launch",
            "InsufficientInstanceCapacity",
        ] {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
        rig.endpoint.set_nodegroup_health("prod", "api", Vec::new()).await.unwrap();
        rig.set(Some(2), Some(10)).await;
    }
}

#[tokio::test]
async fn a_degraded_group_whose_nodes_came_after_all_is_fine() {
    let rig = Rig::start().await;
    rig.endpoint.set_nodegroup_health("prod", "api", vec![HealthIssue::launch_failures()]).await.unwrap();
    let run = rig.run_to_30().await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert!(run.plan.to_string().contains("EKS reports AsgInstanceLaunchFailures"), "{}", run.plan);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_was_certainly_not_asked() {
    // A port that was free a moment ago and that nobody is told of.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let aws = AwsConfig::new()
        .with_region("us-east-1")
        .with_endpoint_url(format!("http://127.0.0.1:{port}"))
        .with_static_credentials("testing", SecretString::from("testing"))
        .load()
        .await
        .unwrap();
    let error = NodeGroup::new(&aws, "prod", "api").observe(&RunContext::detached()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
    assert!(error.chain().contains("AWS cannot be reached"), "{}", error.chain());
    assert!(error.chain().contains("onnection refused"), "{}", error.chain());
}

#[tokio::test]
async fn nobody_below_the_engine_repeats_and_a_lost_write_may_have_happened() {
    let rig = Rig::start().await;
    let (group, cx) = (rig.group(), RunContext::detached());
    rig.endpoint.inject(Operation::DescribeNodegroup, Fault::server_error());
    let error = group.observe(&cx).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
    assert_eq!(rig.endpoint.calls_of(Operation::DescribeNodegroup).len(), 1);

    let cases = [
        (Fault::server_error(), ErrorKind::Unavailable, Retry::ObserveFirst),
        (Fault::dropped_connection(), ErrorKind::Unavailable, Retry::ObserveFirst),
        (Fault::throttled(), ErrorKind::RateLimited, Retry::Safe { after: None }),
        (Fault::access_denied(), ErrorKind::Denied, Retry::Never),
    ];
    for (calls, (fault, kind, retry)) in (1..).zip(cases) {
        rig.endpoint.inject(UPDATE, fault);
        let error = group.set_desired(&cx, Units(30), ScaleOptions::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{error:?}");
        assert_eq!(rig.updates().len(), calls, "{error:?}");
    }
}
