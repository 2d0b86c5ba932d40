use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Value,
};
use rustix::process::Signal;

use super::builder::{Mode, RedisBuilder};
use crate::TestbedError;
use crate::daemon::{Daemon, ServerFolder};
use crate::link::Link;
use crate::process::free_port;

const START_ATTEMPTS: u32 = 3;
/// How long one call of the testbed's may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// A Redis or Valkey of one's own on 127.0.0.1, with a temporary data folder.
///
/// It is gone, data included, when this is dropped and when the process ends, however that happens.
///
/// ```no_run
/// # async fn example() -> Result<(), wakala_testbed::TestbedError> {
/// use wakala_testbed::RedisServer;
///
/// let server = RedisServer::builder().with_user("app", "on >secret ~* +@all").start().await?;
/// server.command(&["SET", "key", "value"]).await?;
/// server.kill().await?;
/// server.start().await?; // the same data, the same port
/// assert_eq!(server.text(&["GET", "key"]).await?, "value");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    plain_port: u16,
    bus_port: Option<u16>,
    password: Option<String>,
    authority: Option<String>,
    daemon: Daemon,
}

impl RedisServer {
    /// A server of the system's Redis that keeps what it was told through a kill, without password or TLS.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::new()
    }

    pub(super) async fn create(builder: RedisBuilder) -> Result<Self, TestbedError> {
        let mut attempt = 1;
        loop {
            match Self::start_once(&builder).await {
                // Between our look at a port and the server's bind, somebody else may have taken it.
                Err(TestbedError::Server { log_tail, .. })
                    if log_tail.contains("Address already in use") && attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn start_once(builder: &RedisBuilder) -> Result<Self, TestbedError> {
        let program = builder.flavour.program()?;
        let folder = ServerFolder::create(None)?;
        let data = folder.path.join("data");
        fs::create_dir(&data).map_err(TestbedError::io(format!("cannot create {}", data.display())))?;
        let plain_port = free_port()?;
        let port = if builder.tls.is_some() { free_port()? } else { plain_port };
        let bus_port = if builder.mode == Mode::Cluster { Some(free_port()?) } else { None };

        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            "protected-mode no".to_owned(),
            "daemonize no".to_owned(),
            "logfile \"\"".to_owned(),
            format!("port {plain_port}"),
            format!("dir {}", path_text(&data)?),
        ];
        if let Some(tls) = &builder.tls {
            let files = [
                ("tls-cert-file", "server.crt", &tls.certificate),
                ("tls-key-file", "server.key", &tls.key),
                ("tls-ca-cert-file", "authority.crt", &tls.authority),
            ];
            for (setting, name, text) in files {
                lines.push(format!("{setting} {}", path_text(&folder.write(name, text)?)?));
            }
            lines.extend([format!("tls-port {port}"), "tls-auth-clients no".to_owned()]);
        }
        if let Some(bus_port) = bus_port {
            lines.extend([
                "cluster-enabled yes".to_owned(),
                "cluster-config-file nodes.conf".to_owned(),
                format!("cluster-port {bus_port}"),
            ]);
            if builder.tls.is_some() {
                lines.extend(["tls-cluster yes", "tls-replication yes"].map(str::to_owned));
            }
        }
        let text = format!("{}\n{}", lines.join("\n"), builder.lines());
        let config = folder.write("redis.conf", &text)?;
        let mut arguments = vec![config.into_os_string()];
        if matches!(builder.mode, Mode::Sentinel(_)) {
            arguments.push(OsString::from("--sentinel"));
        }
        let server = Self {
            port,
            plain_port,
            bus_port,
            password: builder.password.clone(),
            authority: builder.tls.as_ref().map(|tls| tls.authority.clone()),
            daemon: Daemon::new("redis", folder, &program, arguments),
        };
        server.start().await?;
        Ok(server)
    }

    /// The port on 127.0.0.1 for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for clients without TLS: the same where there is none.
    pub fn plain_port(&self) -> u16 {
        self.plain_port
    }

    /// The port for the other nodes of its cluster, where it is in one.
    pub fn bus_port(&self) -> Option<u16> {
        self.bus_port
    }

    /// The certificate of the authority that vouches for the server, as PEM, where it has TLS.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The password of the user `default`.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Where its data, configuration and log are.
    pub fn folder(&self) -> &Path {
        &self.daemon.folder.path
    }

    /// Starts a stopped or killed server again, with the data and the ports that it had, and waits until it has read its
    /// data. Nothing to do if it runs.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Server`] with the end of the log when it does not come up.
    pub async fn start(&self) -> Result<(), TestbedError> {
        self.daemon.start(|| async { self.command(&["PING"]).await.map(drop) }).await
    }

    /// The same, but does not wait for more than its first answer, which may be that it still reads its data.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub async fn start_early(&self) -> Result<(), TestbedError> {
        let look = || async {
            match self.command(&["PING"]).await {
                Err(TestbedError::Api { source, .. }) if source.to_string().contains("BusyLoading") => Ok(()),
                outcome => outcome.map(drop),
            }
        };
        self.daemon.start(look).await
    }

    /// Ends it in an orderly way.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when it has not ended after a minute.
    pub async fn stop(&self) -> Result<(), TestbedError> {
        self.daemon.stop(Signal::TERM).await
    }

    /// Kills it where it stands, as the loss of its machine would, but that what the kernel has taken for the disk is
    /// kept.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] when it has not ended after a minute.
    pub async fn kill(&self) -> Result<(), TestbedError> {
        self.daemon.kill().await
    }

    /// Holds it where it stands: connections stay open, new ones are taken by the kernel, nothing answers.
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

    /// The id of the server's process, where it runs.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Timeout`] where that cannot be told.
    pub async fn pid(&self) -> Result<Option<i32>, TestbedError> {
        Ok(self.daemon.pid().await?.map(rustix::process::Pid::as_raw_pid))
    }

    /// A connection of the user `default`, without TLS, whose answers are waited for half a minute.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] where the server refuses or does not answer.
    pub async fn connect(&self) -> Result<MultiplexedConnection, TestbedError> {
        let what = || format!("cannot connect to redis at port {}", self.plain_port);
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let info = ConnectionAddr::Tcp("127.0.0.1".to_owned(), self.plain_port)
            .into_connection_info()
            .map_err(TestbedError::api(what()))?
            .set_redis_settings(settings);
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_LIMIT))
            .set_response_timeout(Some(CALL_LIMIT));
        let client = Client::open(info).map_err(TestbedError::api(what()))?;
        client.get_multiplexed_async_connection_with_config(&limits).await.map_err(TestbedError::api(what()))
    }

    /// One command of the user `default`, over a connection of its own.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Api`] with the command and the server's words.
    pub async fn command(&self, words: &[&str]) -> Result<Value, TestbedError> {
        let mut connection = self.connect().await?;
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let what = format!("{} at port {}", words.join(" "), self.plain_port);
        command.query_async(&mut connection).await.map_err(TestbedError::api(what))
    }

    /// The same as text; lines of an array are joined.
    ///
    /// # Errors
    ///
    /// As for [`command`](Self::command).
    pub async fn text(&self, words: &[&str]) -> Result<String, TestbedError> {
        Ok(text_of(&self.command(words).await?))
    }

    /// The fields of one section of `INFO`, or of `everything`.
    ///
    /// # Errors
    ///
    /// As for [`command`](Self::command).
    pub async fn info(&self, section: &str) -> Result<BTreeMap<String, String>, TestbedError> {
        let text = self.text(&["INFO", section]).await?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// Another way to the server, which can be cut. Nodes of a cluster know nothing of it.
    ///
    /// # Errors
    ///
    /// [`TestbedError::Io`] when no port can be listened on.
    pub fn link(&self) -> Result<Link, TestbedError> {
        Link::to(self.port)
    }

    /// The end of the server's log, since its folder was made.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Array(values) => values.iter().map(text_of).collect::<Vec<_>>().join("\n"),
        other => format!("{other:?}"),
    }
}

fn path_text(path: &Path) -> Result<&str, TestbedError> {
    path.to_str().filter(|text| !text.contains(' ')).ok_or_else(|| {
        let path = path.display();
        TestbedError::Invalid(format!("{path} is not UTF-8, or has blanks; set TMPDIR to a folder without"))
    })
}
