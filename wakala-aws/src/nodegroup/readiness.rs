//! How many nodes can take work: what EKS itself does not know.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use wakala_core::{Permission, Result, RunContext, Units};

/// Counts the nodes of one node group that can take pods.
///
/// EKS knows what it asked the Auto Scaling group for, not which nodes have joined the cluster. Kubernetes does: they
/// are the nodes with the label `eks.amazonaws.com/nodegroup` whose condition `Ready` is true. Whoever has a Kubernetes
/// client implements this, for the group that it is given to.
#[async_trait]
pub trait NodeReadiness: Debug + Send + Sync + 'static {
    /// What the provider must allow for counting. As given: nothing.
    fn permissions(&self) -> Vec<Permission> {
        Vec::new()
    }

    /// How many nodes are ready now. Reads only.
    ///
    /// # Errors
    /// What the provider says; [`Error::retry`](wakala_core::Error::retry) decides whether it is asked again.
    async fn ready(&self, cx: &RunContext) -> Result<Units>;

    /// Returns once [`ready`](Self::ready) differs from `seen`, or earlier; after `poll` at the latest, since EKS has to
    /// be looked at too. As given: after `poll`.
    ///
    /// # Errors
    /// As for [`ready`](Self::ready); `Cancelled` and `DeadlineExceeded` from the context.
    async fn changed(&self, cx: &RunContext, seen: Units, poll: Duration) -> Result<()> {
        let _ = seen;
        cx.sleep(poll).await
    }
}
