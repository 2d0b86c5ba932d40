//! How a shard is reached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};
use wakala_core::Result;

use super::stream::Secure;
use crate::error::Call;

/// A mover whose host is gone must not hold locks for longer.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// A shard's database: address, credentials, TLS.
///
/// Directly, not through a pooler: a move needs sessions of its own.
#[derive(Clone)]
pub struct ShardAccess {
    config: Config,
    dial: Arc<dyn Dial>,
    /// `None` without TLS.
    secure: Option<Arc<dyn Secure>>,
}

impl ShardAccess {
    /// Without TLS: for a loopback address, a socket in the file system or a tunnel.
    pub fn without_tls(config: Config) -> Self {
        Self { config, dial: Arc::new(With(NoTls)), secure: None }
    }

    /// With TLS as your site has it; [`Config::ssl_mode`] says whether it is required.
    pub fn new<T>(config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + MakeTlsConnect<TcpStream> + Clone + Send + Sync + 'static,
        <T as MakeTlsConnect<Socket>>::Stream: Send,
        <T as MakeTlsConnect<Socket>>::TlsConnect: Send,
        <<T as MakeTlsConnect<Socket>>::TlsConnect as TlsConnect<Socket>>::Future: Send,
        <T as MakeTlsConnect<TcpStream>>::Stream: Send + 'static,
        <T as MakeTlsConnect<TcpStream>>::TlsConnect: Send,
        <<T as MakeTlsConnect<TcpStream>>::TlsConnect as TlsConnect<TcpStream>>::Future: Send,
    {
        Self { config, dial: Arc::new(With(tls.clone())), secure: Some(Arc::new(tls)) }
    }

    pub(crate) fn secure(&self) -> Option<&dyn Secure> {
        self.secure.as_deref()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A session of its own.
    pub(crate) async fn connect(&self, application: &str) -> Result<Client> {
        let call = Call { operation: "connect", subject: self.to_string(), writes: false };
        let mut config = self.config.clone();
        let given = config.get_options().unwrap_or_default();
        // Questions to the catalog look expensive, and are not: to compile one takes seconds.
        let options = format!(
            "{given} -c idle_in_transaction_session_timeout={} -c statement_timeout=0 -c lock_timeout=0 \
             -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off -c jit=off",
            IDLE_IN_TRANSACTION.as_millis()
        );
        config.application_name(application).options(options.trim());
        self.dial.dial(&config).await.map_err(|error| call.unreachable(error))
    }
}

impl fmt::Debug for ShardAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShardAccess").field(&self.to_string()).finish()
    }
}

/// Host, port and database; never the password.
impl fmt::Display for ShardAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let tls = if self.config.get_ssl_mode() == SslMode::Require { " (TLS)" } else { "" };
        write!(f, "{host}:{port}/{}{tls}", self.config.get_dbname().unwrap_or_default())
    }
}

#[async_trait]
trait Dial: Send + Sync {
    async fn dial(&self, config: &Config) -> Result<Client, tokio_postgres::Error>;
}

struct With<T>(T);

#[async_trait]
impl<T> Dial for With<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    async fn dial(&self, config: &Config) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = config.connect(self.0.clone()).await?;
        tokio::spawn(async move {
            // What goes wrong with it is told to whoever uses the client.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of a mover ended");
            }
        });
        Ok(client)
    }
}
