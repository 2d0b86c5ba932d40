//! What a move has to carry, read once for all steps of a plan.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use wakala_core::{Result, RunContext, RunId};
use wakala_db::{MoveHost, MovePreview, MoveSpec, TenantId, TenantSize};

/// Rows are hashed faster than they travel.
const VERIFIED_AT: u64 = 5;

/// Previews of one move.
#[derive(Debug)]
pub(super) struct Previews {
    host: MoveHost,
    bytes_per_second: u64,
    last: Mutex<Option<(RunId, Arc<MovePreview>)>>,
}

impl Previews {
    pub(super) fn new(host: MoveHost, bytes_per_second: u64) -> Self {
        Self { host, bytes_per_second, last: Mutex::new(None) }
    }

    pub(super) fn host(&self) -> &MoveHost {
        &self.host
    }

    pub(super) fn spec(&self) -> &MoveSpec {
        self.host.spec()
    }

    /// Of this plan: all its steps see the same.
    pub(super) async fn get(&self, cx: &RunContext) -> Result<Arc<MovePreview>> {
        let mut last = self.last.lock().await;
        if let Some((run, preview)) = &*last
            && run == cx.run_id()
        {
            return Ok(Arc::clone(preview));
        }
        let preview = Arc::new(self.host.preview().await?);
        *last = Some((cx.run_id().clone(), Arc::clone(&preview)));
        Ok(preview)
    }

    /// How fast the copy is taken to be.
    pub(super) fn rate(&self) -> u64 {
        let limit = self.host.options().copy_bytes_per_second;
        limit.map_or(self.bytes_per_second, |limit| limit.clamp(1, self.bytes_per_second))
    }

    pub(super) fn copying(&self, preview: &MovePreview) -> Duration {
        Duration::from_secs(preview.bytes().div_ceil(self.rate()).max(1))
    }

    pub(super) fn verifying(&self, preview: &MovePreview) -> Duration {
        let rate = self.bytes_per_second.saturating_mul(VERIFIED_AT);
        Duration::from_secs(preview.bytes().div_ceil(rate).max(1))
    }
}

/// Of one tenant.
pub(super) fn size_of<'a>(preview: &'a MovePreview, tenant: &TenantId) -> Option<&'a TenantSize> {
    preview.tenants.iter().find(|size| size.tenant == *tenant)
}
