//! PgBouncer, in front of a [`PostgresServer`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::account::Account;
use crate::daemon::{Daemon, ServerFolder};
use crate::link::Link;
use crate::postgres::{PostgresAccess, PostgresServer, SUPERUSER, check_plain, program};
use crate::process::free_port;
use crate::{TestbedError, wait_until};

const ADMIN: &str = "pgbouncer_admin";
/// The name under which PgBouncer itself can be asked.
const CONSOLE: &str = "pgbouncer";
const CONFIG: &str = "pgbouncer.ini";
const USERS: &str = "userlist.txt";
const START_ATTEMPTS: u32 = 3;

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// After every statement; transactions of several statements are refused.
    Statement,
    /// After every transaction.
    #[default]
    Transaction,
}

impl PoolMode {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Statement => "statement",
            Self::Transaction => "transaction",
        }
    }
}

/// What a [`PgBouncer`] shall be like.
#[derive(Clone, Debug)]
pub struct PgBouncerBuilder {
    server: PostgresAccess,
    databases: BTreeMap<String, String>,
    settings: BTreeMap<String, String>,
}

impl PgBouncerBuilder {
    /// When server connections go back to the pool; after every transaction unless said otherwise.
    #[must_use]
    pub fn with_pool_mode(self, mode: PoolMode) -> Self {
        self.with_setting("pool_mode", mode.name())
    }

    /// Server connections of a pair of database and role, 20 unless said otherwise.
    #[must_use]
    pub fn with_default_pool_size(self, connections: u16) -> Self {
        self.with_setting("default_pool_size", connections)
    }

    /// A line of the section `[pgbouncer]`; the last one of a name counts.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// A database of the server, with further parameters of its line in `[databases]`, such as `pool_size=5`.
    ///
    /// Those given to the server's builder are there already.
    #[must_use]
    pub fn with_database(mut self, name: &str, parameters: &str) -> Self {
        self.databases.insert(name.to_owned(), parameters.to_owned());
        self
    }

