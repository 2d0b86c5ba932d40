//! A real control plane with simulated nodes, from the binaries that `scripts/build-control-plane` makes.

mod access;
mod builder;
mod certs;
mod cluster;
mod control_plane;
mod flags;
mod nodes;
mod objects;
mod pages;
mod start;
mod user;

pub use access::{ClusterAccess, TestNamespace};
pub use builder::ControlPlaneBuilder;
pub use cluster::{KUBECONFIG_VARIABLE, TestCluster};
pub use control_plane::ControlPlane;
pub use flags::Server;
pub use nodes::{NodeGroup, NodeGroups};
pub use objects::{Workload, horizontal_pod_autoscaler, namespace, pod_disruption_budget};
pub use pages::{Level, MetricsPage, MetricsPages, PodRequests};
pub use user::{User, rule};
