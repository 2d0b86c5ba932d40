//! The EKS operations that moto lacks or answers wrongly, on top of what it stores.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::call::{Incoming, Operation};
use super::change::Change;
use super::front::{Front, Proxied, lock};
use super::nodegroup::{self, GroupId, NodegroupScaled, NodegroupSizes, Pending};
use super::reply::{self, ApiError, Reply};

impl Front {
    pub(super) async fn eks(
        self: &Arc<Self>,
        operation: Operation,
        region: &str,
        incoming: &Incoming,
    ) -> Result<Reply, ApiError> {
        let group = |cluster: &str, nodegroup: &str| GroupId {
            region: region.to_owned(),
            cluster: cluster.to_owned(),
            nodegroup: nodegroup.to_owned(),
        };
        match (operation, incoming.segments().as_slice()) {
            (Operation::CreateNodegroup, [_, cluster, _]) => {
                let reply = self.proxy(incoming).await;
                self.announce_new_group(cluster, &reply);
                Ok(reply.into())
            }
            (Operation::DeleteNodegroup, [_, cluster, _, nodegroup]) => {
                self.delete_nodegroup(&group(cluster, nodegroup), incoming).await
            }
            (Operation::DescribeNodegroup, [_, cluster, _, nodegroup]) => {
                // An update that ended between moto's answer and the status would show old sizes as the new ones.
                let _changing = self.changing.lock().await;
                let reply = self.proxy(incoming).await;
                Ok(self.with_status(&group(cluster, nodegroup), reply).into())
            }
            (Operation::DescribeUpdate, [_, cluster, _, update]) => {
                let nodegroup = incoming.query_value("nodegroupName");
                self.describe_update(region, cluster, nodegroup.as_deref(), update).await
            }
            (Operation::ListUpdates, [_, cluster, _]) => self.list_updates(region, cluster, incoming).await,
            (Operation::UpdateNodegroupConfig, [_, cluster, _, nodegroup, _]) => {
                self.update_nodegroup_config(group(cluster, nodegroup), &incoming.body).await
            }
            _ => Ok(self.proxy(incoming).await.into()),
        }
    }

