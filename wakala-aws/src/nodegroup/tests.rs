//! Answers that no server gives on demand, mocked within the SDK.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_eks::Client;
use aws_sdk_eks::error::ErrorMetadata;
use aws_sdk_eks::operation::describe_nodegroup::{DescribeNodegroupError, DescribeNodegroupOutput};
use aws_sdk_eks::operation::describe_update::{DescribeUpdateError, DescribeUpdateOutput};
use aws_sdk_eks::operation::list_updates::ListUpdatesOutput;
use aws_sdk_eks::operation::update_nodegroup_config::{
    UpdateNodegroupConfigError, UpdateNodegroupConfigOutput,
};
use aws_sdk_eks::types::error::{
    InvalidParameterException, ResourceInUseException, ResourceNotFoundException, ServerException,
};
use aws_sdk_eks::types::{
    ErrorCode, ErrorDetail, Nodegroup, NodegroupScalingConfig, Update, UpdateParam, UpdateParamType,
    UpdateStatus, UpdateType,
};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use wakala_core::{
    Clock, ManualClock, Observed, Phase, PlaybookStep, RunContext, ScalableTarget, ScalableTargetExt,
    ScaleOptions, StepPlan,
};

use super::*;

fn group(rules: &[&Rule]) -> NodeGroup {
    let client = mock_client!(aws_sdk_eks, RuleMode::MatchAny, rules);
    NodeGroup::of_client(client, "eu-west-1".into(), "prod".into(), "api".into())
}

fn sizes(min: i32, desired: i32, max: i32) -> NodegroupScalingConfig {
    NodegroupScalingConfig::builder().min_size(min).desired_size(desired).max_size(max).build()
}

fn described(status: NodegroupStatus, sizes: NodegroupScalingConfig) -> DescribeNodegroupOutput {
    let group = Nodegroup::builder()
        .nodegroup_arn("arn:aws:eks:eu-west-1:123456789012:nodegroup/prod/api/6ab1")
        .status(status)
        .scaling_config(sizes)
        .build();
    DescribeNodegroupOutput::builder().nodegroup(group).build()
}

fn update(id: &str, status: UpdateStatus) -> Update {
    let param = |sort, value: &str| UpdateParam::builder().r#type(sort).value(value).build();
    Update::builder()
        .id(id)
        .r#type(UpdateType::ConfigUpdate)
        .status(status)
        .params(param(UpdateParamType::MinSize, "30"))
        .params(param(UpdateParamType::DesiredSize, "30"))
        .build()
}

fn shown(id: &str, status: UpdateStatus) -> DescribeUpdateOutput {
    DescribeUpdateOutput::builder().update(update(id, status)).build()
}

/// Answers one after the other; the last one for ever.
fn in_turn<T: Clone + Send + 'static, const N: usize>(answers: [T; N]) -> impl Fn() -> T + Send + Sync {
    let answers = Mutex::new(VecDeque::from(answers));
    move || {
        let mut answers = answers.lock().unwrap();
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
    }
}

fn describes<const N: usize>(answers: [DescribeNodegroupOutput; N]) -> Rule {
    mock!(Client::describe_nodegroup).then_output(in_turn(answers))
}

fn context() -> (ManualClock, RunContext) {
    let clock = ManualClock::default();
    let cx = RunContext::new("run-1".into(), Arc::new(clock.clone()));
    (clock, cx.for_step(&"nodes".into(), Phase::Apply, 1))
}

fn plan() -> StepPlan {
    let value = |min: u32, desired: u32| serde_json::json!({"min": min, "desired": desired, "max": 50});
    StepPlan::new("nodes".into(), "scale", value(2, 10), value(30, 30))
}

fn step_of(group: NodeGroup) -> NodeGroupStep {
    NodeGroupSize::at_least(group, 30).step("nodes")
}

