//! Finding the binaries, writing the files, starting the servers in order.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::config::{AuthInfo, Cluster};

use super::access::{ClusterAccess, unique, write_private};
use super::builder::ControlPlaneBuilder;
use super::certs::Certificates;
use super::control_plane::{ControlPlane, Running};
use super::flags::{Folder, Ports, Server, command, scheduler_config};
use super::nodes::NodeGroups;
use crate::process::{ServerCommand, Supervised};
use crate::{TestbedError, wait_until};

pub(crate) const BUILD: &str = "scripts/build-control-plane";
/// Keeps the folder with logs and kubeconfig after the end, for looking at it.
const KEEP_VARIABLE: &str = "WAKALA_TESTBED_KEEP";
const START_ATTEMPTS: u32 = 3;
const START_DEADLINE: Duration = Duration::from_secs(180);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The folder of the binaries, all of which are there.
pub(crate) fn binaries() -> Result<PathBuf, TestbedError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a workspace");
    // The script alone knows how the folder's name follows from the sources.
    let script = root.join(BUILD);
    let what = || format!("cannot run {} --where", script.display());
    let output = Command::new(&script).arg("--where").output().map_err(TestbedError::io(what()))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !output.status.success() || folder.as_os_str().is_empty() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(TestbedError::Invalid(format!("{}: {}", what(), errors.trim())));
    }
    for binary in Server::ALL.map(Server::binary).into_iter().chain(["kubectl", "supervise"]) {
        if !folder.join(binary).is_file() {
            let what = format!("the control plane's {binary}");
            return Err(TestbedError::NotBuilt { what, folder, command: BUILD });
        }
    }
    Ok(folder)
}

