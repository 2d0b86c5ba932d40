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
