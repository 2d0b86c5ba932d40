use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use wakala_core::testing::conformance::SourceCase;
use wakala_core::{
    Coverage, ErrorKind, Guard, MetricQuery, MetricsSource, Retry, RunContext, Sample, Unit, guard,
};
use wakala_k8s::{Cluster, PodMetric, PodMetrics, Series, Workload, rbac_roles};
use wakala_testbed::{self as bed, Level, MetricsPage, MetricsPages, TestNamespace, User, wait_until};

use crate::support::{MINUTE, connect, cx, own, patch, scale_by_hand, wait_ready};

/// A Deployment whose pods serve `page`, and the handle to change that.
async fn serving(prefix: &str, replicas: i32, page: &MetricsPage) -> (Workload, TestNamespace, MetricsPages) {
    let namespace = own().await.create_namespace(prefix).await.unwrap();
    let api = bed::Workload::new("api", replicas).with_metrics_port(9464).with_metrics_page(page);
    namespace.create(&api.deployment()).await.unwrap();
    wait_ready(&namespace, "api", replicas).await;
    let workload = Workload::deployment(&connect(own().await).await, namespace.name(), "api");
    let pages = MetricsPages::of(&namespace, "api");
    (workload, namespace, pages)
}

async fn pods(namespace: &TestNamespace) -> Vec<String> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await.unwrap();
    pods.iter().map(ResourceExt::name_any).collect()
}

/// The pods that say that they are ready, in order. A workload's own count may be that of a moment ago.
async fn ready_pods(namespace: &TestNamespace) -> Vec<String> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let ready = |pod: &&Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        conditions.unwrap_or_default().iter().any(|one| one.type_ == "Ready" && one.status == "True")
    };
    pods.iter().filter(ready).map(ResourceExt::name_any).collect()
}

/// A source of everything that the tests ask for, which never answers from memory unless told to.
fn source(workload: &Workload) -> PodMetrics {
    PodMetrics::of(workload)
        .with_metric("connections", PodMetric::sum("ws_connections", Unit::Count))
        .with_metric("busiest", PodMetric::max("ws_connections", Unit::Count))
        .with_metric(
            "error_rate",
            PodMetric::ratio_of_increases("http_requests_errors_total", "http_requests_total"),
        )
        .with_metric("requests", PodMetric::rate("http_requests_total"))
        .with_window(Duration::from_millis(500))
        .with_reuse(Duration::ZERO)
}

async fn latest(source: &PodMetrics, name: &str) -> Option<Sample> {
    source.latest(&cx(), &name.into()).await.unwrap()
}

fn near(seen: f64, wanted: f64) -> bool {
    (seen - wanted).abs() <= wanted * 0.2
}

fn coverage(answered: u32, expected: u32) -> Coverage {
    Coverage { answered, expected }
}

