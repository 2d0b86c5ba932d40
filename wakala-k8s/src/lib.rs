//! Kubernetes targets and steps.

mod capacity;
mod config;
mod error;
mod hpa;
mod nodes;
mod permissions;
mod problem;
mod snapshot;
mod target;
mod template;
#[cfg(test)]
mod testing;
mod truce;
mod watch;
mod workload;

pub use capacity::{ExpectedNodes, SchedulableCapacity};
pub use config::Cluster;
pub use hpa::HorizontalAutoscaler;
pub use nodes::ReadyNodes;
pub use permissions::{RbacRoles, rbac_roles};
pub use template::{EnvValues, TemplateEnv};
pub use truce::TruceGuard;
pub use workload::Workload;