#[tokio::test]
async fn update_is_polled_every_fifteen_seconds_until_it_is_successful() {
    use UpdateStatus::{InProgress, Successful};
    let polled = mock!(Client::describe_update)
        .match_requests(|request| {
            request.update_id() == Some("u-1") && request.nodegroup_name() == Some("api")
        })
        .then_output(in_turn(
            [InProgress, InProgress, InProgress, Successful].map(|status| shown("u-1", status)),
        ));
    let old = described(NodegroupStatus::Updating, sizes(2, 10, 50));
    let new = described(NodegroupStatus::Active, sizes(30, 30, 50));
    let described = describes([old.clone(), old.clone(), old, new]);
    let (clock, cx) = context();
    let cx = cx.with_handle(Some("u-1".into()));
    let step = step_of(group(&[&polled, &described]));
    assert_eq!(clock.run(step.settle(&cx, &plan())).await.unwrap(), Observed::AtTarget);
    assert_eq!((polled.num_calls(), described.num_calls()), (4, 4));
    assert_eq!(clock.monotonic(), Duration::from_secs(45));
}

#[tokio::test]
async fn a_group_that_still_shows_its_old_sizes_after_the_update_is_looked_at_again() {
    let polled = mock!(Client::describe_update).then_output(|| shown("u-1", UpdateStatus::Successful));
    let listed =
        mock!(Client::list_updates).then_output(|| ListUpdatesOutput::builder().update_ids("u-1").build());
    let old = described(NodegroupStatus::Updating, sizes(2, 10, 50));
    let new = described(NodegroupStatus::Active, sizes(30, 30, 50));
    let described = describes([old.clone(), old, new]);
    let cx = context().1.with_handle(Some("u-1".into()));
    let step = step_of(group(&[&polled, &described, &listed]));
    assert_eq!(step.observe(&cx, &plan()).await.unwrap(), Observed::AtTarget);
}

#[tokio::test]
async fn a_group_that_is_updating_without_update_is_no_answer() {
    let described = describes([described(NodegroupStatus::Updating, sizes(2, 10, 50))]);
    let listed = mock!(Client::list_updates).then_output(|| ListUpdatesOutput::builder().build());
    let error = group(&[&described, &listed]).observe(&context().1).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
    assert_eq!(described.num_calls(), 3);
}

#[tokio::test]
async fn finds_the_update_in_progress_at_whichever_end_and_on_every_page() {
    for newest_first in [true, false] {
        let described = describes([described(NodegroupStatus::Updating, sizes(2, 10, 50))]);
        let page = |ids: [&str; 2], next: Option<&str>| {
            let page = ListUpdatesOutput::builder().update_ids(ids[0]).update_ids(ids[1]);
            page.set_next_token(next.map(Into::into)).build()
        };
        let ids = if newest_first { ["now", "3", "2", "1"] } else { ["1", "2", "3", "now"] };
        let first = mock!(Client::list_updates)
            .match_requests(|request| request.next_token().is_none())
            .then_output(move || page([ids[0], ids[1]], Some("2")));
        let second = mock!(Client::list_updates)
            .match_requests(|request| request.next_token() == Some("2"))
            .then_output(move || page([ids[2], ids[3]], None));
        let now = mock!(Client::describe_update)
            .match_requests(|request| request.update_id() == Some("now"))
            .then_output(|| shown("now", UpdateStatus::InProgress));
        let old = mock!(Client::describe_update)
            .match_requests(|request| request.update_id() != Some("now"))
            .then_output(|| shown("old", UpdateStatus::Successful));
        let rules = [&described, &first, &second, &now, &old];
        let seen = group(&rules).observe(&context().1).await.unwrap();
        assert_eq!((seen.desired, seen.settled), (Units(30), false));
        assert_eq!((now.num_calls(), old.num_calls()), (1, usize::from(!newest_first)));
    }
}

#[tokio::test]
async fn typed_errors_of_a_write_become_kinds() {
    use UpdateNodegroupConfigError::{
        InvalidParameterException as Invalid, ResourceInUseException as InUse,
        ResourceNotFoundException as NotFound, ServerException as Server,
    };
    type Make = fn() -> UpdateNodegroupConfigError;
    let cases: [(Make, ErrorKind, Retry); 5] = [
        (
            || {
                InUse(
                    ResourceInUseException::builder()
                        .message("not Active")
                        .meta(code("ResourceInUseException"))
                        .build(),
                )
            },
            ErrorKind::Conflict,
            Retry::Safe { after: Some(POLL) },
        ),
        (
            || Invalid(InvalidParameterException::builder().meta(code("InvalidParameterException")).build()),
            ErrorKind::InvalidConfig,
            Retry::Never,
        ),
        (
            || NotFound(ResourceNotFoundException::builder().meta(code("ResourceNotFoundException")).build()),
            ErrorKind::NotFound,
            Retry::Never,
        ),
        (
            || Server(ServerException::builder().meta(code("ServerException")).build()),
            ErrorKind::Unavailable,
            Retry::ObserveFirst,
        ),
        (
            || UpdateNodegroupConfigError::generic(code("ResourceLimitExceededException")),
            ErrorKind::InsufficientCapacity,
            Retry::Never,
        ),
    ];
    for (make, kind, retry) in cases {
        let described = describes([described(NodegroupStatus::Active, sizes(2, 10, 50))]);
        let refused = mock!(Client::update_nodegroup_config).then_error(make);
        let error = step_of(group(&[&described, &refused])).apply(&context().1, &plan()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{error:?}");
        assert_eq!(refused.num_calls(), 1, "nobody below the engine repeats: {error:?}");
    }
}

fn code(code: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).build()
}

