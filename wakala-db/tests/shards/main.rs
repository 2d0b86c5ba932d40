//! The shard directory, placement, and the router of applications.
