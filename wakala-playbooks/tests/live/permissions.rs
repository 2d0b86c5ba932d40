//! What a user may do, and that the plan says it all.

use wakala_core::{ErrorKind, Permission, Revert, Status};
use wakala_k8s::rbac_roles;
use wakala_testbed::{ClusterAccess, User};

use crate::bed::{Bed, EKS, Operator, Shape, Site, assert_says, sizes};

/// A user who may do just what the permissions name.
async fn user_with(site: &Site, name: &str, permissions: &[Permission]) -> ClusterAccess {
    let roles = rbac_roles(name, permissions).unwrap();
    let namespace = site.namespace.name();
    let mut user = User::new(namespace, name);
    for role in roles.roles {
        assert_eq!(role.metadata.namespace.as_deref(), Some(namespace), "no other namespace is needed");
        user = user.with_rules(role.rules.unwrap());
    }
    if let Some(role) = roles.cluster_role {
        user = user.with_cluster_rules(role.rules.unwrap());
    }
    site.access().create_user(&user).await.unwrap()
}

#[tokio::test]
async fn the_role_compiled_from_the_plan_is_enough_and_no_write_of_it_is_too_much() {
    let (bed, site) = (Bed::shared().await, Site::new(Shape::SMALL).await);
    let before = site.seen().await;
    let parameters = Shape::small_parameters();
    let permissions = site.operator(&parameters).await.plan().await.unwrap().permissions();

    // Without one of the writes: found out while planning, named, and nothing is touched. Nobody uses KEDA here, so
    // its permission is only for where somebody does.
    let writes: Vec<_> = permissions
        .iter()
        .filter(|needed| needed.system == "kubernetes" && needed.action == "patch")
        .filter(|needed| !needed.resource.starts_with("keda.sh/"))
        .collect();
    let written: Vec<_> = writes.iter().map(|write| write.resource.split(' ').next().unwrap()).collect();
    assert_eq!(
        written,
        [
            "apps/deployments",
            "apps/deployments/scale",
            "apps/statefulsets/scale",
            "autoscaling/horizontalpodautoscalers"
        ]
    );
    for (number, missing) in writes.into_iter().enumerate() {
        let rest: Vec<_> = permissions.iter().filter(|needed| *needed != missing).cloned().collect();
        let user = user_with(&site, &format!("lacks-{number}"), &rest).await;
        let operator = Operator::new(&site.production_as(&user).await, &parameters);
        let error = operator.plan().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let (resource, _) = missing.resource.split_once(' ').unwrap();
        let (group, resource) = resource.split_once('/').unwrap();
        assert_says(error.chain(), &["patch", resource, group]);
    }
    assert_eq!(site.seen().await, before);
    assert_eq!(bed.aws.nodegroup_sizes(EKS, &site.group).await.unwrap(), sizes(1, 2, 8));

    // With all of them: plan, run, soak and revert.
    let user = user_with(&site, "on-call", &permissions).await;
    let operator = Operator::new(&site.production_as(&user).await, &parameters);
    let plan = operator.plan().await.unwrap();
    assert_eq!(plan.refusals().count(), 0, "{plan}");
    assert!(!plan.findings().iter().any(|finding| finding.text.contains("forbidden")), "{plan}");
    let report = operator.run(&plan).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let reverted = operator.revert(Revert::Everything).await;
    assert_eq!(reverted.status, Status::Held, "only the nodes are left to whoever drains them\n{reverted}");
    assert_says(&reverted.reason, &["nodes only in part"]);
    let after = site.seen().await;
    assert_eq!((after.hpa, after.cache, after.template), (before.hpa, before.cache, before.template));
}
