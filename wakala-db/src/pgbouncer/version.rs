//! Which PgBouncer it is.

use std::fmt;
use std::str::FromStr;

use wakala_core::{Error, Result};

/// The version of a PgBouncer: 1.18.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgBouncerVersion {
    /// 1, so far.
    pub major: u16,
    /// What decides which keys there are.
    pub minor: u16,
    /// Repairs only.
    pub patch: u16,
}

impl PgBouncerVersion {
    /// `major.minor.0`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor, patch: 0 }
    }
}

impl fmt::Display for PgBouncerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for PgBouncerVersion {
    type Err = Error;

    /// From `1.18.0`, or `SHOW VERSION`'s `PgBouncer 1.18.0`; a suffix such as `-dev` is dropped.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::invalid("version", format!("{text:?} is not a version of PgBouncer's"));
        let number = text.trim().trim_start_matches("PgBouncer").trim_start();
        let number = number.split(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse::<u16>().ok());
        let mut next = || parts.next();
        let (Some(Some(major)), Some(Some(minor))) = (next(), next()) else { return Err(refused()) };
        let patch = match next() {
            None => 0,
            Some(patch) => patch.ok_or_else(refused)?,
        };
        Ok(Self { major, minor, patch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_console_says_them() {
        let read = |text: &str| text.parse::<PgBouncerVersion>().map(|v| v.to_string()).ok();
        assert_eq!(read("PgBouncer 1.18.0").as_deref(), Some("1.18.0"));
        assert_eq!(read("1.25").as_deref(), Some("1.25.0"));
        assert_eq!(read("PgBouncer 1.26.0-dev").as_deref(), Some("1.26.0"));
        assert_eq!(read("PostgreSQL"), None);
        assert_eq!(read("1.x"), None);
        assert!(PgBouncerVersion::new(1, 9) < PgBouncerVersion::new(1, 10));
    }
}
