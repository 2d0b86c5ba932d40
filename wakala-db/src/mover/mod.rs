//! Moves tenants between shards while they are in use.
//!
//! In short (sources and measurements are in `docs/why-tenants-move-like-this.md`): a slot on the source keeps all
//! changes from before the copy on. The rows are copied in chunks, each in a snapshot of its own; a change is applied
//! where the snapshot of its chunk does not see its transaction. A fence takes the tenant's lock exclusively, which
//! waits for its writers, and puts a token into the same stream: where the destination applies the token, it is the
//! owner. Source and destination never both are. Afterwards the stream of the way back keeps the source up to date
//! until the move is finished, so that it can be taken back without loss.

pub use checks::{Verification, VerifiedTable};
pub use connect::ShardAccess;
pub use facts::{MoveFacts, TenantFacts, TenantPlace};
pub use finish::Finished;
pub use hand_over::HandOver;
pub use host::{HostStatus, MoveHost, MoveJob};
pub use mover::Mover;
pub use observer::{CopyProgress, MoveEvent, MoveObserver, NoMoveObserver};
pub use open::{MovePreview, TableSize, TenantSize};
pub use rate::CopyRate;
pub use spec::{MoveId, MoveMethod, MoveOptions, MoveSpec};

mod apply;
mod change;
mod checks;
mod connect;
mod copy;
mod copying;
mod discover;
mod facts;
mod finish;
mod frozen;
mod hand_over;
mod holder;
mod host;
mod install;
mod link;
#[allow(clippy::module_inception, reason = "what the module is about")]
mod mover;
mod observer;
mod open;
mod prepare;
mod rate;
mod registry;
mod side;
mod snapshot;
mod spec;
mod stream;
mod table;
mod tenant;
mod verify;
