//! Started servers, and a production of each test's own on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use tokio::sync::{OnceCell, oneshot};
use wakala_aws::AwsConfig;
use wakala_core::{Approval, Engine, Observer, Plan, Playbook, Result, Revert, RunHandle, RunReport, Silent};
use wakala_k8s::{Cluster, Workload};
use wakala_playbooks::rapid_scale::{KubernetesEks, RapidScale};
use wakala_testbed::aws::{AwsEndpoint, NodegroupSizes};
use wakala_testbed::{
    ClusterAccess, ControlPlane, NodeGroup, NodeGroups, TestNamespace, horizontal_pod_autoscaler, wait_until,
};

pub(crate) const EKS: &str = "wakala-production";
const NODE_LABEL: &str = "eks.amazonaws.com/nodegroup";
const POLL: Duration = Duration::from_millis(200);
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A control plane and an AWS endpoint, of which each plays its part of EKS for the other.
pub(crate) struct Bed {
    pub(crate) control_plane: ControlPlane,
    pub(crate) aws: AwsEndpoint,
}

impl Bed {
    /// One for all tests of this program.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Bed> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn start() -> Self {
        let builder = ControlPlane::builder().with_nodes(NodeGroup::new("others", 1));
        let (control_plane, aws) = tokio::join!(builder.start(), AwsEndpoint::builder().start());
        let (control_plane, aws) = (control_plane.unwrap(), aws.unwrap());
        aws.create_cluster(EKS).await.unwrap();
        join_nodes(&control_plane, &aws).await;
        Self { control_plane, aws }
    }
}

/// Lets nodes come and go as node groups of `aws` are scaled, for as long as that lives.
///
/// On a thread with a runtime of its own, since the one of a test ends with the test.
pub(crate) async fn join_nodes(access: &ClusterAccess, aws: &AwsEndpoint) {
    let (mut scaled, access) = (aws.scaling_events(), access.clone());
    let (ready, is_ready) = oneshot::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let groups = NodeGroups::new(access.client().await.unwrap());
            ready.send(()).unwrap();
            while let Ok(event) = scaled.recv().await {
                // While the API server is away, until it is back.
                let set = wait_until("the nodes are scaled", DEADLINE, || async {
                    Ok(groups.set_desired(&event.nodegroup, event.desired).await?)
                });
                if let Err(error) = set.await {
                    eprintln!("nodes of {} cannot be scaled: {error}", event.nodegroup);
                }
            }
        });
    });
    is_ready.await.unwrap();
}

/// What a test's production is like.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) api: i32,
    pub(crate) cache: i32,
    pub(crate) hpa: Option<(i32, i32)>,
    /// Smallest, present and largest size of the node group.
    pub(crate) nodes: (u32, u32, u32),
}

impl Shape {
    /// The runbook's.
    pub(crate) const FULL: Self = Self { api: 10, cache: 2, hpa: Some((5, 50)), nodes: (5, 10, 50) };
    /// The same in small, for what does not depend on size.
    pub(crate) const SMALL: Self = Self { api: 2, cache: 1, hpa: Some((1, 8)), nodes: (1, 2, 8) };

    /// The parameters that double a small one.
    pub(crate) fn small_parameters() -> RapidScale {
        let mut parameters = rehearsal();
        (parameters.api_replicas, parameters.cache_replicas, parameters.nodes) = (4, 2, 3);
        parameters
    }
}

/// The runbook's numbers with a soak of a second.
pub(crate) fn rehearsal() -> RapidScale {
    let mut parameters = RapidScale::default();
    parameters.rehearsal = true;
    parameters.soak = Duration::from_secs(1);
    parameters
}

/// A namespace with the runbook's objects and a node group.
pub(crate) struct Site {
    pub(crate) namespace: TestNamespace,
    pub(crate) group: String,
    aws_config: AwsConfig,
    access: ClusterAccess,
}

