//! What the API server must allow, and the RBAC roles that allow just that.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use wakala_core::{Error, Permission, Result};

/// The value of [`Permission::system`] for everything in this crate.
pub(crate) const SYSTEM: &str = "kubernetes";

/// Permission to do `verbs` to one object, or to all of the namespace where `name` is `*`.
///
/// `resource` is written `<API group>/<resource>` or `<API group>/<resource>/<subresource>`, with `core` for the
/// group that has no name.
pub(crate) fn permit(verbs: &[&str], resource: &str, namespace: &str, name: &str) -> Vec<Permission> {
    verbs
        .iter()
        .map(|verb| Permission::new(SYSTEM, *verb, format!("{resource} {namespace}/{name}")))
        .collect()
}

/// The same for objects that are in no namespace.
pub(crate) fn permit_in_cluster(verbs: &[&str], resource: &str) -> Vec<Permission> {
    verbs.iter().map(|verb| Permission::new(SYSTEM, *verb, format!("{resource} *"))).collect()
}

/// The RBAC roles that a plan needs and no more. See [`rbac_roles`].
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RbacRoles {
    /// One role per namespace, in the order of their names.
    pub roles: Vec<Role>,
    /// The role for what is in no namespace, or in all: nodes, and the pods that run on them.
    pub cluster_role: Option<ClusterRole>,
}

/// Compiles permissions, those of a plan say, into roles of that name. Permissions of other systems are left out.
///
/// Bind each role with a RoleBinding in its namespace and the cluster role with a ClusterRoleBinding. A permission
/// for one object is granted for that object only.
///
/// ```
/// use wakala_core::Permission;
/// use wakala_k8s::rbac_roles;
///
/// let scale = Permission::new("kubernetes", "patch", "apps/deployments/scale production/wakala-api");
/// let roles = rbac_roles("wakala-spike", &[scale])?;
/// let rule = &roles.roles[0].rules.as_ref().unwrap()[0];
/// assert_eq!(rule.resources.as_deref(), Some(&["deployments/scale".to_owned()][..]));
/// assert_eq!(rule.resource_names.as_deref(), Some(&["wakala-api".to_owned()][..]));
/// # Ok::<(), wakala_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidConfig` for a permission of system `kubernetes` that is written otherwise than this crate writes them.
pub fn rbac_roles(name: &str, permissions: &[Permission]) -> Result<RbacRoles> {
    // Where -> to what -> what. `None` is the cluster.
    let mut scopes: BTreeMap<Option<&str>, BTreeMap<Subject<'_>, BTreeSet<&str>>> = BTreeMap::new();
    for permission in permissions.iter().filter(|permission| permission.system == SYSTEM) {
        let (scope, subject) = parse(&permission.resource).ok_or_else(|| {
            let message = "is not written as group/resource namespace/name, so no role can be made of it";
            Error::invalid("rbac_roles", message).on(format!("permission {permission}"))
        })?;
        scopes.entry(scope).or_default().entry(subject).or_default().insert(&permission.action);
    }
    let mut compiled = RbacRoles::default();
    for (scope, subjects) in scopes {
        let rules = Some(rules(subjects));
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: scope.map(str::to_owned),
            ..ObjectMeta::default()
        };
        match scope {
            Some(_) => compiled.roles.push(Role { metadata, rules }),
            None => {
                compiled.cluster_role = Some(ClusterRole { metadata, rules, ..ClusterRole::default() });
            }
        }
    }
    Ok(compiled)
}

/// API group, resource and, where it is one object, its name.
type Subject<'a> = (&'a str, &'a str, Option<&'a str>);

fn parse(text: &str) -> Option<(Option<&str>, Subject<'_>)> {
    let (path, object) = text.split_once(' ')?;
    let (group, resource) = path.split_once('/')?;
    let group = if group == "core" { "" } else { group };
    let one = |name| Some(name).filter(|name| *name != "*");
    let (scope, name) = match object.split_once('/') {
        Some((namespace, name)) => (Some(namespace), one(name)),
        None => (None, one(object)),
    };
    let complete = !resource.is_empty() && !object.contains(' ') && scope != Some("") && name != Some("");
    complete.then_some((scope, (group, resource, name)))
}

/// API group, object and verbs.
type Grant<'a> = (&'a str, Option<&'a str>, BTreeSet<&'a str>);

/// One rule for all resources of a group that share object and verbs.
fn rules(subjects: BTreeMap<Subject<'_>, BTreeSet<&str>>) -> Vec<PolicyRule> {
    let mut merged: BTreeMap<Grant<'_>, Vec<String>> = BTreeMap::new();
    for ((group, resource, name), verbs) in subjects {
        merged.entry((group, name, verbs)).or_default().push(resource.to_owned());
    }
    let rule = |((group, name, verbs), resources): (Grant<'_>, _)| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources),
        resource_names: name.map(|name| vec![name.to_owned()]),
        verbs: verbs.into_iter().map(str::to_owned).collect(),
        ..PolicyRule::default()
    };
    merged.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(permissions: &[Permission]) -> RbacRoles {
        rbac_roles("wakala", permissions).unwrap()
    }

    #[test]
    fn what_shares_object_and_verbs_shares_a_rule() {
        let permissions = [
            permit(&["get", "watch"], "apps/deployments", "production", "api"),
            permit(&["watch", "get"], "apps/replicasets", "production", "api"),
            permit(&["patch"], "apps/deployments/scale", "production", "api"),
            permit(&["patch"], "apps/deployments/scale", "production", "api"),
            permit(&["list"], "core/pods", "production", "*"),
        ]
        .concat();
        let compiled = compile(&permissions);
        let rules = compiled.roles[0].rules.clone().unwrap();
        let lines: Vec<_> = rules
            .iter()
            .map(|rule| {
                let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join(",");
                let (groups, resources) = (list(&rule.api_groups), list(&rule.resources));
                format!("{groups}/{resources} {} {}", list(&rule.resource_names), rule.verbs.join(","))
            })
            .collect();
        assert_eq!(
            lines,
            ["/pods  list", "apps/deployments,replicasets api get,watch", "apps/deployments/scale api patch"]
        );
        assert_eq!(compiled.cluster_role, None);
    }

    #[test]
    fn namespaces_and_the_cluster_are_kept_apart() {
        let permissions = [
            permit(&["get"], "apps/deployments", "a", "api"),
            permit(&["get"], "apps/deployments", "b", "api"),
            permit_in_cluster(&["list"], "core/nodes"),
        ]
        .concat();
        let compiled = compile(&permissions);
        let namespaces: Vec<_> =
            compiled.roles.iter().map(|role| role.metadata.namespace.clone().unwrap()).collect();
        assert_eq!(namespaces, ["a", "b"]);
        let rule = compiled.cluster_role.unwrap().rules.unwrap().remove(0);
        assert_eq!((rule.resources.unwrap(), rule.resource_names), (vec!["nodes".to_owned()], None));
    }

    #[test]
    fn other_systems_are_left_out_and_nonsense_is_refused() {
        let aws = Permission::new("aws", "eks:DescribeNodegroup", "*");
        assert_eq!(compile(&[aws]), RbacRoles::default());
        for resource in
            ["deployments", "apps/deployments", "deployments a/b", "apps/deployments /b", "apps/ a/b"]
        {
            let permission = Permission::new(SYSTEM, "get", resource);
            let error = rbac_roles("wakala", &[permission]).unwrap_err();
            assert!(error.to_string().contains(resource), "{error}");
        }
    }
}
