//! The engine's promises, on fakes, in virtual time.

mod approval;
mod common;
mod order;
mod outcomes;
mod report;
mod revert;
mod soak;
mod stop;