impl Site {
    pub(crate) async fn new(shape: Shape) -> Self {
        let bed = Bed::shared().await;
        Self::on(&bed.control_plane, &bed.aws, shape).await
    }

    /// On an endpoint of one's own, whose [`join_nodes`] is called by then.
    pub(crate) async fn on(control_plane: &ControlPlane, aws: &AwsEndpoint, shape: Shape) -> Self {
        let namespace = control_plane.create_namespace("spike").await.unwrap();
        let group = format!("workers-{}", namespace.name());
        let (min, desired, max) = shape.nodes;
        let nodes = NodeGroup::new(&group, desired)
            .with_cpu("4")
            .with_memory("16Gi")
            .with_pods(58)
            .with_label(NODE_LABEL, &group)
            .with_boot_delay(Duration::from_millis(500));
        let groups = control_plane.node_groups().await.unwrap();
        groups.define(&nodes).await.unwrap();
        aws.create_nodegroup(EKS, &group, min, desired, max).await.unwrap();

        let workload = |name: &str, replicas| {
            wakala_testbed::Workload::new(name, replicas)
                .with_node_selector(NODE_LABEL, &group)
                .with_ready_after(Duration::from_millis(300))
        };
        let api = workload("wakala-api", shape.api)
            .with_cpu_request("1200m")
            .with_memory_request("2Gi")
            .with_env("RATE_LIMIT_REQUESTS", "1000")
            .with_env("OTHER", "untouched")
            .with_env("RATE_LIMIT_WINDOW", "30");
        namespace.create(&api.deployment()).await.unwrap();
        let cache = workload("redis-cache", shape.cache).with_cpu_request("1");
        namespace.create(&cache.stateful_set()).await.unwrap();
        if let Some((min, max)) = shape.hpa {
            namespace.create(&horizontal_pod_autoscaler("wakala-api", min, max, 70)).await.unwrap();
        }
        let aws_config = AwsConfig::new()
            .with_endpoint_url(aws.endpoint_url())
            .with_region(aws.region())
            .with_static_credentials(aws.access_key_id(), aws.secret_access_key().to_owned().into());
        let access = ClusterAccess::clone(control_plane);
        let site = Self { namespace, group, aws_config, access };
        groups.wait_ready(&site.group, DEADLINE).await.unwrap();
        wait_until("the objects are ready", DEADLINE, || async {
            let seen = site.seen().await;
            if (seen.api_ready, seen.cache_ready) == (shape.api, shape.cache) {
                Ok(())
            } else {
                Err(format!("{seen:?}").into())
            }
        })
        .await
        .unwrap();
        site
    }

    pub(crate) async fn production(&self) -> KubernetesEks {
        self.production_as(&self.access).await
    }

    /// As seen by another user.
    pub(crate) async fn production_as(&self, access: &ClusterAccess) -> KubernetesEks {
        self.production_of(access, "wakala-api", "redis-cache", &self.group).await
    }

    /// Under other names.
    pub(crate) async fn production_of(
        &self,
        access: &ClusterAccess,
        api: &str,
        cache: &str,
        group: &str,
    ) -> KubernetesEks {
        let cluster = Cluster::from_kubeconfig(access.kubeconfig_path(), None).await.unwrap();
        let aws = self.aws_config.clone().load().await.unwrap();
        let namespace = self.namespace.name();
        KubernetesEks::new(&cluster, namespace, &aws, EKS, group)
            .with_api(Workload::deployment(&cluster, namespace, api), None)
            .with_cache(Workload::stateful_set(&cluster, namespace, cache))
            .with_node_group(|group| group.with_poll(POLL).with_busy_pause(POLL))
    }

    /// The node group, for somebody else's changes.
    pub(crate) async fn node_group(&self) -> wakala_aws::NodeGroup {
        wakala_aws::NodeGroup::new(&self.aws_config.clone().load().await.unwrap(), EKS, self.group.as_str())
    }

