//! What AWS must allow.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wakala_core::Permission;

/// The [`Permission::system`] of everything in this crate.
pub(crate) const SYSTEM: &str = "aws";

/// The IAM policy that allows exactly the given permissions of AWS; those of other systems are passed over.
///
/// Meant for [`Plan::permissions`](wakala_core::Plan::permissions), which gives the least policy under which that plan
/// can be run. Actions on the same resources share a statement; the order is always the same.
///
/// ```
/// use wakala_aws::iam_policy;
/// use wakala_core::Permission;
///
/// let group = "arn:aws:eks:eu-west-1:123456789012:nodegroup/prod/api/6ab1";
/// let needed = [
///     Permission::new("aws", "eks:UpdateNodegroupConfig", group),
///     Permission::new("aws", "eks:DescribeNodegroup", group),
///     Permission::new("kubernetes", "get", "nodes"),
/// ];
/// assert_eq!(iam_policy(&needed), serde_json::json!({
///     "Version": "2012-10-17",
///     "Statement": [{
///         "Effect": "Allow",
///         "Action": ["eks:DescribeNodegroup", "eks:UpdateNodegroupConfig"],
///         "Resource": [group],
///     }],
/// }));
/// ```
pub fn iam_policy(permissions: &[Permission]) -> Value {
    let mut resources: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for permission in permissions.iter().filter(|permission| permission.system == SYSTEM) {
        resources.entry(&permission.action).or_default().insert(&permission.resource);
    }
    let mut statements: BTreeMap<BTreeSet<&str>, Vec<&str>> = BTreeMap::new();
    for (action, resources) in resources {
        statements.entry(resources).or_default().push(action);
    }
    let statements: Vec<Value> = statements
        .into_iter()
        .map(|(resources, actions)| json!({"Effect": "Allow", "Action": actions, "Resource": resources}))
        .collect();
    json!({"Version": "2012-10-17", "Statement": statements})
}
