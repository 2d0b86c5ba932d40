use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::{Client, Config, NoTls};

use crate::TestbedError;

/// Where a server listens and who may log in: what a client needs.
#[derive(Clone, Debug)]
pub struct PostgresAccess {
    port: u16,
    passwords: Arc<BTreeMap<String, String>>,
}

impl PostgresAccess {
    pub(crate) fn new(port: u16, passwords: BTreeMap<String, String>) -> Self {
        Self { port, passwords: Arc::new(passwords) }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same roles at another port, that of a [`Link`](crate::Link) for one.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Self {
        Self { port, passwords: Arc::clone(&self.passwords) }
    }

    /// Knows one role more, which the caller has made by SQL.
    #[must_use]
    pub fn with_role(&self, role: &str, password: &str) -> Self {
        let mut passwords = self.passwords.as_ref().clone();
        passwords.insert(role.to_owned(), password.to_owned());
        Self { port: self.port, passwords: Arc::new(passwords) }
    }

    /// `postgres://role:password@127.0.0.1:port/database`.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Invalid`] where the role is not known.
    pub fn url(&self, database: &str, role: &str) -> Result<String, TestbedError> {
        // Names and passwords were checked to need no escapes.
        Ok(format!("postgres://{role}:{}@127.0.0.1:{}/{database}", self.password(role)?, self.port))
    }

    /// The same as the client library's own type.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Invalid`] where the role is not known.
    pub fn config(&self, database: &str, role: &str) -> Result<Config, TestbedError> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).dbname(database).user(role).password(self.password(role)?);
        Ok(config)
    }

    /// A connection, driven by a task of its own.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Invalid`] where the role is not known, [`TestbedError::Api`] where the server refuses or does
    /// not answer.
    pub async fn connect(&self, database: &str, role: &str) -> Result<Client, TestbedError> {
        let what = format!("cannot connect as {role} to database {database} at port {}", self.port);
        let config = self.config(database, role)?;
        let (client, connection) = config.connect(NoTls).await.map_err(TestbedError::api(what))?;
        // Its error is seen by the client too, whose calls then fail.
        tokio::spawn(connection);
        Ok(client)
    }

    fn password(&self, role: &str) -> Result<&str, TestbedError> {
        self.passwords.get(role).map(String::as_str).ok_or_else(|| {
            TestbedError::Invalid(format!(
                "no role {role} was defined; define it with with_role(name, password)"
            ))
        })
    }
}
