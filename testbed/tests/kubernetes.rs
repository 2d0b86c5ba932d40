//! The testbed's promises, on a real control plane. Needs `scripts/build-control-plane` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::OnceCell;
use wakala_testbed::{
    ControlPlane, Level, MetricsPage, MetricsPages, NodeGroup, Server, TestCluster, TestNamespace,
    TestbedError, User, Workload, horizontal_pod_autoscaler, pod_disruption_budget, rule, wait_until,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A control plane of this file: quick autoscalers, groups of nodes that tests change.
async fn own() -> &'static ControlPlane {
    static OWN: OnceCell<ControlPlane> = OnceCell::const_new();
    OWN.get_or_init(|| async {
        ControlPlane::builder()
            .with_nodes(NodeGroup::new("general", 5))
            .with_nodes(NodeGroup::new("drained", 2).with_label("role", "drained"))
            .with_nodes(
                NodeGroup::new("elastic", 0)
                    .with_label("eks.amazonaws.com/nodegroup", "elastic")
                    .with_zones(["local-1a", "local-1b"])
                    .with_boot_delay(Duration::from_millis(500)),
            )
            .with_hpa_sync_period(Duration::from_secs(1))
            .start()
            .await
            .unwrap()
    })
    .await
}

async fn scale<K>(namespace: &TestNamespace, name: &str, replicas: i32)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let patch = json!({ "spec": { "replicas": replicas } });
    let api = namespace.api::<K>();
    api.patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

async fn wait_deployment(namespace: &TestNamespace, name: &str, ready: i32) {
    let api = namespace.api::<Deployment>();
    wait_until(&format!("{ready} pods of {name} ready"), MINUTE, || async {
        let deployment = api.get(name).await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.unwrap_or_default();
        let (now, all) = (status.ready_replicas.unwrap_or(0), status.replicas.unwrap_or(0));
        let state = format!("{now} ready of {all}, {wanted} wanted");
        if (now, all, wanted) == (ready, ready, ready) { Ok(()) } else { Err(state.into()) }
    })
    .await
    .unwrap();
}

async fn pods(namespace: &TestNamespace) -> Vec<Pod> {
    namespace.api::<Pod>().list(&ListParams::default()).await.unwrap().items
}

