//! The shard directory, placement, and the router of applications.

pub use directory::Directory;
pub use ids::{Epoch, Placement, Shard, ShardId, State, TenantId};
pub use legacy::Existing;
pub use placement::propose;
pub use rebalance::{Goal, MovePlan, PlannedMove, PlannedShard, ShardLoad, TenantLoad, plan_moves};
pub use router::{Abort, Routed, Router};
pub use sizes::ShardSizes;
pub use take_over::TakenOver;

mod directory;
mod ids;
mod legacy;
mod placement;
mod rebalance;
mod router;
mod sizes;
mod take_over;
