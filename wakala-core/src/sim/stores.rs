//! The database and the cache as a user describes them.

use crate::{Error, Result};

/// The database that workloads hold connections to.
///
/// As given it takes 5000 queries per second and keeps 3 connections for its operators.
#[derive(Clone, Debug)]
pub struct Database {
    pub(super) max_connections: u32,
    pub(super) reserved: u32,
    pub(super) queries_per_second: f64,
}

impl Database {
    /// A database that accepts so many connections in all.
    pub fn new(max_connections: u32) -> Self {
        Self { max_connections, reserved: 3, queries_per_second: 5000.0 }
    }

    /// How many queries it answers per second at most. Each request that misses the cache is one.
    #[must_use]
    pub fn with_queries_per_second(mut self, queries: f64) -> Self {
        self.queries_per_second = queries;
        self
    }

    /// How many of the connections are not for workloads.
    #[must_use]
    pub fn with_reserved(mut self, connections: u32) -> Self {
        self.reserved = connections;
        self
    }

    /// How many connections workloads can have.
    pub(super) fn usable(&self) -> u32 {
        self.max_connections.saturating_sub(self.reserved)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.usable() == 0 {
            let message = format!(
                "{} connections less {} reserved leave none; raise the first",
                self.max_connections, self.reserved
            );
            return Err(Error::invalid("build", message).on("the database"));
        }
        if !self.queries_per_second.is_finite() || self.queries_per_second <= 0.0 {
            let message = format!("{} queries per second cannot be", self.queries_per_second);
            return Err(Error::invalid("build", message).on("the database"));
        }
        Ok(())
    }
}

/// The cache that answers for the database.
///
/// As given it is one server of its own that takes 20000 requests per second.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) max_clients: u32,
    pub(super) hit_ratio: f64,
    pub(super) requests_per_second: f64,
    pub(super) workload: Option<String>,
}

impl Cache {
    /// A cache whose servers accept so many clients each; `hit_ratio` is the share of requests that it can answer at
    /// its first size.
    pub fn new(max_clients: u32, hit_ratio: f64) -> Self {
        Self { max_clients, hit_ratio, requests_per_second: 20_000.0, workload: None }
    }

    /// Its servers are the replicas of that workload: more of them answer more, and remember more.
    #[must_use]
    pub fn on_workload(mut self, workload: impl Into<String>) -> Self {
        self.workload = Some(workload.into());
        self
    }

    /// How many requests per second each server answers at most; those beyond go to the database.
    #[must_use]
    pub fn with_requests_per_second(mut self, requests: f64) -> Self {
        self.requests_per_second = requests;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::invalid("build", message).on("the cache"));
        if self.max_clients == 0 {
            return refuse("it accepts no clients; give at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&self.hit_ratio) {
            return refuse(format!("a hit ratio of {} is not a share from 0 to 1", self.hit_ratio));
        }
        if !self.requests_per_second.is_finite() || self.requests_per_second <= 0.0 {
            return refuse(format!("{} requests per second cannot be", self.requests_per_second));
        }
        Ok(())
    }
}
