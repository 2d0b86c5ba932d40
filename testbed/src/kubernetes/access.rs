use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use kube::{Api, Client, Config};

use super::objects;
use crate::{TestbedError, wait_until};

const NAMESPACE_DEADLINE: Duration = Duration::from_secs(60);

/// A cluster as one user sees it.
///
/// Cheap to clone. What it hands out stays valid as long as the [`ControlPlane`](crate::ControlPlane) or
/// [`TestCluster`](crate::TestCluster) that it came from.
#[derive(Clone)]
pub struct ClusterAccess {
    kubeconfig: Arc<Kubeconfig>,
    yaml: Arc<str>,
    path: Arc<Path>,
    kubectl: Arc<Path>,
    /// Where the kubeconfig files of further users go.
    folder: Arc<Path>,
}

impl fmt::Debug for ClusterAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAccess").field("kubeconfig_path", &self.path).finish_non_exhaustive()
    }
}

impl ClusterAccess {
    /// Writes a kubeconfig with `cluster` and `user` to `path`.
    pub(crate) fn write(
        path: PathBuf,
        cluster: Cluster,
        user: AuthInfo,
        kubectl: Arc<Path>,
        folder: Arc<Path>,
    ) -> Result<Self, TestbedError> {
        let name = "testbed";
        let context = Context { cluster: name.into(), user: Some(name.into()), ..Context::default() };
        let kubeconfig = Kubeconfig {
            clusters: vec![NamedCluster {
                name: name.into(),
                cluster: Some(cluster),
                ..NamedCluster::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name: name.into(),
                auth_info: Some(user),
                ..NamedAuthInfo::default()
            }],
            contexts: vec![NamedContext {
                name: name.into(),
                context: Some(context),
                ..NamedContext::default()
            }],
            current_context: Some(name.into()),
            kind: Some("Config".into()),
            api_version: Some("v1".into()),
            ..Kubeconfig::default()
        };
        // Every JSON text is a YAML text.
        let yaml = serde_json::to_string_pretty(&kubeconfig)
            .map_err(TestbedError::api("cannot write a kubeconfig"))?;
        write_private(&path, &yaml)?;
        Ok(Self { kubeconfig: Arc::new(kubeconfig), yaml: yaml.into(), path: path.into(), kubectl, folder })
    }

    /// Takes the kubeconfig at `path`, which somebody else wrote.
    pub(crate) fn read(path: &Path, kubectl: Arc<Path>, folder: Arc<Path>) -> Result<Self, TestbedError> {
        let what = || format!("cannot read the kubeconfig {}", path.display());
        let yaml = fs::read_to_string(path).map_err(TestbedError::io(what()))?;
        let kubeconfig = Kubeconfig::read_from(path).map_err(TestbedError::api(what()))?;
        Ok(Self { kubeconfig: Arc::new(kubeconfig), yaml: yaml.into(), path: path.into(), kubectl, folder })
    }

    /// A new client, without retries of its own: an error of the server is seen as it is.
    ///
    /// A client belongs to the runtime in which it was made, so each test makes its own.
    pub async fn client(&self) -> Result<Client, TestbedError> {
        let what = || format!("cannot make a client of {}", self.path.display());
        let mut config = Config::from_custom_kubeconfig(
            Kubeconfig::clone(&self.kubeconfig),
            &KubeConfigOptions::default(),
        )
        .await
        .map_err(TestbedError::api(what()))?;
        config.default_retry = false;
        if matches!(config.cluster_url.host(), Some("127.0.0.1" | "localhost")) {
            config.proxy_url = None;
        }
        Client::try_from(config).map_err(TestbedError::api(what()))
    }

    /// The kubeconfig file, for programs.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.path
    }

    /// The text of the kubeconfig file. It holds credentials.
    pub fn kubeconfig_yaml(&self) -> &str {
        &self.yaml
    }

    /// The `kubectl` that belongs to the control plane (of a foreign cluster: the one on `PATH`, unless ours is
    /// built). Give it `--kubeconfig` with [`kubeconfig_path`](Self::kubeconfig_path).
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// Creates a namespace of a name that nobody else uses, and waits until pods can be created in it.
    ///
    /// It is labelled `app.kubernetes.io/managed-by=wakala-testbed`, so that what a killed test left on a foreign
    /// cluster can be found.
    pub async fn create_namespace(&self, prefix: &str) -> Result<TestNamespace, TestbedError> {
        let client = self.client().await?;
        let name = format!("{prefix}-{}", unique());
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &objects::namespace(&name))
            .await
            .map_err(TestbedError::api(format!("cannot create namespace {name}")))?;
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &name);
        let what = format!("default service account of namespace {name}");
        wait_until(&what, NAMESPACE_DEADLINE, || async { Ok(accounts.get("default").await?) }).await?;
        Ok(TestNamespace { name, client })
    }

    pub(crate) fn cluster(&self) -> Result<Cluster, TestbedError> {
        let config = &self.kubeconfig;
        let current = config.current_context.as_deref();
        let context = config.contexts.iter().find(|named| Some(named.name.as_str()) == current);
        let name = context.and_then(|named| named.context.as_ref()).map(|context| context.cluster.as_str());
        let cluster = config.clusters.iter().find(|named| Some(named.name.as_str()) == name);
        cluster.and_then(|named| named.cluster.clone()).ok_or_else(|| {
            TestbedError::Invalid(format!(
                "the kubeconfig {} has no current context with a cluster: set one with kubectl config use-context",
                self.path.display()
            ))
        })
    }

    pub(crate) fn with_user(&self, file: &str, user: AuthInfo) -> Result<Self, TestbedError> {
        let path = self.folder.join(file);
        Self::write(path, self.cluster()?, user, Arc::clone(&self.kubectl), Arc::clone(&self.folder))
    }
}

/// A namespace made for one test.
#[derive(Clone)]
pub struct TestNamespace {
    name: String,
    client: Client,
}

impl fmt::Debug for TestNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestNamespace").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TestNamespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client that created it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Objects of kind `K` in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates `object` in it.
    pub async fn create<K>(&self, object: &K) -> Result<K, TestbedError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + fmt::Debug
            + Sync,
        K::DynamicType: Default,
    {
        let what = || {
            let kind = K::kind(&K::DynamicType::default()).into_owned();
            let name = object.meta().name.clone().unwrap_or_default();
            format!("cannot create {kind} {}/{name}", self.name)
        };
        self.api::<K>().create(&PostParams::default(), object).await.map_err(TestbedError::api(what()))
    }

    /// Asks for its deletion, with everything in it. For clusters that outlive the test.
    pub async fn delete(self) -> Result<(), TestbedError> {
        Api::<Namespace>::all(self.client)
            .delete(&self.name, &DeleteParams::default())
            .await
            .map_err(TestbedError::api(format!("cannot delete namespace {}", self.name)))?;
        Ok(())
    }
}

pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), TestbedError> {
    let what = || format!("cannot write {}", path.display());
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(TestbedError::io(what()))
}

/// A suffix for names, unique among the tests that may run against one cluster at the same time.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{number}", since.as_micros() & 0xff_ffff_ffff, std::process::id())
}
