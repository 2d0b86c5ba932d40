//! How long until 50 API pods are ready: the spike playbook against `kubectl scale` and `kubectl rollout status`.
//!
//! Both scale the same Deployment from 10 to 50 on the same control plane, in turn. The playbook does all the rest of
//! its work meanwhile - alert, cache, node group, the truce with the autoscaler -, kubectl nothing else. Time counts
//! from the call of `run` until the journal says that the API is verified; for kubectl, from the start of the first
//! process to the end of the second.

use std::error::Error;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use wakala_aws::AwsConfig;
use wakala_core::{Approval, Engine, Event, Observer, Record, Revert, RunHandle, RunInfo, Stop};
use wakala_k8s::Cluster;
use wakala_playbooks::rapid_scale::{KubernetesEks, RapidScale};
use wakala_testbed::{Production, ProductionOptions, wait_until};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let pairs = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(15);
    let bench = Bench::start().await?;
    // One of each first: connections, caches of the controllers, the file cache of kubectl.
    bench.with_kubectl().await?;
    bench.with_playbook().await?;
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        // Each goes first every other time.
        let (ours, theirs) = if pair % 2 == 0 {
            let ours = bench.with_playbook().await?;
            (ours, bench.with_kubectl().await?)
        } else {
            let theirs = bench.with_kubectl().await?;
            (bench.with_playbook().await?, theirs)
        };
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!("pair {:>2}: playbook {ours:>10.3?}, kubectl {theirs:>10.3?}, ratio {ratio:.3}", pair + 1);
        ratios.push((ratio, ours, theirs));
    }
    let median = |value: fn(&(f64, Duration, Duration)) -> f64| {
        let mut values: Vec<f64> = ratios.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        }
    };
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    println!(
        "{}",
        json!({
            "bench": "spike",
            "ready_ratio_vs_kubectl": round(median(|pair| pair.0)),
            "runs": ratios.len(),
            "playbook_seconds_median": round(median(|pair| pair.1.as_secs_f64())),
            "kubectl_seconds_median": round(median(|pair| pair.2.as_secs_f64())),
        })
    );
    Ok(())
}

struct Bench {
    servers: Production,
    production: KubernetesEks,
    deployments: Api<Deployment>,
    sets: Api<StatefulSet>,
}

impl Bench {
    async fn start() -> Result<Self> {
        // All nodes are there already: what is compared is how fast the API gets its pods.
        let servers =
            Production::start(ProductionOptions { nodes: 30, ..ProductionOptions::default() }).await?;
        let client = servers.control_plane().client().await?;
        let cluster = Cluster::from_kubeconfig(servers.control_plane().kubeconfig_path(), None).await?;
        let aws = servers.aws();
        let access = AwsConfig::new()
            .with_endpoint_url(aws.endpoint_url())
            .with_region(aws.region())
            .with_static_credentials(aws.access_key_id(), aws.secret_access_key().to_owned().into())
            .load()
            .await?;
        let (namespace, group) = (Production::NAMESPACE, Production::NODE_GROUP);
        let production = KubernetesEks::new(&cluster, namespace, &access, Production::EKS_CLUSTER, group)
            .with_node_group(|group| group.with_poll(Duration::from_millis(500)));
        let (deployments, sets) =
            (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace));
        let bench = Self { servers, production, deployments, sets };
        bench.reset().await?;
        Ok(bench)
    }

    async fn with_playbook(&self) -> Result<Duration> {
        let watch = Arc::new(Watch::default());
        let engine = Engine::new().with_observer(Arc::clone(&watch) as Arc<dyn Observer>);
        let playbook = RapidScale::default().playbook(&self.production)?;
        let plan = engine.plan(&playbook).await?;
        let approval = Approval::of(&plan, "bench");
        let run = RunHandle::generate();
        watch.begin(&run);
        let report = engine.run(&playbook, &plan, &approval, &run).await?;
        let took = watch.taken().ok_or_else(|| format!("the API was not verified: {report}"))?;
        engine.revert(&playbook, &run, Revert::Everything).await?;
        self.reset().await?;
        Ok(took)
    }

    async fn with_kubectl(&self) -> Result<Duration> {
        let control_plane = self.servers.control_plane();
        let (kubectl, kubeconfig) =
            (control_plane.kubectl().to_owned(), control_plane.kubeconfig_path().to_owned());
        let took = tokio::task::spawn_blocking(move || -> Result<Duration> {
            let start = Instant::now();
            for arguments in [
                &["scale", "deployment", "wakala-api", "--replicas=50"][..],
                &["rollout", "status", "deployment", "wakala-api"],
            ] {
                let output = Command::new(&kubectl)
                    .arg("--kubeconfig")
                    .arg(&kubeconfig)
                    .args(["-n", Production::NAMESPACE])
                    .args(arguments)
                    .output()?;
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
                }
            }
            Ok(start.elapsed())
        })
        .await??;
        self.reset().await?;
        Ok(took)
    }

    /// Ten API pods and two of the cache, nothing on its way.
    async fn reset(&self) -> Result<()> {
        let scale = |replicas: u32| Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        let params = PatchParams::default();
        self.deployments.patch("wakala-api", &params, &scale(10)).await?;
        self.sets.patch("redis-cache", &params, &scale(2)).await?;
        wait_until("everything is back", Duration::from_secs(60), || async {
            let api = self.deployments.get("wakala-api").await?.status.unwrap_or_default();
            let cache = self.sets.get("redis-cache").await?.status.unwrap_or_default();
            let seen = (api.replicas, api.ready_replicas, cache.replicas, cache.ready_replicas);
            if seen == (Some(10), Some(10), 2, Some(2)) { Ok(()) } else { Err(format!("{seen:?}").into()) }
        })
        .await?;
        Ok(())
    }
}

/// Takes the time until the API is verified, and ends the run there: the restart that follows is not compared.
#[derive(Debug, Default)]
struct Watch(Mutex<Option<Measured>>);

#[derive(Debug)]
struct Measured {
    run: RunHandle,
    start: Instant,
    took: Option<Duration>,
}

impl Watch {
    fn begin(&self, run: &RunHandle) {
        let measured = Measured { run: run.clone(), start: Instant::now(), took: None };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
    }

    fn taken(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.took
    }
}

impl Observer for Watch {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        if let Some(Record::Verified { step }) = event.record()
            && step.as_str() == "api"
            && let Some(measured) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            measured.took = Some(measured.start.elapsed());
            measured.run.stop(Stop::Keep);
        }
    }
}
