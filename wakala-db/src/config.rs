use std::fmt;
use std::str::FromStr;

use wakala_core::{Error, Result};

/// PostgreSQL cuts off what is longer, without an error.
const LONGEST: usize = 63;

/// Name of a schema; `wakala` unless chosen.
///
/// ```
/// use wakala_db::SchemaName;
///
/// assert_eq!(SchemaName::default().to_string(), "wakala");
/// assert!("ops_wakala".parse::<SchemaName>().is_ok());
/// assert!("pg_wakala".parse::<SchemaName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

impl SchemaName {
    /// The name as SQL has it, in quotation marks.
    #[cfg(any(feature = "run-store", feature = "shards"))]
    pub(crate) fn quoted(&self) -> String {
        quoted(&self.0)
    }

    /// The schema that every shard has: it is the same everywhere, since applications call what is in it.
    #[cfg(feature = "shards")]
    pub(crate) fn shard() -> Self {
        Self("wakala_shard".to_owned())
    }

    /// The name as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self("wakala".to_owned())
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SchemaName {
    type Err = Error;

    /// # Errors
    /// `InvalidConfig` for a name that is empty, has more than 63 bytes or a NUL character, or begins with `pg_`, which
    /// PostgreSQL keeps for itself.
    fn from_str(name: &str) -> Result<Self> {
        let refused = |why: &str| {
            Err(Error::invalid("schema_name", format!("it {why}; choose another name"))
                .on(format!("schema {name:?}")))
        };
        if name.is_empty() {
            return refused("is empty");
        }
        if name.len() > LONGEST {
            return refused("has more than 63 bytes, the most that PostgreSQL keeps");
        }
        if name.contains('\0') {
            return refused("has a NUL character");
        }
        if name.starts_with("pg_") {
            return refused("begins with pg_, which PostgreSQL keeps for itself");
        }
        Ok(Self(name.to_owned()))
    }
}

/// A name as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_postgres_would_change_or_refuse_are_refused() {
        for name in ["", "pg_x", "a\0b", &"é".repeat(32)] {
            let error = name.parse::<SchemaName>().unwrap_err();
            assert_eq!(error.kind(), wakala_core::ErrorKind::InvalidConfig, "{name:?}");
        }
        let odd: SchemaName = "Ops \"1\".x".parse().unwrap();
        assert_eq!(odd.quoted(), "\"Ops \"\"1\"\".x\"");
    }
}