    /// Reaches the server through this link.
    #[must_use]
    pub fn with_server_link(mut self, link: &Link) -> Self {
        self.server = self.server.at_port(link.port());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`TestbedError::NotBuilt`] when PgBouncer is not installed, [`TestbedError::Server`] with the end of the log
    /// when it does not come up. Nothing is left running.
    pub async fn start(self) -> Result<PgBouncer, TestbedError> {
        for name in self.databases.keys() {
            check_plain("database", name)?;
        }
        let mut attempt = 1;
        loop {
            match PgBouncer::start_once(&self).await {
                // Between our look at the port and the server's bind, somebody else may have taken it.
                Err(TestbedError::Server { log_tail, .. })
                    if log_tail.contains("Address already in use") && attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn config(&self, folder: &Path, port: u16) -> String {
        let mut text = String::from("[databases]\n");
        let server = self.server.port();
        let mut line = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("a String takes all text");
        };
        for (name, parameters) in &self.databases {
            line(format_args!("{name} = host=127.0.0.1 port={server} dbname={name} {parameters}\n"));
        }
        line(format_args!(
            "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        ));
        line(format_args!("auth_type = scram-sha-256\nauth_file = {}\n", folder.join(USERS).display()));
        line(format_args!("admin_users = {ADMIN}\n"));
        for (name, value) in &self.settings {
            line(format_args!("{name} = {value}\n"));
        }
        text
    }
}

/// A PgBouncer of one's own on 127.0.0.1, in front of a [`PostgresServer`].
///
/// Dereferences to a [`PostgresAccess`] with the server's roles: clients log in with SCRAM, and PgBouncer with what
/// they prove by that, as it does in production. It is gone when this is dropped and when the process ends.
#[derive(Debug)]
pub struct PgBouncer {
    access: PostgresAccess,
    daemon: Daemon,
    config: Mutex<String>,
}

impl Deref for PgBouncer {
    type Target = PostgresAccess;

    fn deref(&self) -> &PostgresAccess {
        &self.access
    }
}

impl PgBouncer {
    /// In front of all databases of `server`, in transaction mode.
    pub fn builder(server: &PostgresServer) -> PgBouncerBuilder {
        let databases = server.databases().iter().map(|name| (name.clone(), String::new())).collect();
        let settings = [("pool_mode", PoolMode::default().name()), ("max_client_conn", "1000")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        PgBouncerBuilder { server: (**server).clone(), databases, settings }
    }

    async fn start_once(builder: &PgBouncerBuilder) -> Result<Self, TestbedError> {
        let program = program("pgbouncer")?;
        let folder = ServerFolder::create(Account::for_servers()?)?;
        let random = RandomState::new();
        let password = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
        folder.write(USERS, &users(&builder.server, &password).await?)?;
        let port = free_port()?;
        let config = builder.config(&folder.path, port);
        let path = folder.write(CONFIG, &config)?;
        let daemon = Daemon::new("pgbouncer", folder, &program, [path.into_os_string()]);
        let access = builder.server.at_port(port).with_role(ADMIN, &password);
        let bouncer = Self { access, daemon, config: Mutex::new(config) };
        bouncer.start().await?;
        Ok(bouncer)
    }

    /// Starts a stopped or killed PgBouncer again, at the port that it had; nothing to do if it runs.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Server`] with the end of the log when it does not come up.
    pub async fn start(&self) -> Result<(), TestbedError> {
        self.daemon.start(|| async { self.admin().await.map(drop) }).await
    }

    /// Ends it at once, clients or no clients.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when it has not ended after a minute.
    pub async fn stop(&self) -> Result<(), TestbedError> {
        // SIGTERM waits for all clients since 1.23, and SIGINT for the servers.
        self.daemon.stop(Signal::QUIT).await
    }

    /// Kills it where it stands.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when it has not ended after a minute.
    pub async fn kill(&self) -> Result<(), TestbedError> {
        self.daemon.kill().await
    }

    /// Stops and starts it: what is in the configuration file now counts, all clients are dropped.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub async fn restart(&self) -> Result<(), TestbedError> {
        self.stop().await?;
        self.start().await
    }

    /// A connection to the admin console, which takes simple queries only.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] when it refuses or does not answer.
    pub async fn admin(&self) -> Result<Client, TestbedError> {
        self.access.connect(CONSOLE, ADMIN).await
    }

    /// The connection string of the admin console.
    pub fn admin_url(&self) -> String {
        self.access.url(CONSOLE, ADMIN).expect("the administrator is known")
    }

    /// Where its `pgbouncer.ini` is.
    pub fn config_path(&self) -> PathBuf {
        self.daemon.folder.path.join(CONFIG)
    }

    /// Changes the configuration file in one step; it counts after [`reload`](Self::reload).
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when it cannot be written.
    pub fn edit_config(&self, edit: impl FnOnce(&str) -> String) -> Result<(), TestbedError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let new = edit(&config);
        self.daemon.folder.write(CONFIG, &new)?;
        *config = new;
        Ok(())
    }

    /// `RELOAD` on the admin console.
    ///
    /// Versions before 1.25 answer that all is well whatever the file says: look at [`show`](Self::show).
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] when it refuses or does not answer.
    pub async fn reload(&self) -> Result<(), TestbedError> {
        let admin = self.admin().await?;
        admin.batch_execute("RELOAD").await.map_err(TestbedError::api("RELOAD of PgBouncer"))
    }

    /// The rows of `SHOW <what>` by the names of their columns.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] when it refuses or does not answer.
    pub async fn show(&self, what: &str) -> Result<Vec<BTreeMap<String, String>>, TestbedError> {
        let admin = self.admin().await?;
        let sql = format!("SHOW {what}");
        let answer =
            admin.simple_query(&sql).await.map_err(TestbedError::api(format!("{sql} of PgBouncer")))?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let columns = row.columns().iter().enumerate();
                Some(
                    columns
                        .map(|(index, column)| {
                            (column.name().to_owned(), row.get(index).unwrap_or_default().to_owned())
                        })
                        .collect(),
                )
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Another way to it, which can be cut: `bouncer.at_port(link.port())` goes through it.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when no port can be listened on.
    pub fn link(&self) -> Result<Link, TestbedError> {
        Link::to(self.access.port())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }
}

/// The `auth_file`: the SCRAM secrets as the server has them, which lets PgBouncer log in as whoever logged in to it.
async fn users(server: &PostgresAccess, admin_password: &str) -> Result<String, TestbedError> {
    let client = wait_until("a connection to the server", std::time::Duration::from_secs(10), || async {
        Ok(server.connect("postgres", SUPERUSER).await?)
    })
    .await?;
    let sql = "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL";
    let rows = client.simple_query(sql).await.map_err(TestbedError::api("cannot read the server's roles"))?;
    let mut text = format!("\"{ADMIN}\" \"{admin_password}\"\n");
    for row in rows {
        if let SimpleQueryMessage::Row(row) = row {
            let column = |index| row.get(index).unwrap_or_default();
            writeln!(text, "\"{}\" \"{}\"", column(0), column(1)).expect("a String takes all text");
        }
    }
    Ok(text)
}
