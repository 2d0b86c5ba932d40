//! Explores playbooks of its own, and proves that exploring can fail.

mod fakes;
