use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::json;
use wakala_core::{
    Autoscaler, Bounds, Engine, ErrorKind, Guard, Playbook, RaiseFloor, Retry, Revert, ScalableTarget,
    ScalableTargetExt, ScaleOptions, ScaleUp, StepOutcome, TruceGuard, Units, Verdict, step,
};
use wakala_k8s::{Cluster, HorizontalAutoscaler, Workload};
use wakala_testbed::{self as bed, TestNamespace, horizontal_pod_autoscaler, wait_until};

use crate::support::{MINUTE, cluster, cx, patch, replicas, run, scale_by_hand, succeeded, wait_ready};

/// Deployment `api` of 3 with an autoscaler of these bounds, and the first look of the latter done.
async fn autoscaled(prefix: &str, min: i32, max: i32) -> (Cluster, TestNamespace, Workload) {
    let (cluster, namespace) = cluster(prefix).await;
    namespace.create(&bed::Workload::new("api", 3).with_cpu_request("100m").deployment()).await.unwrap();
    namespace.create(&horizontal_pod_autoscaler("api", min, max, 70)).await.unwrap();
    wait_ready(&namespace, "api", 3).await;
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    (cluster, namespace, api)
}

async fn bounds(namespace: &TestNamespace) -> (i32, i32) {
    let spec = namespace.api::<HorizontalPodAutoscaler>().get("api").await.unwrap().spec;
    (spec.min_replicas.unwrap(), spec.max_replicas)
}

