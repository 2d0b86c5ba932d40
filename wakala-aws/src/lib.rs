//! AWS for wakala, one cargo feature a service; without one nothing of AWS is compiled.
//!
//! | feature | what |
//! |---|---|
//! | `eks` | managed node groups: `NodeGroup`, `NodeGroupSize` |
//!
//! # A tour
//!
//! Plan a larger node group, show the plan with the IAM policy that it needs, run it, take it back:
//!
//! ```no_run
//! # #[cfg(feature = "eks")]
//! # async fn run(ready: std::sync::Arc<dyn wakala_aws::NodeReadiness>) -> wakala_core::Result<()> {
//! use wakala_aws::{AwsConfig, NodeGroup, NodeGroupSize, iam_policy};
//! use wakala_core::{Approval, Engine, Playbook, Revert, RunHandle, RunId, step};
//!
//! // Region, profile and credentials from the environment, as in every AWS tool.
//! let aws = AwsConfig::new().load().await?;
//! // `ready` counts Ready nodes in Kubernetes; EKS itself does not know them.
//! let workers = NodeGroup::new(&aws, "production", "workers").with_readiness(ready);
//!
//! let nodes = NodeGroupSize::at_least(workers, 30).step("nodes");
//! let playbook = Playbook::builder("more nodes").then(step(nodes)).build()?;
//!
//! let engine = Engine::new();
//! let plan = engine.plan(&playbook).await?;
//! println!("{plan}\n{:#}", iam_policy(&plan.permissions()));
//!
//! let run = RunHandle::new(RunId::generate());
//! let report = engine.run(&playbook, &plan, &Approval::of(&plan, "ada"), &run).await?;
//! println!("{report}");
//!
//! let report = engine.revert(&playbook, &run, Revert::Everything).await?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```
//!
//! # Who retries
//!
//! The engine, and nobody below it: `AwsConfig` turns the SDK's retries off for reads and writes alike. Each error says
//! by [`Error::retry`](wakala_core::Error::retry) what may be done. A refusal (4xx) has certainly changed nothing.
//! Throttling is safe to repeat, also in its disguise as a bad request. A group that is busy with another change is
//! waited for. A write whose answer is lost, late or 5xx may have taken effect, so the group is looked at first; a
//! repetition carries the same `clientRequestToken`, for which EKS answers with the update of the first time. One call
//! takes at most 10 s, less than the engine gives it.
//!
//! Nothing here sleeps but on the run's clock.

mod permissions;
pub use permissions::iam_policy;

#[cfg(feature = "eks")]
mod config;
#[cfg(feature = "eks")]
mod error;
#[cfg(feature = "eks")]
mod nodegroup;

#[cfg(feature = "eks")]
pub use config::{Aws, AwsConfig};
#[cfg(feature = "eks")]
pub use nodegroup::{NodeGroup, NodeGroupSize, NodeGroupSizes, NodeGroupStep, NodeReadiness};
