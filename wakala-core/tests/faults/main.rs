//! Every call of every step, and every write of the journal, fails in every way; the report stays true and the world can
//! be brought back.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod store;
mod table;
mod world;
mod wrappers;
