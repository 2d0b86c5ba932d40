use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use serde_json::json;
use wakala_core::{ErrorKind, Retry, ScalableTarget, ScalableTargetExt, ScaleOptions, Units};
use wakala_k8s::Workload;
use wakala_testbed as bed;

use crate::support::{
    MINUTE, cluster, cx, deployment, patch, replicas, scale_by_hand, stateful_set, wait_ready,
};

#[tokio::test]
async fn a_deployment_is_scaled_and_ready() {
    let (cluster, namespace) = cluster("scale").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    api.wait_ready(&cx(), Units(3), MINUTE).await.unwrap();

    let accepted = api.set_desired(&cx(), Units(50), ScaleOptions::default()).await.unwrap();
    assert_eq!((accepted.desired, accepted.settled, accepted.owner), (Units(50), false, None));
    let seen = api.wait_ready(&cx(), Units(50), MINUTE).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled, seen.problem), (Units(50), Units(50), true, None));
    assert_eq!(deployment(&namespace, "api").await.status.unwrap().ready_replicas, Some(50));

    let down = api.scale_to(&cx(), Units(2), MINUTE).await.unwrap();
    assert_eq!((down.desired, down.ready), (Units(2), Units(2)));
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_stateful_set_is_scaled_and_ready() {
    let (cluster, namespace) = cluster("stateful").await;
    namespace.create(&bed::Workload::new("redis-cache", 2).stateful_set()).await.unwrap();
    let redis = Workload::stateful_set(&cluster, namespace.name(), "redis-cache");
    assert_eq!(redis.id().as_str(), format!("statefulset {}/redis-cache", namespace.name()));
    let seen = redis.scale_to(&cx(), Units(5), MINUTE).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled), (Units(5), Units(5), true));
    assert_eq!(stateful_set(&namespace, "redis-cache").await.status.unwrap().ready_replicas, Some(5));
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_only_if_nothing_is_asked_for() {
    let (cluster, namespace) = cluster("zero").await;
    namespace.create(&bed::Workload::new("api", 2).deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    api.wait_ready(&cx(), Units(2), MINUTE).await.unwrap();
    let seen = api.scale_to(&cx(), Units(0), MINUTE).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled), (Units(0), Units(0), true));
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_version_holds_while_nobody_changes_the_specification() {
    let (cluster, namespace) = cluster("version").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let early = api.observe(&cx()).await.unwrap();
    // Pods get ready: the object changes, its specification does not.
    wait_ready(&namespace, "api", 3).await;
    let late = api.observe(&cx()).await.unwrap();
    assert_ne!(early.version, late.version);
    api.set_desired(&cx(), Units(4), ScaleOptions::if_version(early.version.clone())).await.unwrap();
    assert_eq!(replicas(&namespace, "api").await, 4);

    for stale in [early.version, late.version] {
        let error = api.set_desired(&cx(), Units(9), ScaleOptions::if_version(stale)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }));
        assert!(error.to_string().contains("its size is 4 now"), "{error}");
    }
    assert_eq!(replicas(&namespace, "api").await, 4);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_rehearsal_changes_nothing() {
    let (cluster, namespace) = cluster("rehearsal").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    wait_ready(&namespace, "api", 3).await;
    let before = deployment(&namespace, "api").await;
    let seen = api.set_desired(&cx(), Units(50), ScaleOptions::dry_run()).await.unwrap();
    assert_eq!(seen.desired, Units(3));
    let after = deployment(&namespace, "api").await;
    assert_eq!(after.metadata.generation, before.metadata.generation);
    assert_eq!(after.spec, before.spec);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn unknown_objects_and_namespaces_are_named() {
    let (cluster, namespace) = cluster("unknown").await;
    for (namespace, word) in [
        (namespace.name(), "no Deployment of that name"),
        ("no-such-place", "namespace no-such-place does not exist"),
    ] {
        let api = Workload::deployment(&cluster, namespace, "nobody");
        for error in [
            api.observe(&cx()).await.unwrap_err(),
            api.set_desired(&cx(), Units(5), ScaleOptions::default()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let text = error.to_string();
            assert!(
                text.contains(&format!("deployment {namespace}/nobody")) && text.contains(word),
                "{text}"
            );
        }
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn changed_waits_for_a_change_and_no_longer() {
    let (cluster, namespace) = cluster("changed").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    namespace.create(&bed::Workload::new("other", 1).deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    api.wait_ready(&cx(), Units(3), MINUTE).await.unwrap();
    wait_ready(&namespace, "other", 1).await;
    let quiet = api.observe(&cx()).await.unwrap();

    // Others' changes are none of its own.
    let context = cx();
    let mut waiting = api.changed(&context, &quiet).boxed();
    scale_by_hand(&namespace, "other", 2).await;
    let patience = Duration::from_secs(1);
    let early = tokio::time::timeout(patience, &mut waiting).await;
    assert!(early.is_err(), "came back without a change: {early:?}");

    let hand = async {
        scale_by_hand(&namespace, "api", 4).await;
        Instant::now()
    };
    let (seen, written) = tokio::join!(waiting, hand);
    let seen = seen.unwrap();
    assert_eq!(seen.desired, Units(4));
    assert!(written.elapsed() < Duration::from_millis(500), "{:?} after the change", written.elapsed());

    // What is past already is no reason to wait.
    let at_once = Instant::now();
    let seen = api.changed(&cx(), &quiet).await.unwrap();
    assert_ne!(seen.version, quiet.version);
    assert!(at_once.elapsed() < Duration::from_millis(500), "{:?}", at_once.elapsed());
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn changed_ends_with_the_run_and_with_the_object() {
    let (cluster, namespace) = cluster("ended").await;
    namespace.create(&bed::Workload::new("api", 1).deployment()).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let quiet = api.wait_ready(&cx(), Units(1), MINUTE).await.unwrap();

    let short = cx().with_deadline(Duration::from_millis(300));
    let started = Instant::now();
    assert_eq!(api.changed(&short, &quiet).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(2));

    let cancelled = cx();
    let waiting = api.changed(&cancelled, &quiet);
    let (result, ()) = tokio::join!(waiting, async { cancelled.cancellation().cancel() });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);

    let context = cx();
    let waiting = api.changed(&context, &quiet);
    let deletion = async {
        let deployments = namespace.api::<Deployment>();
        // The watch first sees the mark of deletion, or the end itself.
        deployments.delete("api", &kube::api::DeleteParams::background()).await.unwrap();
    };
    let (result, ()) = tokio::join!(waiting, deletion);
    let error = match result {
        Err(error) => error,
        Ok(seen) => api.changed(&cx(), &seen).await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_stateful_sets_rollout_is_not_settled_before_its_end() {
    let (cluster, namespace) = cluster("rolling").await;
    namespace.create(&bed::Workload::new("redis", 3).stateful_set()).await.unwrap();
    let redis = Workload::stateful_set(&cluster, namespace.name(), "redis");
    redis.wait_ready(&cx(), Units(3), MINUTE).await.unwrap();
    let label = json!({"spec": {"template": {"metadata": {"labels": {"round": "two"}}}}});
    patch::<StatefulSet>(&namespace, "redis", label).await;
    let seen = redis.observe(&cx()).await.unwrap();
    assert!(!seen.settled && !seen.is_ready(Units(3)), "{seen:?}");
    redis.wait_ready(&cx(), Units(3), MINUTE).await.unwrap();
    let status = stateful_set(&namespace, "redis").await.status.unwrap();
    assert_eq!((status.updated_replicas, status.current_revision), (Some(3), status.update_revision));
    namespace.delete().await.unwrap();
}