#[tokio::test]
async fn a_write_without_an_update_in_its_answer_may_have_taken_effect() {
    let described = describes([described(NodegroupStatus::Active, sizes(2, 10, 50))]);
    let empty =
        mock!(Client::update_nodegroup_config).then_output(|| UpdateNodegroupConfigOutput::builder().build());
    let error = step_of(group(&[&described, &empty])).apply(&context().1, &plan()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::ObserveFirst));
}

#[tokio::test]
async fn the_token_is_of_the_run_and_the_request() {
    let (clock, _) = context();
    let key = |run: &str, attempt| {
        let cx = RunContext::new(run.into(), Arc::new(clock.clone()));
        let cx = cx.for_step(&"nodes".into(), Phase::Apply, attempt);
        async move {
            let tokens = Arc::new(Mutex::new(Vec::new()));
            let sent = Arc::clone(&tokens);
            let described = describes([described(NodegroupStatus::Active, sizes(2, 10, 50))]);
            let written = mock!(Client::update_nodegroup_config)
                .match_requests(move |request| {
                    sent.lock().unwrap().extend(request.client_request_token().map(str::to_owned));
                    true
                })
                .then_output(|| {
                    let update = update("u-1", UpdateStatus::InProgress);
                    UpdateNodegroupConfigOutput::builder().update(update).build()
                });
            step_of(group(&[&described, &written])).apply(&cx, &plan()).await.unwrap();
            tokens.lock().unwrap().pop().expect("a token is sent")
        }
    };
    let first = key("run-1", 1).await;
    assert_eq!(first, key("run-1", 2).await);
    assert_ne!(first, key("run-2", 1).await);
}

#[tokio::test]
async fn failures_of_updates_become_kinds() {
    let cases = [
        (ErrorCode::IpNotAvailable, "", ErrorKind::InsufficientCapacity),
        (
            ErrorCode::from("Unknown"),
            "InsufficientInstanceCapacity - sold out",
            ErrorKind::InsufficientCapacity,
        ),
        (ErrorCode::AccessDenied, "", ErrorKind::Denied),
        (ErrorCode::SubnetNotFound, "", ErrorKind::InvalidConfig),
        (ErrorCode::NodeCreationFailure, "did not join", ErrorKind::Unexpected),
    ];
    for (code, text, kind) in cases {
        let detail = ErrorDetail::builder().error_code(code.clone()).error_message(text).build();
        let mut failed = update("u-1", UpdateStatus::Failed);
        failed.errors = Some(vec![detail]);
        let polled = mock!(Client::describe_update)
            .then_output(move || DescribeUpdateOutput::builder().update(failed.clone()).build());
        let described = describes([described(NodegroupStatus::Active, sizes(2, 10, 50))]);
        let cx = context().1.with_handle(Some("u-1".into()));
        let step = step_of(group(&[&polled, &described]));
        // Where the world stands is one thing, why the wait is over is another.
        assert_eq!(step.observe(&cx, &plan()).await.unwrap(), Observed::AtPrior);
        let error = step.settle(&cx, &plan()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Never));
        assert!(error.chain().contains(code.as_str()) && error.chain().contains(text), "{}", error.chain());
    }
}

#[tokio::test]
async fn a_cancelled_update_ends_the_wait_too() {
    let polled = mock!(Client::describe_update).then_output(|| shown("u-1", UpdateStatus::Cancelled));
    let described = describes([described(NodegroupStatus::Active, sizes(2, 10, 50))]);
    let cx = context().1.with_handle(Some("u-1".into()));
    let error = step_of(group(&[&polled, &described])).settle(&cx, &plan()).await.unwrap_err();
    assert!(error.chain().contains("ConfigUpdate u-1 was cancelled"), "{}", error.chain());
}

