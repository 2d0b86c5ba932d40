use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, ResourceQuota, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};
use wakala_core::{Finding, FindingLevel, Preflight, Units};
use wakala_k8s::{Cluster, ExpectedNodes, ReadyNodes, SchedulableCapacity, Workload};
use wakala_testbed::{self as bed, TestNamespace, wait_until};

use crate::support::{MINUTE, SMALL, connect, cx, own, wait_ready};

/// The small nodes: two, of 2 CPU, 4 GiB and 12 pods each. One test at a time.
async fn small_nodes(prefix: &str) -> (MutexGuard<'static, ()>, Cluster, TestNamespace) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let guard = ONE_AT_A_TIME.lock().await;
    let plane = own().await;
    (guard, connect(plane).await, plane.create_namespace(prefix).await.unwrap())
}

/// A Deployment that only the small nodes take, and that no other node would.
fn small(name: &str, replicas: i32, cpu: &str, memory: &str) -> Deployment {
    let mut object = bed::Workload::new(name, replicas)
        .with_cpu_request(cpu)
        .with_memory_request(memory)
        .with_node_selector("role", SMALL)
        .with_rolling_update(IntOrString::String("50%".into()), IntOrString::Int(0))
        .deployment();
    let toleration =
        Toleration { key: Some("role".into()), value: Some(SMALL.into()), ..Toleration::default() };
    object.spec.as_mut().unwrap().template.spec.as_mut().unwrap().tolerations = Some(vec![toleration]);
    object
}

async fn findings(check: SchedulableCapacity) -> Vec<Finding> {
    check.check(&cx(), &[]).await.unwrap()
}

