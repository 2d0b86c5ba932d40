//! What a process runs with, and where that is not what its file says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use wakala_core::Result;

use super::ini::PgBouncerIni;
use super::keys::{self, OF_DATABASE, SETTINGS, Takes};
use super::{Console, ConsoleRow, PgBouncerVersion};

/// The database that stands for any other.
const ANY: &str = "*";
const CONSOLE: &str = "pgbouncer";
const PORT: &str = "5432";

/// What one process runs with, as its console tells.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) version: PgBouncerVersion,
    settings: BTreeMap<String, Setting>,
    databases: BTreeMap<String, ConsoleRow>,
}

#[derive(Clone, Debug)]
struct Setting {
    value: String,
    /// What a file without the key sets; `None` where such a file leaves it as it is.
    default: Option<String>,
    changeable: bool,
}

/// One thing that a process does otherwise than its file says.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDifference {
    /// `default_pool_size`, or `databases.app.pool_size`.
    pub key: String,
    /// What the file makes of it, by default where it does not name it; `None` where it takes it away.
    pub file: Option<String>,
    /// What it runs with; `None` where there is none.
    pub running: Option<String>,
}

impl fmt::Display for PoolDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "(none)".to_owned());
        write!(f, "{} is {} and not {}", self.key, show(&self.running), show(&self.file))
    }
}

impl Running {
    pub(super) async fn read(console: &Console) -> Result<Self> {
        let version = console.version().await?;
        let settings = console.show("CONFIG").await?;
        let databases = console.show("DATABASES").await?;
        let setting = |row: &ConsoleRow| {
            let changeable = row.text("changeable") == Some("yes");
            // Before 1.16 there is no such column, and a key that the file lacks is not looked at.
            let default = row.text("default").map(str::to_owned);
            Some((
                row.text("key")?.to_owned(),
                Setting { value: row.text("value").unwrap_or_default().to_owned(), default, changeable },
            ))
        };
        let name = |row: ConsoleRow| Some((row.text("name")?.to_owned(), row));
        Ok(Self {
            version,
            settings: settings.iter().filter_map(setting).collect(),
            databases: databases.into_iter().filter_map(name).collect(),
        })
    }

    /// The keys that it has.
    pub(super) fn keys(&self) -> BTreeSet<&str> {
        self.settings.keys().map(String::as_str).collect()
    }

    /// Whether `RELOAD` brings a key of `[pgbouncer]` into force.
    pub(super) fn is_changeable(&self, key: &str) -> bool {
        self.settings.get(key).is_none_or(|setting| setting.changeable)
    }

