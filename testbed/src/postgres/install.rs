//! The packages of the system, and the user that its servers run as.

use std::fs;
use std::path::{Path, PathBuf};

use crate::TestbedError;

/// Where Debian and Ubuntu put one folder for each major version.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
/// Names the folder of `initdb` and `postgres` where it is another one.
const FOLDER_VARIABLE: &str = "WAKALA_POSTGRES_BIN";
pub(crate) const INSTALL: &str = "scripts/install-postgres";

/// The folder that holds `initdb` and `postgres`: the newest version there is.
pub(crate) fn postgres_folder() -> Result<PathBuf, TestbedError> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return complete(PathBuf::from(folder));
    }
    let folder = Path::new(DEBIAN_FOLDER);
    let newest = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| folder.join("postgres").is_file())
        .max_by_key(|(version, _)| *version);
    complete(newest.map_or_else(|| folder.to_owned(), |(_, folder)| folder))
}

fn complete(folder: PathBuf) -> Result<PathBuf, TestbedError> {
    for binary in ["initdb", "postgres"] {
        if !folder.join(binary).is_file() {
            let what = format!("PostgreSQL's {binary}");
            return Err(TestbedError::NotBuilt { what, folder, command: INSTALL });
        }
    }
    Ok(folder)
}

/// A program of the search path, or of the folder for system programs that is not in everybody's path.
#[cfg(feature = "pgbouncer")]
pub(crate) fn program(name: &str) -> Result<PathBuf, TestbedError> {
    let sbin = PathBuf::from("/usr/sbin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([sbin.clone()])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| TestbedError::NotBuilt { what: name.to_owned(), folder: sbin, command: INSTALL })
}

/// Whom servers run as: we ourselves, unless we are root, whom neither PostgreSQL nor PgBouncer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// `None`: run as we are.
    pub(crate) fn for_servers() -> Result<Option<Self>, TestbedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(TestbedError::io("cannot read /etc/passwd"))?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Self::find(&users, name));
        account.map(Some).ok_or_else(|| {
            TestbedError::Invalid(format!(
                "PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody; run \
                 {INSTALL}, or the tests as another user"
            ))
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_their_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(Account::find(users, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(Account::find(users, "nobody"), None);
    }
}
