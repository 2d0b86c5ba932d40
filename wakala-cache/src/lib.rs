//! Redis, cache pools and CDN for wakala.
//!
//! This crate has no items yet. It will hold what the cache section of the runbook becomes: Redis metrics and
//! queue depths, growth and rebalancing of a Redis Cluster, cache pools, CDN settings and cache warming. The
//! crate is here so that the workspace has its final shape; nothing in it pretends to work.
