//! What a connection budget comes to, in words that a person on call can act on.

use std::fmt;

use super::budget::{PoolDemand, ServerLimit};

/// What a [`ConnectionBudget`](super::ConnectionBudget) comes to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetReport {
    /// One for each server.
    pub servers: Vec<ServerBudget>,
}

impl BudgetReport {
    /// Whether all fit.
    pub fn fits(&self) -> bool {
        self.servers.iter().all(|server| server.fits)
    }
}

impl fmt::Display for BudgetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{server}")?;
        }
        Ok(())
    }
}

/// What a [`ConnectionBudget`](super::ConnectionBudget) comes to on one server.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBudget {
    /// The server.
    pub server: String,
    /// The most that all processes open on it; `None` where there is no end to it.
    pub demand: Option<u64>,
    /// How many they can have; `None` where its limits are not known.
    pub usable: Option<u64>,
    /// Whether the demand can be had.
    pub fits: bool,
    /// Where it cannot: sizes with which it could, each of one database with the others as they are.
    pub would_fit: Vec<(String, u32)>,
    pub(super) of_process: Option<u64>,
    pub(super) processes: u32,
    pub(super) surge: u32,
    pub(super) spare_percent: u32,
    pub(super) limit: Option<ServerLimit>,
    pub(super) pools: Vec<PoolDemand>,
}

impl fmt::Display for ServerBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.server)?;
        let Some((demand, of_process)) = self.demand.zip(self.of_process) else {
            let endless = self.pools.iter().find(|pool| pool.databases.is_none());
            let name = endless.map_or("*", |pool| &pool.database);
            return write!(
                f,
                "UNBOUNDED: nobody knows for how many databases {name} stands; say so, or set max_user_connections"
            );
        };
        let all = u64::from(self.processes) + u64::from(self.surge);
        write!(f, "{all} process{}", if all == 1 { "" } else { "es" })?;
        if self.surge > 0 {
            write!(f, " ({} of them a rollout's)", self.surge)?;
        }
        write!(f, " x {of_process} = {demand} connections (")?;
        for (index, pool) in self.pools.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{} {}", pool.database, pool.pool_size)?;
            if pool.reserve > 0 {
                write!(f, "+{}", pool.reserve)?;
            }
            if pool.pools() != 1 {
                write!(f, " x {} users", pool.pools())?;
            }
            if pool.databases != Some(1) {
                write!(f, " x {} databases", pool.databases.unwrap_or_default())?;
            }
            if pool.max_db_connections > 0 {
                write!(f, ", at most {}", pool.max_db_connections)?;
            }
        }
        let Some((usable, limit)) = self.usable.zip(self.limit.as_ref()) else {
            return f.write_str("), and the limits of the server are NOT KNOWN; name them");
        };
        write!(f, "), and {usable} can be had: max_connections {}", limit.max_connections)?;
        write!(f, " less {} for superusers", limit.superuser_reserved)?;
        if limit.reserved > 0 {
            write!(f, ", {} reserved", limit.reserved)?;
        }
        write!(f, ", {} % spare, {} direct", self.spare_percent, limit.direct)?;
        if self.fits {
            return Ok(());
        }
        if self.would_fit.is_empty() {
            return f.write_str(". No size of a single pool would fit; fewer processes, or a larger server");
        }
        f.write_str(". ")?;
        for (index, (database, size)) in self.would_fit.iter().enumerate() {
            write!(f, "{} {size} of {database}", if index == 0 { "Pool size" } else { ", or" })?;
        }
        f.write_str(" would fit")
    }
}
