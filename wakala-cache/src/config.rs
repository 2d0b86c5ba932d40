//! How a node is reached.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use wakala_core::{Error, Result};

/// As long as a connection, its login included, may take unless said otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// As long as an answer may take unless said otherwise.
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// Where one node listens.
///
/// ```
/// use wakala_cache::NodeAddress;
///
/// let address: NodeAddress = "redis-0.redis:6379".parse()?;
/// assert_eq!((address.host(), address.port()), ("redis-0.redis", 6379));
/// assert_eq!(NodeAddress::new("::1", 6379).to_string(), "[::1]:6379");
/// assert!("redis-0".parse::<NodeAddress>().is_err());
/// # Ok::<(), wakala_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    host: String,
    port: u16,
}

impl NodeAddress {
    /// A host by its name or number, and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The name or number of the host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for NodeAddress {
    type Err = Error;

    /// `host:port`, the host of an IPv6 address in brackets.
    ///
    /// # Errors
    /// `InvalidConfig` without a host or a port.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            let message = "it is not of the form host:port; write redis-0.example:6379 or [::1]:6379";
            Error::invalid("node_address", message).on(format!("address {text:?}"))
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port.parse().map_err(|_| refused())?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').ok_or_else(refused)?,
            None if host.contains(':') => return Err(refused()),
            None => host,
        };
        if host.is_empty() { Err(refused()) } else { Ok(Self::new(host, port)) }
    }
}

/// Who we are to a node, and how long it may take: the same for all nodes of a cluster.
///
/// ```
/// use wakala_cache::RedisAccess;
///
/// let access = RedisAccess::new().with_user("wakala", "secret");
/// assert!(!format!("{access:?}").contains("secret"));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisAccess {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<SecretString>,
    pub(crate) database: u32,
    pub(crate) tls: Option<RedisTls>,
    pub(crate) connect_limit: Duration,
    pub(crate) reply_limit: Duration,
}

impl RedisAccess {
    /// Without a password, without TLS; 2 seconds for a connection, 5 for an answer.
    pub fn new() -> Self {
        Self {
            username: None,
            password: None,
            database: 0,
            tls: None,
            connect_limit: CONNECT_LIMIT,
            reply_limit: REPLY_LIMIT,
        }
    }

    /// The password of the user `default`.
    pub fn with_password(mut self, password: impl Into<SecretString>) -> Self {
        self.username = None;
        self.password = Some(password.into());
        self
    }

    /// Another user, and the password.
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<SecretString>) -> Self {
        self.username = Some(name.into());
        self.password = Some(password.into());
        self
    }

    /// The number of the database; 0 unless said otherwise, and always 0 in a cluster. Another one needs the permission to
    /// `SELECT` it.
    pub fn with_database(mut self, database: u32) -> Self {
        self.database = database;
        self
    }

    /// Speaks TLS.
    pub fn with_tls(mut self, tls: RedisTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long it may take until a connection can be used: name, TCP, TLS and login together. 2 seconds as given.
    pub fn with_connect_limit(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// How long an answer may take once the connection can be used. 5 seconds as given. Some commands set their own.
    pub fn with_reply_limit(mut self, limit: Duration) -> Self {
        self.reply_limit = limit;
        self
    }
}

impl Default for RedisAccess {
    fn default() -> Self {
        Self::new()
    }
}

/// Whose certificates are believed, and which one is shown.
#[derive(Clone)]
#[must_use]
pub struct RedisTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: Option<ServerName<'static>>,
    roots: Arc<RootCertStore>,
    has_certificate: bool,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("roots", &self.roots.len())
            .field("server_name", &self.server_name)
            .field("has_certificate", &self.has_certificate)
            .finish_non_exhaustive()
    }
}

impl RedisTls {
    const OPERATION: &'static str = "redis_tls";

