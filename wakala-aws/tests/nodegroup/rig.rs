//! A node group `api` of the cluster `prod` on the AWS testbed, with its nodes, and a playbook of one step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use wakala_aws::{Aws, AwsConfig, NodeGroup, NodeGroupSize, NodeReadiness};
use wakala_core::{
    Approval, Engine, Plan, Playbook, Result, Revert, RunContext, RunHandle, RunReport, SecretString,
    StepNode, StepOutcome, Units, step,
};
use wakala_testbed::aws::{AwsEndpoint, Call, NodegroupSizes, Operation};

pub(crate) const POLL: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(30);

/// Nodes that join as soon as their group has changed.
#[derive(Debug)]
pub(crate) struct Nodes(AtomicU32);

#[async_trait]
impl NodeReadiness for Nodes {
    async fn ready(&self, _cx: &RunContext) -> Result<Units> {
        Ok(Units(self.0.load(Ordering::SeqCst)))
    }
}

impl Nodes {
    fn of(aws: &AwsEndpoint, ready: u32) -> Arc<Self> {
        let nodes = Arc::new(Self(AtomicU32::new(ready)));
        let (mut events, joined) = (aws.scaling_events(), Arc::clone(&nodes));
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(scaled) => joined.0.store(scaled.desired, Ordering::SeqCst),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        nodes
    }
}

pub(crate) struct Rig {
    pub(crate) endpoint: AwsEndpoint,
    pub(crate) aws: Aws,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) engine: Engine,
}

impl Rig {
    /// A group of 2 to 50 nodes, 10 desired and ready; updates take a tenth of a second.
    pub(crate) async fn start() -> Self {
        Self::with_sizes(2, 10, 50).await
    }

    pub(crate) async fn with_sizes(min: u32, desired: u32, max: u32) -> Self {
        let endpoint =
            AwsEndpoint::builder().update_duration(Duration::from_millis(100)).start().await.unwrap();
        endpoint.create_cluster("prod").await.unwrap();
        endpoint.create_nodegroup("prod", "api", min, desired, max).await.unwrap();
        let aws = connect(&endpoint).await;
        let nodes = Nodes::of(&endpoint, desired);
        Self { endpoint, aws, nodes, engine: Engine::new() }
    }

    /// The group without anybody who counts its nodes.
    pub(crate) fn uncounted(&self) -> NodeGroup {
        NodeGroup::new(&self.aws, "prod", "api").with_poll(POLL).with_busy_pause(Duration::from_millis(50))
    }

    pub(crate) fn group(&self) -> NodeGroup {
        self.uncounted().with_readiness(Arc::clone(&self.nodes) as Arc<dyn NodeReadiness>)
    }

    pub(crate) async fn sizes(&self) -> (u32, u32, u32) {
        let NodegroupSizes { min, desired, max } =
            self.endpoint.nodegroup_sizes("prod", "api").await.unwrap();
        (min, desired, max)
    }

    /// Changes the group as somebody else would, past the record of calls.
    pub(crate) async fn set(&self, min: Option<u32>, desired: Option<u32>) {
        let sizes = [("minSize", min), ("desiredSize", desired)];
        let sizes: serde_json::Map<_, _> =
            sizes.into_iter().filter_map(|(name, size)| Some((name.to_owned(), size?.into()))).collect();
        self.change(self.endpoint.moto_url(), serde_json::json!({ "scalingConfig": sizes })).await;
    }

    /// Begins an update of somebody else's that changes no sizes, and gives its id.
    pub(crate) async fn label_update(&self) -> String {
        let body = serde_json::json!({"labels": {"addOrUpdateLabels": {"team": "search"}}});
        let answer = self.change(self.endpoint.endpoint_url(), body).await;
        self.endpoint.clear_calls();
        answer["update"]["id"].as_str().unwrap().to_owned()
    }

