use std::sync::Arc;

use serde_json::json;
use wakala_core::{
    Engine, ErrorKind, Playbook, Preflight, RaiseFloor, Retry, Revert, ScalableTarget, ScaleOptions, ScaleUp,
    Status, Units, step,
};
use wakala_k8s::{
    Cluster, ExpectedNodes, HorizontalAutoscaler, SchedulableCapacity, TemplateEnv, Workload, rbac_roles,
};
use wakala_testbed::{self as bed, User, horizontal_pod_autoscaler, rule};

use crate::support::{access, cluster, connect, cx, deployment, replicas, run, succeeded, wait_ready};

fn spike(cluster: &Cluster, namespace: &str) -> Playbook {
    let api = Workload::deployment(cluster, namespace, "api");
    let redis = Workload::stateful_set(cluster, namespace, "redis");
    let floor = RaiseFloor::to(Arc::new(HorizontalAutoscaler::of(&api)), 8);
    let env = TemplateEnv::of(&api).with_variable("MODE", "burst");
    Playbook::builder("spike")
        .then(step(floor.step("floor")))
        .then(step(env.step("env")))
        .then(step(ScaleUp::to(Arc::new(api), 8).step("api")))
        .then(step(ScaleUp::to(Arc::new(redis), 2).step("redis")))
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_roles_of_a_plan_suffice_for_its_run_and_its_revert() {
    let (admin, namespace) = cluster("least").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    namespace.create(&horizontal_pod_autoscaler("api", 3, 20, 70)).await.unwrap();
    namespace.create(&bed::Workload::new("redis", 1).stateful_set()).await.unwrap();
    wait_ready(&namespace, "api", 3).await;
    let before = deployment(&namespace, "api").await.spec.unwrap().template;

    let plan = Engine::new().plan(&spike(&admin, namespace.name())).await.unwrap();
    let roles = rbac_roles("wakala-spike", &plan.permissions()).unwrap();
    assert_eq!((roles.roles.len(), &roles.cluster_role), (1, &None));
    let rules = roles.roles[0].rules.clone().unwrap();
    for rule in &rules {
        assert!(
            rule.verbs.iter().all(|verb| ["get", "list", "patch", "watch"].contains(&verb.as_str())),
            "{rule:?}"
        );
    }
    let user = User::new(namespace.name(), "least").with_rules(rules);
    let restricted = connect(&access().await.create_user(&user).await.unwrap()).await;

    let (engine, playbook) = (Engine::new(), spike(&restricted, namespace.name()));
    let (handle, report) = run(&engine, &playbook).await.unwrap();
    succeeded(&report);
    assert_eq!(replicas(&namespace, "api").await, 8);
    let report = engine.revert(&playbook, &handle, Revert::Everything).await.unwrap();
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!(deployment(&namespace, "api").await.spec.unwrap().template, before);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn the_roles_of_a_capacity_check_suffice_for_it() {
    let (_, namespace) = cluster("least-nodes").await;
    namespace.create(&bed::Workload::new("api", 1).deployment()).await.unwrap();
    let check = |cluster: &Cluster| {
        let api = Workload::deployment(cluster, namespace.name(), "api");
        SchedulableCapacity::of(cluster)
            .with_growth(&api, 4)
            .with_nodes(ExpectedNodes::sized(1, "4", "8Gi", 20).unwrap())
    };
    let nobody = User::new(namespace.name(), "nobody");
    let nobody = connect(&access().await.create_user(&nobody).await.unwrap()).await;
    let error = check(&nobody).check(&cx(), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never));

    let roles = rbac_roles("wakala-check", &check(&nobody).permissions()).unwrap();
    let user = User::new(namespace.name(), "checker")
        .with_rules(roles.roles[0].rules.clone().unwrap())
        .with_cluster_rules(roles.cluster_role.unwrap().rules.unwrap());
    let checker = connect(&access().await.create_user(&user).await.unwrap()).await;
    let findings = check(&checker).check(&cx(), &[]).await.unwrap();
    assert!(findings.iter().any(|finding| finding.text.contains("3 more pods")), "{findings:?}");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_missing_permission_is_named_before_anything_changes() {
    let (_, namespace) = cluster("denied").await;
    namespace.create(&bed::Workload::new("api", 3).deployment()).await.unwrap();
    let reads = rule("apps", ["deployments"], ["get", "watch"]);
    let lists = rule("autoscaling", ["horizontalpodautoscalers"], ["list"]);
    let user = User::new(namespace.name(), "reader").with_rules([reads, lists]);
    let reader = connect(&access().await.create_user(&user).await.unwrap()).await;
    let api = Workload::deployment(&reader, namespace.name(), "api");
    // Pods may not be listed, which is no reason not to say the rest.
    wait_ready(&namespace, "api", 3).await;
    assert_eq!(api.observe(&cx()).await.unwrap().ready, Units(3));

    let error = api.set_desired(&cx(), Units(5), ScaleOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never));
    let user = format!("system:serviceaccount:{}:reader", namespace.name());
    let expected =
        format!("{user} may not patch deployments/scale (API group apps) in namespace {}", namespace.name());
    assert!(error.to_string().contains(&expected), "{error}");

    let scale = Playbook::builder("p").then(step(ScaleUp::to(Arc::new(api), 5).step("api"))).build().unwrap();
    let error = Engine::new().plan(&scale).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "the rehearsal finds it: {error}");
    assert_eq!(replicas(&namespace, "api").await, 3);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn why_pods_are_not_ready_may_be_kept_from_us() {
    let (_, namespace) = cluster("blind").await;
    namespace.create(&bed::Workload::new("api", 1).with_image("never/api:1").deployment()).await.unwrap();
    let reads = rule("apps", ["deployments"], ["get", "watch"]);
    let lists = rule("autoscaling", ["horizontalpodautoscalers"], ["list"]);
    let user = User::new(namespace.name(), "reader").with_rules([reads, lists]);
    let reader = connect(&access().await.create_user(&user).await.unwrap()).await;
    let seen = Workload::deployment(&reader, namespace.name(), "api").observe(&cx()).await.unwrap();
    let problem = seen.problem.unwrap();
    assert!(problem.contains("may not list pods"), "{problem}");
    namespace.delete().await.unwrap();
}

#[test]
fn permissions_are_written_as_the_plan_shows_them() {
    let permission =
        wakala_core::Permission::new("kubernetes", "patch", "apps/deployments/scale production/api");
    assert_eq!(
        serde_json::to_value(&rbac_roles("w", &[permission]).unwrap().roles[0]).unwrap(),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "w", "namespace": "production"},
            "rules": [{
                "apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["api"], "verbs": ["patch"],
            }],
        })
    );
}
