//! Whether PgBouncer will take a file as it is meant, asked before it is written: PgBouncer itself does not tell.

use std::collections::BTreeSet;
use std::fmt;

use super::PgBouncerVersion;
use super::connstr::parameters;
use super::ini::{Entry, PgBouncerIni};
use super::keys::{self, Key, NEWEST, OF_DATABASE, OF_PEER, OF_USER, OLDEST, PEERS, QUOTED_KEYS, SETTINGS};

/// The longest name of a database, and of a user.
const LONGEST_DATABASE: usize = 63;
const LONGEST_USER: usize = 127;
/// The name of the console.
const RESERVED: &str = "pgbouncer";

/// Why a `pgbouncer.ini` is not one that may be written.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IniProblem {
    /// The line, counted from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl fmt::Display for IniProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl PgBouncerIni {
    /// What keeps `version` from taking the file as it is meant; empty where nothing does.
    ///
    /// It is stricter than PgBouncer, which takes `pool_size=abc` for 0, `010` for 8, `pool_size=5x` for 5, and resets
    /// all of `[pgbouncer]` where the section begins a second time. Whether files that are named exist is not looked at.
    pub fn check(&self, version: PgBouncerVersion) -> Vec<IniProblem> {
        self.check_with(version, None)
    }

    /// The same, with the keys that a running process says it has: it knows best.
    pub(super) fn check_with(
        &self,
        version: PgBouncerVersion,
        known: Option<&BTreeSet<&str>>,
    ) -> Vec<IniProblem> {
        let mut problems = Problems { version, known, found: Vec::new() };
        if version < OLDEST {
            problems.add(None, format!("PgBouncer {version} is too old; {OLDEST} and later are known"));
            return problems.found;
        }
        for (index, line) in self.to_string().split('\n').enumerate() {
            if line.contains('\0') {
                problems.add(Some(index + 1), "it has a NUL character, where PgBouncer stops reading");
            }
        }
        for (line, why) in self.bad_lines() {
            problems.add(Some(line), why);
        }
        if let Some(line) = self.include() {
            problems.add(
                Some(line),
                "%include takes in another file, which is not looked into; put its lines here",
            );
        }
        let mut main = None;
        for (line, name) in self.sections() {
            match name {
                "pgbouncer" => {
                    if let Some(before) = main.replace(line) {
                        let text = format!(
                            "[pgbouncer] again, which resets what line {before} began; make one of them"
                        );
                        problems.add(Some(line), text);
                    }
                }
                "databases" | "users" => {}
                "peers" if version >= PEERS => {}
                other => problems.add(Some(line), format!("PgBouncer {version} knows no section [{other}]")),
            }
        }
        if main.is_none() {
            problems.add(None, "there is no section [pgbouncer]");
        }
        for entry in self.entries() {
            problems.entry(&entry);
        }
        problems.found.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        problems.found
    }
}

struct Problems<'a> {
    version: PgBouncerVersion,
    known: Option<&'a BTreeSet<&'a str>>,
    found: Vec<IniProblem>,
}

