//! Kills real processes that take real workloads down, at random instants, and has others go on.
//!
//! Each process is killed by SIGKILL after a random time, and the next one resumes the run, until it comes to its end;
//! then all is put back and a new run begins. A run is lost that does not come to `SUCCEEDED` with its journal whole. A
//! double effect is a change of a workload beyond one for each step: the API server counts changes of a spec in
//! `metadata.generation`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams, PostParams};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde_json::json;
use wakala_core::store::Journal;
use wakala_core::{Record, RunStore as _, SqliteStore, Status};
use wakala_testbed::{ControlPlane, Level, MetricsPage, Workload, namespace, wait_until};

use crate::{Result, median, round, site};

/// The longest time that a process is left alone: about as long as a step and its soak.
const LONGEST: Duration = Duration::from_millis(1500);
/// Steps of each workload: one for each fraction.
const STEPS: i64 = 4;

#[derive(Default)]
pub(crate) struct Crashes {
    pub(crate) kills: u32,
    pub(crate) runs: u32,
    pub(crate) lost_runs: u32,
    pub(crate) double_effects: i64,
    pub(crate) resume_ms_median: f64,
}

/// Which processes are killed and when is chance, of this seed unless `WAKALA_SEED` has another.
const SEED: u64 = 20_261_124;

pub(crate) async fn measure(kills: u32) -> Result<Crashes> {
    let control_plane = ControlPlane::builder().start().await?;
    let client = control_plane.client().await?;
    let _: k8s_openapi::api::core::v1::Namespace =
        Api::all(client.clone()).create(&PostParams::default(), &namespace(site::NAMESPACE)).await?;
    let deployments: Api<Deployment> = Api::namespaced(client, site::NAMESPACE);
    let page = MetricsPage::new().with_requests(100.0, Level::new(0.001));
    let quick = Duration::from_millis(20);
    for workload in [
        Workload::new(site::API, site::API_SIZE).with_metrics_port(9464).with_metrics_page(&page),
        Workload::new(site::WORKER, site::WORKER_SIZE),
    ] {
        let workload = workload.with_ready_after(quick).with_terminate_after(quick);
        deployments.create(&PostParams::default(), &workload.deployment()).await?;
    }
    let folder = tempfile::tempdir()?;
    std::fs::copy(control_plane.kubeconfig_path(), folder.path().join(site::KUBECONFIG))?;

    let seed = std::env::var("WAKALA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("crash test, seed {seed}");
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let (mut crashes, mut resumed) = (Crashes::default(), Vec::new());
    while crashes.kills < kills {
        crashes.runs += 1;
        let run = format!("run-{}", crashes.runs);
        let before = reset(&deployments).await?;
        loop {
            let patience = LONGEST.mul_f64(f64::from(chance.next_u32()) / f64::from(u32::MAX));
            // Once there were enough, the run comes to its end undisturbed.
            let limit = if crashes.kills < kills { patience } else { Duration::from_secs(120) };
            let (ended, output) = work(folder.path(), &run, limit).await?;
            resumed
                .extend(output.lines().filter_map(|line| line.strip_prefix("resumed ")?.parse::<f64>().ok()));
            if ended {
                break;
            }
            crashes.kills += 1;
        }
        let after = generations(&deployments).await?;
        let doubled: i64 = before.iter().zip(&after).map(|(before, after)| after - before - STEPS).sum();
        let lost = judge(folder.path(), &run, &deployments).await?;
        if let Some(why) = &lost {
            println!("{run} IS LOST: {why}");
        }
        if doubled != 0 {
            println!("{run}: {doubled} changes more than steps");
        }
        crashes.double_effects += doubled.abs();
        crashes.lost_runs += u32::from(lost.is_some());
        println!("{run} done, {} of {kills} kills", crashes.kills);
    }
    crashes.resume_ms_median = round(median(resumed));
    Ok(crashes)
}

/// Lets a process work for at most `limit`; whether it came to its end, and what it said.
async fn work(folder: &Path, run: &str, limit: Duration) -> Result<(bool, String)> {
    let mut command = tokio::process::Command::from(Command::new(std::env::current_exe()?));
    let child = command
        .arg("worker")
        .arg(folder)
        .arg(run)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let id = child.id();
    let mut output = Box::pin(child.wait_with_output());
    let (output, killed) = match tokio::time::timeout(limit, &mut output).await {
        Ok(output) => (output?, false),
        Err(_) => {
            if let Some(id) = id {
                // SIGKILL: nothing of the process is asked.
                Command::new("kill").args(["-9", &id.to_string()]).status()?;
            }
            (output.await?, true)
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !killed && !output.status.success() {
        return Err(format!("{run}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    // It may have come to its end just before the signal.
    Ok((!killed || said.contains("ended "), said))
}

/// Why the run is lost; `None` where it is not.
async fn judge(folder: &Path, run: &str, deployments: &Api<Deployment>) -> Result<Option<String>> {
    let store = SqliteStore::open(folder.join(site::STORE)).await?;
    let journal = Journal::read(&store.load(&run.into()).await?);
    if let Some(damage) = journal.damage {
        return Ok(Some(damage.to_string()));
    }
    match journal.entries.last().map(|entry| &entry.record) {
        Some(Record::Ended { status: Status::Succeeded, .. }) => {}
        other => return Ok(Some(format!("it ended as {other:?}"))),
    }
    let sizes = [site::API, site::WORKER].map(async |name| replicas(&deployments.get(name).await?));
    let [api, worker] = sizes;
    let sizes = (api.await?, worker.await?);
    Ok((sizes != (site::API_END, site::WORKER_END)).then(|| format!("the sizes are {sizes:?}")))
}

fn replicas(deployment: &Deployment) -> Result<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).ok_or_else(|| "no replicas".into())
}

async fn generations(deployments: &Api<Deployment>) -> Result<[i64; 2]> {
    let mut generations = [0; 2];
    for (place, name) in [site::API, site::WORKER].into_iter().enumerate() {
        generations[place] = deployments.get(name).await?.metadata.generation.unwrap_or_default();
    }
    Ok(generations)
}

/// The sizes before a run, all ready.
async fn reset(deployments: &Api<Deployment>) -> Result<[i64; 2]> {
    for (name, size) in [(site::API, site::API_SIZE), (site::WORKER, site::WORKER_SIZE)] {
        let scale = Patch::Merge(json!({ "spec": { "replicas": size } }));
        deployments.patch(name, &PatchParams::default(), &scale).await?;
        wait_until("all pods are ready", Duration::from_secs(60), || async {
            let status = deployments.get(name).await?.status.unwrap_or_default();
            if status.replicas == Some(size) && status.ready_replicas == Some(size) {
                Ok(())
            } else {
                Err(format!("{status:?}").into())
            }
        })
        .await?;
    }
    generations(deployments).await
}
