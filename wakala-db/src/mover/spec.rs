//! What is to be moved, and how carefully.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wakala_core::{Error, Result};

use crate::shards::{ShardId, TenantId};

/// Slots, publications and sessions are named after it, and PostgreSQL cuts names off after 63 bytes.
const LONGEST: usize = 40;

/// Names a move, on both shards and wherever it is spoken of: 1 to 40 of the characters `a` to `z`, `0` to `9` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MoveId(String);

impl MoveId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MoveId {
    type Err = Error;

    /// # Errors
    /// `InvalidConfig` for anything else than such a name.
    fn from_str(name: &str) -> Result<Self> {
        let fits = (1..=LONGEST).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if fits {
            return Ok(Self(name.to_owned()));
        }
        Err(Error::invalid("move_id", "a move is named by 1 to 40 of the characters a to z, 0 to 9 and _")
            .on(format!("move {name:?}")))
    }
}

impl TryFrom<String> for MoveId {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<MoveId> for String {
    fn from(id: MoveId) -> Self {
        id.0
    }
}

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveSpec {
    /// Names the move.
    pub id: MoveId,
    /// Where the tenants are.
    pub source: ShardId,
    /// Where they shall be.
    pub destination: ShardId,
    /// Which, in the order in which they are handed over.
    pub tenants: Vec<TenantId>,
    /// The column that holds the tenant in every table that is moved. Tables without it are not touched.
    pub tenant_column: String,
    /// The schemas whose tables are looked at.
    pub schemas: Vec<String>,
}

impl MoveSpec {
    /// A move by the column `tenant_id`, of the tables of the schema `public`.
    ///
    /// # Errors
    /// `InvalidConfig` where there is no tenant, one is there twice, or source and destination are the same.
    pub fn new(id: MoveId, source: ShardId, destination: ShardId, tenants: Vec<TenantId>) -> Result<Self> {
        let refused = |why: &str| Err(Error::invalid("move_spec", why.to_owned()).on(format!("move {id}")));
        if tenants.is_empty() {
            return refused("it names no tenant");
        }
        if source == destination {
            return refused("source and destination are the same shard");
        }
        let mut sorted: Vec<_> = tenants.iter().collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return refused(&format!("tenant {} is there twice", twice[0]));
        }
        Ok(Self {
            id,
            source,
            destination,
            tenants,
            tenant_column: "tenant_id".to_owned(),
            schemas: vec!["public".to_owned()],
        })
    }

    /// By another column.
    #[must_use]
    pub fn with_tenant_column(mut self, column: impl Into<String>) -> Self {
        self.tenant_column = column.into();
        self
    }

    /// Of the tables of other schemas.
    #[must_use]
    pub fn with_schemas(mut self, schemas: Vec<String>) -> Self {
        self.schemas = schemas;
        self
    }
}

/// Which way rows go.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MoveMethod {
    /// With a stream of changes: writers are held up for milliseconds, and a tenant can be taken back. Needs
    /// `wal_level = logical` on both servers.
    #[default]
    Online,
    /// For servers without: each tenant is fenced, copied, compared and opened. Its writers are refused for as long as its
    /// copy takes, and once it is opened there is no way back. Reads go on.
    Frozen,
}

/// How a move is done. The defaults suit a busy shard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveOptions {
    /// Which way rows go; online.
    pub method: MoveMethod,
    /// How many copies run side by side; 2.
    pub streams: usize,
    /// About how many bytes one chunk of a copy has; 8 MiB. A crash repeats at most 64 MiB a stream.
    pub chunk_bytes: u64,
    /// How many bytes of its log the source may have to keep for the move; 4 GiB. Beyond that the move ends with an
    /// error, and its slots must go: see [`Mover::abort`](super::Mover::abort).
    pub log_budget_bytes: u64,
    /// How long the fence waits for the tenant's writers before it lets them pass and tries again later; 300 ms. New
    /// writers of that tenant wait as long.
    pub fence_patience: Duration,
    /// How often it tries; 100.
    pub fence_attempts: u32,
    /// A tenant is fenced only while what is committed on the source is on the destination within this time; 100 ms.
    pub lag_budget: Duration,
    /// The most bytes a second that are copied; unlimited unless given.
    pub copy_bytes_per_second: Option<u64>,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self {
            method: MoveMethod::Online,
            streams: 2,
            chunk_bytes: 8 << 20,
            log_budget_bytes: 4 << 30,
            fence_patience: Duration::from_millis(300),
            fence_attempts: 100,
            lag_budget: Duration::from_millis(100),
            copy_bytes_per_second: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_specs_are_checked() {
        for bad in ["", "A", "a-b", "x;y", &"a".repeat(41)] {
            assert!(bad.parse::<MoveId>().is_err(), "{bad:?}");
        }
        let id: MoveId = "to_shard_2".parse().unwrap();
        let (one, two) = (ShardId::new(1).unwrap(), ShardId::new(2).unwrap());
        let tenant = TenantId::from(7);
        assert!(MoveSpec::new(id.clone(), one, one, vec![tenant.clone()]).is_err());
        assert!(MoveSpec::new(id.clone(), one, two, vec![]).is_err());
        let twice = MoveSpec::new(id.clone(), one, two, vec![tenant.clone(), tenant.clone()]).unwrap_err();
        assert!(twice.to_string().contains("tenant 7 is there twice"), "{twice}");
        assert!(MoveSpec::new(id, one, two, vec![tenant]).is_ok());
    }
}
