use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::server::PostgresServer;
use crate::TestbedError;

pub(crate) const SUPERUSER: &str = "postgres";

/// What a [`PostgresServer`] shall be like.
#[derive(Clone, Debug)]
pub struct PostgresBuilder {
    pub(super) settings: BTreeMap<String, String>,
    pub(super) roles: BTreeMap<String, String>,
    /// Name and owner, in the order of their creation.
    pub(super) databases: Vec<(String, String)>,
}

impl PostgresBuilder {
    pub(super) fn new() -> Self {
        let settings = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("shared_buffers", "32MB"),
            ("max_connections", "100"),
            ("password_encryption", "scram-sha-256"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
            // The folder is deleted with the server; only a crash of the machine could tell the difference.
            ("fsync", "off"),
        ];
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            settings: settings.into_iter().map(own).collect(),
            roles: BTreeMap::new(),
            databases: Vec::new(),
        }
    }

    /// How many connections the server takes, 100 unless said otherwise; superusers keep 3 of them.
    #[must_use]
    pub fn with_max_connections(self, connections: u16) -> Self {
        self.with_setting("max_connections", connections)
    }

    /// Whether the server waits for the disk; no unless said otherwise.
    ///
    /// Without it, what was committed survives [`kill`](PostgresServer::kill) all the same, but not a crash of the
    /// machine. Measurements want it on.
    #[must_use]
    pub fn with_fsync(self, fsync: bool) -> Self {
        self.with_setting("fsync", if fsync { "on" } else { "off" })
    }

    /// A line of `postgresql.conf`; the last one of a name counts.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// A role that may log in with this password (SCRAM) and has no other rights.
    #[must_use]
    pub fn with_role(mut self, name: &str, password: &str) -> Self {
        self.roles.insert(name.to_owned(), password.to_owned());
        self
    }

    /// A database that belongs to a role given by [`with_role`](Self::with_role), or to `postgres`.
    #[must_use]
    pub fn with_database(mut self, name: &str, owner: &str) -> Self {
        self.databases.push((name.to_owned(), owner.to_owned()));
        self
    }

    /// Makes a data folder and starts the server in it; half a second on an idle machine.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NotBuilt`] when PostgreSQL is not installed, [`TestbedError::Invalid`] for names or passwords
    /// that would need escapes in a connection string, [`TestbedError::Server`] with the end of the log when the
    /// server does not come up. Nothing is left running.
    pub async fn start(self) -> Result<PostgresServer, TestbedError> {
        self.check()?;
        PostgresServer::create(self).await
    }

    fn check(&self) -> Result<(), TestbedError> {
        let words = self.roles.iter().flat_map(|(name, password)| [("role", name), ("password", password)]);
        for (what, word) in words.chain(self.databases.iter().map(|(name, _)| ("database", name))) {
            check_plain(what, word)?;
        }
        let unowned =
            self.databases.iter().find(|(_, owner)| owner != SUPERUSER && !self.roles.contains_key(owner));
        if let Some((name, owner)) = unowned {
            let text = format!("database {name} shall belong to {owner}, which no with_role(…) defines");
            return Err(TestbedError::Invalid(text));
        }
        if self.roles.contains_key(SUPERUSER) {
            return Err(TestbedError::Invalid(format!("{SUPERUSER} is the superuser, which exists already")));
        }
        Ok(())
    }

    pub(super) fn settings_file(&self, port: u16) -> String {
        let mut text = format!("port = {port}\n");
        for (name, value) in &self.settings {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("a String takes all text");
        }
        text
    }

    /// What makes the roles and databases; a database is not made within a transaction, so one statement each.
    pub(super) fn statements(&self) -> Vec<String> {
        let roles = self.roles.iter().map(|(name, password)| {
            // Not `CREATE ROLE … LOGIN` with everybody's right to make temporary objects taken away: a plain role.
            format!(r#"CREATE ROLE "{name}" LOGIN PASSWORD '{password}'"#)
        });
        let databases =
            self.databases.iter().map(|(name, owner)| format!(r#"CREATE DATABASE "{name}" OWNER "{owner}""#));
        roles.chain(databases).collect()
    }
}

/// Refuses what would need escapes in SQL, in a configuration file or in a connection string.
pub(crate) fn check_plain(what: &str, word: &str) -> Result<(), TestbedError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'~');
    if word.is_empty() || !word.bytes().all(plain) {
        return Err(TestbedError::Invalid(format!(
            "the {what} {word:?} may consist of letters, digits, '_', '-', '.' and '~' only"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_escapes_or_an_owner_is_refused() {
        let refused = |builder: PostgresBuilder| builder.check().unwrap_err().to_string();
        assert!(refused(PostgresBuilder::new().with_role("a b", "x")).contains("role \"a b\""));
        assert!(refused(PostgresBuilder::new().with_role("a", "x'y")).contains("password"));
        assert!(refused(PostgresBuilder::new().with_database("a", "b")).contains("with_role"));
        assert!(refused(PostgresBuilder::new().with_role(SUPERUSER, "x")).contains("superuser"));
        PostgresBuilder::new().with_role("a", "x").with_database("d", "a").check().unwrap();
    }

    #[test]
    fn the_last_setting_of_a_name_counts() {
        let builder = PostgresBuilder::new().with_max_connections(10).with_setting("max_connections", 20);
        let file = builder.with_setting("search_path", "'a'").settings_file(5432);
        assert!(file.contains("port = 5432\n") && file.contains("max_connections = '20'\n"), "{file}");
        assert!(file.contains("search_path = '''a'''\n"), "{file}");
    }
}
