//! Tenants, shards and who has whom.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wakala_core::{Error, Result};

/// The most bytes of a [`TenantId`].
const LONGEST_TENANT: usize = 200;
/// The most that a [`Shard`] may weigh.
const HEAVIEST: u16 = 1000;

/// A tenant, by the text form of its id as PostgreSQL prints it: a number without leading zeros, a UUID in lower case
/// with hyphens, or any other text of 1 to 200 bytes without a NUL character.
///
/// The text is compared byte by byte, and not changed: `A0EE…` and `a0ee…` are two tenants.
///
/// ```
/// use wakala_db::TenantId;
///
/// assert_eq!(TenantId::from(42).as_str(), "42");
/// assert!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".parse::<TenantId>().is_ok());
/// assert!("".parse::<TenantId>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(String);

impl TenantId {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<i64> for TenantId {
    fn from(id: i64) -> Self {
        Self(id.to_string())
    }
}

impl TryFrom<String> for TenantId {
    type Error = Error;

    /// # Errors
    /// As parsing it.
    fn try_from(id: String) -> Result<Self> {
        let refused = |why: &str| {
            let shown: String = id.chars().take(40).collect();
            let message = format!("it {why}; give the id as PostgreSQL prints it");
            Err(Error::invalid("tenant_id", message).on(format!("tenant {shown:?}")))
        };
        if id.is_empty() {
            return refused("is empty");
        }
        if id.len() > LONGEST_TENANT {
            return refused("has more than 200 bytes");
        }
        if id.contains('\0') {
            return refused("has a NUL character");
        }
        Ok(Self(id))
    }
}

impl FromStr for TenantId {
    type Err = Error;

    /// # Errors
    /// `InvalidConfig` for text that is empty, has more than 200 bytes or a NUL character.
    fn from_str(id: &str) -> Result<Self> {
        id.to_owned().try_into()
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0
    }
}

/// The number of a shard, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct ShardId(i32);

impl ShardId {
    /// A shard by its number.
    ///
    /// # Errors
    /// `InvalidConfig` for zero and below, which a hash with a sign makes.
    pub fn new(number: i32) -> Result<Self> {
        if number > 0 {
            return Ok(Self(number));
        }
        let message = "shards are numbered from 1; a remainder of a hash with a sign makes such numbers";
        Err(Error::invalid("shard_id", message).on(format!("shard {number}")))
    }

    /// The number.
    pub fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i32> for ShardId {
    type Error = Error;

    fn try_from(number: i32) -> Result<Self> {
        Self::new(number)
    }
}

impl From<ShardId> for i32 {
    fn from(id: ShardId) -> Self {
        id.0
    }
}

/// Counts the owners of a tenant, from 1: whatever names an earlier one is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Epoch(i64);

impl Epoch {
    /// That of the shard on which a tenant is registered.
    pub const FIRST: Self = Self(1);

    /// An epoch by its number.
    ///
    /// # Errors
    /// `InvalidConfig` for zero and below.
    pub fn new(number: i64) -> Result<Self> {
        if number > 0 {
            return Ok(Self(number));
        }
        Err(Error::invalid("epoch", "epochs are counted from 1").on(format!("epoch {number}")))
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }

    /// That of the next owner.
    ///
    /// # Panics
    /// After 9·10¹⁸ owners.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("no tenant has that many owners"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i64> for Epoch {
    type Error = Error;

    fn try_from(number: i64) -> Result<Self> {
        Self::new(number)
    }
}

impl From<Epoch> for i64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

/// A database that tenants are in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// Where applications reach it: a server, or a PgBouncer before it.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// The database there.
    pub database: String,
    /// Whether it is given tenants; one that is not keeps those it has until they are moved.
    pub active: bool,
    /// Its size beside the others, 1 to 1000: one of 2 gets twice the share of one of 1.
    pub weight: u16,
}

impl Shard {
    /// An active shard of weight 1.
    pub fn new(id: ShardId, host: impl Into<String>, port: u16, database: impl Into<String>) -> Self {
        Self { id, host: host.into(), port, database: database.into(), active: true, weight: 1 }
    }

    /// Whether it is given tenants.
    #[must_use]
    pub fn with_active(mut self, active: bool) -> Self {
        self.active = active;
        self
    }

    /// Its size beside the others, 1 to 1000.
    #[must_use]
    pub fn with_weight(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }

    /// Whether clients of the other would find this one: the same database at the same place.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.database) == (&other.host, other.port, &other.database)
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        let refused =
            |why: &str| Err(Error::invalid(operation, why.to_owned()).on(format!("shard {}", self.id)));
        if self.host.is_empty() || self.host.contains('\0') {
            return refused("it has no host, or one with a NUL character; say where it is");
        }
        if self.port == 0 {
            return refused("it has port 0; say at which port it is");
        }
        if self.database.is_empty() || self.database.contains('\0') {
            return refused("it has no database, or one with a NUL character; say which it is");
        }
        if !(1..=HEAVIEST).contains(&self.weight) {
            return refused("its weight is not between 1 and 1000; correct that");
        }
        Ok(())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, host, port, database, .. } = self;
        write!(f, "shard {id} ({host}:{port}/{database})")
    }
}

/// What happens to a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Its shard has it, and nothing else happens.
    Active,
    /// Its shard still has it, and a move to another has begun.
    Moving {
        /// Where to.
        to: ShardId,
    },
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Moving { to } => write!(f, "moving to shard {to}"),
        }
    }
}

/// Where the directory has a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Placement {
    /// The tenant.
    pub tenant: TenantId,
    /// Its owner.
    pub shard: ShardId,
    /// Since which owner.
    pub epoch: Epoch,
    /// What happens to it.
    pub state: State,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, shard, epoch, state } = self;
        write!(f, "tenant {tenant} on shard {shard} since epoch {epoch}, {state}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_also_where_they_are_read() {
        for id in ["", "a\0b", &"é".repeat(101)] {
            let error = id.parse::<TenantId>().unwrap_err();
            assert_eq!(error.kind(), wakala_core::ErrorKind::InvalidConfig, "{id:?}");
        }
        assert!("é".repeat(100).parse::<TenantId>().is_ok());
        assert!(serde_json::from_str::<TenantId>("\"\"").is_err());
        for number in [-2, 0] {
            assert!(
                ShardId::new(number).is_err()
                    && serde_json::from_str::<ShardId>(&number.to_string()).is_err()
            );
            assert!(serde_json::from_str::<Epoch>(&number.to_string()).is_err());
        }
        assert_eq!(
            serde_json::to_string(&State::Moving { to: ShardId(3) }).unwrap(),
            r#"{"moving":{"to":3}}"#
        );
    }

    #[test]
    fn a_shard_that_no_client_could_find_is_refused() {
        let id = ShardId::new(1).unwrap();
        assert!(Shard::new(id, "h", 1, "d").check("t").is_ok());
        let odd = [
            Shard::new(id, "", 1, "d"),
            Shard::new(id, "h", 0, "d"),
            Shard::new(id, "h", 1, "\0"),
            Shard::new(id, "h", 1, "d").with_weight(0),
            Shard::new(id, "h", 1, "d").with_weight(1001),
        ];
        for shard in odd {
            assert!(shard.check("t").is_err(), "{shard}");
        }
    }
}