fn kubectl(cluster: &TestCluster, namespace: &TestNamespace, arguments: &[&str]) -> String {
    let output = Command::new(cluster.kubectl())
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig_path())
        .args(["--namespace", namespace.name()])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_deployment_scales_from_3_to_50_and_back() {
    let cluster = TestCluster::shared().await.unwrap();
    let namespace = cluster.create_namespace("scale").await.unwrap();
    namespace.create(&Workload::new("api", 3).with_cpu_request("100m").deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 3).await;

    let started = Instant::now();
    scale::<Deployment>(&namespace, "api", 50).await;
    wait_deployment(&namespace, "api", 50).await;
    println!("3 -> 50 ready: {:?}", started.elapsed());

    let pods = pods(&namespace).await;
    let mut addresses: Vec<_> =
        pods.iter().map(|pod| pod.status.as_ref().unwrap().pod_ip.clone().unwrap()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 50);
    assert!(addresses.iter().all(|address| address.starts_with("127.")), "{addresses:?}");

    scale::<Deployment>(&namespace, "api", 3).await;
    wait_deployment(&namespace, "api", 3).await;
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn kubectl_scales_and_waits() {
    let cluster = TestCluster::shared().await.unwrap();
    let namespace = cluster.create_namespace("kubectl").await.unwrap();
    namespace.create(&Workload::new("api", 3).deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 3).await;

    let started = Instant::now();
    kubectl(cluster, &namespace, &["scale", "deployment/api", "--replicas=50"]);
    let scaled = started.elapsed();
    let answer = kubectl(cluster, &namespace, &["rollout", "status", "deployment/api", "--timeout=60s"]);
    println!("kubectl scale: {scaled:?}, with rollout status: {:?}", started.elapsed());
    assert!(answer.contains("successfully rolled out"), "{answer}");
    wait_deployment(&namespace, "api", 50).await;
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_stateful_set_grows_one_pod_after_the_other() {
    let cluster = TestCluster::shared().await.unwrap();
    let namespace = cluster.create_namespace("stateful").await.unwrap();
    let redis = Workload::new("redis-cache", 2).with_ready_after(Duration::from_millis(10));
    namespace.create(&redis.stateful_set()).await.unwrap();
    scale::<StatefulSet>(&namespace, "redis-cache", 5).await;
    wait_until("5 pods of redis-cache ready", MINUTE, || async {
        let set = namespace.api::<StatefulSet>().get("redis-cache").await?;
        match set.status.and_then(|status| status.ready_replicas) {
            Some(5) => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    })
    .await
    .unwrap();
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_pod_becomes_ready_after_its_own_delay_and_goes_after_its_own_delay() {
    let namespace = own().await.create_namespace("delays").await.unwrap();
    let delay = Duration::from_secs(3);
    let slow = Workload::new("slow", 1).with_ready_after(delay).with_terminate_after(delay);
    let started = Instant::now();
    namespace.create(&slow.deployment()).await.unwrap();
    wait_until("a waiting container", MINUTE, || async {
        let reasons: Vec<_> = pods(&namespace).await.iter().filter_map(waiting_reason).collect();
        if reasons == ["ContainerCreating"] { Ok(()) } else { Err(format!("{reasons:?}").into()) }
    })
    .await
    .unwrap();
    wait_deployment(&namespace, "slow", 1).await;
    assert!(started.elapsed() >= delay, "ready after {:?}", started.elapsed());

    let started = Instant::now();
    scale::<Deployment>(&namespace, "slow", 0).await;
    wait_until("no pod", MINUTE, || async {
        let left = pods(&namespace).await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} left").into()) }
    })
    .await
    .unwrap();
    assert!(started.elapsed() >= delay, "gone after {:?}", started.elapsed());
}

fn waiting_reason(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.first()?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

#[tokio::test]
async fn images_that_never_come_or_crash_are_reported_as_a_kubelet_does() {
    let namespace = own().await.create_namespace("images").await.unwrap();
    for (image, reason) in [("never/api:2", "ImagePullBackOff"), ("crash/api:2", "CrashLoopBackOff")] {
        let name = &image[..5];
        namespace.create(&Workload::new(name, 1).with_image(image).deployment()).await.unwrap();
        let selector = ListParams::default().labels(&format!("app={name}"));
        wait_until(reason, MINUTE, || async {
            let pods = namespace.api::<Pod>().list(&selector).await?.items;
            let seen: Vec<_> = pods.iter().filter_map(waiting_reason).collect();
            if seen == [reason] { Ok(()) } else { Err(format!("{seen:?}").into()) }
        })
        .await
        .unwrap();
        let status = namespace.api::<Deployment>().get(name).await.unwrap().status.unwrap();
        assert_eq!(status.ready_replicas, None);
    }
}

#[tokio::test]
async fn the_autoscaler_takes_a_hand_scaled_deployment_back_to_its_maximum() {
    let namespace = own().await.create_namespace("hpa").await.unwrap();
    namespace.create(&Workload::new("api", 3).with_cpu_request("100m").deployment()).await.unwrap();
    namespace.create(&horizontal_pod_autoscaler("api", 3, 20, 70)).await.unwrap();
    wait_deployment(&namespace, "api", 3).await;

    let started = Instant::now();
    scale::<Deployment>(&namespace, "api", 50).await;
    wait_deployment(&namespace, "api", 20).await;
    println!("autoscaler clamped 50 to 20 after {:?}", started.elapsed());

    let bounds = json!({ "spec": { "minReplicas": 50, "maxReplicas": 100 } });
    namespace
        .api::<HorizontalPodAutoscaler>()
        .patch("api", &PatchParams::default(), &Patch::Merge(&bounds))
        .await
        .unwrap();
    wait_deployment(&namespace, "api", 50).await;
}

#[tokio::test]
async fn nodes_come_and_go_as_their_group_says() {
    let cluster = own().await;
    let groups = cluster.node_groups().await.unwrap();
    assert_eq!(groups.ready("elastic").await.unwrap().len(), 0);

    let started = Instant::now();
    cluster.set_nodes("elastic", 3).await.unwrap();
    groups.wait_ready("elastic", MINUTE).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(500), "booted in {:?}", started.elapsed());
    assert_eq!(cluster.add_nodes("elastic", 1).await.unwrap(), 4);
    groups.wait_ready("elastic", MINUTE).await.unwrap();

    let nodes = groups.ready("elastic").await.unwrap();
    let label = |node: &Node, key: &str| node.metadata.labels.as_ref().unwrap()[key].clone();
    assert!(nodes.iter().all(|node| label(node, "eks.amazonaws.com/nodegroup") == "elastic"));
    let mut zones: Vec<_> = nodes.iter().map(|node| label(node, "topology.kubernetes.io/zone")).collect();
    zones.sort();
    assert_eq!(zones, ["local-1a", "local-1a", "local-1b", "local-1b"]);

    cluster.set_nodes("elastic", 1).await.unwrap();
    groups.wait_ready("elastic", MINUTE).await.unwrap();
    let names: Vec<_> =
        groups.ready("elastic").await.unwrap().into_iter().map(|node| node.metadata.name).collect();
    assert_eq!(names, [Some("elastic-0".to_owned())]);

    let error = cluster.set_nodes("elastick", 1).await.unwrap_err();
    assert!(error.to_string().contains("no node group elastick; there are: drained, elastic"), "{error}");
}

#[tokio::test]
async fn a_leaving_node_is_drained_within_the_disruption_budget() {
    let cluster = own().await;
    let groups = cluster.node_groups().await.unwrap();
    let namespace = cluster.create_namespace("drain").await.unwrap();
    let api = Workload::new("api", 4).with_node_selector("role", "drained");
    namespace.create(&api.deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 4).await;
    namespace.create(&pod_disruption_budget("api", IntOrString::Int(3))).await.unwrap();

    cluster.set_nodes("drained", 1).await.unwrap();
    let deployment = namespace.api::<Deployment>();
    wait_until("one node left with all four pods", MINUTE, || async {
        let ready = deployment.get("api").await?.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        assert!(ready >= 3, "{ready} ready pods, and the budget says 3");
        let nodes = Api::<Node>::all(namespace.client())
            .list(&ListParams::default().labels("role=drained"))
            .await?
            .items
            .len();
        if (ready, nodes) == (4, 1) { Ok(()) } else { Err(format!("{ready} pods, {nodes} nodes").into()) }
    })
    .await
    .unwrap();
    groups.wait_ready("drained", MINUTE).await.unwrap();
}

#[tokio::test]
async fn a_restricted_user_is_refused_what_was_not_granted() {
    let cluster = TestCluster::shared().await.unwrap();
    let namespace = cluster.create_namespace("rbac").await.unwrap();
    namespace.create(&Workload::new("api", 1).deployment()).await.unwrap();
    let user = User::new(namespace.name(), "reader")
        .with_rules([rule("apps", ["deployments"], ["get"])])
        .with_cluster_rules([rule("", ["nodes"], ["list"])]);
    let reader = cluster.create_user(&user).await.unwrap();

    let client = reader.client().await.unwrap();
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace.name());
    deployments.get("api").await.unwrap();
    Api::<Node>::all(client).list(&ListParams::default()).await.unwrap();

    let patch = json!({ "spec": { "replicas": 2 } });
    let error =
        deployments.patch_scale("api", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error}") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));

    let output = Command::new(reader.kubectl())
        .arg("--kubeconfig")
        .arg(reader.kubeconfig_path())
        .args(["-n", namespace.name(), "scale", "deployment/api", "--replicas=2"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("forbidden"), "{errors}");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn the_api_server_can_go_and_come_back_and_dropping_ends_everything() {
    let cluster = ControlPlane::builder().start().await.unwrap();
    let namespace = cluster.create_namespace("outage").await.unwrap();
    namespace.create(&Workload::new("api", 2).deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 2).await;

    cluster.stop_api_server().await.unwrap();
    cluster.stop_api_server().await.unwrap();
    let error = namespace.api::<Deployment>().get("api").await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "answered: {error}");

    let started = Instant::now();
    cluster.start_api_server().await.unwrap();
    println!("API server back after {:?}", started.elapsed());
    scale::<Deployment>(&namespace, "api", 5).await;
    wait_deployment(&namespace, "api", 5).await;
    println!("and 3 pods more ready after {:?}", started.elapsed());

    let (processes, folder) = (cluster.process_ids(), cluster.folder().to_owned());
    assert_eq!(processes.len(), 2 * 5 + 1, "supervisor and server each, and the remover: {processes:?}");
    assert!(processes.iter().all(|id| runs(*id)) && folder.exists());
    drop(cluster);
    let left: Vec<_> = processes.into_iter().filter(|id| runs(*id)).collect();
    assert!(left.is_empty(), "still running: {left:?}");
    assert!(!folder.exists(), "{} is still there", folder.display());
}

/// Whether the process exists and is not merely waiting for its parent to look at its exit status.
fn runs(id: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { return false };
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X']));
    state == Some(false)
}

#[tokio::test]
#[ignore = "the process that the next test kills"]
async fn victim() {
    let cluster = ControlPlane::builder().start().await.unwrap();
    let processes: Vec<_> = cluster.process_ids().iter().map(u32::to_string).collect();
    println!("victim {} {}", cluster.folder().display(), processes.join(" "));
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[tokio::test]
async fn nothing_outlives_a_killed_test_process() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find_map(|line| {
        line.split_once("victim /").map(|(_, rest)| format!("/{rest}")) //
    });
    victim.kill().unwrap();
    victim.wait().unwrap();

    let line = line.expect("the victim started a control plane");
    let mut words = line.split(' ');
    let folder = Path::new(words.next().unwrap());
    let processes: Vec<u32> = words.map(|word| word.parse().unwrap()).collect();
    assert_eq!(processes.len(), 11, "{processes:?}");
    wait_until("end of the victim's servers", MINUTE, || async {
        let left: Vec<_> = processes.iter().filter(|id| runs(**id)).collect();
        if left.is_empty() && !folder.exists() { Ok(()) } else { Err(format!("{left:?}").into()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_start_is_an_error_with_its_log() {
    let error =
        ControlPlane::builder().with_flag(Server::ApiServer, "--no-such-flag").start().await.unwrap_err();
    let TestbedError::Start { server, log_tail, .. } = &error else { panic!("{error}") };
    assert_eq!(server, "kube-apiserver");
    assert!(log_tail.contains("unknown flag: --no-such-flag"), "{log_tail}");
    assert!(error.to_string().contains("scripts/build-control-plane"), "{error}");
}

#[tokio::test]
#[ignore = "takes a minute; prints what a large change needs"]
async fn a_deployment_scales_to_500() {
    let cluster = TestCluster::shared().await.unwrap();
    let namespace = cluster.create_namespace("large").await.unwrap();
    namespace.create(&Workload::new("api", 50).with_cpu_request("50m").deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 50).await;
    let started = Instant::now();
    scale::<Deployment>(&namespace, "api", 500).await;
    wait_deployment(&namespace, "api", 500).await;
    println!("50 -> 500 ready: {:?}", started.elapsed());
    namespace.delete().await.unwrap();
}

/// The pods that are ready, with where they serve their metrics.
async fn endpoints(namespace: &TestNamespace) -> Vec<(String, String)> {
    let ready = |pod: &Pod| {
        let conditions =
            pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let pods = pods(namespace).await.into_iter().filter(ready);
    pods.map(|pod| {
        let address = pod.status.unwrap().pod_ip.unwrap();
        (pod.metadata.name.unwrap(), format!("http://{address}:9090/metrics"))
    })
    .collect()
}

async fn get(url: &str) -> Result<(u16, String), reqwest::Error> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build()?;
    let answer = client.get(url).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{page}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn pods_serve_metrics_that_follow_the_number_of_ready_pods() {
    let namespace = own().await.create_namespace("metrics").await.unwrap();
    let error_rate = Level::new(0.001).when_ready_below(3, 0.25).when_ready_below(2, 0.5);
    let page = MetricsPage::new()
        .with_requests(1000.0, error_rate)
        .with_gauge("quoted", f64::NAN)
        .with_label("path", "a\"b\\c");
    let api = Workload::new("api", 4).with_metrics_port(9090).with_metrics_page(&page);
    namespace.create(&api.deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 4).await;

    for (size, rate) in [(4, 0.001), (2, 0.25), (1, 0.5), (3, 0.001)] {
        scale::<Deployment>(&namespace, "api", size).await;
        wait_deployment(&namespace, "api", size).await;
        let endpoints = endpoints(&namespace).await;
        assert_eq!(endpoints.len(), usize::try_from(size).unwrap());
        for (pod, url) in endpoints {
            wait_until(&format!("{pod} at {size}"), MINUTE, || async {
                let (status, page) = get(&url).await?;
                assert_eq!(status, 200);
                let now = value(&page, "error_rate ");
                if now == rate { Ok(()) } else { Err(format!("{now}").into()) }
            })
            .await
            .unwrap();
        }
    }

    let (_, url) = endpoints(&namespace).await.remove(0);
    let before = get(&url).await.unwrap().1;
    assert!(before.contains("quoted{path=\"a\\\"b\\\\c\"} NaN\n"), "{before}");
    assert!(before.contains("# TYPE http_requests_total counter\n"), "{before}");
    let requests = value(&before, "http_requests_total ");
    wait_until("100 more requests", MINUTE, || async {
        let now = value(&get(&url).await?.1, "http_requests_total ");
        if now >= requests + 100.0 { Ok(()) } else { Err(format!("{now}").into()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_pods_serve_changes_while_they_run_and_ends_with_them() {
    let namespace = own().await.create_namespace("pages").await.unwrap();
    namespace.create(&Workload::new("api", 2).with_metrics_port(9090).deployment()).await.unwrap();
    wait_deployment(&namespace, "api", 2).await;
    let endpoints = endpoints(&namespace).await;
    let [(first, first_url), (_, second_url)] = endpoints.as_slice() else { panic!("{endpoints:?}") };
    assert_eq!(get(first_url).await.unwrap(), (200, String::new()));

    let pages = MetricsPages::of(&namespace, "api");
    pages.serve(&MetricsPage::new().with_counter("jobs_total", 5.0)).await.unwrap();
    let counter = "# HELP jobs_total Simulated.\n# TYPE jobs_total counter\njobs_total 5\n";
    assert_eq!(get(first_url).await.unwrap(), (200, counter.to_owned()));

    pages.serve_at(first, &MetricsPage::of_text("<html>").with_status(500)).await.unwrap();
    assert_eq!(get(first_url).await.unwrap(), (500, "<html>".to_owned()));
    assert_eq!(get(second_url).await.unwrap(), (200, counter.to_owned()));

    pages.serve_at(first, &MetricsPage::refusing()).await.unwrap();
    assert!(get(first_url).await.unwrap_err().is_connect());
    for stuck in [MetricsPage::hanging(), MetricsPage::trickling()] {
        pages.serve_at(first, &stuck).await.unwrap();
        assert!(get(first_url).await.unwrap_err().is_timeout(), "{stuck:?}");
    }
    pages.serve_at(first, &MetricsPage::new().with_padding(1 << 20)).await.unwrap();
    assert!(get(first_url).await.unwrap().1.len() >= 1 << 20);
    pages.serve_as_all(first).await.unwrap();
    assert_eq!(get(first_url).await.unwrap(), (200, counter.to_owned()));

    let slow = MetricsPage::new().with_delay(Duration::from_millis(300));
    pages.serve(&slow).await.unwrap();
    let started = Instant::now();
    let (one, other) = tokio::join!(get(first_url), get(second_url));
    assert_eq!((one.unwrap().0, other.unwrap().0), (200, 200));
    assert!(started.elapsed() >= Duration::from_millis(300));
    let requests = pages.requests().await.unwrap();
    assert_eq!(requests[first].requests, 8, "{requests:?}");
    assert!(requests.values().all(|pod| pod.peak_in_flight == 2), "{requests:?}");

    scale::<Deployment>(&namespace, "api", 0).await;
    wait_until("no pod", MINUTE, || async {
        let left = pods(&namespace).await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} left").into()) }
    })
    .await
    .unwrap();
    assert!(get(first_url).await.unwrap_err().is_connect(), "its pod is gone");
}