    async fn change(&self, url: &str, body: Value) -> Value {
        let scope = "testing/20260101/us-east-1/eks/aws4_request";
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http
            .post(format!("{url}/clusters/prod/node-groups/api/update-config"))
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"),
            )
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.json().await.unwrap()
    }

    pub(crate) fn updates(&self) -> Vec<Call> {
        self.endpoint.calls_of(Operation::UpdateNodegroupConfig)
    }

    pub(crate) fn tokens(&self) -> Vec<String> {
        self.updates()
            .into_iter()
            .map(|call| call.client_request_token.expect("every update has one"))
            .collect()
    }

    /// What each update asked for, as `(min, desired, max)`.
    pub(crate) fn asked(&self) -> Vec<(Option<u64>, Option<u64>, Option<u64>)> {
        let sizes = |call: Call| {
            let sizes = call.body.unwrap()["scalingConfig"].clone();
            let size = |name: &str| sizes.get(name).and_then(Value::as_u64);
            (size("minSize"), size("desiredSize"), size("maxSize"))
        };
        self.updates().into_iter().map(sizes).collect()
    }

    /// Plans and runs a playbook of the one step that brings the group to 30 nodes.
    pub(crate) async fn run(&self, size: NodeGroupSize) -> Run {
        self.run_as(size, RunHandle::generate()).await
    }

    pub(crate) async fn run_as(&self, size: NodeGroupSize, handle: RunHandle) -> Run {
        // A broken step must not keep the suite for the quarter of an hour that it would have in production.
        self.run_node_as(step(size.step("nodes")).with_limit(LIMIT), handle).await
    }

    pub(crate) async fn run_to_30(&self) -> Run {
        self.run(NodeGroupSize::at_least(self.group(), 30)).await
    }

    pub(crate) async fn run_node(&self, node: StepNode) -> Run {
        self.run_node_as(node, RunHandle::generate()).await
    }

    async fn run_node_as(&self, node: StepNode, handle: RunHandle) -> Run {
        // A run that was held keeps the group until somebody decides.
        for held in self.engine.runs().await.unwrap() {
            let held = RunHandle::new(held.run_id).by("ada");
            self.engine.abandon(&held, "the next one is tried").await.unwrap();
        }
        let playbook = Playbook::builder("more nodes").then(node).build().unwrap();
        let plan = self.engine.plan(&playbook).await.unwrap();
        let report = self.engine.run(&playbook, &plan, &Approval::of(&plan, "ada"), &handle).await.unwrap();
        Run { playbook, plan, handle, report }
    }

    pub(crate) async fn revert(&self, run: &Run) -> RunReport {
        self.engine.revert(&run.playbook, &run.handle, Revert::Everything).await.unwrap()
    }

    /// The error of planning 30 nodes with `size`.
    pub(crate) async fn refused(&self, size: NodeGroupSize) -> wakala_core::Error {
        let playbook = Playbook::builder("more nodes").then(step(size.step("nodes"))).build().unwrap();
        self.engine.plan(&playbook).await.unwrap_err()
    }
}

pub(crate) struct Run {
    pub(crate) playbook: Playbook,
    pub(crate) plan: Plan,
    pub(crate) handle: RunHandle,
    pub(crate) report: RunReport,
}

impl Run {
    /// The failure's kind and words.
    pub(crate) fn failure(&self) -> (wakala_core::ErrorKind, String) {
        match outcome(&self.report) {
            StepOutcome::Failed { failure, .. } => (failure.kind, failure.message.clone()),
            other => panic!("did not fail: {other}"),
        }
    }
}

pub(crate) fn outcome(report: &RunReport) -> &StepOutcome {
    &report.step("nodes").unwrap().outcome
}

pub(crate) async fn connect(endpoint: &AwsEndpoint) -> Aws {
    config(endpoint).load().await.unwrap()
}

pub(crate) fn config(endpoint: &AwsEndpoint) -> AwsConfig {
    AwsConfig::new()
        .with_region(endpoint.region())
        .with_endpoint_url(endpoint.endpoint_url())
        .with_static_credentials(
            endpoint.access_key_id(),
            SecretString::from(endpoint.secret_access_key().to_owned()),
        )
}

/// Asks again every few milliseconds until it is so.
pub(crate) async fn until<F>(what: &str, mut ask: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + LIMIT;
    while !ask().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
