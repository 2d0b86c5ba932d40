//! Moves tenants between shards while they are in use.