/// The pods must be gone before the next test counts.
async fn clear(namespace: TestNamespace) {
    let pods = namespace.api::<k8s_openapi::api::core::v1::Pod>();
    namespace.delete().await.unwrap();
    wait_until("no pods left", MINUTE, || async {
        let left = pods.list(&Default::default()).await?.items.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} left").into()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_dimension_that_runs_out_is_named_with_its_numbers() {
    let (_guard, cluster, namespace) = small_nodes("room").await;
    for (name, cpu, memory) in [("hungry", "500m", "64Mi"), ("fat", "10m", "1Gi"), ("many", "10m", "16Mi")] {
        namespace.create(&small(name, 1, cpu, memory)).await.unwrap();
        wait_ready(&namespace, name, 1).await;
    }
    let workload = |name: &str| Workload::deployment(&cluster, namespace.name(), name);
    let grown = |name: &str, size: u32| {
        findings(SchedulableCapacity::of(&cluster).with_growth(&workload(name), size))
    };

    // 4 CPU, less 0.52 of the three pods: five more at most, since a node with a pod of 0.5 has room for three.
    let fits = grown("hungry", 5).await;
    assert_eq!(fits[0].level, FindingLevel::Ok, "{fits:?}");
    assert!(fits[0].text.contains("4 more pods") && fits[0].text.contains("on 2 nodes"), "{fits:?}");

    let lack = grown("hungry", 20).await;
    assert_eq!(lack[0].level, FindingLevel::Refusal);
    let text = &lack[0].text;
    assert!(
        text.contains("of 19 more pods") && text.contains("CPU runs out: 9.5 CPU needed, 3.48 CPU free"),
        "{text}"
    );
    let text = grown("fat", 20).await.remove(0).text;
    assert!(text.contains("memory runs out: 19 GiB memory needed"), "{text}");
    let text = grown("many", 40).await.remove(0).text;
    assert!(text.contains("only 21 of 39 more pods") && text.contains("pod slots runs out"), "{text}");

    // Counted together: what one takes the other has not.
    let both = SchedulableCapacity::of(&cluster)
        .with_growth(&workload("hungry"), 6)
        .with_growth(&workload("many"), 20);
    let levels: Vec<_> = findings(both).await.into_iter().map(|finding| finding.level).collect();
    assert_eq!(levels, [FindingLevel::Ok, FindingLevel::Refusal]);
    clear(namespace).await;
}

#[tokio::test]
async fn nodes_to_come_and_extra_pods_of_a_restart_count() {
    let (_guard, cluster, namespace) = small_nodes("expected").await;
    namespace.create(&small("api", 4, "500m", "64Mi")).await.unwrap();
    wait_ready(&namespace, "api", 4).await;
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let grown = || SchedulableCapacity::of(&cluster).with_growth(&api, 12);

    assert_eq!(findings(grown()).await[0].level, FindingLevel::Refusal);
    // Eight more pods need four slots that there are and four on one node more.
    let three = ExpectedNodes::up_to(3, "role", SMALL);
    let found = findings(grown().with_nodes(three.clone())).await;
    assert_eq!(found[0].level, FindingLevel::Ok, "{found:?}");
    assert!(found[0].text.contains("3 nodes, 1 of them still to come"), "{found:?}");
    assert_eq!(
        findings(grown().with_nodes(ExpectedNodes::up_to(2, "role", SMALL))).await[0].level,
        FindingLevel::Refusal
    );
    // Half of 12 more at the same time is too much for it.
    let restarted = findings(grown().with_restart(&api, 12).with_nodes(three)).await;
    assert!(restarted[1].text.contains("only 0 of 6 extra pods of a restart"), "{restarted:?}");

    let unknown = findings(grown().with_nodes(ExpectedNodes::up_to(9, "role", "unheard-of"))).await;
    assert_eq!(unknown[0].level, FindingLevel::Warning);
    assert!(unknown[0].text.contains("role=unheard-of"), "{unknown:?}");
    let advisory = findings(grown().advisory(true)).await;
    assert_eq!(advisory[0].level, FindingLevel::Warning);
    clear(namespace).await;
}

#[tokio::test]
async fn pods_that_no_node_takes_and_quotas_are_found() {
    let (_guard, cluster, namespace) = small_nodes("nowhere").await;
    let nowhere = bed::Workload::new("nowhere", 1).with_node_selector("role", "moon").deployment();
    namespace.create(&nowhere).await.unwrap();
    namespace.create(&small("api", 1, "10m", "16Mi")).await.unwrap();
    wait_ready(&namespace, "api", 1).await;
    let lost = Workload::deployment(&cluster, namespace.name(), "nowhere");
    let found = findings(SchedulableCapacity::of(&cluster).with_growth(&lost, 3)).await;
    assert_eq!(found[0].level, FindingLevel::Refusal);
    assert!(found[0].text.contains("find no node"), "{found:?}");

    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "tight"}, "spec": {"hard": {"pods": "6"}}}))
            .unwrap();
    namespace.create(&quota).await.unwrap();
    wait_until("the quota in force", MINUTE, || async {
        let quota = namespace.api::<ResourceQuota>().get("tight").await?;
        let used = quota.status.and_then(|status| status.used).and_then(|used| used.get("pods").cloned());
        match used {
            Some(used) if used.0 == "2" => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    })
    .await
    .unwrap();
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let found = findings(SchedulableCapacity::of(&cluster).with_growth(&api, 5)).await;
    assert!(found.iter().all(|finding| finding.level == FindingLevel::Ok), "{found:?}");
    let found = findings(SchedulableCapacity::of(&cluster).with_growth(&api, 9)).await;
    let refusal = found.iter().find(|finding| finding.level == FindingLevel::Refusal).unwrap();
    assert!(refusal.text.contains("tight") && refusal.text.contains("4 pod slots is left"), "{refusal:?}");
    clear(namespace).await;
}

#[tokio::test]
async fn where_nothing_grows_nothing_is_asked() {
    let (_guard, cluster, namespace) = small_nodes("still").await;
    namespace.create(&small("api", 2, "10m", "16Mi")).await.unwrap();
    wait_ready(&namespace, "api", 2).await;
    let api = Workload::deployment(&cluster, namespace.name(), "api");
    let found = findings(SchedulableCapacity::of(&cluster).with_growth(&api, 2)).await;
    assert_eq!(found, [Finding::ok("no pods are added")]);
    clear(namespace).await;
}

#[tokio::test]
async fn nodes_count_while_they_take_pods() {
    let (_guard, cluster, namespace) = small_nodes("counted").await;
    let nodes = ReadyNodes::with_label(&cluster, "role", SMALL);
    assert_eq!(nodes.count(&cx()).await.unwrap(), Units(2));
    let api = Api::<Node>::all(cluster.client().clone());
    let name = format!("{SMALL}-0");
    api.cordon(&name).await.unwrap();
    assert_eq!(nodes.count(&cx()).await.unwrap(), Units(1));
    api.uncordon(&name).await.unwrap();
    assert_eq!(nodes.count(&cx()).await.unwrap(), Units(2));
    assert_eq!(ReadyNodes::with_label(&cluster, "role", "moon").count(&cx()).await.unwrap(), Units(0));
    clear(namespace).await;
}