    pub(crate) fn access(&self) -> &ClusterAccess {
        &self.access
    }

    /// The playbook on it, ready to run.
    pub(crate) async fn operator(&self, parameters: &RapidScale) -> Operator {
        Operator::new(&self.production().await, parameters)
    }

    /// What Kubernetes says, read past the library.
    pub(crate) async fn seen(&self) -> Seen {
        let api = self.namespace.api::<Deployment>().get("wakala-api").await.unwrap();
        let cache = self.namespace.api::<StatefulSet>().get("redis-cache").await.unwrap();
        let hpa = self.namespace.api::<HorizontalPodAutoscaler>().get_opt("wakala-api").await.unwrap();
        let sets = self.namespace.api::<ReplicaSet>().list(&Default::default()).await.unwrap();
        let (api_spec, api_status) = (api.spec.unwrap(), api.status.unwrap_or_default());
        Seen {
            api: api_spec.replicas.unwrap(),
            api_pods: api_status.replicas.unwrap_or_default(),
            api_ready: api_status.ready_replicas.unwrap_or_default(),
            api_updated: api_status.updated_replicas.unwrap_or_default(),
            template: api_spec.template,
            replica_sets: sets.items.len(),
            revision: api.metadata.annotations.unwrap_or_default()["deployment.kubernetes.io/revision"]
                .clone(),
            cache: cache.spec.unwrap().replicas.unwrap(),
            cache_ready: cache.status.unwrap_or_default().ready_replicas.unwrap_or_default(),
            hpa: hpa.map(|hpa| (hpa.spec.min_replicas.unwrap(), hpa.spec.max_replicas)),
        }
    }
}

/// The settings of the runbook's objects in Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) api: i32,
    /// Of the old template and of the new.
    pub(crate) api_pods: i32,
    pub(crate) api_ready: i32,
    pub(crate) api_updated: i32,
    pub(crate) template: PodTemplateSpec,
    pub(crate) replica_sets: usize,
    pub(crate) revision: String,
    pub(crate) cache: i32,
    pub(crate) cache_ready: i32,
    pub(crate) hpa: Option<(i32, i32)>,
}

impl Seen {
    /// The environment of the API's only container.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        let container = &self.template.spec.as_ref().unwrap().containers[0];
        container
            .env
            .iter()
            .flatten()
            .map(|env| (env.name.clone(), env.value.clone().unwrap_or_default()))
            .collect()
    }
}

pub(crate) fn sizes(min: u32, desired: u32, max: u32) -> NodegroupSizes {
    NodegroupSizes { min, desired, max }
}

/// An engine with one playbook and one run.
pub(crate) struct Operator {
    pub(crate) engine: Engine,
    pub(crate) playbook: Playbook,
    pub(crate) run: RunHandle,
}

impl Operator {
    pub(crate) fn new(production: &KubernetesEks, parameters: &RapidScale) -> Self {
        Self::of(parameters.playbook(production).unwrap())
    }

    pub(crate) fn of(playbook: Playbook) -> Self {
        Self::observed(playbook, Arc::new(Silent))
    }

    pub(crate) fn observed(playbook: Playbook, observer: Arc<dyn Observer>) -> Self {
        Self { engine: Engine::new().with_observer(observer), playbook, run: RunHandle::generate() }
    }

    pub(crate) async fn plan(&self) -> Result<Plan> {
        self.engine.plan(&self.playbook).await
    }

    pub(crate) async fn run(&self, plan: &Plan) -> RunReport {
        self.engine.run(&self.playbook, plan, &Approval::of(plan, "test"), &self.run).await.unwrap()
    }

    pub(crate) async fn revert(&self, scope: Revert) -> RunReport {
        self.engine.revert(&self.playbook, &self.run, scope).await.unwrap()
    }
}

#[track_caller]
pub(crate) fn assert_says(text: impl ToString, words: &[&str]) {
    let text = text.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing from: {text}");
    }
}
