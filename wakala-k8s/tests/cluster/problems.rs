use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::json;
use wakala_core::{ErrorKind, ScalableTarget, ScalableTargetExt, Units};
use wakala_k8s::Workload;
use wakala_testbed::{self as bed, wait_until};

use crate::support::{MINUTE, cluster, cx, wait_ready};

/// Waits until the workload names a problem with that word.
async fn problem(workload: &Workload, word: &str) -> String {
    wait_until(&format!("{word} as a problem of {workload}"), MINUTE, || async {
        let seen = workload.observe(&cx()).await?;
        match &seen.problem {
            Some(problem) if problem.contains(word) => Ok(problem.clone()),
            _ => Err(format!("{seen:?}").into()),
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn images_that_never_come_and_crashes_are_named() {
    let (cluster, namespace) = cluster("images").await;
    for (name, image, word) in [
        ("late", "never/api:2", "3 pods ImagePullBackOff"),
        ("frail", "crash/api:2", "3 pods CrashLoopBackOff"),
    ] {
        namespace.create(&bed::Workload::new(name, 3).with_image(image).deployment()).await.unwrap();
        let workload = Workload::deployment(&cluster, namespace.name(), name);
        problem(&workload, word).await;
        let error = workload.wait_ready(&cx(), Units(3), Duration::from_secs(3)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.to_string().contains(word), "{error}");
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_stuck_wait_learns_the_problem_without_a_change() {
    let (cluster, namespace) = cluster("stuck").await;
    namespace.create(&bed::Workload::new("late", 1).with_image("never/api:2").deployment()).await.unwrap();
    let workload = Workload::deployment(&cluster, namespace.name(), "late");
    problem(&workload, "ImagePullBackOff").await;
    for attempt in 1.. {
        // As somebody sees it who looked before there was anything to see.
        let quiet = workload.observe(&cx()).await.unwrap();
        let innocent = quiet.clone().with_problem(None);
        let seen = workload.changed(&cx(), &innocent).await.unwrap();
        // Its controller may still write the status: that is a change, and ends the wait as one.
        if seen.version == quiet.version {
            assert_eq!(seen.problem, quiet.problem);
            break;
        }
        assert!(attempt < 20, "its status never rests: {seen:?}");
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn pods_without_a_node_are_named() {
    let (cluster, namespace) = cluster("nodes").await;
    let object = bed::Workload::new("huge", 2).with_cpu_request("5000");
    namespace.create(&object.deployment()).await.unwrap();
    let workload = Workload::deployment(&cluster, namespace.name(), "huge");
    let text = problem(&workload, "2 pods unschedulable").await;
    assert!(text.contains("Insufficient cpu"), "{text}");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_quota_in_the_way_is_named() {
    let (cluster, namespace) = cluster("quota").await;
    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}}))
            .unwrap();
    namespace.create(&quota).await.unwrap();
    wait_until("the quota in force", MINUTE, || async {
        let quota = namespace.api::<ResourceQuota>().get("small").await?;
        quota.status.and_then(|status| status.used).map(drop).ok_or_else(|| "no usage yet".into())
    })
    .await
    .unwrap();
    namespace.create(&bed::Workload::new("api", 2).deployment()).await.unwrap();
    wait_ready(&namespace, "api", 2).await;
    namespace.create(&bed::Workload::new("redis", 1).stateful_set()).await.unwrap();

    let api = Workload::deployment(&cluster, namespace.name(), "api");
    api.set_desired(&cx(), Units(5), Default::default()).await.unwrap();
    problem(&api, "exceeded quota: small").await;
    let redis = Workload::stateful_set(&cluster, namespace.name(), "redis");
    problem(&redis, "exceeded quota: small").await;
    namespace.delete().await.unwrap();
}