#[tokio::test]
async fn reads_that_fail_are_safe_to_repeat() {
    let read = mock!(Client::describe_nodegroup).then_error(|| {
        DescribeNodegroupError::ServerException(
            ServerException::builder().meta(code("ServerException")).build(),
        )
    });
    let error = group(&[&read]).observe(&context().1).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
}

#[tokio::test]
async fn an_update_that_is_not_known_yet_is_asked_for_again_while_its_group_is_there() {
    let unknown = || {
        mock!(Client::describe_update).then_error(|| {
            let meta =
                ErrorMetadata::builder().code("ResourceNotFoundException").message("No update found").build();
            DescribeUpdateError::ResourceNotFoundException(
                ResourceNotFoundException::builder().meta(meta).build(),
            )
        })
    };
    let cx = context().1.with_handle(Some("u-1".into()));
    let there = describes([described(NodegroupStatus::Active, sizes(2, 10, 50))]);
    let error = step_of(group(&[&unknown(), &there])).observe(&cx, &plan()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Safe { after: None }));
    assert!(error.chain().contains("No update found"), "{}", error.chain());

    let gone = mock!(Client::describe_nodegroup).then_error(|| {
        let meta =
            ErrorMetadata::builder().code("ResourceNotFoundException").message("No node group").build();
        DescribeNodegroupError::ResourceNotFoundException(
            ResourceNotFoundException::builder().meta(meta).build(),
        )
    });
    let error = step_of(group(&[&unknown(), &gone])).observe(&cx, &plan()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never));
    assert!(error.chain().contains("No node group"), "{}", error.chain());
}

#[tokio::test]
async fn a_group_without_sizes_is_said_to_be_one() {
    let answer = DescribeNodegroupOutput::builder().nodegroup(Nodegroup::builder().build()).build();
    let error = group(&[&describes([answer])]).observe(&context().1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert!(error.chain().contains("does not hold all three sizes"), "{}", error.chain());
}

#[tokio::test]
async fn waiting_for_a_target_uses_the_clock_of_the_run() {
    let old = described(NodegroupStatus::Creating, sizes(2, 30, 50));
    let new = described(NodegroupStatus::Active, sizes(2, 30, 50));
    let described = describes([old.clone(), old.clone(), old, new]);
    let (clock, cx) = context();
    let group = group(&[&described]);
    let limit = Duration::from_secs(600);
    let seen = clock.run(group.wait_ready(&cx, Units(30), limit)).await.unwrap();
    assert!(seen.is_ready(Units(30)));
    assert!(clock.monotonic() >= POLL && clock.monotonic() <= 3 * POLL);
    let same = group.set_desired(&cx, Units(30), ScaleOptions::default()).await.unwrap();
    assert_eq!(same, seen);
}

#[test]
fn permissions_are_of_the_partition_and_of_the_one_group_where_it_is_known() {
    for (region, partition) in
        [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
    {
        let client = mock_client!(aws_sdk_eks, []);
        let group = NodeGroup::of_client(client, region.into(), "prod".into(), "api".into());
        let resources = |arn| {
            let mut all: Vec<_> =
                group.needed_permissions(arn).into_iter().map(|permission| permission.resource).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let prefix = format!("arn:{partition}:eks:{region}:*");
        assert_eq!(
            resources(None),
            [format!("{prefix}:cluster/prod"), format!("{prefix}:nodegroup/prod/api/*")]
        );
        let prefix = format!("arn:{partition}:eks:{region}:123456789012");
        let arn = format!("{prefix}:nodegroup/prod/api/6ab1");
        assert_eq!(resources(Some(&arn)), [format!("{prefix}:cluster/prod"), arn.clone()]);
    }
}

#[test]
fn who_only_reads_needs_all_but_the_write() {
    let client = mock_client!(aws_sdk_eks, []);
    let group = NodeGroup::of_client(client, "eu-west-1".into(), "prod".into(), "api".into());
    let (mut all, reading) = (group.permissions(), group.read_permissions());
    let write = all.iter().position(|permission| permission.action == "eks:UpdateNodegroupConfig").unwrap();
    all.remove(write);
    assert_eq!(reading, all);
}
