//! The playbook on a real control plane, guarded by what simulated pods count at their own addresses.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use wakala_core::{Approval, Engine, RunHandle, RunReport, Status};
use wakala_k8s::{Cluster, PodMetric, PodMetrics, Workload};
use wakala_playbooks::gradual_scale_down::{ApiMetrics, Kubernetes};
use wakala_testbed::{self as bed, Level, MetricsPage, TestCluster, TestNamespace, wait_until};

use crate::site::{API, SECOND, WORKER, assert_says, with};

const MINUTE: Duration = Duration::from_secs(60);

/// Twenty API pods and ten workers, of which half is to stay.
async fn production(error_rate: Level) -> (Kubernetes, TestNamespace) {
    let access = TestCluster::shared().await.unwrap();
    let namespace = access.create_namespace("descent").await.unwrap();
    let page = MetricsPage::new().with_requests(50.0, error_rate);
    let pods = |name, size| bed::Workload::new(name, size).with_cpu_request("20m");
    let api = pods(API, 20).with_metrics_port(9464).with_metrics_page(&page);
    namespace.create(&api.deployment()).await.unwrap();
    namespace.create(&pods(WORKER, 10).deployment()).await.unwrap();
    wait_for(&namespace, 20, 10).await;

    let cluster = Cluster::from_kubeconfig(access.kubeconfig_path(), None).await.unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), API);
    let errors = PodMetric::ratio_of_increases("http_requests_errors_total", "http_requests_total");
    let source = PodMetrics::of(&api).with_metric("error_rate", errors).with_window(SECOND / 2);
    let metrics = ApiMetrics::new(Arc::new(source), "error_rate");
    (Kubernetes::new(&cluster, namespace.name(), metrics), namespace)
}

async fn ready(namespace: &TestNamespace, name: &str) -> i32 {
    let status = namespace.api::<Deployment>().get(name).await.unwrap().status.unwrap();
    status.ready_replicas.unwrap_or(0)
}

async fn wait_for(namespace: &TestNamespace, api: i32, worker: i32) {
    wait_until("the sizes", MINUTE, || async {
        let seen = (ready(namespace, API).await, ready(namespace, WORKER).await);
        if seen == (api, worker) { Ok(()) } else { Err(format!("{seen:?}").into()) }
    })
    .await
    .unwrap();
}

async fn descend(production: &Kubernetes) -> RunReport {
    let parameters = with(|p| {
        p.fractions = vec![0.5];
        (p.soak, p.blind_for, p.rehearsal) = (3 * SECOND, 3 * SECOND, true);
    });
    let playbook = parameters.playbook(production).unwrap();
    let engine = Engine::new();
    let plan = engine.plan(&playbook).await.unwrap();
    engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &RunHandle::generate()).await.unwrap()
}

#[tokio::test]
async fn on_a_cluster_all_goes_down_while_all_is_well() {
    let (production, namespace) = production(Level::new(0.001)).await;
    let report = descend(&production).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    wait_for(&namespace, 10, 5).await;
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn on_a_cluster_errors_bring_the_pods_back() {
    let (production, namespace) = production(Level::new(0.001).when_ready_below(20, 0.5)).await;
    let report = descend(&production).await;
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_says(&report.reason, &["soak-0.5 did not pass", "error-rate: FAIL", "stopped there"]);
    // Ready again before the run calls it done.
    assert_eq!((ready(&namespace, API).await, ready(&namespace, WORKER).await), (20, 10));
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn on_a_cluster_the_autoscalers_minimum_is_lowered() {
    let (production, namespace) = production(Level::new(0.001)).await;
    namespace.create(&bed::horizontal_pod_autoscaler(API, 20, 40, 70)).await.unwrap();
    let report = descend(&production).await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    let autoscalers = namespace.api::<HorizontalPodAutoscaler>();
    let spec = autoscalers.get(API).await.unwrap().spec;
    assert_eq!((spec.min_replicas, spec.max_replicas), (Some(10), 40));
    // Nobody wrote past it; on the worker there is none.
    assert_eq!(ready(&namespace, WORKER).await, 5);
    let replicas = namespace.api::<Deployment>().get(API).await.unwrap().spec.unwrap().replicas;
    assert!(replicas.is_some_and(|replicas| replicas >= 10), "{replicas:?}");
    namespace.delete().await.unwrap();
}