    /// Believes the authorities that the system believes. They are read now.
    ///
    /// # Errors
    /// `InvalidConfig` where the system has none.
    pub fn of_system() -> Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some systems carry certificates that cannot be used; the others still can.
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let message = "the system has no authorities to believe; install its ca-certificates, or name one by authority";
            let error = Error::invalid(Self::OPERATION, message);
            return Err(match found.errors.into_iter().next() {
                Some(cause) => error.with_source(cause),
                None => error,
            });
        }
        Self::new(roots)
    }

    /// Believes these authorities only: one or several certificates, as PEM.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no certificate.
    pub fn of_authority(pem: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|error| {
                Error::invalid(Self::OPERATION, "a certificate of the authority cannot be used")
                    .with_source(error)
            })?;
        }
        Self::new(roots)
    }

    fn new(roots: RootCertStore) -> Result<Self> {
        let roots = Arc::new(roots);
        let config = builder(&roots)?.with_no_client_auth();
        Ok(Self { config: Arc::new(config), server_name: None, roots, has_certificate: false })
    }

    /// Shows a certificate of our own, for servers that ask for one: its chain and its key, as PEM.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no certificate or key, or where they do not belong together.
    pub fn with_certificate(mut self, chain: &str, key: &str) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
            Error::invalid(Self::OPERATION, "the key is no key in PEM").with_source(error)
        })?;
        let config =
            builder(&self.roots)?.with_client_auth_cert(certificates(chain)?, key).map_err(|error| {
                Error::invalid(Self::OPERATION, "certificate and key cannot be used together")
                    .with_source(error)
            })?;
        self.config = Arc::new(config);
        self.has_certificate = true;
        Ok(self)
    }

    /// The name that the certificates of all nodes must be made out for; for where they are reached by another one, as the
    /// nodes of a cluster by their numbers.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no name of a host.
    pub fn with_server_name(mut self, name: &str) -> Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| {
            Error::invalid(Self::OPERATION, "no certificate is made out for such a name")
                .on(format!("server name {name:?}"))
                .with_source(error)
        })?;
        self.server_name = Some(name);
        Ok(self)
    }
}

type Builder =
    tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert>;

/// The provider by name: what the process has as its default is somebody else's choice.
fn builder(roots: &Arc<RootCertStore>) -> Result<Builder> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid(RedisTls::OPERATION, "TLS cannot be set up").with_source(error))?;
    Ok(versions.with_root_certificates(Arc::clone(roots)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| {
            Error::invalid(RedisTls::OPERATION, "a certificate cannot be read as PEM").with_source(error)
        })?;
    if certificates.is_empty() {
        let message =
            "there is no certificate in it; give PEM, which begins with -----BEGIN CERTIFICATE-----";
        return Err(Error::invalid(RedisTls::OPERATION, message));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use wakala_core::ErrorKind;

    use super::*;

    #[test]
    fn addresses_are_hosts_and_ports() {
        for (text, host) in
            [("a:1", "a"), ("10.0.0.1:1", "10.0.0.1"), ("[::1]:1", "::1"), ("[fe80::2]:1", "fe80::2")]
        {
            let address: NodeAddress = text.parse().unwrap();
            assert_eq!((address.host(), address.port(), address.to_string()), (host, 1, text.to_owned()));
        }
        for text in ["", "a", ":1", "a:", "a:x", "a:65536", "::1:1", "[::1:1", "[]:1"] {
            let error = text.parse::<NodeAddress>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text:?}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn nothing_shows_a_password() {
        let access = RedisAccess::new().with_user("wakala", "secret-word").with_database(3);
        let shown = format!("{access:?}");
        assert!(!shown.contains("secret-word") && shown.contains("wakala"), "{shown}");
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let broken = "-----BEGIN CERTIFICATE-----\nMA\n-----END CERTIFICATE-----\n";
        for pem in ["", "nonsense", broken] {
            let error = RedisTls::of_authority(pem).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{pem:?}: {error}");
        }
    }
}
