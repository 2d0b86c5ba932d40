//! The objects that a scaling runbook works on.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet, StatefulSetSpec,
};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, Namespace, PodSpec, PodTemplateSpec, ResourceRequirements,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pages::MetricsPage;

pub(crate) const PORT_ANNOTATION: &str = "prometheus.io/port";

/// A Deployment or StatefulSet of one container, selected by the label `app`.
///
/// ```
/// # use std::time::Duration;
/// use wakala_testbed::Workload;
///
/// let api = Workload::new("api", 3)
///     .with_cpu_request("250m")
///     .with_env("RATE_LIMIT_REQUESTS", "1000")
///     .with_ready_after(Duration::from_millis(500))
///     .deployment();
/// assert_eq!(api.spec.unwrap().replicas, Some(3));
/// ```
#[derive(Clone, Debug)]
pub struct Workload {
    name: String,
    replicas: i32,
    image: String,
    env: Vec<EnvVar>,
    requests: BTreeMap<String, Quantity>,
    annotations: BTreeMap<String, String>,
    node_selector: BTreeMap<String, String>,
    strategy: Option<DeploymentStrategy>,
    grace_seconds: Option<i64>,
}

impl Workload {
    /// `replicas` pods whose only container is called like the workload.
    pub fn new(name: impl Into<String>, replicas: i32) -> Self {
        Self {
            name: name.into(),
            replicas,
            image: "sim/server:1".into(),
            env: Vec::new(),
            requests: BTreeMap::new(),
            annotations: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            strategy: None,
            grace_seconds: None,
        }
    }

    /// The image. Simulated nodes never get one that begins with `never/` (`ImagePullBackOff`), and one that
    /// begins with `crash/` ends at once (`CrashLoopBackOff`).
    #[must_use]
    pub fn with_image(mut self, image: impl Into<String>) -> Self {
        self.image = image.into();
        self
    }

