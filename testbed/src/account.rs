//! The user that servers of the system's packages run as.

#[cfg(feature = "postgres")]
use std::fs;
use std::path::Path;

use crate::TestbedError;

/// Whom servers run as: we ourselves, unless we are root, whom neither PostgreSQL nor PgBouncer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// `None`: run as we are.
    #[cfg(feature = "postgres")]
    pub(crate) fn for_servers() -> Result<Option<Self>, TestbedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(TestbedError::io("cannot read /etc/passwd"))?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Self::find(&users, name));
        account.map(Some).ok_or_else(|| {
            let text = "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody; run \
                        scripts/install-postgres, or the tests as another user";
            TestbedError::Invalid(text.to_owned())
        })
    }

    #[cfg(feature = "postgres")]
    fn find(users: &str, name: &str) -> Option<Self> {
        users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
            [user, _, uid, gid, ..] if user == name => {
                Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
            }
            _ => None,
        })
    }

    /// Gives `path` to this account.
    pub(crate) fn own(account: Option<Self>, path: &Path) -> Result<(), TestbedError> {
        let Some(Self { uid, gid }) = account else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(TestbedError::io(format!("cannot give {} to user {uid}", path.display())))
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(Account::find(users, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(Account::find(users, "nobody"), None);
    }
}
