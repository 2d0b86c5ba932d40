use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::certs::Certificates;
use super::install::RedisFlavour;
use super::server::RedisServer;
use crate::TestbedError;

/// What a [`RedisServer`] shall be like.
#[derive(Clone, Debug)]
pub struct RedisBuilder {
    pub(super) flavour: RedisFlavour,
    pub(super) settings: BTreeMap<String, String>,
    /// Names and rules, in the order of their definition.
    pub(super) users: Vec<(String, String)>,
    pub(super) password: Option<String>,
    pub(super) tls: Option<Certificates>,
    pub(super) mode: Mode,
}

/// What the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Alone,
    /// Listens at a further port for the other nodes.
    Cluster,
    /// Lines of its configuration.
    Sentinel(Vec<String>),
}

impl RedisBuilder {
    pub(super) fn new() -> Self {
        let settings = [
            // Each write is in the file before its answer: it survives a kill of the process.
            ("appendonly", "yes"),
            ("appendfsync", "no"),
            ("save", "\"\""),
            ("enable-debug-command", "local"),
            // As given, a replica waits for 5 s before it has its copy, and a server for 10 s before it ends.
            ("repl-diskless-sync-delay", "0"),
            ("repl-ping-replica-period", "1"),
            ("shutdown-timeout", "0"),
        ];
        Self {
            flavour: RedisFlavour::default(),
            settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            users: Vec::new(),
            password: None,
            tls: None,
            mode: Mode::Alone,
        }
    }

    /// Whose server; the system's Redis unless said otherwise.
    #[must_use]
    pub fn with_flavour(mut self, flavour: RedisFlavour) -> Self {
        self.flavour = flavour;
        self
    }

    /// A line of the configuration, its value as the file has it; the last one of a name counts.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// How much memory the data may take, in bytes; without an end unless said otherwise.
    #[must_use]
    pub fn with_max_memory(self, bytes: u64) -> Self {
        self.with_setting("maxmemory", bytes)
    }

    /// Whether each write goes to a file before its answer; yes unless said otherwise. Measurements want it off; then
    /// nothing survives [`kill`](RedisServer::kill).
    #[must_use]
    pub fn with_append_only(self, append_only: bool) -> Self {
        self.with_setting("appendonly", if append_only { "yes" } else { "no" })
    }

    /// The password of the user `default`, who may do everything; none unless said otherwise. The testbed's own calls
    /// use it.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// A further user, by the rules of `ACL SETUSER`: `on >secret ~* +get`.
    #[must_use]
    pub fn with_user(mut self, name: &str, rules: &str) -> Self {
        self.users.push((name.to_owned(), rules.to_owned()));
        self
    }

    /// Whether clients must speak TLS at the server's [`port`](RedisServer::port); it has a certificate for `127.0.0.1`
    /// and `localhost`. At the [`plain_port`](RedisServer::plain_port) they need not.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] where no certificate can be made.
    pub fn with_tls(mut self) -> Result<Self, TestbedError> {
        self.tls = Some(Certificates::make()?);
        Ok(self)
    }

    /// Starts a server; some 30 ms on an idle machine.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NotBuilt`] when it is not installed, [`TestbedError::Invalid`] for what a configuration file
    /// cannot hold, [`TestbedError::Server`] with the end of the log when it does not come up. Nothing is left running.
    pub async fn start(self) -> Result<RedisServer, TestbedError> {
        self.check()?;
        RedisServer::create(self).await
    }

    fn check(&self) -> Result<(), TestbedError> {
        let settings = self.settings.iter().flat_map(|(name, value)| [name, value]);
        let users = self.users.iter().flat_map(|(name, rules)| [name, rules]);
        for text in settings.chain(users).chain(&self.password) {
            if text.contains(['\n', '\r', '\0']) {
                return Err(TestbedError::Invalid(format!("{text:?} has more than one line")));
            }
        }
        if let Some(password) = self.password.as_ref().filter(|text| text.contains(['"', '\\', ' '])) {
            return Err(TestbedError::Invalid(format!("the password {password:?} would need escapes")));
        }
        Ok(())
    }

    /// Everything but ports and folders.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name} {value}").expect("a String takes all text");
        };
        if let Mode::Sentinel(lines) = &self.mode {
            for own in lines {
                line("sentinel", own);
            }
        } else {
            for (name, value) in &self.settings {
                line(name, value);
            }
            if let Some(password) = &self.password {
                line("masterauth", password);
            }
            for (name, rules) in &self.users {
                line("user", &format!("{name} {rules}"));
            }
        }
        if let Some(password) = &self.password {
            line("requirepass", password);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_cannot_hold_is_refused() {
        let refused = |builder: RedisBuilder| builder.check().unwrap_err().to_string();
        assert!(refused(RedisBuilder::new().with_setting("a", "b\nc")).contains("more than one line"));
        assert!(refused(RedisBuilder::new().with_user("a", "on\n")).contains("more than one line"));
        assert!(refused(RedisBuilder::new().with_password("a b")).contains("escapes"));
        let builder = RedisBuilder::new().with_password("word").with_user("a", "on >x").with_max_memory(7);
        builder.check().unwrap();
        let lines = builder.with_max_memory(8).lines();
        for line in ["maxmemory 8\n", "requirepass word\n", "masterauth word\n", "user a on >x\n"] {
            assert!(lines.contains(line), "{lines}");
        }
        assert!(!lines.contains("maxmemory 7"), "{lines}");
    }
}
