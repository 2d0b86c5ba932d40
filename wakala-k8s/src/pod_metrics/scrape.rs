//! One look at all pods of a workload.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, stream};
use http::{Request, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::Selector;
use tokio::time::Instant;
use wakala_core::{Error, ErrorKind, Result, Retry, RunContext};

use super::metric::Series;
use super::page::{Selected, select};
use crate::Workload;
use crate::config::refuse;

const OPERATION: &str = "scrape";
const PORT_ANNOTATION: &str = "prometheus.io/port";
const PATH_ANNOTATION: &str = "prometheus.io/path";
const PORT_NAME: &str = "metrics";
/// How many pods are named for each reason not to have answered.
const NAMED_PODS: usize = 3;

/// How pods are asked.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Where pods serve, whatever they say themselves.
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<String>,
    pub(crate) body_limit: usize,
    pub(crate) pod_timeout: Duration,
    pub(crate) scrape_timeout: Duration,
    pub(crate) parallel: usize,
}

/// What pods showed.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) begun: Instant,
    pub(crate) time: SystemTime,
    /// The ready pods.
    pub(crate) expected: u32,
    /// Those that answered, by their uid.
    pub(crate) pods: HashMap<String, Answer>,
    /// Why the others did not, and which.
    pub(crate) failures: BTreeMap<String, BTreeSet<String>>,
}

/// What one pod showed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) at: Instant,
    /// What its page has of each selection.
    pub(crate) selected: Vec<Selected>,
}

impl Scrape {
    /// `2 refused the connection (api-x, api-y); 1 answered 500 (api-z)`.
    pub(crate) fn describe_failures(&self) -> String {
        let mut failures: Vec<_> = self.failures.iter().collect();
        failures.sort_by_key(|(_, pods)| std::cmp::Reverse(pods.len()));
        let texts: Vec<_> = failures
            .into_iter()
            .map(|(reason, pods)| {
                let more = if pods.len() > NAMED_PODS { ", …" } else { "" };
                let names = pods.iter().take(NAMED_PODS).map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("{} {reason} ({names}{more})", pods.len())
            })
            .collect();
        texts.join("; ")
    }
}

/// Asks all ready pods of `workload`.
pub(crate) async fn scrape(
    workload: &Workload,
    cx: &RunContext,
    manner: &Manner,
    selections: &[Series],
) -> Result<Scrape> {
    let pods = ready_pods(workload, cx).await?;
    let (begun, time) = (Instant::now(), cx.clock().now());
    let mut scrape = Scrape {
        begun,
        time,
        expected: u32::try_from(pods.len()).unwrap_or(u32::MAX),
        pods: HashMap::with_capacity(pods.len()),
        failures: BTreeMap::new(),
    };
    let client = client(manner);
    let mut unasked: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let answers = stream::iter(pods)
        .map(|pod| {
            let client = &client;
            async move {
                let answer = match endpoint(&pod, manner) {
                    Ok(endpoint) => ask(client, &endpoint, manner).await,
                    Err(missing) => Err(missing.to_owned()),
                };
                let selected = answer.and_then(|page| {
                    select(&page, selections).map_err(|why| format!("cannot be read: {why}"))
                });
                (pod, selected)
            }
        })
        .buffer_unordered(manner.parallel.max(1))
        .for_each(|(pod, selected)| {
            let name = pod.name_any();
            unasked.remove(&name);
            match selected {
                Ok(selected) => {
                    let answer = Answer { at: Instant::now(), selected };
                    scrape.pods.insert(pod.metadata.uid.unwrap_or_default(), answer);
                }
                Err(reason) => {
                    scrape.failures.entry(reason).or_default().insert(name);
                }
            }
            async {}
        });
    let ended = cx.until(tokio::time::timeout(manner.scrape_timeout, answers)).await?;
    if ended.is_err() {
        let reason = format!("had not answered after {:?}, when all were given up", manner.scrape_timeout);
        scrape.failures.entry(reason).or_default().extend(unasked);
    }
    if scrape.pods.is_empty() && scrape.expected > 0 {
        let message = format!(
            "none of {} ready pods shows its metrics: {}",
            scrape.expected,
            scrape.describe_failures()
        );
        return Err(Error::new(ErrorKind::Unavailable, OPERATION, message)
            .on(workload)
            .with_retry(Retry::Safe { after: None }));
    }
    Ok(scrape)
}

