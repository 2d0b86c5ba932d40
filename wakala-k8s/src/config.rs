//! Which cluster, as whom, and how patiently.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use wakala_core::{Error, ErrorKind, Result, RunContext};

use crate::error::{Call, classify, timed_out};

/// How long one request may take; watches are exempt.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take. Long enough for one lost packet, short enough to be tried again in a run.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The name under which the API server notes who changed a field.
pub(crate) const FIELD_MANAGER: &str = "wakala";

/// A cluster and the identity that it is reached with. Cheap to clone.
///
/// Bound to the Tokio runtime in which it was made, as kube's client is.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    request_timeout: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("request_timeout", &self.request_timeout).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of the environment: `KUBECONFIG`, `~/.kube/config`, or the service account of the pod that the
    /// program runs in. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidConfig` where none of them is there or one cannot be read.
    pub async fn infer() -> Result<Self> {
        let config = Config::infer().await.map_err(|error| {
            let message =
                "no usable kubeconfig and not in a pod; set KUBECONFIG, or give the path of a kubeconfig";
            Error::invalid("connect", message).with_source(error)
        })?;
        Self::from_config(config)
    }

    /// The cluster of `context` in the kubeconfig at `path`; of its current context where none is given. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// `InvalidConfig` where the file cannot be read or lacks the context.
    pub async fn from_kubeconfig(path: impl AsRef<Path>, context: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        let refuse = |message: &'static str, error: kube::config::KubeconfigError| {
            Error::invalid("connect", message).on(format!("kubeconfig {}", path.display())).with_source(error)
        };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| refuse("cannot be read", error))?;
        let options =
            KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| {
            refuse("has no usable context; list them with kubectl config get-contexts", error)
        })?;
        Self::from_config(config)
    }

    /// The cluster of a kube configuration. Its own retries are turned off and its time to connect is bounded, for the
    /// reasons that the [crate's documentation](crate) gives; a read time-out is taken away, since it would end watches.
    ///
    /// # Errors
    /// `InvalidConfig` for credentials or certificates that cannot be used.
    pub fn from_config(mut config: Config) -> Result<Self> {
        config.default_retry = false;
        config.connect_timeout =
            Some(config.connect_timeout.map_or(CONNECT_TIMEOUT, |time| time.min(CONNECT_TIMEOUT)));
        config.read_timeout = None;
        // A proxy from the environment cannot reach what listens on this machine only.
        if matches!(config.cluster_url.host(), Some("127.0.0.1" | "[::1]" | "localhost")) {
            config.proxy_url = None;
        }
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| {
            Error::invalid("connect", "its credentials, certificates or proxy cannot be used")
                .on(format!("cluster {url}"))
                .with_source(error)
        })?;
        Ok(Self::from_client(client))
    }

    /// The cluster of a client that exists already.
    ///
    /// The client must not repeat requests by itself (`Config::default_retry = false`, which is not kube's default):
    /// otherwise an error that the engine should see is hidden for minutes, and a write may be sent many times.
    pub fn from_client(client: Client) -> Self {
        Self { client, request_timeout: REQUEST_TIMEOUT }
    }

    /// How long one request may take, watches exempt; 30 seconds as given.
    #[must_use]
    pub fn with_request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The client, for calls of one's own.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Awaits a request that reads, at most until cancellation or the deadline.
    pub(crate) async fn read<T>(
        &self,
        cx: &RunContext,
        operation: &'static str,
        subject: &str,
        request: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        match cx.until(tokio::time::timeout(self.request_timeout, request)).await? {
            Ok(answer) => answer.map_err(|error| classify(error, operation, subject, Call::Read)),
            Err(_) => Err(timed_out(self.request_timeout, operation, subject, Call::Read)),
        }
    }

    /// Awaits a request that writes. Cancellation keeps it from starting, and not from ending: one that is under way
    /// is finished or reported.
    pub(crate) async fn write<T>(
        &self,
        cx: &RunContext,
        operation: &'static str,
        subject: &str,
        request: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        cx.check()?;
        match tokio::time::timeout(self.request_timeout, request).await {
            Ok(answer) => answer.map_err(|error| classify(error, operation, subject, Call::Write)),
            Err(_) => Err(timed_out(self.request_timeout, operation, subject, Call::Write)),
        }
    }
}

/// The error for a namespace, name or label that the API server cannot have.
pub(crate) fn refuse(
    subject: impl fmt::Display,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(ErrorKind::InvalidConfig, "plan", message).on(subject)
}