impl Problems<'_> {
    fn add(&mut self, line: Option<usize>, text: impl Into<String>) {
        self.found.push(IniProblem { line, text: text.into() });
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        let line = Some(entry.line);
        if entry.quoted && self.version < QUOTED_KEYS {
            let text =
                format!("a key in quotation marks needs PgBouncer {QUOTED_KEYS}; this is {}", self.version);
            self.add(line, text);
        }
        match entry.section {
            None => self.add(line, format!("{} stands before the first section", entry.key)),
            Some("pgbouncer") => self.setting(entry),
            Some("databases") => {
                if entry.key == RESERVED {
                    self.add(line, "pgbouncer is the name of the console; choose another");
                }
                if entry.key.len() > LONGEST_DATABASE {
                    self.add(line, format!("a database's name has {LONGEST_DATABASE} bytes at most"));
                }
                self.parameters(entry, "database", OF_DATABASE);
            }
            Some("users") => {
                if entry.key.len() > LONGEST_USER {
                    self.add(line, format!("a user's name has {LONGEST_USER} bytes at most"));
                }
                self.parameters(entry, "user", OF_USER);
            }
            Some("peers") => {
                if !entry.key.parse::<u16>().is_ok_and(|id| id > 0) {
                    self.add(line, format!("{} is no id of a peer, which is from 1 to 65535", entry.key));
                }
                self.parameters(entry, "peer", OF_PEER);
                let named = parameters(entry.value).is_ok_and(|found| found.iter().any(|p| p.key == "host"));
                if !named {
                    self.add(line, format!("peer {} has no host", entry.key));
                }
            }
            // Its section was complained of.
            Some(_) => {}
        }
    }

    fn setting(&mut self, entry: &Entry<'_>) {
        let line = Some(entry.line);
        let Entry { key, value, .. } = *entry;
        if key == "conffile" {
            self.add(line, "conffile makes PgBouncer read another file from then on; leave it out");
            return;
        }
        let told = self.known.map(|known| known.contains(key));
        match keys::find(SETTINGS, key) {
            Some(known) if told == Some(false) => {
                let text = format!("this PgBouncer ({}) has no key {}", self.version, known.name);
                self.add(line, text);
            }
            Some(known) if told.is_none() && !known.is_in(self.version) => {
                self.too_new(entry.line, known, key)
            }
            Some(known) => {
                if let Some(why) = known.takes.refuses(value) {
                    self.add(line, format!("{key}: {why}"));
                }
            }
            // A version later than this crate: it says itself what it has.
            None if told == Some(true) => {}
            None => self.unknown(entry.line, key, "there is no key"),
        }
    }

    fn parameters(&mut self, entry: &Entry<'_>, of: &str, table: &'static [Key]) {
        let line = Some(entry.line);
        let found = match parameters(entry.value) {
            Ok(found) => found,
            Err(why) => return self.add(line, format!("{of} {}: {why}", entry.key)),
        };
        for parameter in found {
            if parameter.key == "host" && parameter.value.contains(';') {
                self.add(
                    line,
                    format!(
                        "{of} {}: host: a name has no semicolon; parameters are parted by spaces",
                        entry.key
                    ),
                );
            }
            match keys::find(table, parameter.key) {
                None if self.version > NEWEST => {}
                None => self.unknown(entry.line, parameter.key, &format!("a {of} has no key")),
                Some(known) if !known.is_in(self.version) => self.too_new(entry.line, known, parameter.key),
                Some(known) => {
                    if let Some(why) = known.takes.refuses(&parameter.value) {
                        self.add(line, format!("{of} {}: {}: {why}", entry.key, parameter.key));
                    }
                }
            }
        }
    }

    fn too_new(&mut self, line: usize, known: &Key, key: &str) {
        let instead = match key {
            "reserve_pool_size" => "; write reserve_pool, which all versions take",
            _ => "",
        };
        let text = format!("{key} needs PgBouncer {}, this is {}{instead}", known.since(), self.version);
        self.add(Some(line), text);
    }

    fn unknown(&mut self, line: usize, key: &str, what: &str) {
        let hint = match (key, what) {
            ("reserve_pool", "there is no key") => "; in [pgbouncer] it is reserve_pool_size",
            ("default_pool_size", "a database has no key") => "; in the line of a database it is pool_size",
            _ => "",
        };
        self.add(Some(line), format!("{what} {key:?}{hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V18: PgBouncerVersion = PgBouncerVersion::new(1, 18);

    fn problems(text: &str, version: PgBouncerVersion) -> String {
        let found = PgBouncerIni::parse(text).check(version);
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_good_file_has_no_problem() {
        let text = "; c\n[databases]\napp = host=db port=5432 reserve_pool=20 pool_mode=Transaction password='a ''b'\n* = host=x\n\
            [users]\nbob = max_user_connections=5\n[pgbouncer] ; main\nlisten_port = 6432\nquery_timeout = 1.5\n\
            unix_socket_mode = 0770\nserver_reset_query =\n";
        assert_eq!(problems(text, V18), "");
        assert_eq!(problems(text, PgBouncerVersion::new(1, 25)), "");
    }

    #[test]
    fn keys_go_by_version() {
        let text = "[databases]\napp = reserve_pool_size=20\n[pgbouncer]\nmax_prepared_statements=5\n[peers]\n1 = host=a\n";
        let found = problems(text, V18);
        assert!(
            found.contains(
                "line 2: reserve_pool_size needs PgBouncer 1.24.0, this is 1.18.0; write reserve_pool"
            ),
            "{found}"
        );
        assert!(found.contains("line 4: max_prepared_statements needs PgBouncer 1.21.0"), "{found}");
        assert!(found.contains("line 5: PgBouncer 1.18.0 knows no section [peers]"), "{found}");
        assert_eq!(problems(text, PgBouncerVersion::new(1, 24)), "");
        assert!(problems(text, PgBouncerVersion::new(1, 9)).contains("too old"));
    }

    #[test]
    fn a_running_process_knows_its_keys_best() {
        let known = BTreeSet::from(["pool_mode", "brand_new"]);
        let check =
            |text: &str| PgBouncerIni::parse(text).check_with(PgBouncerVersion::new(1, 30), Some(&known));
        assert_eq!(check("[pgbouncer]\nbrand_new = whatever\npool_mode=session"), []);
        assert!(check("[pgbouncer]\nauth_user = x")[0].text.contains("has no key auth_user"));
        assert!(check("[pgbouncer]\npool_mode = x")[0].text.contains("none of session"));
    }

    #[test]
    fn traps_are_named() {
        for (text, words) in [
            ("[databases]\na=\n", "no section [pgbouncer]"),
            ("x=1\n[pgbouncer]", "stands before the first section"),
            ("[pgbouncer]\nreserve_pool=1", "it is reserve_pool_size"),
            ("[databases]\na=default_pool_size=4\n[pgbouncer]", "it is pool_size"),
            (
                "[pgbouncer]\n[databases]\n[pgbouncer]",
                "line 3: [pgbouncer] again, which resets what line 1 began",
            ),
            ("[pgbouncer]\ndefault_pool_size=010", "plain digits"),
            ("[pgbouncer]\nserver_lifetime=1h", "no unit"),
            ("[databases]\na=pool_size=5x\n[pgbouncer]", "pool_size"),
            ("[databases]\na=pool_size=0\n[pgbouncer]", "0 would leave nobody a connection"),
            ("[pgbouncer]\n%include x.ini", "%include"),
            ("[pgbouncer]\nconffile=/x", "conffile"),
            ("\u{feff}[pgbouncer]", "is not key = value"),
            ("[pgbouncer]\nadmin_users=a\0b", "NUL"),
        ] {
            let found = problems(text, V18);
            assert!(found.contains(words), "{text:?}: {found}");
        }
    }
}