/// The pods of a workload that are ready and stay.
async fn ready_pods(workload: &Workload, cx: &RunContext) -> Result<Vec<Pod>> {
    let snapshot = workload.snapshot(cx, OPERATION).await?;
    let selector = Selector::try_from(snapshot.selector).map_err(|error| {
        refuse(workload, "its selector cannot be used to find its pods").with_source(error)
    })?;
    let api = workload.cluster().namespaced::<Pod>(workload.namespace());
    let params = ListParams::default().labels_from(&selector);
    let subject = workload.to_string();
    let pods = workload.cluster().read(cx, OPERATION, &subject, api.list(&params)).await?;
    Ok(pods.items.into_iter().filter(|pod| is_ready(pod) && belongs_to(pod, workload)).collect())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// A job whose pods have the labels of a server is no part of the server.
fn belongs_to(pod: &Pod, workload: &Workload) -> bool {
    let Some(owner) = pod.owner_references().iter().find(|owner| owner.controller == Some(true)) else {
        return false;
    };
    if workload.is_stateful() {
        return owner.kind == "StatefulSet" && owner.name == workload.name();
    }
    // A Deployment's ReplicaSets are called like it, with a hash.
    let hash = owner.name.strip_prefix(workload.name()).and_then(|rest| rest.strip_prefix('-'));
    owner.kind == "ReplicaSet" && hash.is_some_and(|hash| !hash.contains('-'))
}

/// Where a pod serves its metrics.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: SocketAddr,
    path: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

fn endpoint(pod: &Pod, manner: &Manner) -> Result<Endpoint, &'static str> {
    let address: Option<IpAddr> =
        pod.status.as_ref().and_then(|status: &PodStatus| status.pod_ip.as_deref()?.parse().ok());
    let port = match (manner.port, pod.annotations().get(PORT_ANNOTATION)) {
        (Some(port), _) => Some(port),
        (None, Some(text)) => {
            Some(text.parse().map_err(|_| "have an annotation prometheus.io/port that is no port")?)
        }
        (None, None) => named_port(pod),
    };
    let path = manner.path.as_ref().or_else(|| pod.annotations().get(PATH_ANNOTATION));
    let path = path.map_or("/metrics", String::as_str).trim_start_matches('/');
    Ok(Endpoint {
        address: SocketAddr::new(
            address.ok_or("have no address")?,
            port.ok_or(
                "name no port of their metrics (annotation prometheus.io/port, or a port called metrics)",
            )?,
        ),
        path: format!("/{path}"),
    })
}

fn named_port(pod: &Pod) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(PORT_NAME))?;
    u16::try_from(port.container_port).ok()
}

type PodClient = Client<HttpConnector, Empty<&'static [u8]>>;

/// Plain HTTP, to addresses only: no proxy, no redirect, no repetition, and no connection that outlives its answer.
fn client(manner: &Manner) -> PodClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(manner.pod_timeout));
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .retry_canceled_requests(false)
        .build(connector)
}

/// The page of one pod, or what keeps it from us.
async fn ask(client: &PodClient, endpoint: &Endpoint, manner: &Manner) -> Result<String, String> {
    let request = Request::get(endpoint.to_string())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .header(header::USER_AGENT, concat!("wakala/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| format!("have a path that cannot be asked for ({})", endpoint.path))?;
    let answer = async {
        let answer = client.request(request).await.map_err(|error| transport(&error))?;
        if !answer.status().is_success() {
            return Err(format!("answered {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), manner.body_limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                format!("sent over {} bytes", manner.body_limit)
            } else {
                format!("broke off ({error})")
            }
        })?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| "sent what is no text".to_owned())
    };
    match tokio::time::timeout(manner.pod_timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("did not answer within {:?}", manner.pod_timeout)),
    }
}

