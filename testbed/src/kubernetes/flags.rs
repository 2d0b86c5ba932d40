//! How each server is told to run on loopback.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::TestbedError;
use crate::process::{ServerCommand, free_port};

/// A process of the control plane.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Server {
    /// `kube-apiserver`
    ApiServer,
    /// `kube-controller-manager`
    ControllerManager,
    /// `etcd`
    Etcd,
    /// `node-sim`, which plays all kubelets
    NodeSim,
    /// `kube-scheduler`
    Scheduler,
}

impl Server {
    pub(crate) const ALL: [Self; 5] =
        [Self::ApiServer, Self::ControllerManager, Self::Etcd, Self::NodeSim, Self::Scheduler];

    /// Name of its binary.
    pub fn binary(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Etcd => "etcd",
            Self::NodeSim => "node-sim",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// What the builder may change.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) ready_delay: Duration,
    pub(crate) terminate_delay: Duration,
    pub(crate) hpa_sync_period: Option<Duration>,
    pub(crate) extra: BTreeMap<Server, Vec<OsString>>,
}

#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) api_server: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    etcd: u16,
    etcd_peer: u16,
}

impl Ports {
    pub(crate) fn reserve() -> Result<Self, TestbedError> {
        Ok(Self {
            api_server: free_port()?,
            controller_manager: free_port()?,
            scheduler: free_port()?,
            etcd: free_port()?,
            etcd_peer: free_port()?,
        })
    }
}

/// Files of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    pub(crate) fn authority(&self) -> PathBuf {
        self.file("ca.crt")
    }
    pub(crate) fn serving(&self) -> PathBuf {
        self.file("serving.crt")
    }
    pub(crate) fn serving_key(&self) -> PathBuf {
        self.file("serving.key")
    }
    pub(crate) fn service_account_key(&self) -> PathBuf {
        self.file("service-account.key")
    }
    pub(crate) fn service_account_public_key(&self) -> PathBuf {
        self.file("service-account.pub")
    }
    pub(crate) fn tokens(&self) -> PathBuf {
        self.file("tokens.csv")
    }
    pub(crate) fn scheduler_config(&self) -> PathBuf {
        self.file("scheduler.yaml")
    }
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }
}

/// The scheduler takes its client limits from a file only.
pub(crate) fn scheduler_config(folder: &Folder) -> String {
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\n\
         kind: KubeSchedulerConfiguration\n\
         clientConnection:\n  kubeconfig: {:?}\n  qps: 500\n  burst: 1000\n\
         leaderElection:\n  leaderElect: false\n",
        folder.kubeconfig()
    )
}

pub(crate) fn command(
    server: Server,
    binaries: &Path,
    folder: &Folder,
    ports: &Ports,
    options: &Options,
) -> ServerCommand {
    let mut flags = Flags::default();
    match server {
        Server::ApiServer => api_server(&mut flags, folder, ports),
        Server::ControllerManager => controller_manager(&mut flags, folder, ports, options),
        Server::Etcd => etcd(&mut flags, folder, ports),
        Server::NodeSim => {
            flags.path("kubeconfig", &folder.kubeconfig());
            flags.text("ready-after", format!("{}us", options.ready_delay.as_micros()));
            flags.text("terminate-after", format!("{}us", options.terminate_delay.as_micros()));
        }
        Server::Scheduler => {
            flags.path("config", &folder.scheduler_config());
            serve(&mut flags, folder, ports.scheduler);
        }
    }
    flags.0.extend(options.extra.get(&server).into_iter().flatten().cloned());
    ServerCommand { name: server.binary().into(), program: binaries.join(server.binary()), args: flags.0 }
}

#[derive(Default)]
struct Flags(Vec<OsString>);

impl Flags {
    fn text(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push(format!("--{name}={}", value.as_ref()).into());
    }
    fn path(&mut self, name: &str, value: &Path) {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value);
        self.0.push(flag);
    }
}

fn etcd(flags: &mut Flags, folder: &Folder, ports: &Ports) {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    flags.path("data-dir", &folder.file("etcd"));
    flags.text("listen-client-urls", &client);
    flags.text("advertise-client-urls", &client);
    flags.text("listen-peer-urls", &peer);
    flags.text("initial-advertise-peer-urls", &peer);
    flags.text("initial-cluster", format!("default={peer}"));
    flags.text("unsafe-no-fsync", "true");
    flags.text("log-level", "warn");
}

fn api_server(flags: &mut Flags, folder: &Folder, ports: &Ports) {
    flags.text("etcd-servers", format!("http://127.0.0.1:{}", ports.etcd));
    flags.text("bind-address", "127.0.0.1");
    flags.text("advertise-address", "127.0.0.1");
    flags.text("secure-port", ports.api_server.to_string());
    flags.text("endpoint-reconciler-type", "none");
    flags.text("service-cluster-ip-range", "10.0.0.0/16");
    flags.path("tls-cert-file", &folder.serving());
    flags.path("tls-private-key-file", &folder.serving_key());
    flags.path("client-ca-file", &folder.authority());
    flags.path("token-auth-file", &folder.tokens());
    flags.text("authorization-mode", "Node,RBAC");
    flags.text("service-account-issuer", "https://kubernetes.default.svc");
    flags.path("service-account-signing-key-file", &folder.service_account_key());
    flags.path("service-account-key-file", &folder.service_account_public_key());
    flags.text("max-requests-inflight", "2000");
    flags.text("max-mutating-requests-inflight", "1000");
    flags.text("profiling", "false");
}

fn controller_manager(flags: &mut Flags, folder: &Folder, ports: &Ports, options: &Options) {
    flags.path("kubeconfig", &folder.kubeconfig());
    serve(flags, folder, ports.controller_manager);
    flags.text("leader-elect", "false");
    flags.path("service-account-private-key-file", &folder.service_account_key());
    flags.path("root-ca-file", &folder.authority());
    // With the defaults (20 and 30) the client's own limit would be the slowest part of a large change.
    flags.text("kube-api-qps", "500");
    flags.text("kube-api-burst", "1000");
    flags.text("profiling", "false");
    if let Some(period) = options.hpa_sync_period {
        let period = format!("{}ms", period.as_millis());
        flags.text("horizontal-pod-autoscaler-sync-period", &period);
        flags.text("horizontal-pod-autoscaler-cpu-initialization-period", &period);
        flags.text("horizontal-pod-autoscaler-initial-readiness-delay", &period);
    }
}

fn serve(flags: &mut Flags, folder: &Folder, port: u16) {
    flags.text("bind-address", "127.0.0.1");
    flags.text("secure-port", port.to_string());
    flags.path("tls-cert-file", &folder.serving());
    flags.path("tls-private-key-file", &folder.serving_key());
    flags.text("authentication-skip-lookup", "true");
}