    /// An environment variable of the container.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push(EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() });
        self
    }

    /// CPU request as a Kubernetes quantity, such as `"250m"`.
    #[must_use]
    pub fn with_cpu_request(mut self, quantity: impl Into<String>) -> Self {
        self.requests.insert("cpu".into(), Quantity(quantity.into()));
        self
    }

    /// Memory request as a Kubernetes quantity, such as `"512Mi"`.
    #[must_use]
    pub fn with_memory_request(mut self, quantity: impl Into<String>) -> Self {
        self.requests.insert("memory".into(), Quantity(quantity.into()));
        self
    }

    /// How long a pod takes on a simulated node from being scheduled to being Ready.
    #[must_use]
    pub fn with_ready_after(self, delay: Duration) -> Self {
        self.with_annotation("testbed.wakala.dev/ready-after", format!("{}us", delay.as_micros()))
    }

    /// How long a deleted pod takes on a simulated node to go, at most its grace period.
    #[must_use]
    pub fn with_terminate_after(self, delay: Duration) -> Self {
        self.with_annotation("testbed.wakala.dev/terminate-after", format!("{}us", delay.as_micros()))
    }

    /// The pods listen for requests for their metrics on `port` of their own addresses, at `/metrics`. They say so by
    /// the annotation `prometheus.io/port`. What they answer is set by
    /// [`with_metrics_page`](Self::with_metrics_page) and, while they run, by [`MetricsPages`](crate::MetricsPages).
    #[must_use]
    pub fn with_metrics_port(self, port: u16) -> Self {
        self.with_annotation(PORT_ANNOTATION, port.to_string())
    }

    /// What the pods serve as metrics until told otherwise. They listen only
    /// [with a metrics port](Self::with_metrics_port).
    #[must_use]
    pub fn with_metrics_page(self, page: &MetricsPage) -> Self {
        self.with_annotation("testbed.wakala.dev/metrics", page.to_json())
    }

    /// An annotation of the pods.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Only nodes with this label take the pods.
    #[must_use]
    pub fn with_node_selector(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.node_selector.insert(key.into(), value.into());
        self
    }

    /// The pods' termination grace period, in whole seconds (Kubernetes' default: 30).
    #[must_use]
    pub fn with_grace_seconds(mut self, seconds: i64) -> Self {
        self.grace_seconds = Some(seconds);
        self
    }

    /// A Deployment replaces its pods step by step, within these bounds.
    #[must_use]
    pub fn with_rolling_update(mut self, max_surge: IntOrString, max_unavailable: IntOrString) -> Self {
        self.strategy = Some(DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(max_surge),
                max_unavailable: Some(max_unavailable),
            }),
        });
        self
    }

    /// A Deployment removes all old pods before it creates new ones.
    #[must_use]
    pub fn with_recreate(mut self) -> Self {
        self.strategy = Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
        self
    }

    /// The Deployment.
    pub fn deployment(self) -> Deployment {
        Deployment {
            metadata: named(&self.name),
            spec: Some(DeploymentSpec {
                replicas: Some(self.replicas),
                selector: selector(&self.name),
                strategy: self.strategy.clone(),
                template: self.template(),
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }

    /// The StatefulSet. Its pods are started one after the other, as is the default.
    pub fn stateful_set(self) -> StatefulSet {
        StatefulSet {
            metadata: named(&self.name),
            spec: Some(StatefulSetSpec {
                replicas: Some(self.replicas),
                selector: selector(&self.name),
                service_name: Some(self.name.clone()),
                template: self.template(),
                ..StatefulSetSpec::default()
            }),
            ..StatefulSet::default()
        }
    }

    fn template(self) -> PodTemplateSpec {
        let requests = Some(self.requests).filter(|requests| !requests.is_empty());
        let container = Container {
            name: self.name.clone(),
            image: Some(self.image),
            env: Some(self.env),
            resources: Some(ResourceRequirements { requests, ..ResourceRequirements::default() }),
            ..Container::default()
        };
        PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(labels(&self.name)),
                annotations: Some(self.annotations),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                containers: vec![container],
                node_selector: Some(self.node_selector),
                termination_grace_period_seconds: self.grace_seconds,
                ..PodSpec::default()
            }),
        }
    }
}

/// An autoscaler of the Deployment `target`, with its name, that aims at `cpu_percent` of the CPU requests.
pub fn horizontal_pod_autoscaler(
    target: &str,
    min_replicas: i32,
    max_replicas: i32,
    cpu_percent: i32,
) -> HorizontalPodAutoscaler {
    HorizontalPodAutoscaler {
        metadata: named(target),
        spec: HorizontalPodAutoscalerSpec {
            min_replicas: Some(min_replicas),
            max_replicas,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".into(),
                resource: Some(ResourceMetricSource {
                    name: "cpu".into(),
                    target: MetricTarget {
                        type_: "Utilization".into(),
                        average_utilization: Some(cpu_percent),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }]),
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".into()),
                kind: "Deployment".into(),
                name: target.into(),
            },
            ..HorizontalPodAutoscalerSpec::default()
        },
        ..HorizontalPodAutoscaler::default()
    }
}

/// A budget, with its name, that keeps `min_available` pods of the workload `target`.
pub fn pod_disruption_budget(target: &str, min_available: IntOrString) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: named(target),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(min_available),
            selector: Some(selector(target)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// A namespace with the label `app.kubernetes.io/managed-by=wakala-testbed`.
pub fn namespace(name: &str) -> Namespace {
    let managed = BTreeMap::from([("app.kubernetes.io/managed-by".into(), "wakala-testbed".into())]);
    let metadata = ObjectMeta { labels: Some(managed), ..named(name) };
    Namespace { metadata, ..Namespace::default() }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn labels(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), name.to_owned())])
}

fn selector(name: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(name)), ..LabelSelector::default() }
}
