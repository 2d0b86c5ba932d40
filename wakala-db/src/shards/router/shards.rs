//! The shards that are known, and their pools.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use deadpool_postgres::Pool;
use wakala_core::Result;

use crate::shards::ids::{Shard, ShardId};

type MakePool = dyn Fn(&Shard) -> Result<Pool> + Send + Sync;

pub(super) struct Shards {
    make: Box<MakePool>,
    known: Mutex<HashMap<ShardId, (Shard, Option<Pool>)>>,
    /// Held by whoever asks the directory for all of them.
    pub(super) loading: tokio::sync::Mutex<()>,
    /// Whether the directory has told all of them once.
    pub(super) seen: tokio::sync::OnceCell<()>,
}

impl Shards {
    pub(super) fn new(make: impl Fn(&Shard) -> Result<Pool> + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            known: Mutex::default(),
            loading: Default::default(),
            seen: Default::default(),
        }
    }

    /// Knows the shard. Where its address is another than before, the old pool is let go: who has it still keeps it.
    pub(super) fn note(&self, shard: &Shard) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.entry(shard.id).or_insert_with(|| (shard.clone(), None));
        if !place.0.same_place(shard) {
            tracing::info!(old = %place.0, new = %shard, "the shard is elsewhere");
            place.1 = None;
        }
        place.0 = shard.clone();
    }

    /// The pool of the shard, made now if need be; `None` where the shard is not known.
    pub(super) fn pool(&self, id: ShardId) -> Result<Option<Pool>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((shard, pool)) = known.get_mut(&id) else { return Ok(None) };
        if let Some(pool) = pool {
            return Ok(Some(pool.clone()));
        }
        let made = (self.make)(shard)?;
        *pool = Some(made.clone());
        Ok(Some(made))
    }
}
