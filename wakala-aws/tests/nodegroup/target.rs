//! The node group as a target that anything can scale.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::{
    Bounds, ErrorKind, RunContext, ScalableTarget as _, ScalableTargetExt as _, ScaleOptions, ScaleUp,
    Status, Units, Version, step,
};
use wakala_testbed::aws::HealthIssue;

use crate::rig::Rig;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn scales_and_waits_for_the_nodes_within_bounds() {
    let rig = Rig::start().await;
    let (group, cx) = (rig.group(), RunContext::detached());
    let seen = group.observe(&cx).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled), (Units(10), Units(10), true));
    assert_eq!(seen.bounds, Some(Bounds::new(2, 50).unwrap()));

    let seen = group.scale_to(&cx, Units(30), LIMIT).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled), (Units(30), Units(30), true));
    assert_eq!(rig.sizes().await, (2, 30, 50));
    group.scale_to(&cx, Units(30), LIMIT).await.unwrap();
    assert_eq!(rig.updates().len(), 1, "what is so already is not written");
    // Down and up again within one run: a token that repeats would make the last one a repetition of the first.
    group.scale_to(&cx, Units(10), LIMIT).await.unwrap();
    group.scale_to(&cx, Units(30), LIMIT).await.unwrap();
    assert_eq!(rig.sizes().await, (2, 30, 50));
}

#[tokio::test]
async fn an_update_in_progress_is_asked_for_and_not_settled() {
    let rig = Rig::start().await;
    rig.endpoint.set_update_duration(Duration::from_secs(600));
    let (group, cx) = (rig.group(), RunContext::detached());
    let accepted = group.set_desired(&cx, Units(30), ScaleOptions::default()).await.unwrap();
    assert_eq!((accepted.desired, accepted.ready, accepted.settled), (Units(30), Units(10), false));
    assert_eq!(rig.sizes().await, (2, 10, 50), "EKS still shows the sizes from before");
    let seen = group.observe(&cx).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled), (Units(30), Units(10), false));
    group.set_desired(&cx, Units(30), ScaleOptions::default()).await.unwrap();
    assert_eq!(rig.updates().len(), 1);

    let error = group.set_desired(&cx, Units(31), ScaleOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().contains("ResourceInUseException"), "{}", error.chain());
}

#[tokio::test]
async fn refuses_what_the_group_cannot_have() {
    let rig = Rig::start().await;
    let (group, cx) = (rig.group(), RunContext::detached());
    let cases = [
        (51, "size 51 is above its maximum of 50; raise the maximum or choose less"),
        (1, "size 1 is below its minimum of 2; lower the minimum or choose more"),
    ];
    for (size, words) in cases {
        let error = group.set_desired(&cx, Units(size), ScaleOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.chain().contains(words), "{}", error.chain());
    }
    for options in [ScaleOptions::dry_run(), ScaleOptions::if_version(Some(Version::from("1")))] {
        let error = group.set_desired(&cx, Units(30), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    assert!(rig.updates().is_empty());
}

#[tokio::test]
async fn raises_its_minimum_where_asked() {
    let rig = Rig::start().await;
    let (group, cx) = (rig.group().raising_min(), RunContext::detached());
    group.scale_to(&cx, Units(30), LIMIT).await.unwrap();
    assert_eq!(rig.sizes().await, (30, 30, 50));
}

#[tokio::test]
async fn health_issues_are_its_problem() {
    let rig = Rig::start().await;
    let issue = HealthIssue::new("NodeCreationFailure", "Instances failed to join the cluster.");
    rig.endpoint.set_nodegroup_health("prod", "api", vec![issue]).await.unwrap();
    let cx = RunContext::detached();
    let seen = rig.group().observe(&cx).await.unwrap();
    assert_eq!(seen.problem.as_deref(), Some("NodeCreationFailure: Instances failed to join the cluster"));
    assert!(seen.settled, "counted nodes speak for themselves");
    let seen = rig.uncounted().observe(&cx).await.unwrap();
    assert_eq!((seen.ready, seen.settled), (Units(0), false));
}

#[tokio::test]
async fn serves_the_general_step_too() {
    let rig = Rig::start().await;
    rig.endpoint.set_update_duration(Duration::from_secs(1));
    let scale = ScaleUp::to(Arc::new(rig.group().raising_min()), 30).step("nodes");
    let run = rig.run_node(step(scale)).await;
    assert_eq!(run.report.status, Status::Succeeded, "{}", run.report);
    assert_eq!(rig.sizes().await, (30, 30, 50));
    assert_eq!(rig.updates().len(), 1);
}
