use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::access::ClusterAccess;
use super::control_plane::ControlPlane;
use super::start::binaries;
use crate::TestbedError;
use crate::process::Supervised;

/// Names a kubeconfig whose current context is used instead of starting a control plane.
pub const KUBECONFIG_VARIABLE: &str = "WAKALA_TEST_KUBECONFIG";

/// The cluster that tests run against: the one named by `WAKALA_TEST_KUBECONFIG` (kind, k3d, a real one), else a
/// [`ControlPlane`] that is started for them.
///
/// Dereferences to the [`ClusterAccess`] of its administrator. Tests that share one keep apart by
/// [`create_namespace`](ClusterAccess::create_namespace).
#[derive(Debug)]
pub struct TestCluster {
    access: ClusterAccess,
    control_plane: Option<ControlPlane>,
    // Held for their Drop: kubeconfig files of users on a foreign cluster.
    _files: Option<UserFiles>,
}

#[derive(Debug)]
struct UserFiles {
    _remover: Option<Supervised>,
    _folder: tempfile::TempDir,
}

impl TestCluster {
    /// The named cluster, or a new control plane with the defaults of [`ControlPlane::builder`].
    ///
    /// # Errors
    ///
    /// As [`ControlPlaneBuilder::start`](crate::ControlPlaneBuilder::start); if a cluster is named, when it does
    /// not answer.
    pub async fn connect_or_start() -> Result<Self, TestbedError> {
        match std::env::var_os(KUBECONFIG_VARIABLE) {
            Some(path) => Self::connect(&path).await,
            None => {
                let control_plane = ControlPlane::builder().start().await?;
                let access = control_plane.access.clone();
                Ok(Self { access, control_plane: Some(control_plane), _files: None })
            }
        }
    }

    /// One for all tests of this process, started by whoever asks first and gone when the process ends.
    ///
    /// # Errors
    ///
    /// As [`connect_or_start`](Self::connect_or_start); the next caller tries again.
    pub async fn shared() -> Result<&'static Self, TestbedError> {
        static SHARED: OnceCell<TestCluster> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::connect_or_start).await
    }

    /// The control plane, unless the cluster is a foreign one. A test that needs one (to stop its API server, to
    /// change its nodes) starts its own with [`ControlPlane::builder`].
    pub fn control_plane(&self) -> Option<&ControlPlane> {
        self.control_plane.as_ref()
    }

    async fn connect(path: &OsStr) -> Result<Self, TestbedError> {
        let folder = tempfile::Builder::new()
            .prefix("wakala-testbed-")
            .tempdir()
            .map_err(TestbedError::io("cannot create a temporary folder"))?;
        let binaries = binaries().ok();
        let kubectl = binaries.as_ref().map_or_else(|| "kubectl".into(), |folder| folder.join("kubectl"));
        let access = ClusterAccess::read(Path::new(path), kubectl.into(), Arc::from(folder.path()))?;
        // A shared cluster is never dropped. Without our binaries, its files stay until somebody empties /tmp.
        let remover =
            binaries.map(|binaries| Supervised::remover(&binaries.join("supervise"), folder.path()));
        let files = UserFiles { _remover: remover.transpose()?, _folder: folder };
        let what =
            format!("{KUBECONFIG_VARIABLE} names {}, but that cluster does not answer", path.display());
        access.client().await?.apiserver_version().await.map_err(TestbedError::api(what))?;
        Ok(Self { access, control_plane: None, _files: Some(files) })
    }
}

impl Deref for TestCluster {
    type Target = ClusterAccess;

    fn deref(&self) -> &ClusterAccess {
        &self.access
    }
}