    /// Whether a file without the key sets it back: only then can it be added and taken back.
    pub(super) fn has_default(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|setting| setting.default.is_some())
    }

    pub(super) fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(|setting| setting.value.as_str())
    }

    /// The databases that it serves because of `*`.
    pub(super) fn automatic<'a>(&'a self, ini: &PgBouncerIni) -> Vec<&'a str> {
        let named = ini.databases();
        let names = self.databases.keys().map(String::as_str);
        names.filter(|name| *name != CONSOLE && !named.contains(name)).collect()
    }

    /// Where it runs otherwise than a `RELOAD` of this file would make it; keys that need a restart are left out, and
    /// what the console does not tell.
    pub(super) fn differences(&self, ini: &PgBouncerIni) -> Vec<PoolDifference> {
        let mut found = Vec::new();
        for (key, setting) in self.settings.iter().filter(|(_, setting)| setting.changeable) {
            let Some(file) = ini.setting(key).or(setting.default.as_deref()) else { continue };
            if key != "conffile" && !takes_of(key).same(file, &setting.value) {
                found.push(PoolDifference {
                    key: key.clone(),
                    file: Some(file.to_owned()),
                    running: Some(setting.value.clone()),
                });
            }
        }
        for name in ini.databases().into_iter().filter(|name| *name != ANY) {
            self.database_differences(ini, name, name, &mut found);
        }
        let any = ini.databases().contains(&ANY);
        for name in self.automatic(ini) {
            if any {
                self.database_differences(ini, name, ANY, &mut found);
            } else {
                let running = Some("there".to_owned());
                found.push(PoolDifference { key: format!("databases.{name}"), file: None, running });
            }
        }
        found
    }

    /// Where the database `name` is not as the line `line` wants it.
    fn database_differences(
        &self,
        ini: &PgBouncerIni,
        name: &str,
        line: &str,
        found: &mut Vec<PoolDifference>,
    ) {
        let mut add = |key: &str, file: Option<&str>, running: Option<&str>| {
            let key = format!("databases.{name}{key}");
            found.push(PoolDifference {
                key,
                file: file.map(str::to_owned),
                running: running.map(str::to_owned),
            });
        };
        let Some(row) = self.databases.get(name) else { return add("", Some("there"), None) };
        for (key, column, fallback) in COLUMNS {
            if !row.has(column) {
                continue;
            }
            // An alias; the last one in the line counts.
            let file = match *key {
                RESERVE => reserve(ini, line).map(|(_, value)| value),
                key => ini.parameter(line, key),
            };
            let file = file.or_else(|| match fallback {
                Fallback::None => None,
                Fallback::Name => Some(name.to_owned()),
                Fallback::Fixed(value) => Some((*value).to_owned()),
                Fallback::Setting(key) => {
                    let default =
                        || self.settings.get(*key).and_then(|s| s.default.as_deref().or(Some(&s.value)));
                    ini.setting(key).or_else(default).map(str::to_owned)
                }
            });
            let running = row.text(column).filter(|text| !text.is_empty());
            let takes = keys::find(OF_DATABASE, key).map_or(Takes::Text, |key| key.takes);
            let same = match (&file, running) {
                (None, None) => true,
                (Some(file), Some(running)) => {
                    // The setting of the whole may have a fraction, which is cut off here.
                    let file =
                        if *key == "server_lifetime" { file.split('.').next().unwrap_or(file) } else { file };
                    takes.same(file, running)
                }
                _ => false,
            };
            if !same {
                add(&format!(".{key}"), file.as_deref(), running);
            }
        }
    }
}

fn takes_of(key: &str) -> Takes {
    keys::find(SETTINGS, key).map_or(Takes::Text, |key| key.takes)
}

enum Fallback {
    /// Nothing.
    None,
    /// The name of the database.
    Name,
    Fixed(&'static str),
    /// A key of `[pgbouncer]`.
    Setting(&'static str),
}

/// The reserve of a database, under the name that all versions know.
pub(super) const RESERVE: &str = "reserve_pool";
/// The name that it also has since 1.24.
pub(super) const RESERVE_NEW: &str = "reserve_pool_size";

/// The spelling that counts in the line, and its value.
pub(super) fn reserve(ini: &PgBouncerIni, line: &str) -> Option<(&'static str, String)> {
    let position = |key: &str| ini.position_of(line, key);
    let key = match (position(RESERVE), position(RESERVE_NEW)) {
        (None, None) => return None,
        (Some(old), Some(new)) if old > new => RESERVE,
        (Some(_), None) => RESERVE,
        _ => RESERVE_NEW,
    };
    Some((key, ini.parameter(line, key)?))
}

/// A parameter of a database, the column of `SHOW DATABASES` that shows it, and what counts where the line lacks it.
const COLUMNS: &[(&str, &str, Fallback)] = &[
    ("dbname", "database", Fallback::Name),
    ("host", "host", Fallback::None),
    ("max_db_client_connections", "max_client_connections", Fallback::Setting("max_db_client_connections")),
    ("max_db_connections", "max_connections", Fallback::Setting("max_db_connections")),
    ("min_pool_size", "min_pool_size", Fallback::Setting("min_pool_size")),
    ("pool_mode", "pool_mode", Fallback::None),
    ("pool_size", "pool_size", Fallback::Setting("default_pool_size")),
    ("port", "port", Fallback::Fixed(PORT)),
    (RESERVE, "reserve_pool", Fallback::Setting("reserve_pool_size")),
    (RESERVE, "reserve_pool_size", Fallback::Setting("reserve_pool_size")),
    ("server_lifetime", "server_lifetime", Fallback::Setting("server_lifetime")),
    ("user", "force_user", Fallback::None),
];
