//! Redis, cache pools and CDN for wakala, one cargo feature a subject; without one nothing of Redis is compiled.
//!
//! | feature | what |
//! |---|---|
//! | `metrics` | `RedisMetrics`: memory, clients, traffic, replication, queues and latency, what guards can be made of |
//!
//! Valkey is meant wherever Redis is said.
//!
//! # Who retries
//!
//! The engine. A command is sent once: the connections here are those of a single node, follow no redirection and repeat
//! nothing; one that broke is made anew for the next command. Only metrics, which read, ask a second time where the
//! connection that was kept since the last look turns out to be lost. Each error says by
//! [`Error::retry`](wakala_core::Error::retry) what may be done: where no connection was to be had nothing was sent, and a
//! refusal of the server's has changed nothing; a connection that broke, or an answer that did not come in time, leaves
//! the fate of a write open.

#[cfg(feature = "client")]
#[allow(dead_code, reason = "each feature needs a part of it")]
mod client;
#[cfg(feature = "client")]
mod config;
#[cfg(feature = "client")]
#[allow(dead_code, reason = "each feature needs a part of it")]
mod error;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "client")]
#[allow(dead_code, reason = "each feature needs a part of it")]
mod permissions;
#[cfg(feature = "client")]
#[allow(dead_code, reason = "each feature needs a part of it")]
mod slot;

#[cfg(feature = "client")]
pub use config::{NodeAddress, RedisAccess, RedisTls};
#[cfg(feature = "metrics")]
pub use metrics::{RedisMetrics, RedisQueue};
#[cfg(feature = "client")]
pub use permissions::{redis_acl, redis_acl_rules, sentinel_acl};
