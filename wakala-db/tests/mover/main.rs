//! Moves of tenants between real servers.
