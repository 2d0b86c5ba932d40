//! Explores playbooks of fakes, and proves that exploring can fail.

mod mutants;
mod playbooks;
mod stores;
mod world;
