use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::path::Path;

use rustix::process::Signal;

use super::access::PostgresAccess;
use super::builder::{PostgresBuilder, SUPERUSER};
use super::install::postgres_folder;
use crate::TestbedError;
use crate::account::Account;
use crate::daemon::{Daemon, ServerFolder};
use crate::link::Link;
use crate::process::free_port;

const START_ATTEMPTS: u32 = 3;

/// A PostgreSQL server of one's own on 127.0.0.1, with a temporary data folder.
///
/// Dereferences to its [`PostgresAccess`]. Runs as the present user, or as the system's user `postgres` where that is
/// root. It is gone, data included, when this is dropped and when the process ends, however that happens.
///
/// ```no_run
/// # async fn example() -> Result<(), wakala_testbed::TestbedError> {
/// use wakala_testbed::PostgresServer;
///
/// let server = PostgresServer::builder().with_role("app", "secret").with_database("shop", "app").start().await?;
/// let client = server.connect("shop", "app").await?;
/// server.kill().await?;
/// server.start().await?; // the same data, the same port
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PostgresServer {
    access: PostgresAccess,
    daemon: Daemon,
    databases: Vec<String>,
}

impl Deref for PostgresServer {
    type Target = PostgresAccess;

    fn deref(&self) -> &PostgresAccess {
        &self.access
    }
}

impl PostgresServer {
    /// A server with 100 connections, without waits for the disk, with the superuser `postgres` and its database.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::new()
    }

    pub(super) async fn create(builder: PostgresBuilder) -> Result<Self, TestbedError> {
        let mut attempt = 1;
        let server = loop {
            match Self::start_once(&builder).await {
                // Between our look at the port and the server's bind, somebody else may have taken it.
                Err(TestbedError::Server { log_tail, .. })
                    if log_tail.contains("Address already in use") && attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => break result?,
            }
        };
        for statement in builder.statements() {
            server.execute("postgres", &statement).await?;
        }
        Ok(server)
    }

    async fn start_once(builder: &PostgresBuilder) -> Result<Self, TestbedError> {
        let binaries = postgres_folder()?;
        let folder = ServerFolder::create(Account::for_servers()?)?;
        let data = folder.path.join("data");
        fs::create_dir(&data).map_err(TestbedError::io(format!("cannot create {}", data.display())))?;
        Account::own(folder.account, &data)?;
        let random = RandomState::new();
        let password = format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1));
        let password_file = folder.write("password", &password)?;
        let data_argument = path_text(&data)?;
        folder.run(
            &binaries.join("initdb"),
            &[
                "--no-sync",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--username",
                SUPERUSER,
                "--pwfile",
                path_text(&password_file)?,
                "--pgdata",
                data_argument,
            ],
        )?;
        let port = free_port()?;
        let settings = folder.write("postgresql.conf", &builder.settings_file(port))?;
        let include = format!("include '{}'\n", path_text(&settings)?);
        let main = data.join("postgresql.conf");
        let mut text =
            fs::read_to_string(&main).map_err(TestbedError::io(format!("cannot read {}", main.display())))?;
        text.push_str(&include);
        fs::write(&main, text).map_err(TestbedError::io(format!("cannot write {}", main.display())))?;

        let mut passwords: BTreeMap<String, String> = builder.roles.clone();
        passwords.insert(SUPERUSER.to_owned(), password);
        let arguments = ["-D".into(), data.clone().into_os_string()];
        let daemon = Daemon::new("postgres", folder, &binaries.join("postgres"), arguments);
        let databases = builder.databases.iter().map(|(name, _)| name.clone()).collect();
        let server = Self { access: PostgresAccess::new(port, passwords), daemon, databases };
        server.start().await?;
        Ok(server)
    }

    /// Starts a stopped or killed server again, with the data and the port that it had; nothing to do if it runs.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Server`] with the end of the log when it does not come up.
    pub async fn start(&self) -> Result<(), TestbedError> {
        let look = || async { self.access.connect("postgres", SUPERUSER).await.map(drop) };
        self.daemon.start(look).await
    }

    /// Ends it in an orderly way (`fast`): open transactions are rolled back, clients are told.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when it has not ended after a minute.
    pub async fn stop(&self) -> Result<(), TestbedError> {
        self.daemon.stop(Signal::INT).await
    }

    /// Kills the server and all its backends where they stand, as the loss of its machine would, but that what the
    /// kernel has taken for the disk is kept.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when it has not ended after a minute.
    pub async fn kill(&self) -> Result<(), TestbedError> {
        self.daemon.kill().await
    }

    /// Holds the server and its present backends where they stand: connections stay open, nothing answers.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when the system does not allow the signal.
    pub async fn freeze(&self) -> Result<(), TestbedError> {
        self.daemon.pause(true).await
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when the system does not allow the signal.
    pub async fn thaw(&self) -> Result<(), TestbedError> {
        self.daemon.pause(false).await
    }

    /// Runs SQL as the superuser: one or several statements, without results.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] with the statement and the server's words.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), TestbedError> {
        let client = self.access.connect(database, SUPERUSER).await?;
        client.batch_execute(sql).await.map_err(|error| {
            // The library's own text is "db error", without the server's words.
            let words = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            TestbedError::api(format!("{sql} in database {database}"))(words)
        })
    }

    /// The first value of the first row as text, read as the superuser.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] with the statement and the server's words, also where there is no row.
    pub async fn value(&self, database: &str, sql: &str) -> Result<String, TestbedError> {
        let client = self.access.connect(database, SUPERUSER).await?;
        let what = format!("{sql} in database {database}");
        let answer = client.simple_query(sql).await.map_err(TestbedError::api(what.clone()))?;
        let value = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        value.ok_or_else(|| TestbedError::api(what)("no row, or NULL in it"))
    }

    /// Another way to the server, which can be cut: `server.at_port(link.port())` goes through it.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when no port can be listened on.
    pub fn link(&self) -> Result<Link, TestbedError> {
        Link::to(self.access.port())
    }

    /// The end of the server's log, since its folder was made.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }

    /// The databases given to the builder.
    pub fn databases(&self) -> &[String] {
        &self.databases
    }
}

fn path_text(path: &Path) -> Result<&str, TestbedError> {
    path.to_str().ok_or_else(|| {
        TestbedError::Invalid(format!("{} is not UTF-8; set TMPDIR to a folder that is", path.display()))
    })
}
