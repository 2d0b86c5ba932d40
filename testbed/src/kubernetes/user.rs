use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client};

use super::access::{ClusterAccess, unique};
use crate::{TestbedError, wait_until};

const GROUP: &str = "rbac.authorization.k8s.io";
const EFFECT_DEADLINE: Duration = Duration::from_secs(30);
const TOKEN_SECONDS: i64 = 4 * 3600;

/// Somebody who may do only what is listed: a service account with a token and RBAC rules.
#[derive(Clone, Debug)]
pub struct User {
    name: String,
    namespace: String,
    rules: Vec<PolicyRule>,
    cluster_rules: Vec<PolicyRule>,
}

/// One RBAC rule. `api_group` is `""` for the core group.
///
/// ```
/// let rule = wakala_testbed::rule("apps", ["deployments", "deployments/scale"], ["get", "patch"]);
/// assert_eq!(rule.verbs, ["get", "patch"]);
/// ```
pub fn rule<R, V>(
    api_group: &str,
    resources: impl IntoIterator<Item = R>,
    verbs: impl IntoIterator<Item = V>,
) -> PolicyRule
where
    R: Into<String>,
    V: Into<String>,
{
    PolicyRule {
        api_groups: Some(vec![api_group.to_owned()]),
        resources: Some(resources.into_iter().map(Into::into).collect()),
        verbs: verbs.into_iter().map(Into::into).collect(),
        ..PolicyRule::default()
    }
}

impl User {
    /// A user who may do nothing, as service account `name` in `namespace`, which must exist.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { name: name.into(), namespace: namespace.into(), rules: Vec::new(), cluster_rules: Vec::new() }
    }

    /// Grants `rules` in the namespace.
    #[must_use]
    pub fn with_rules(mut self, rules: impl IntoIterator<Item = PolicyRule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Grants `rules` in the whole cluster.
    #[must_use]
    pub fn with_cluster_rules(mut self, rules: impl IntoIterator<Item = PolicyRule>) -> Self {
        self.cluster_rules.extend(rules);
        self
    }
}

impl ClusterAccess {
    /// Creates the user with its roles, and returns once the API server honours every rule. The token lasts for
    /// four hours.
    pub async fn create_user(&self, user: &User) -> Result<Self, TestbedError> {
        let (name, namespace) = (user.name.as_str(), user.namespace.as_str());
        let client = self.client().await?;
        let what = || format!("cannot create user {namespace}/{name}");
        let token = create(client, user).await.map_err(TestbedError::api(what()))?;
        let auth = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let access = self.with_user(&format!("kubeconfig-{namespace}-{name}-{}", unique()), auth)?;

        let client = access.client().await?;
        for (rules, scope) in [(&user.rules, Some(namespace)), (&user.cluster_rules, None)] {
            for rule in rules {
                wait_allowed(&client, name, scope, rule).await?;
            }
        }
        Ok(access)
    }
}

async fn create(client: Client, user: &User) -> Result<String, kube::Error> {
    let (name, namespace) = (user.name.as_str(), user.namespace.as_str());
    let create = PostParams::default();
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
    accounts.create(&create, &account).await?;

    let subjects = Some(vec![Subject {
        kind: "ServiceAccount".into(),
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        ..Subject::default()
    }]);
    let reference = |kind: &str, name: &str| RoleRef {
        api_group: Some(GROUP.into()),
        kind: kind.into(),
        name: name.into(),
    };
    if !user.rules.is_empty() {
        let role = Role { metadata: named(name), rules: Some(user.rules.clone()) };
        Api::<Role>::namespaced(client.clone(), namespace).create(&create, &role).await?;
        let role_ref = reference("Role", name);
        let binding = RoleBinding { metadata: named(name), role_ref, subjects: subjects.clone() };
        Api::<RoleBinding>::namespaced(client.clone(), namespace).create(&create, &binding).await?;
    }
    if !user.cluster_rules.is_empty() {
        let full_name = format!("{namespace}-{name}");
        let rules = Some(user.cluster_rules.clone());
        let role = ClusterRole { metadata: named(&full_name), rules, ..ClusterRole::default() };
        Api::<ClusterRole>::all(client.clone()).create(&create, &role).await?;
        let role_ref = reference("ClusterRole", &full_name);
        let binding = ClusterRoleBinding { metadata: named(&full_name), role_ref, subjects };
        Api::<ClusterRoleBinding>::all(client.clone()).create(&create, &binding).await?;
    }

    let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(name, &create, &request).await?;
    Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
}

/// RBAC objects reach the authorizer through a watch, shortly after they were accepted.
async fn wait_allowed(
    client: &Client,
    user: &str,
    namespace: Option<&str>,
    rule: &PolicyRule,
) -> Result<(), TestbedError> {
    let first = |list: &Option<Vec<String>>| list.as_ref().and_then(|list| list.first()).cloned();
    let Some(full_resource) = first(&rule.resources) else { return Ok(()) };
    let (resource, subresource) = match full_resource.split_once('/') {
        Some((resource, subresource)) => (resource.to_owned(), Some(subresource.to_owned())),
        None => (full_resource, None),
    };
    let attributes = ResourceAttributes {
        group: first(&rule.api_groups),
        name: first(&rule.resource_names),
        namespace: namespace.map(str::to_owned),
        resource: Some(resource),
        subresource,
        verb: rule.verbs.first().cloned(),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    wait_until(&format!("rules of user {user} in force"), EFFECT_DEADLINE, || async {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if answer.status.is_some_and(|status| status.allowed) { Ok(()) } else { Err("refused".into()) }
    })
    .await
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}
