//! What is wanted of a `pgbouncer.ini`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::running::RESERVE;

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// After every statement; transactions of several statements are refused.
    Statement,
    /// After every transaction.
    Transaction,
}

impl fmt::Display for PoolMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::Statement => "statement",
            Self::Transaction => "transaction",
        })
    }
}

/// A key of the file: `default_pool_size`, or `databases.app.pool_size`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PoolKey {
    Setting(String),
    /// The reserve goes under the name that all versions know.
    Parameter {
        database: String,
        key: String,
    },
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(key) => f.write_str(key),
            Self::Parameter { database, key } => write!(f, "databases.{database}.{key}"),
        }
    }
}

impl From<&str> for PoolKey {
    fn from(text: &str) -> Self {
        // No key has a dot in it; the name of a database may.
        match text.strip_prefix("databases.").and_then(|rest| rest.rsplit_once('.')) {
            Some((database, key)) => Self::Parameter { database: database.to_owned(), key: key.to_owned() },
            None => Self::Setting(text.to_owned()),
        }
    }
}

/// The keys of a `pgbouncer.ini` that shall have other values. Whatever is not named stays as it is.
///
/// ```
/// use wakala_db::{PoolChange, PoolMode};
///
/// let change = PoolChange::new()
///     .with_pool_size("wakala", 100)
///     .with_reserve_pool("wakala", 20)
///     .with_pool_mode("wakala_read", PoolMode::Transaction)
///     .with_setting("max_client_conn", 5000);
/// assert_eq!(change.to_string(), "wakala pool_size 100, wakala reserve_pool 20, wakala_read pool_mode transaction, \
///     max_client_conn 5000");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolChange {
    values: BTreeMap<PoolKey, String>,
}

impl PoolChange {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Server connections of each pair of this database and a user, in each process; at least 1. `*` is the line for
    /// databases without a line of their own.
    #[must_use]
    pub fn with_pool_size(self, database: &str, connections: u32) -> Self {
        self.with_parameter(database, "pool_size", connections)
    }

    /// Further ones for clients that have waited for `reserve_pool_timeout`, for each pair of database and user.
    #[must_use]
    pub fn with_reserve_pool(self, database: &str, connections: u32) -> Self {
        self.with_parameter(database, RESERVE, connections)
    }

    /// How many are kept open while the database is in use.
    #[must_use]
    pub fn with_min_pool_size(self, database: &str, connections: u32) -> Self {
        self.with_parameter(database, "min_pool_size", connections)
    }

    /// The most of this database in each process, whatever the user; 0 is no limit.
    #[must_use]
    pub fn with_max_db_connections(self, database: &str, connections: u32) -> Self {
        self.with_parameter(database, "max_db_connections", connections)
    }

    /// When a server connection of this database goes back to the pool.
    #[must_use]
    pub fn with_pool_mode(self, database: &str, mode: PoolMode) -> Self {
        self.with_parameter(database, "pool_mode", mode)
    }

    /// A key of `[pgbouncer]`; numbers in plain digits, times in seconds.
    #[must_use]
    pub fn with_setting(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.values.insert(PoolKey::Setting(key.to_owned()), value.to_string());
        self
    }

    fn with_parameter(mut self, database: &str, key: &str, value: impl fmt::Display) -> Self {
        let key = PoolKey::Parameter { database: database.to_owned(), key: key.to_owned() };
        self.values.insert(key, value.to_string());
        self
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = (&PoolKey, &str)> {
        self.values.iter().map(|(key, value)| (key, value.as_str()))
    }
}

impl fmt::Display for PoolChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let databases = self.values.iter().filter(|(key, _)| matches!(key, PoolKey::Parameter { .. }));
        let settings = self.values.iter().filter(|(key, _)| matches!(key, PoolKey::Setting(_)));
        for (index, (key, value)) in databases.chain(settings).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match key {
                PoolKey::Setting(key) => write!(f, "{separator}{key} {value}")?,
                PoolKey::Parameter { database, key } => write!(f, "{separator}{database} {key} {value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_names() {
        for text in [
            "default_pool_size",
            "databases.app.pool_size",
            "databases.shop.eu.pool_size",
            "databases.*.pool_mode",
        ] {
            assert_eq!(PoolKey::from(text).to_string(), text);
        }
        let dotted = PoolKey::Parameter { database: "shop.eu".to_owned(), key: "pool_size".to_owned() };
        assert_eq!(PoolKey::from("databases.shop.eu.pool_size"), dotted);
    }
}
