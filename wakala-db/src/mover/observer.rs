//! What a mover tells while it works.

use std::fmt::{self, Debug};
use std::time::Duration;

use crate::shards::{ShardId, TenantId};

/// What happened.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum MoveEvent {
    /// This process drives the move.
    Taken,
    /// Guards, publication and slot are there; changes of the source are kept from now on.
    Prepared,
    /// Some chunks are on the destination.
    Copied(CopyProgress),
    /// All that is committed on the source is on the destination, but for what is committed now.
    CaughtUp,
    /// A table was compared; `rows` of its rows are the same on both sides.
    Verified {
        /// The table.
        table: String,
        /// How many rows were compared.
        rows: u64,
    },
    /// The way back is there.
    WayBackReady,
    /// The fence is asked for: from now on writers of the tenant wait.
    Fencing {
        /// The tenant.
        tenant: String,
        /// Which attempt it is.
        attempt: u32,
    },
    /// The tenant's writers did not end in time; they go on, and the fence is tried again.
    FenceGaveWay {
        /// The tenant.
        tenant: String,
    },
    /// A shard serves the tenant; writers were held up for this long.
    Opened {
        /// The tenant.
        tenant: String,
        /// Who serves it.
        shard: ShardId,
        /// From the asking for the fence to the commit that opened it.
        pause: Duration,
    },
    /// The directory says so too.
    Flipped {
        /// The tenant.
        tenant: TenantId,
    },
    /// Rows of a tenant were deleted where it is no more.
    Wiped {
        /// How many so far.
        rows: u64,
    },
    /// Slots and publications are gone, nothing is left of the move.
    Finished,
}

/// How far a copy is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopyProgress {
    /// Chunks that are on the destination.
    pub chunks: usize,
    /// All chunks.
    pub chunks_total: usize,
    /// Rows that are on the destination.
    pub rows: u64,
    /// Bytes that are on the destination, as they travel.
    pub bytes: u64,
    /// Bytes of all chunks; an estimate for those that are not copied.
    pub bytes_total: u64,
    /// Bytes a second since this process began to copy.
    pub bytes_per_second: f64,
    /// Bytes of the source's log that are not applied yet.
    pub lag_bytes: u64,
    /// How long this process was copying chunks.
    pub copying: Duration,
    /// How long it was applying, in between and after it, what had happened meanwhile.
    pub catching_up: Duration,
    /// How long the copy will still take at this rate; `None` where nothing is known yet.
    pub left: Option<Duration>,
}

impl fmt::Display for CopyProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MB: f64 = 1e6;
        write!(
            f,
            "{} of {} chunks, {} rows, {:.1} of {:.1} MB, {:.1} MB/s, {:.1} MB of log to apply",
            self.chunks,
            self.chunks_total,
            self.rows,
            self.bytes as f64 / MB,
            self.bytes_total as f64 / MB,
            self.bytes_per_second / MB,
            self.lag_bytes as f64 / MB,
        )?;
        match self.left {
            Some(left) => write!(f, ", {:.0} s left", left.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// Who hears of it; must not block.
pub trait MoveObserver: Debug + Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &MoveEvent);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMoveObserver;

impl MoveObserver for NoMoveObserver {
    fn on_event(&self, _: &MoveEvent) {}
}
