//! What is refused while planning, by a real API server.

use wakala_core::{ErrorKind, Plan, Result};
use wakala_k8s::{Cluster, Workload};
use wakala_playbooks::rapid_scale::{KubernetesEks, RapidScale};

use crate::bed::{Bed, EKS, Operator, Shape, Site, assert_says, sizes};

async fn plan(production: &KubernetesEks, parameters: &RapidScale) -> Result<Plan> {
    Operator::new(production, parameters).plan().await
}

#[tokio::test]
async fn a_plan_that_cannot_work_names_the_object_and_touches_nothing() {
    let (bed, site) = (Bed::shared().await, Site::new(Shape::SMALL).await);
    let before = site.seen().await;
    let namespace = site.namespace.name();
    let small = Shape::small_parameters();

    for (api, cache, group, named) in [
        ("wakala-apy", "redis-cache", site.group.as_str(), format!("{namespace}/wakala-apy")),
        ("wakala-api", "redis-cash", site.group.as_str(), format!("{namespace}/redis-cash")),
        ("wakala-api", "redis-cache", "workers-gone", format!("{EKS}/workers-gone")),
    ] {
        let error =
            plan(&site.production_of(site.access(), api, cache, group).await, &small).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_says(error.chain(), &[&named]);
    }

    // A namespace that is not there: every object of it is named.
    let cluster = Cluster::from_kubeconfig(site.access().kubeconfig_path(), None).await.unwrap();
    let elsewhere = site
        .production()
        .await
        .with_api(Workload::deployment(&cluster, "prodcution", "wakala-api"), None)
        .with_cache(Workload::stateful_set(&cluster, "prodcution", "redis-cache"));
    let error = plan(&elsewhere, &small).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_says(error.chain(), &["prodcution/wakala-api", "prodcution/redis-cache"]);

    // A container that is not there.
    let other = site
        .production()
        .await
        .with_api(Workload::deployment(&cluster, namespace, "wakala-api"), Some("sidecar".to_owned()));
    let error = plan(&other, &small).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert_says(error.chain(), &["no container sidecar", "there are: wakala-api"]);

    // Above the autoscaler's maximum, above the node group's, above both.
    let too_many = |api: u32, nodes: u32| {
        let mut parameters = small.clone();
        (parameters.api_replicas, parameters.nodes) = (api, nodes);
        parameters
    };
    let production = site.production().await;
    let error = plan(&production, &too_many(9, 6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let hpa = format!("{namespace}/wakala-api");
    assert_says(error.chain(), &["autoscaler", &hpa, "maximum of 8", "raise the maximum"]);
    let error = plan(&production, &too_many(4, 9)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_says(error.chain(), &["node group", &site.group, "maximum of 8"]);
    let error = plan(&production, &too_many(9, 9)).await.unwrap_err();
    assert_says(error.chain(), &["autoscaler", &hpa, "node group", &site.group]);

    // Where ceilings may be raised, both go through, and the plan says so.
    let mut raised = too_many(9, 9);
    raised.raise_ceilings = true;
    let made = plan(&production, &raised).await.unwrap();
    assert_says(&made, &["max  8 -> 9", "the ceiling is raised from 8 to 9"]);

    // Pods that fit on no node are refused before they wait for one.
    let mut crowded = too_many(8, 2);
    crowded.cache_replicas = 6;
    let made = plan(&production, &crowded).await.unwrap();
    let refusals: Vec<_> = made.refusals().map(ToString::to_string).collect();
    assert!(!refusals.is_empty(), "{made}");
    assert_says(refusals.join("\n"), &["nodes"]);

    assert_eq!(site.seen().await, before);
    assert_eq!(bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap(), sizes(1, 2, 8));
}
