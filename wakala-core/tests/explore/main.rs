//! Explores playbooks of fakes, and proves that exploring can fail.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod mutants;
mod playbooks;
mod stores;
mod world;
