//! Which transactions a snapshot sees.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::Client;
use wakala_core::{Error, Result};

use super::registry::one;
use crate::error::Call;

/// As `pg_current_snapshot()` has it. What it sees is exact: every transaction that had committed, and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// All before had ended.
    xmin: u64,
    /// None from here on had begun.
    xmax: u64,
    /// Those between that had not ended, ascending.
    running: Vec<u64>,
}

impl Snapshot {
    /// Whether it sees a *committed* transaction.
    ///
    /// A change stream names the lower half of its 64 bits. The upper half is that of the number nearest to this
    /// snapshot: both are of one time, and the server keeps numbers that are in use within half of the range.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        self.sees_whole(self.whole(xid))
    }

    fn sees_whole(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether it sees every transaction that another one sees, whichever is the later one.
    pub(crate) fn sees_all_of(&self, other: &Self) -> bool {
        self.running.iter().copied().chain(self.xmax..other.xmax).all(|xid| !other.sees_whole(xid))
    }

    /// That of now.
    pub(crate) async fn current(client: &Client) -> Result<Self> {
        let call = Call { operation: "snapshot", subject: "the source".to_owned(), writes: false };
        let row = one(&call, client.query_typed("SELECT pg_current_snapshot()::text", &[]).await)?;
        row.try_get::<_, &str>(0).map_err(|error| call.failed(error))?.parse()
    }

    /// One that sees nothing: all that ever comes is to be applied.
    pub(crate) fn of_nothing() -> Self {
        // The first transaction of a database has number 3.
        Self { xmin: 3, xmax: 3, running: Vec::new() }
    }

    fn whole(&self, xid: u32) -> u64 {
        const EPOCH: u64 = 1 << 32;
        let near = (self.xmax & !(EPOCH - 1)) | u64::from(xid);
        if near > self.xmax + EPOCH / 2 && near >= EPOCH {
            near - EPOCH
        } else if near + EPOCH / 2 < self.xmax {
            near + EPOCH
        } else {
            near
        }
    }
}

impl FromStr for Snapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let mut parts = text.split(':');
            let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let list = parts.next()?;
            let mut running = list
                .split(',')
                .filter(|xid| !xid.is_empty())
                .map(|xid| xid.parse().ok())
                .collect::<Option<Vec<u64>>>()?;
            running.sort_unstable();
            parts.next().is_none().then_some(Self { xmin, xmax, running })
        };
        read().ok_or_else(|| {
            Error::invalid("snapshot", "not what pg_current_snapshot() says: xmin:xmax:running")
                .on(format!("{text:?}"))
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<String> = self.running.iter().map(ToString::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, running.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn sees_what_had_committed() {
        let taken = snapshot("10:20:12,15");
        assert!([3, 9, 10, 11, 13, 14, 19].into_iter().all(|xid| taken.sees(xid)));
        assert!([12, 15, 20, 21, 4000].into_iter().all(|xid| !taken.sees(xid)));
        assert_eq!(snapshot("7:7:").to_string(), "7:7:");
        for bad in ["", "1:2", "a:2:", "1:2:x", "1:2:3:4"] {
            assert!(bad.parse::<Snapshot>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_sees_all_of_another() {
        let slot = snapshot("10:20:12,15");
        for later in ["10:20:12,15", "12:20:12", "15:30:15,25", "20:20:"] {
            assert!(snapshot(later).sees_all_of(&slot), "{later}");
        }
        // 11 and 19 are among what the slot begins behind; 12 and 15 are not.
        for early in ["11:20:11,12,15", "12:20:12,19", "12:19:12", "10:12:"] {
            assert!(!snapshot(early).sees_all_of(&slot), "{early}");
        }
        assert!(snapshot("12:15:12").sees_all_of(&snapshot("12:16:12,15")));
    }

    #[test]
    fn numbers_wrap_around() {
        let epoch = 1_u64 << 32;
        let after = snapshot(&format!("{0}:{0}:", epoch + 5));
        assert!(after.sees(u32::MAX) && after.sees(4) && !after.sees(5));
        let before = snapshot(&format!("{0}:{0}:", epoch - 5));
        assert!(before.sees(u32::MAX - 5) && !before.sees(u32::MAX) && !before.sees(3));
    }
}