    async fn update_nodegroup_config(
        self: &Arc<Self>,
        group: GroupId,
        body: &[u8],
    ) -> Result<Reply, ApiError> {
        let about = |error: ApiError| error.about(&group.cluster, Some(&group.nodegroup));
        let _changing = self.changing.lock().await;
        let current = self.sizes(&group).await?;
        let change = Change::parse(body).map_err(about)?;
        let repeated = lock(&self.groups).replay(&group, &change).map_err(about)?;
        if let Some(update) = repeated {
            return Ok(reply::json(StatusCode::OK, &json!({ "update": update })));
        }
        let begun = lock(&self.groups).begin(group.clone(), change, current);
        let (update, pending) = begun.map_err(about)?;
        let (front, duration) = (Arc::clone(self), *lock(&self.update_duration));
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            front.take_effect(pending).await;
        });
        Ok(reply::json(StatusCode::OK, &json!({ "update": update })))
    }

    /// moto is told first: who sees the update finished must also see the new sizes.
    async fn take_effect(&self, mut pending: Pending) {
        let _changing = self.changing.lock().await;
        if pending.changes_the_group() {
            let GroupId { region, cluster, nodegroup } = &pending.group;
            let path = format!("/clusters/{cluster}/node-groups/{nodegroup}/update-config");
            match self.ask_moto(region, Method::POST, &path, Some(&pending.arguments)).await {
                Ok(stored) if stored.status.is_success() => {}
                Ok(refused) => pending.fail(String::from_utf8_lossy(&refused.body).into_owned()),
                Err(error) => pending.fail(error.to_string()),
            }
        }
        let scaled = lock(&self.groups).finish(pending);
        if let Some(scaled) = scaled {
            self.announce(scaled);
        }
    }

    async fn delete_nodegroup(&self, group: &GroupId, incoming: &Incoming) -> Result<Reply, ApiError> {
        let _changing = self.changing.lock().await;
        lock(&self.groups)
            .check_idle(group, "deleted")
            .map_err(|error| error.about(&group.cluster, Some(&group.nodegroup)))?;
        let reply = self.proxy(incoming).await;
        if reply.status.is_success() {
            lock(&self.groups).forget(group);
            let (cluster, nodegroup) = (group.cluster.clone(), group.nodegroup.clone());
            self.announce(NodegroupScaled { cluster, desired: 0, nodegroup });
        }
        Ok(reply.into())
    }

    /// API reference, `DescribeUpdate`, "URI Request Parameters": `nodegroupName` "is required if the update is a node
    /// group update"; without it the update is not found.
    async fn describe_update(
        &self,
        region: &str,
        cluster: &str,
        nodegroup: Option<&str>,
        update: &str,
    ) -> Result<Reply, ApiError> {
        let group = self.existing(region, cluster, nodegroup).await?;
        let found = group.and_then(|group| lock(&self.groups).update(&group, update));
        match found {
            Some(update) => Ok(reply::json(StatusCode::OK, &json!({ "update": update }))),
            None => {
                Err(ApiError::not_found(format!("No update found for ID: {update}"))
                    .about(cluster, nodegroup))
            }
        }
    }

    /// API reference, `ListUpdates`: `nodegroupName` chooses the group, `maxResults` is from 1 to 100, and `nextToken`
    /// "is null when there are no more results to return". The updates of the cluster itself, which a call without
    /// `nodegroupName` lists, are none here.
    async fn list_updates(
        &self,
        region: &str,
        cluster: &str,
        incoming: &Incoming,
    ) -> Result<Reply, ApiError> {
        let nodegroup = incoming.query_value("nodegroupName");
        let invalid = |name: &str| {
            ApiError::invalid_parameter(format!("{name} is not valid")).about(cluster, nodegroup.as_deref())
        };
        let number = |name: &str| {
            incoming
                .query_value(name)
                .map(|value| value.parse::<usize>().map_err(|_| invalid(name)))
                .transpose()
        };
        let page = number("maxResults")?.unwrap_or(100);
        if !(1..=100).contains(&page) {
            return Err(invalid("maxResults"));
        }
        let start = number("nextToken")?.unwrap_or(0);
        let group = self.existing(region, cluster, nodegroup.as_deref()).await?;
        let ids = group.map(|group| lock(&self.groups).update_ids(&group)).unwrap_or_default();
        let shown: Vec<&String> = ids.iter().skip(start).take(page).collect();
        let end = start.saturating_add(shown.len());
        let next = (end < ids.len()).then(|| end.to_string());
        Ok(reply::json(StatusCode::OK, &json!({ "updateIds": shown, "nextToken": next })))
    }

    /// The group when one is named and exists. The error is moto's, which words it as EKS does.
    async fn existing(
        &self,
        region: &str,
        cluster: &str,
        nodegroup: Option<&str>,
    ) -> Result<Option<GroupId>, ApiError> {
        let path = match nodegroup {
            Some(nodegroup) => format!("/clusters/{cluster}/node-groups/{nodegroup}"),
            None => format!("/clusters/{cluster}"),
        };
        self.describe(region, &path).await.map_err(|error| error.about(cluster, nodegroup))?;
        Ok(nodegroup.map(|nodegroup| GroupId {
            region: region.to_owned(),
            cluster: cluster.to_owned(),
            nodegroup: nodegroup.to_owned(),
        }))
    }

    /// The sizes that a group has now.
    pub(super) async fn sizes(&self, group: &GroupId) -> Result<NodegroupSizes, ApiError> {
        let GroupId { region, cluster, nodegroup: name } = group;
        let path = format!("/clusters/{cluster}/node-groups/{name}");
        let described =
            self.describe(region, &path).await.map_err(|error| error.about(cluster, Some(name)))?;
        nodegroup::sizes(&described)
            .ok_or_else(|| ApiError::not_implemented(format!("{name} was created without all three sizes")))
    }

    async fn describe(&self, region: &str, path: &str) -> Result<Value, ApiError> {
        let answer = self
            .ask_moto(region, Method::GET, path, None)
            .await
            .map_err(|error| ApiError::not_implemented(format!("moto did not answer: {error}")))?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status.is_success() {
            return Ok(body);
        }
        let message = body["message"].as_str().unwrap_or("moto refused without a message");
        if answer.status == StatusCode::NOT_FOUND {
            return Err(ApiError::not_found(message));
        }
        Err(ApiError::not_implemented(format!("moto answered {}: {message}", answer.status)))
    }

    fn with_status(&self, group: &GroupId, mut reply: Proxied) -> Proxied {
        if !reply.status.is_success() {
            return reply;
        }
        if let Ok(mut body) = serde_json::from_slice::<Value>(&reply.body) {
            lock(&self.groups).complete(group, &mut body["nodegroup"]);
            reply.body = body.to_string().into();
        }
        reply
    }

    fn announce_new_group(&self, cluster: &str, reply: &Proxied) {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let name = body["nodegroup"]["nodegroupName"].as_str();
        if let (true, Some(name), Some(sizes)) = (reply.status.is_success(), name, nodegroup::sizes(&body)) {
            self.announce(NodegroupScaled {
                cluster: cluster.to_owned(),
                desired: sizes.desired,
                nodegroup: name.to_owned(),
            });
        }
    }

    pub(super) fn announce(&self, scaled: NodegroupScaled) {
        // Nobody listens in most tests, and that is no error.
        let _ = self.scaled.send(scaled);
    }

    /// A call of our own to moto's EKS: not recorded, no faults.
    pub(super) async fn ask_moto(
        &self,
        region: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Proxied> {
        let credential = format!("Credential={}/20260101/{region}/eks/aws4_request", super::ACCESS_KEY_ID);
        let mut request = self.client.request(method, format!("{}{path}", self.moto)).header(
            "authorization",
            format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=none"),
        );
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Proxied::read(request).await
    }
}
