//! The cluster that all tests share, and looks at it past the crate under test.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use wakala_core::{Approval, Engine, Playbook, Result, RunContext, RunHandle, RunReport, Status};
use wakala_k8s::Cluster;
use wakala_testbed::{
    ClusterAccess, ControlPlane, KUBECONFIG_VARIABLE, NodeGroup, TestCluster, TestNamespace, wait_until,
};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Nodes that take no pods but those of the capacity tests.
pub(crate) const SMALL: &str = "small";

/// A control plane with quick autoscalers, for all tests that need one of their own.
pub(crate) async fn own() -> &'static ControlPlane {
    static OWN: OnceCell<ControlPlane> = OnceCell::const_new();
    OWN.get_or_init(|| async {
        let small = NodeGroup::new(SMALL, 2).with_cpu("2").with_memory("4Gi").with_pods(12);
        let plane = ControlPlane::builder()
            .with_nodes(NodeGroup::new("general", 5))
            .with_nodes(small.with_label("role", SMALL))
            .with_hpa_sync_period(Duration::from_secs(1))
            .start()
            .await
            .unwrap();
        taint_small_nodes(&plane).await;
        plane
    })
    .await
}

async fn taint_small_nodes(plane: &ControlPlane) {
    let api = Api::<Node>::all(plane.client().await.unwrap());
    for node in api.list(&ListParams::default().labels("role=small")).await.unwrap() {
        let taint = Taint {
            key: "role".into(),
            value: Some(SMALL.into()),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let patch = json!({"spec": {"taints": [taint]}});
        api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
}

/// The cluster that the environment names, else our own.
pub(crate) async fn access() -> &'static ClusterAccess {
    if std::env::var_os(KUBECONFIG_VARIABLE).is_some() {
        TestCluster::shared().await.unwrap()
    } else {
        own().await
    }
}

/// A cluster as its users make it, and a namespace of one's own.
pub(crate) async fn cluster(prefix: &str) -> (Cluster, TestNamespace) {
    let access = access().await;
    (connect(access).await, access.create_namespace(prefix).await.unwrap())
}

pub(crate) async fn connect(access: &ClusterAccess) -> Cluster {
    Cluster::from_kubeconfig(access.kubeconfig_path(), None).await.unwrap()
}

pub(crate) fn cx() -> RunContext {
    RunContext::detached().with_deadline(MINUTE)
}

/// Writes the count as a person with kubectl would.
pub(crate) async fn scale_by_hand(namespace: &TestNamespace, name: &str, replicas: i32) {
    let patch = json!({"spec": {"replicas": replicas}});
    let api = namespace.api::<Deployment>();
    api.patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

pub(crate) async fn deployment(namespace: &TestNamespace, name: &str) -> Deployment {
    namespace.api().get(name).await.unwrap()
}

pub(crate) async fn stateful_set(namespace: &TestNamespace, name: &str) -> StatefulSet {
    namespace.api().get(name).await.unwrap()
}

pub(crate) async fn replicas(namespace: &TestNamespace, name: &str) -> i32 {
    deployment(namespace, name).await.spec.unwrap().replicas.unwrap()
}

pub(crate) async fn replica_sets(namespace: &TestNamespace) -> Vec<String> {
    let sets = namespace.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap();
    let mut names: Vec<_> = sets.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

pub(crate) async fn wait_ready(namespace: &TestNamespace, name: &str, count: i32) {
    wait_until(&format!("{count} pods of {name} ready"), MINUTE, || async {
        let deployment = namespace.api::<Deployment>().get(name).await?;
        let status = deployment.status.unwrap_or_default();
        let (ready, all) = (status.ready_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
        if (ready, all) == (count, count) { Ok(()) } else { Err(format!("{ready} ready of {all}").into()) }
    })
    .await
    .unwrap();
}

pub(crate) async fn patch<K>(namespace: &TestNamespace, name: &str, patch: Value)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    namespace.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Plans, approves, runs to the end.
pub(crate) async fn run(engine: &Engine, playbook: &Playbook) -> Result<(RunHandle, RunReport)> {
    let plan = engine.plan(playbook).await?;
    let handle = RunHandle::generate();
    let report = engine.run(playbook, &plan, &Approval::of(&plan, "test"), &handle).await?;
    Ok((handle, report))
}

pub(crate) fn succeeded(report: &RunReport) {
    assert_eq!(report.status, Status::Succeeded, "{report}");
}