/// Waits until the autoscaler has seen that count, so that it would have changed it.
async fn wait_seen(namespace: &TestNamespace, count: i32) {
    wait_until(&format!("an autoscaler that has seen {count}"), MINUTE, || async {
        let status = namespace.api::<HorizontalPodAutoscaler>().get("api").await?.status.unwrap_or_default();
        match status.current_replicas {
            Some(seen) if seen == count => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    })
    .await
    .unwrap();
}

fn floor_then_scale(api: &Workload, size: u32, raise_ceiling: bool) -> Playbook {
    let autoscaler = Arc::new(HorizontalAutoscaler::of(api));
    let floor = RaiseFloor::to(autoscaler, size).raising_ceiling(raise_ceiling).step("floor");
    let scale = ScaleUp::to(Arc::new(api.clone()), size).step("scale");
    Playbook::builder("spike").then(step(floor)).then(step(scale)).build().unwrap()
}

#[tokio::test]
async fn a_size_by_hand_is_taken_back_and_so_refused() {
    let (_, namespace, api) = autoscaled("fight", 3, 20).await;
    let error = api.set_desired(&cx(), Units(50), ScaleOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Never));
    let name = format!("HorizontalPodAutoscaler {}/api", namespace.name());
    assert!(error.to_string().contains(&name) && error.to_string().contains("3..20"), "{error}");
    assert_eq!(replicas(&namespace, "api").await, 3);

    // What would have happened.
    scale_by_hand(&namespace, "api", 50).await;
    wait_until("a size taken back", MINUTE, || async {
        let now = replicas(&namespace, "api").await;
        if now <= 20 { Ok(()) } else { Err(format!("{now}").into()) }
    })
    .await
    .unwrap();
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn with_the_floor_first_a_size_stays_and_all_comes_back() {
    let (_, namespace, api) = autoscaled("truce", 3, 60).await;
    let (engine, playbook) = (Engine::new(), floor_then_scale(&api, 50, false));
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    let seen = api.observe(&cx()).await.unwrap();
    assert_eq!((seen.desired, seen.ready, seen.settled), (Units(50), Units(50), true));
    assert_eq!(seen.owner.unwrap().bounds, Bounds::new(50, 60).unwrap());
    assert_eq!(bounds(&namespace).await, (50, 60));
    wait_seen(&namespace, 50).await;
    assert_eq!(replicas(&namespace, "api").await, 50);

    engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(bounds(&namespace).await, (3, 60));
    // The count is the autoscaler's again, at whatever the load wants.
    assert_eq!(replicas(&namespace, "api").await, 50);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_ceiling_in_the_way_is_refused_or_raised() {
    let (_, namespace, api) = autoscaled("ceiling", 3, 20).await;
    let engine = Engine::new();
    let error = engine.plan(&floor_then_scale(&api, 50, false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let text = error.to_string();
    assert!(text.contains("maximum of 20") && text.contains(api.id().as_str()), "{text}");
    assert_eq!(bounds(&namespace).await, (3, 20));

    let playbook = floor_then_scale(&api, 25, true);
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    assert_eq!(bounds(&namespace).await, (25, 25));

    // The old ceiling would cut the size at once, so it waits until the size fits.
    let report = engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert!(matches!(report.step("floor").unwrap().outcome, StepOutcome::Deferred(_)), "{report}");
    assert_eq!(bounds(&namespace).await, (3, 25));
    api.scale_to(&cx(), Units(10), MINUTE).await.unwrap();
    engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(bounds(&namespace).await, (3, 20));
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn without_an_autoscaler_there_is_nothing_to_do() {
    let (cluster, namespace) = cluster("alone").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    namespace.create(&bed::Workload::new("other", 1).deployment()).await.unwrap();
    namespace.create(&horizontal_pod_autoscaler("other", 1, 5, 70)).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let autoscaler = HorizontalAutoscaler::of(&api);
    assert_eq!(autoscaler.observe(&cx()).await.unwrap(), None);
    let error = autoscaler.set_bounds(&cx(), Bounds::new(1, 2).unwrap(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let (engine, playbook) = (Engine::new(), floor_then_scale(&api, 5, false));
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    assert_eq!(replicas(&namespace, "api").await, 5);
    engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(replicas(&namespace, "api").await, 3);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn two_autoscalers_of_one_workload_are_a_conflict() {
    let (_, namespace, api) = autoscaled("double", 3, 20).await;
    let mut second = horizontal_pod_autoscaler("api", 3, 30, 70);
    second.metadata.name = Some("second".into());
    namespace.create(&second).await.unwrap();
    for error in [
        api.observe(&cx()).await.unwrap_err(),
        HorizontalAutoscaler::of(&api).observe(&cx()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("api, second"), "{error}");
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn bounds_move_together_and_only_from_where_they_were_seen() {
    let (_, namespace, api) = autoscaled("bounds", 3, 20).await;
    let autoscaler = HorizontalAutoscaler::of(&api);
    let seen = autoscaler.observe(&cx()).await.unwrap().unwrap();
    assert_eq!((seen.bounds, seen.size), (Bounds::new(3, 20).unwrap(), Units(3)));

    let wanted = Bounds::new(5, 30).unwrap();
    autoscaler.rehearse(&cx(), wanted).await.unwrap();
    assert_eq!(bounds(&namespace).await, (3, 20));
    // That it looks at metrics, fails to get them and notes so does not make the version stale.
    wait_seen(&namespace, 3).await;
    autoscaler.set_bounds(&cx(), wanted, seen.version.as_ref()).await.unwrap();
    assert_eq!(bounds(&namespace).await, (5, 30));

    let error =
        autoscaler.set_bounds(&cx(), Bounds::new(7, 30).unwrap(), seen.version.as_ref()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Conflict, Retry::Safe { after: None }));
    assert_eq!(bounds(&namespace).await, (5, 30));

    let upside_down = Bounds { min: Units(9), max: Units(4) };
    for result in
        [autoscaler.rehearse(&cx(), upside_down).await, autoscaler.set_bounds(&cx(), upside_down, None).await]
    {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn the_guard_tells_when_somebody_breaks_the_truce() {
    let (_, namespace, api) = autoscaled("guard", 50, 60).await;
    let guard = TruceGuard::new(Arc::new(HorizontalAutoscaler::of(&api)), 50);
    assert!(guard.condition().ends_with("at least 50"), "{}", guard.condition());
    let verdict = guard.evaluate(&cx()).await;
    assert!(verdict.is_pass(), "{verdict}");

    patch::<HorizontalPodAutoscaler>(&namespace, "api", json!({"spec": {"minReplicas": 5}})).await;
    let Verdict::Fail(text) = guard.evaluate(&cx()).await else { panic!("the floor is 5") };
    assert!(text.contains("5..60"), "{text}");

    namespace.api::<HorizontalPodAutoscaler>().delete("api", &DeleteParams::default()).await.unwrap();
    assert!(guard.evaluate(&cx()).await.is_pass());
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn behind_a_scaled_object_that_one_is_moved() {
    let (cluster, namespace, api) = autoscaled("keda", 3, 20).await;
    let scaled_objects = keda(&cluster, &namespace).await;
    let autoscaler = Arc::new(HorizontalAutoscaler::of(&api));
    let seen = autoscaler.observe(&cx()).await.unwrap().unwrap();
    assert_eq!(seen.name, format!("ScaledObject {}/api", namespace.name()));
    // The minimum that it does not name is 0, whatever the autoscaler behind it has.
    assert_eq!(seen.bounds, Bounds::new(0, 20).unwrap());

    let floor = RaiseFloor::to(autoscaler.clone(), 10).step("floor");
    let playbook = Playbook::builder("keda").then(step(floor)).build().unwrap();
    let engine = Engine::new();
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    let spec = scaled_objects.get("api").await.unwrap().data["spec"].clone();
    assert_eq!((spec["minReplicaCount"].as_i64(), spec["maxReplicaCount"].as_i64()), (Some(10), Some(20)));
    assert_eq!(bounds(&namespace).await, (3, 20), "the autoscaler itself is KEDA's to write");
    engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(scaled_objects.get("api").await.unwrap().data["spec"]["minReplicaCount"], 0);
    namespace.delete().await.unwrap();
}

/// The API of KEDA without its operator; the autoscaler `api` belongs to the ScaledObject `api`.
async fn keda(cluster: &Cluster, namespace: &TestNamespace) -> Api<DynamicObject> {
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh", "scope": "Namespaced",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    }))
    .unwrap();
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client().clone());
    match definitions.create(&PostParams::default(), &definition).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        other => drop(other.unwrap()),
    }
    let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject");
    let resource = ApiResource::from_gvk_with_plural(&kind, "scaledobjects");
    let api = Api::<DynamicObject>::namespaced_with(cluster.client().clone(), namespace.name(), &resource);
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "api"},
        "spec": {"scaleTargetRef": {"name": "api"}, "maxReplicaCount": 20},
    }))
    .unwrap();
    let created = wait_until("a ScaledObject", MINUTE, || async {
        Ok(api.create(&PostParams::default(), &object).await?)
    })
    .await
    .unwrap();
    let owner = json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "api", "uid": created.uid()}]);
    patch::<HorizontalPodAutoscaler>(namespace, "api", json!({"metadata": {"ownerReferences": owner}})).await;
    api
}