fn transport(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(now) = cause {
        match now.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return "refused the connection".to_owned(),
            Some(io::ErrorKind::TimedOut) => return "could not be connected to in time".to_owned(),
            _ => cause = now.source(),
        }
    }
    if error.is_connect() { "could not be connected to" } else { "broke the connection off" }.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::cluster_of_nothing;

    fn manner() -> Manner {
        Manner {
            port: None,
            path: None,
            body_limit: 1,
            pod_timeout: Duration::ZERO,
            scrape_timeout: Duration::ZERO,
            parallel: 1,
        }
    }

    fn url(pod: Value, manner: &Manner) -> Result<String, &'static str> {
        endpoint(&serde_json::from_value(pod).unwrap(), manner).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn a_pod_says_where_it_serves() {
        let pod = |annotations: Value, ports: Value| {
            json!({"metadata": {"annotations": annotations}, "status": {"podIP": "10.1.2.3"},
                "spec": {"containers": [{"name": "sidecar"}, {"name": "api", "ports": ports}]}})
        };
        let ports = json!([{"containerPort": 80}, {"name": "metrics", "containerPort": 9100}]);
        let annotated = json!({"prometheus.io/port": "9464", "prometheus.io/path": "stats"});
        for (annotations, ports, wanted) in [
            (json!({}), ports.clone(), Ok("http://10.1.2.3:9100/metrics")),
            (annotated.clone(), ports.clone(), Ok("http://10.1.2.3:9464/stats")),
            (annotated.clone(), json!([]), Ok("http://10.1.2.3:9464/stats")),
            (
                json!({"prometheus.io/port": "http"}),
                ports.clone(),
                Err("have an annotation prometheus.io/port that is no port"),
            ),
            (
                json!({}),
                json!([{"containerPort": 80}]),
                Err(
                    "name no port of their metrics (annotation prometheus.io/port, or a port called metrics)",
                ),
            ),
        ] {
            let seen = url(pod(annotations, ports), &manner());
            assert_eq!(seen.as_deref().map_err(|why| *why), wanted);
        }
        let given = Manner { port: Some(1), path: Some("/x".into()), ..manner() };
        assert_eq!(url(pod(annotated, ports), &given).unwrap(), "http://10.1.2.3:1/x");
        let six = json!({"metadata": {}, "status": {"podIP": "fd00::1"}});
        assert_eq!(url(six, &given).unwrap(), "http://[fd00::1]:1/x");
        assert_eq!(url(json!({"metadata": {}}), &given).unwrap_err(), "have no address");
    }

    fn owned(kind: &str, name: &str) -> Pod {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true});
        serde_json::from_value(json!({"metadata": {"ownerReferences": [owner]}})).unwrap()
    }

    #[tokio::test]
    async fn pods_of_others_with_the_same_labels_are_left_out() {
        let cluster = cluster_of_nothing();
        let api = Workload::deployment(&cluster, "production", "api");
        assert!(belongs_to(&owned("ReplicaSet", "api-5d4f8c7b9"), &api));
        for (kind, name) in
            [("ReplicaSet", "api-canary-5d4f8c7b9"), ("ReplicaSet", "web-5d4f"), ("Job", "api-5d4f")]
        {
            assert!(!belongs_to(&owned(kind, name), &api), "{kind} {name}");
        }
        let redis = Workload::stateful_set(&cluster, "production", "redis");
        assert!(belongs_to(&owned("StatefulSet", "redis"), &redis));
        assert!(!belongs_to(&owned("StatefulSet", "redis-2"), &redis));
        assert!(!belongs_to(&Pod::default(), &redis));
    }
}
