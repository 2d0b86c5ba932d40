//! Kubernetes targets and steps for wakala: workloads and their size, the truce with the autoscaler that owns them,
//! their environment, room on the nodes, and the RBAC roles that all of it needs.
//!
//! | what | is a | does |
//! |---|---|---|
//! | [`Workload`] | [`ScalableTarget`](wakala_core::ScalableTarget) | size of a Deployment or StatefulSet |
//! | [`HorizontalAutoscaler`] | [`Autoscaler`](wakala_core::Autoscaler) | bounds of the HorizontalPodAutoscaler or KEDA ScaledObject that owns a workload |
//! | [`TemplateEnv`] | [`Setting`](wakala_core::Setting) | environment variables, all of a run as one rollout |
//! | [`PodMetrics`] | [`MetricsSource`](wakala_core::MetricsSource) | metrics that all ready pods of a workload show, as one value |
//! | [`ReadyNodes`] | reader | nodes that can take pods, for a node group of another provider |
//! | [`SchedulableCapacity`] | [`Preflight`](wakala_core::Preflight) | room for the pods to come, quotas included |
//! | [`rbac_roles`] | function | the least roles that a plan needs |
//!
//! An API under load goes to 50 replicas and stays there, with higher limits, as one approved plan:
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use wakala_core::{
//!     Approval, Engine, Playbook, RaiseFloor, Result, Revert, RunHandle, ScaleUp, Soak, TruceGuard, step,
//! };
//! use wakala_k8s::{Cluster, HorizontalAutoscaler, SchedulableCapacity, TemplateEnv, Workload, rbac_roles};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let cluster = Cluster::infer().await?;
//! let api = Workload::deployment(&cluster, "production", "wakala-api");
//! let autoscaler = Arc::new(HorizontalAutoscaler::of(&api));
//!
//! // The autoscaler would take the size back, so its floor moves first.
//! let floor = RaiseFloor::to(autoscaler.clone(), 50).step("floor");
//! let scale = ScaleUp::to(Arc::new(api.clone()), 50).with_floor_raised().step("replicas");
//! let limits = TemplateEnv::of(&api)
//!     .with_variable("RATE_LIMIT_REQUESTS", "10000")
//!     .with_variable("RATE_LIMIT_WINDOW", "60")
//!     .with_size(50)
//!     .step("limits");
//! let hours = Duration::from_secs(4 * 3600);
//! let playbook = Playbook::builder("spike")
//!     .with_preflight(SchedulableCapacity::of(&cluster).with_growth(&api, 50).with_restart(&api, 50))
//!     .then(step(floor).temporary(hours))
//!     .then(step(scale))
//!     .then(step(limits).temporary(hours))
//!     .then(Soak::new("soak", Duration::from_secs(600)).with_guard(TruceGuard::new(autoscaler, 50)))
//!     .build()?;
//!
//! let engine = Engine::new();
//! let plan = engine.plan(&playbook).await?;
//! println!("{plan}");
//! println!("{:#?}", rbac_roles("wakala-spike", &plan.permissions())?);
//! let run = RunHandle::generate();
//! let report = engine.run(&playbook, &plan, &Approval::of(&plan, "on call"), &run).await?;
//! println!("{report}");
//! engine.revert(&playbook, &run, Revert::Temporary).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Who repeats what
//!
//! The engine, and nobody else. kube's client would by itself send a request up to 16 times on 429, 503 and 504,
//! whatever its method; [`Cluster`] turns that off, and [`Cluster::from_client`] asks for a client that has it off. Every
//! error says in [`Error::retry`](wakala_core::Error::retry) whether it is safe to repeat: a write whose answer was lost
//! is to be looked at first, one whose connection was refused certainly did nothing.
//!
//! One sort of repetition is no retry and stays here. The API server compares versions of whole objects, and
//! controllers note something on an object with every pod that gets ready. A conditional write that loses to such a
//! note is made again on the newer version, ten times at the most, as long as what it was conditional on still holds:
//! the specification of a workload, the bounds of an autoscaler. Where that changed, it is `Conflict`.
//!
//! # Time
//!
//! A connection may take 10 seconds, a request [30](Cluster::with_request_timeout). Waiting is done by watches, which have
//! no limit but the run's own; cancellation and the step's deadline end them at once. A write that is under way is not
//! cut off by cancellation.
//!
//! # Versions of the API
//!
//! `k8s-openapi` wants the program to choose one of its features `v1_33` and later; this crate chooses none.

mod capacity;
mod config;
mod error;
mod hpa;
mod nodes;
mod permissions;
mod pod_metrics;
mod problem;
mod snapshot;
mod target;
mod template;
#[cfg(test)]
mod testing;
mod watch;
mod workload;

pub use capacity::{ExpectedNodes, SchedulableCapacity};
pub use config::Cluster;
pub use hpa::HorizontalAutoscaler;
pub use nodes::ReadyNodes;
pub use permissions::{RbacRoles, rbac_roles};
pub use pod_metrics::{PodMetric, PodMetrics, Series};
pub use template::{EnvValues, TemplateEnv};
pub use workload::Workload;
