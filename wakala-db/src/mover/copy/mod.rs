//! What was there when the move began: cut into chunks, copied chunk by chunk, and what is done with the changes that
//! come meanwhile.

mod chunks;
#[cfg(test)]
mod chunks_tests;
mod copier;
mod key;
mod plan;
mod registry;
mod session;
#[cfg(test)]
pub(in crate::mover) mod tests;
mod wipe;

pub(crate) use chunks::{Action, Chunk, Chunks, Copied};
pub(crate) use copier::{Copier, Watch};
pub(crate) use key::ChunkKey;
pub(crate) use plan::plan;
pub(crate) use registry::{forget, load, save};
pub(crate) use session::{Scope, for_reading, for_writing};
pub(crate) use wipe::wipe;
