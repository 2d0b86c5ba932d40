//! Where the programs are.

use std::path::PathBuf;

use crate::TestbedError;

const INSTALL: &str = "scripts/install-redis";
/// Name the binaries where they are other ones.
const REDIS_VARIABLE: &str = "WAKALA_REDIS_SERVER";
const VALKEY_VARIABLE: &str = "WAKALA_VALKEY_SERVER";
/// Says that there is no Valkey, and that this is known.
const WITHOUT_VALKEY_VARIABLE: &str = "WAKALA_WITHOUT_VALKEY";

/// Whose server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisFlavour {
    /// The `redis-server` of the system, or the one that `WAKALA_REDIS_SERVER` names.
    #[default]
    Redis,
    /// The Valkey that `scripts/install-redis` unpacks, or the one that `WAKALA_VALKEY_SERVER` names: one with atomic
    /// slot migration.
    Valkey,
}

impl RedisFlavour {
    /// Whether it is left out on this machine by `WAKALA_WITHOUT_VALKEY`, which is then said on standard error: a test
    /// that goes on without it does not do so in silence. Without the variable a missing Valkey is a failing test.
    pub fn is_left_out(self, test: &str) -> bool {
        let left_out = self == Self::Valkey && std::env::var_os(WITHOUT_VALKEY_VARIABLE).is_some();
        if left_out {
            eprintln!("{test}: NOT TESTED, because {WITHOUT_VALKEY_VARIABLE} is set");
        }
        left_out
    }

    /// The server's program.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NotBuilt`] with the command that installs it.
    pub fn program(self) -> Result<PathBuf, TestbedError> {
        let (variable, name) = match self {
            Self::Redis => (REDIS_VARIABLE, "redis-server"),
            Self::Valkey => (VALKEY_VARIABLE, "valkey-server"),
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        let (program, folder) = match (named, self) {
            (Some(program), _) => {
                let folder = program.parent().map(PathBuf::from).unwrap_or_default();
                (program.is_file().then_some(program), folder)
            }
            (None, Self::Redis) => (on_path(name), PathBuf::from("the search path")),
            (None, Self::Valkey) => {
                let folder = cache().join("valkey");
                (Some(folder.join(name)).filter(|program| program.is_file()), folder)
            }
        };
        program.ok_or_else(|| TestbedError::NotBuilt { what: name.to_owned(), folder, command: INSTALL })
    }

    /// The command-line client that came with it: `redis-cli` or `valkey-cli`.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NotBuilt`] with the command that installs it.
    pub fn cli(self) -> Result<PathBuf, TestbedError> {
        let name = match self {
            Self::Redis => "redis-cli",
            Self::Valkey => "valkey-cli",
        };
        let beside = self.program()?.with_file_name(name);
        Some(beside.clone())
            .filter(|program| program.is_file())
            .or_else(|| on_path(name))
            .ok_or(TestbedError::NotBuilt { what: name.to_owned(), folder: beside, command: INSTALL })
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// As the scripts find it.
fn cache() -> PathBuf {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("WAKALA_CACHE_DIR").unwrap_or_else(|| {
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        cache.unwrap_or_default().join("wakala")
    })
}
