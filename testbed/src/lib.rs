//! Starts real servers on loopback for tests.
//!
//! Servers listen on free ports of 127.0.0.1, write into a temporary folder, and are gone when the value that
//! stands for them is dropped, after a panic too, and when the test process ends in any other way, `SIGKILL`
//! included. A server that cannot be started is an error that says what to run; nothing is ever skipped.
//!
//! | feature | servers |
//! |---|---|
//! | `aws` | moto behind a front of our own that follows the documented EKS API |
//! | `kubernetes` | etcd, kube-apiserver, kube-controller-manager, kube-scheduler, simulated nodes |
//! | `postgres` | PostgreSQL |
//! | `pgbouncer` | PgBouncer, in front of such a PostgreSQL |
//! | `redis` | Redis or Valkey: alone, with replicas and Sentinels, as a cluster |
//!
//! [`Link`]s to those of the last three lose what passes through them.
//!
#![cfg_attr(
    feature = "kubernetes",
    doc = "[`ControlPlane`] is a whole cluster of one's own, [`TestCluster`]"
)]
#![cfg_attr(feature = "kubernetes", doc = "one that the tests of a binary share. Linux only.")]

#[cfg(any(feature = "postgres", feature = "redis"))]
mod account;
#[cfg(feature = "aws")]
pub mod aws;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod daemon;
mod error;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod link;
#[cfg(feature = "pgbouncer")]
mod pgbouncer;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "kubernetes", feature = "postgres", feature = "redis"))]
mod process;
#[cfg(all(feature = "aws", feature = "kubernetes"))]
mod production;
#[cfg(feature = "redis")]
mod redis;
mod wait;

pub use error::TestbedError;
#[cfg(feature = "kubernetes")]
pub use kubernetes::{
    ClusterAccess, ControlPlane, ControlPlaneBuilder, KUBECONFIG_VARIABLE, Level, MetricsPage, MetricsPages,
    NodeGroup, NodeGroups, PodRequests, Server, TestCluster, TestNamespace, User, Workload,
    horizontal_pod_autoscaler, namespace, pod_disruption_budget, rule,
};
#[cfg(any(feature = "postgres", feature = "redis"))]
pub use link::Link;
#[cfg(feature = "pgbouncer")]
pub use pgbouncer::{PgBouncer, PgBouncerBuilder, PoolMode};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresAccess, PostgresBuilder, PostgresServer};
#[cfg(all(feature = "aws", feature = "kubernetes"))]
pub use production::{Production, ProductionOptions};
#[cfg(feature = "redis")]
pub use redis::{
    RedisBuilder, RedisCluster, RedisClusterBuilder, RedisFlavour, RedisMember, RedisSentinels,
    RedisSentinelsBuilder, RedisServer,
};
pub use wait::wait_until;