pub(crate) async fn start(builder: &ControlPlaneBuilder) -> Result<ControlPlane, TestbedError> {
    let binaries = binaries()?;
    let mut attempt = 1;
    loop {
        match start_once(builder, &binaries).await {
            // Between our look at a port and the server's bind, somebody else may have taken it.
            Err(TestbedError::Start { log_tail, .. })
                if log_tail.contains("address already in use") && attempt < START_ATTEMPTS =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn start_once(builder: &ControlPlaneBuilder, binaries: &Path) -> Result<ControlPlane, TestbedError> {
    let started = Instant::now();
    let folder = Folder(std::env::temp_dir().join(format!("wakala-testbed-{}", unique())));
    let what = || format!("cannot create {}", folder.0.display());
    fs::create_dir(&folder.0).map_err(TestbedError::io(what()))?;
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).map_err(TestbedError::io(what()))?;
    let supervise = binaries.join("supervise");
    let remover = match std::env::var_os(KEEP_VARIABLE) {
        Some(_) => {
            tracing::warn!(folder = %folder.0.display(), "kept after the end, because {KEEP_VARIABLE} is set");
            None
        }
        None => Some(Supervised::remover(&supervise, &folder.0)?),
    };

    let ports = Ports::reserve()?;
    let admin = write_files(&folder, &ports, binaries)?;
    let probe = probe_client(&folder)?;
    let commands: BTreeMap<Server, ServerCommand> = Server::ALL
        .into_iter()
        .map(|server| (server, command(server, binaries, &folder, &ports, &builder.options)))
        .collect();
    let running = Running { servers: BTreeMap::new(), remover };
    let plane = ControlPlane {
        access: admin,
        supervise,
        folder: folder.0.clone(),
        api_server_port: ports.api_server,
        probe,
        commands,
        running: Mutex::new(running),
    };

    plane.launch(Server::Etcd)?;
    plane.launch(Server::ApiServer)?;
    plane.wait_healthy(Server::ApiServer, ports.api_server, "readyz").await?;
    let groups = NodeGroups::new(plane.access.client().await?);
    for group in &builder.groups {
        groups.define(group).await?;
    }
    plane.launch(Server::ControllerManager)?;
    plane.launch(Server::Scheduler)?;
    plane.launch(Server::NodeSim)?;
    plane.wait_healthy(Server::ControllerManager, ports.controller_manager, "healthz").await?;
    plane.wait_healthy(Server::Scheduler, ports.scheduler, "healthz").await?;
    let accounts = Api::<ServiceAccount>::default_namespaced(plane.access.client().await?);
    plane
        .while_running(wait_until("default service account", START_DEADLINE, || async {
            Ok(accounts.get("default").await?)
        }))
        .await?;
    for group in &builder.groups {
        plane.while_running(groups.wait_ready(&group.name, START_DEADLINE)).await?;
    }
    tracing::info!(elapsed = ?started.elapsed(), folder = %plane.folder.display(), "control plane started");
    Ok(plane)
}

fn write_files(folder: &Folder, ports: &Ports, binaries: &Path) -> Result<ClusterAccess, TestbedError> {
    let certificates = Certificates::generate().map_err(TestbedError::api("cannot make certificates"))?;
    let token = format!("{:016x}{:016x}", random(), random());
    for (path, text) in [
        (folder.authority(), certificates.authority),
        (folder.serving(), certificates.serving),
        (folder.serving_key(), certificates.serving_key),
        (folder.service_account_key(), certificates.service_account_key),
        (folder.service_account_public_key(), certificates.service_account_public_key),
        (folder.tokens(), format!("{token},testbed-admin,testbed-admin,\"system:masters\"\n")),
        (folder.scheduler_config(), scheduler_config(folder)),
    ] {
        write_private(&path, &text)?;
    }
    let cluster = Cluster {
        server: Some(format!("https://127.0.0.1:{}", ports.api_server)),
        certificate_authority: Some(folder.authority().to_string_lossy().into_owned()),
        ..Cluster::default()
    };
    let user = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    let kubectl = binaries.join("kubectl").into();
    ClusterAccess::write(folder.kubeconfig(), cluster, user, kubectl, folder.0.clone().into())
}

/// The keys of std's hash maps are random enough for a token that is good for one loopback server.
fn random() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(unique())
}

fn probe_client(folder: &Folder) -> Result<reqwest::Client, TestbedError> {
    let what = "cannot make the client of health checks";
    let pem = fs::read(folder.authority()).map_err(TestbedError::io(what))?;
    let authority = reqwest::Certificate::from_pem(&pem).map_err(TestbedError::api(what))?;
    reqwest::Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .timeout(PROBE_TIMEOUT)
        .build()
        .map_err(TestbedError::api(what))
}

impl ControlPlane {
    pub(crate) fn launch(&self, server: Server) -> Result<(), TestbedError> {
        let command = &self.commands[&server];
        let child = Supervised::start(&self.supervise, &self.folder, command)?;
        self.lock().servers.insert(server, child);
        Ok(())
    }

    pub(crate) async fn wait_healthy(
        &self,
        server: Server,
        port: u16,
        endpoint: &str,
    ) -> Result<(), TestbedError> {
        let url = format!("https://127.0.0.1:{port}/{endpoint}");
        let started = Instant::now();
        loop {
            let last = match self.probe.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => format!("{endpoint} answered {}", answer.status()),
                Err(_) => format!("{endpoint} did not answer"),
            };
            self.check_running()?;
            if started.elapsed() > START_DEADLINE {
                let reason = format!("was not ready after {START_DEADLINE:?} ({last})");
                return Err(self.failure(server, reason));
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    /// Waits for `work`, but not longer than all servers run.
    async fn while_running<T>(
        &self,
        work: impl Future<Output = Result<T, TestbedError>>,
    ) -> Result<T, TestbedError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(PROBE_INTERVAL) => self.check_running()?,
            }
        }
    }

    fn check_running(&self) -> Result<(), TestbedError> {
        let ended = self
            .lock()
            .servers
            .iter_mut()
            .find_map(|(server, child)| child.ended().map(|status| (*server, status)));
        match ended {
            None => Ok(()),
            Some((server, status)) => Err(self.failure(server, format!("ended with {status}"))),
        }
    }

    fn failure(&self, server: Server, reason: String) -> TestbedError {
        let running = self.lock();
        let child = running.servers.get(&server);
        TestbedError::Start {
            server: child.map_or(server.binary(), Supervised::name).to_owned(),
            reason,
            log_tail: child.map(Supervised::log_tail).unwrap_or_default(),
            command: BUILD,
        }
    }
}
