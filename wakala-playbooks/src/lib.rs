//! The runbook's playbooks, composed of wakala's providers.
//!
//! A playbook here is a set of parameters, with the runbook's numbers as default, and a trait that says what it needs
//! of a production. The same playbook runs on whatever implements the trait: the simulated production (feature
//! `sim`), a Kubernetes cluster (feature `kubernetes`), one on EKS (feature `kubernetes-eks`), a platform team's own.
//!
//! | playbook | runbook section |
//! |---|---|
//! | [`rapid_scale`] | Scaling Playbooks, 1. Traffic Spike Response |
//! | [`gradual_scale_down`] | Scaling Playbooks, 2. Gradual Scale Down |
//! | `resize_pools` (feature `pgbouncer`) | Database Scaling, 2. Connection Pool Scaling |
//! | `shard_migration` (feature `shards`) | Database Scaling, 3. Sharding |
//!
//! [`notify`] has the notifiers that post to a URL (feature `webhook`), [`report`] shows a run as one HTML page
//! (feature `report`).

pub mod gradual_scale_down;
#[cfg(feature = "webhook")]
pub mod notify;
pub mod rapid_scale;
#[cfg(feature = "report")]
pub mod report;
#[cfg(feature = "pgbouncer")]
pub mod resize_pools;
#[cfg(feature = "shards")]
pub mod shard_migration;