#[tokio::test]
async fn all_of_50_pods_are_one_value_and_at_most_16_are_asked_at_once() {
    let page = MetricsPage::new()
        .with_gauge("ws_connections", 12.5)
        .with_requests(100.0, Level::new(0.002).when_ready_below(20, 0.5))
        .with_delay(Duration::from_millis(100));
    let (api, namespace, pages) = serving("fifty", 50, &page).await;
    let source = source(&api);

    let connections = latest(&source, "connections").await.unwrap();
    assert_eq!(
        (connections.value, connections.coverage, connections.unit),
        (625.0, coverage(50, 50), Unit::Count)
    );
    let busiest = latest(&source, "busiest").await.unwrap();
    assert_eq!((busiest.value, busiest.coverage), (12.5, coverage(50, 50)));
    let error_rate = latest(&source, "error_rate").await.unwrap();
    assert!(near(error_rate.value, 0.002), "{error_rate:?}");
    assert_eq!((error_rate.coverage, error_rate.unit), (coverage(50, 50), Unit::Ratio));
    let requests = latest(&source, "requests").await.unwrap();
    assert!(near(requests.value, 5000.0), "{requests:?}");
    assert_eq!(source.unanswered().await, None);
    let asked = pages.requests().await.unwrap();
    let peak = asked.values().next().unwrap().peak_in_flight;
    assert_eq!((asked.len(), peak), (50, 16));

    // The share of errors is that of now: the pods that are left, since they are so few.
    let guard = guard::metric(Arc::new(source.clone()), "error_rate").below(0.01);
    assert!(guard.evaluate(&cx()).await.is_pass());
    scale_by_hand(&namespace, "api", 15).await;
    wait_ready(&namespace, "api", 15).await;
    wait_until("an error rate of a half", MINUTE, || async {
        let sample = latest(&source, "error_rate").await.unwrap();
        assert_eq!(sample.coverage, coverage(15, 15));
        if near(sample.value, 0.5) { Ok(()) } else { Err(format!("{sample:?}").into()) }
    })
    .await
    .unwrap();
    let verdict = guard.evaluate(&cx()).await.to_string();
    assert!(verdict.starts_with("FAIL: error_rate is 0."), "{verdict}");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn pods_that_do_not_answer_lower_the_coverage_and_take_no_longer_than_allowed() {
    let page = MetricsPage::new().with_gauge("ws_connections", 10.0);
    let (api, namespace, pages) = serving("faulty", 9, &page).await;
    let names = pods(&namespace).await;
    let faults = [
        (MetricsPage::hanging(), "did not answer within 2s"),
        (MetricsPage::trickling(), "did not answer within 2s"),
        (page.clone().with_delay(Duration::from_secs(20)), "did not answer within 2s"),
        (MetricsPage::refusing(), "refused the connection"),
        (page.clone().with_status(500), "answered 500"),
        (
            MetricsPage::of_text("<html>busy</html>\n"),
            "cannot be read: line 1 of its page is not in Prometheus' text format",
        ),
        (page.clone().with_padding(4 << 20), "sent over 4194304 bytes"),
        (MetricsPage::new().with_gauge("ws_connections", f64::NAN), ""),
    ];
    for ((fault, _), pod) in faults.iter().zip(&names) {
        pages.serve_at(pod, fault).await.unwrap();
    }
    let source = source(&api).with_pod_timeout(Duration::from_secs(2));
    let started = Instant::now();
    let connections = latest(&source, "connections").await.unwrap();
    let took = started.elapsed();
    assert_eq!((connections.value, connections.coverage), (10.0, coverage(1, 9)));
    assert!(took < Duration::from_secs(4), "{took:?}");
    let unanswered = source.unanswered().await.unwrap();
    for (_, reason) in faults {
        assert!(unanswered.contains(reason), "{reason:?} in {unanswered}");
    }
    assert!(unanswered.starts_with("3 did not answer within 2s ("), "{unanswered}");

    // Too few for a guard.
    let guard = guard::metric(Arc::new(source), "connections").above(1.0);
    assert_eq!(guard.evaluate(&cx()).await.to_string(), "no verdict: connections from only 1 of 9");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn no_answer_at_all_is_an_error_and_ends_in_time() {
    let (api, namespace, pages) = serving("silent", 12, &MetricsPage::hanging()).await;
    let source = source(&api).with_parallel(2).with_scrape_timeout(Duration::from_secs(1));
    let started = Instant::now();
    let error = source.latest(&cx(), &"connections".into()).await.unwrap_err();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
    let text = error.to_string();
    assert!(text.contains("none of 12 ready pods shows its metrics: 12 had not answered after 1s"), "{text}");

    // A run that is cancelled does not wait for them.
    let source = source.with_scrape_timeout(MINUTE).with_pod_timeout(MINUTE);
    let cx = RunContext::detached();
    let query = MetricQuery::new("connections");
    let (answer, ()) = tokio::join!(source.latest(&cx, &query), async {
        wait_until("a pod is asked", MINUTE, || async {
            let requests = pages.requests().await?;
            let asked: u32 = requests.values().map(|pod| pod.requests).sum();
            if asked >= 2 + 2 { Ok(()) } else { Err(format!("{asked}").into()) }
        })
        .await
        .unwrap();
        cx.cancellation().cancel();
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Cancelled);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn only_ready_pods_of_the_workload_are_asked() {
    let page = MetricsPage::new().with_gauge("ws_connections", 10.0);
    let (api, namespace, pages) = serving("unready", 3, &page).await;
    // A pod of somebody else with the labels of ours.
    let stranger = json!({
        "metadata": {"name": "migration", "labels": {"app": "api"}, "annotations": {"prometheus.io/port": "9464"}},
        "spec": {"containers": [{"name": "migration", "image": "sim/job:1"}]},
    });
    namespace.create::<Pod>(&serde_json::from_value(stranger).unwrap()).await.unwrap();
    let unready = pods(&namespace).await.into_iter().find(|name| name.starts_with("api-")).unwrap();
    let annotation = json!({"metadata": {"annotations": {"testbed.wakala.dev/unready": "true"}}});
    patch::<Pod>(&namespace, &unready, annotation).await;
    wait_until("one pod is not ready, and the stranger is", MINUTE, || async {
        let ready = ready_pods(&namespace).await;
        let as_wanted =
            ready.len() == 3 && ready.contains(&"migration".to_owned()) && !ready.contains(&unready);
        if as_wanted { Ok(()) } else { Err(format!("{ready:?}").into()) }
    })
    .await
    .unwrap();

    let connections = latest(&source(&api), "connections").await.unwrap();
    assert_eq!((connections.value, connections.coverage), (20.0, coverage(2, 2)));
    let requests = pages.requests().await.unwrap();
    assert_eq!((requests.len(), requests[&unready].requests, requests["migration"].requests), (4, 0, 0));
    assert_eq!(requests.values().map(|pod| pod.requests).sum::<u32>(), 2);

    // Nobody to ask is no data, and no error.
    scale_by_hand(&namespace, "api", 0).await;
    wait_ready(&namespace, "api", 0).await;
    for metric in ["connections", "error_rate"] {
        assert_eq!(latest(&source(&api), metric).await, None);
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn growth_is_over_the_pods_that_were_there_both_times() {
    let page = MetricsPage::new().with_requests(100.0, 0.1);
    let (api, namespace, _) = serving("replaced", 3, &page).await;
    let source = source(&api);
    let first = latest(&source, "error_rate").await.unwrap();
    assert_eq!(first.coverage, coverage(3, 3));

    let gone = pods(&namespace).await.remove(0);
    namespace.api::<Pod>().delete(&gone, &DeleteParams::default()).await.unwrap();
    wait_until("another pod in its place", MINUTE, || async {
        let now = ready_pods(&namespace).await;
        if now.len() == 3 && !now.contains(&gone) { Ok(()) } else { Err(format!("{now:?}").into()) }
    })
    .await
    .unwrap();
    let second = latest(&source, "error_rate").await.unwrap();
    assert_eq!(second.coverage, coverage(2, 3));
    assert!(near(second.value, 0.1), "{second:?}");
    wait_until("the new pod counts", MINUTE, || async {
        let sample = latest(&source, "error_rate").await.unwrap();
        assert!(near(sample.value, 0.1), "{sample:?}");
        if sample.coverage == coverage(3, 3) { Ok(()) } else { Err(format!("{sample:?}").into()) }
    })
    .await
    .unwrap();

    let range = source.range(&cx(), &"error_rate".into(), MINUTE).await.unwrap();
    assert!(range.is_sorted_by_key(|sample| sample.time) && range.len() >= 3, "{range:?}");
    assert_eq!((&range[0], &range[1]), (&first, &second));
    let recent = source.range(&cx(), &"error_rate".into(), Duration::ZERO).await.unwrap();
    assert_eq!(recent, []);
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn counters_that_are_set_back_and_series_that_come_late_count() {
    let code = |code: &str, value: f64, page: MetricsPage| {
        page.with_counter("requests_total", value).with_label("code", code)
    };
    let calm = code("200", 1000.0, MetricsPage::new());
    let (api, namespace, pages) = serving("resets", 1, &calm).await;
    let failed = Series::named("requests_total").with_label_starting("code", "5");
    let source = PodMetrics::of(&api)
        .with_metric("error_rate", PodMetric::ratio_of_increases(failed, "requests_total"))
        .with_window(Duration::from_millis(100))
        .with_reuse(Duration::ZERO);
    assert_eq!(latest(&source, "error_rate").await, None, "no requests, no error rate");

    // The first error ever: its series was not there before. 90 others.
    let later = code("503", 10.0, code("200", 1090.0, MetricsPage::new()));
    pages.serve(&later).await.unwrap();
    assert_eq!(latest(&source, "error_rate").await.unwrap().value, 0.1);
    // The server was started again since: 3 requests, one of them failed.
    let again = code("503", 1.0, code("200", 2.0, MetricsPage::new()));
    pages.serve(&again).await.unwrap();
    let sample = latest(&source, "error_rate").await.unwrap();
    assert!(near(sample.value, 1.0 / 3.0), "{sample:?}");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn one_scrape_serves_all_that_ask_at_the_same_time() {
    let page = MetricsPage::new()
        .with_gauge("ws_connections", 10.0)
        .with_requests(100.0, 0.1)
        .with_delay(Duration::from_millis(200));
    let (api, namespace, pages) = serving("shared", 2, &page).await;
    let asked = async || -> u32 { pages.requests().await.unwrap().values().map(|pod| pod.requests).sum() };

    let source = source(&api);
    let cx = cx();
    let queries = ["connections", "busiest", "connections", "busiest"].map(MetricQuery::from);
    let answers = futures::future::join_all(queries.iter().map(|query| source.latest(&cx, query))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().is_some()));
    assert_eq!(asked().await, 2);

    // Two guards that need growth share both scrapes.
    let source = source.with_reuse(MINUTE);
    let queries = ["error_rate", "requests", "connections"].map(MetricQuery::from);
    let answers = futures::future::join_all(queries.iter().map(|query| source.latest(&cx, query))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().is_some()));
    assert_eq!(asked().await, 2 + 2 * 2);
    assert!(latest(&source, "error_rate").await.is_some());
    assert_eq!(asked().await, 2 + 2 * 2, "remembered");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn a_stateful_set_serves_where_its_port_and_path_say() {
    let namespace = own().await.create_namespace("stateful").await.unwrap();
    let page = MetricsPage::new().with_gauge("used_bytes", 5.0);
    let redis = bed::Workload::new("redis", 2).with_metrics_page(&page);
    let mut redis = redis.with_annotation("prometheus.io/path", "stats").stateful_set();
    let pod = redis.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    let ports = json!([{"name": "metrics", "containerPort": 9121}]);
    pod.containers[0].ports = Some(serde_json::from_value(ports).unwrap());
    namespace.create(&redis).await.unwrap();
    wait_until("both pods ready", MINUTE, || async {
        let status = namespace.api::<StatefulSet>().get("redis").await?.status.unwrap_or_default();
        if status.ready_replicas == Some(2) { Ok(()) } else { Err(format!("{status:?}").into()) }
    })
    .await
    .unwrap();
    let workload = Workload::stateful_set(&connect(own().await).await, namespace.name(), "redis");
    let source = PodMetrics::of(&workload).with_metric("used", PodMetric::sum("used_bytes", Unit::Bytes));
    assert_eq!(latest(&source, "used").await.unwrap().value, 10.0);

    for (source, reason) in [
        (source.clone().with_path("/other"), "2 answered 404 (redis-0, redis-1)"),
        (source.clone().with_port(9), "2 refused the connection (redis-0, redis-1)"),
    ] {
        let error = source.latest(&cx(), &"used".into()).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused() {
    let page = MetricsPage::new().with_gauge("ws_connections", 10.0);
    let (api, namespace, _) = serving("refused", 1, &page).await;
    let source = source(&api);
    let named = MetricQuery::new("connections").with_label("workload", "api");
    assert!(source.latest(&cx(), &named).await.unwrap().is_some());
    for (query, reason) in [
        (
            MetricQuery::new("conections"),
            "conections is not declared by with_metric; there are: busiest, connections, error_rate, requests",
        ),
        (named.clone().with_label("code", "500"), "asks for a label code"),
        (named.with_label("workload", "web"), "asks for another workload; this source knows api only"),
    ] {
        for error in [
            source.latest(&cx(), &query).await.unwrap_err(),
            source.range(&cx(), &query, MINUTE).await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
    // Nobody shows it.
    for metric in ["error_rate", "requests"] {
        assert_eq!(latest(&source, metric).await, None);
    }

    namespace
        .api::<k8s_openapi::api::apps::v1::Deployment>()
        .delete("api", &DeleteParams::default())
        .await
        .unwrap();
    let error = source.latest(&cx(), &"connections".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never));
    assert!(error.to_string().contains("there is no Deployment of that name"), "{error}");
    namespace.delete().await.unwrap();
}

#[tokio::test]
async fn the_roles_of_a_source_suffice_for_it() {
    let page = MetricsPage::new().with_gauge("ws_connections", 10.0);
    let (api, namespace, _) = serving("least", 2, &page).await;
    let roles = rbac_roles("reader", &source(&api).permissions()).unwrap();
    assert_eq!((roles.roles.len(), &roles.cluster_role), (1, &None));
    let rules = roles.roles[0].rules.clone().unwrap();
    let verbs: Vec<_> = rules.iter().flat_map(|rule| rule.verbs.clone()).collect();
    assert_eq!(verbs, ["list", "get"]);

    let as_user = async |user: User| {
        let cluster = connect(&own().await.create_user(&user).await.unwrap()).await;
        source(&Workload::deployment(&cluster, namespace.name(), "api"))
    };
    let reader = as_user(User::new(namespace.name(), "reader").with_rules(rules.clone())).await;
    assert_eq!(latest(&reader, "connections").await.unwrap().value, 20.0);
    for (missing, name) in [(0, "no-pods"), (1, "no-workload")] {
        let mut fewer = rules.clone();
        fewer.remove(missing);
        let user = as_user(User::new(namespace.name(), name).with_rules(fewer)).await;
        let error = user.latest(&cx(), &"connections".into()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
    }
    namespace.delete().await.unwrap();
}

/// A cluster at a port where nobody listens.
fn nowhere() -> Cluster {
    let url = "http://127.0.0.1:9".parse().unwrap();
    Cluster::from_config(kube::Config::new(url)).unwrap()
}

async fn gauges() -> SourceCase {
    conforming("connections").await
}

async fn growth() -> SourceCase {
    conforming("error_rate").await
}

async fn conforming(known: &str) -> SourceCase {
    let page = MetricsPage::new().with_gauge("ws_connections", 10.0).with_requests(100.0, 0.1);
    let (api, _, _) = serving("conforming", 2, &page).await;
    let nothing = PodMetric::ratio_of_increases("jobs_failed_total", "jobs_total");
    SourceCase::new(source(&api).with_metric("job_failures", nothing), known)
        .with_absent("job_failures")
        .with_unknown("memory")
        .with_unreachable(source(&Workload::deployment(&nowhere(), "production", "api")))
}

mod gauges_of_pods {
    wakala_core::source_conformance!(super::gauges);
}

mod growth_of_pods {
    wakala_core::source_conformance!(super::growth);
}
