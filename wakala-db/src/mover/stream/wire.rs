//! The connection beneath: sockets, encryption, login, simple queries. `tokio-postgres` has no replication mode, and its
//! connections cannot be had raw.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding as Binding, Host, SslMode, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::failure::{Failure, ServerError};

/// How much is asked of the socket at once.
const READ: usize = 64 * 1024;
/// From here on a message is not copied out of the buffer that it came in. Below, a value that somebody keeps would
/// otherwise keep the messages next to it in memory too.
const LARGE: usize = 256 * 1024;

/// Either kind of socket, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Encryption as the embedder has it for `tokio-postgres`: any of its connectors that can be cloned.
#[async_trait]
pub(crate) trait Secure: Send + Sync {
    async fn secure(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> Result<Box<dyn Io>, Box<dyn StdError + Send + Sync>>;
}

#[async_trait]
impl<T> Secure for T
where
    T: MakeTlsConnect<TcpStream> + Clone + Send + Sync,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<TcpStream>>::Future: Send,
{
    async fn secure(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> Result<Box<dyn Io>, Box<dyn StdError + Send + Sync>> {
        let connect = self.clone().make_tls_connect(host).map_err(Into::into)?;
        let stream = connect.connect(socket).await.map_err(Into::into)?;
        Ok(Box::new(stream))
    }
}

/// A message of the server's.
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A row of text of a simple query.
pub(super) type TextRow = Vec<Option<String>>;

/// A connection in replication mode.
pub(super) struct Wire {
    io: Box<dyn Io>,
    inbound: BytesMut,
    outbound: BytesMut,
}

impl Wire {
    /// Connects to the first of the hosts that answers, and logs in. Of the settings of a session those are fixed that
    /// change how values look.
    pub(super) async fn connect(config: &Config, tls: Option<&dyn Secure>) -> Result<Self, Failure> {
        let mut last = Failure::Config("no host is given");
        for (place, host) in config.get_hosts().iter().enumerate() {
            let port = match config.get_ports() {
                [] => 5432,
                [port] => *port,
                ports => ports.get(place).copied().unwrap_or(5432),
            };
            let connecting = socket(config, place, host, port, tls);
            let answer = match config.get_connect_timeout() {
                Some(limit) if !limit.is_zero() => tokio::time::timeout(*limit, connecting)
                    .await
                    .unwrap_or_else(|_| Err(Failure::Io(io::ErrorKind::TimedOut.into()))),
                _ => connecting.await,
            };
            match answer {
                Ok((io, encrypted)) => {
                    let mut wire = Self { io, inbound: BytesMut::new(), outbound: BytesMut::new() };
                    wire.log_in(config, encrypted).await?;
                    return Ok(wire);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn log_in(&mut self, config: &Config, encrypted: bool) -> Result<(), Failure> {
        let user = config.get_user().ok_or(Failure::Config("no user is given"))?;
        let mut parameters = vec![
            ("user", user),
            ("database", config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("application_name", config.get_application_name().unwrap_or("wakala")),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "postgres"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "3"),
            // Names of types and tables are whole in what the server writes.
            ("search_path", ""),
        ];
        if let Some(options) = config.get_options() {
            parameters.push(("options", options));
        }
        self.send(|out| frontend::startup_message(parameters, out)).await?;
        self.authenticate(config, user, encrypted).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'Z' => return Ok(()),
                b'K' | b'S' | b'N' => {}
                b'E' => return Err(ServerError::parse(&frame.body).into()),
                tag => return Err(Failure::unexpected(tag, "the login")),
            }
        }
    }

    async fn authenticate(&mut self, config: &Config, user: &str, encrypted: bool) -> Result<(), Failure> {
        let password =
            || config.get_password().ok_or(Failure::Config("the server asks for a password; none is given"));
        loop {
            let mut body = self.authentication().await?;
            match body.try_get_u32().map_err(|_| Failure::Protocol("a cut authentication request".into()))? {
                0 => return Ok(()),
                3 => {
                    let password = password()?;
                    self.send(|out| frontend::password_message(password, out)).await?;
                }
                5 => {
                    let salt = <[u8; 4]>::try_from(&body[..])
                        .map_err(|_| Failure::Protocol("a cut salt of a password".into()))?;
                    let hash = md5_hash(user.as_bytes(), password()?, salt);
                    self.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
                }
                10 => self.scram(config, &body, password()?, encrypted).await?,
                other => {
                    return Err(Failure::Login(format!(
                        "the server asks for authentication of kind {other}"
                    )));
                }
            }
        }
    }

    async fn scram(
        &mut self,
        config: &Config,
        offered: &[u8],
        password: &[u8],
        encrypted: bool,
    ) -> Result<(), Failure> {
        const PLAIN: &str = "SCRAM-SHA-256";
        if !offered.split(|byte| *byte == 0).any(|mechanism| mechanism == PLAIN.as_bytes()) {
            return Err(Failure::Login(format!("the server does not offer {PLAIN}")));
        }
        if encrypted && config.get_channel_binding() == Binding::Require {
            // tokio-postgres keeps to itself what its connectors say of the channel.
            return Err(Failure::Config("channel_binding=require cannot be had for a change stream"));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(PLAIN, scram.message(), out)).await?;
        let challenge = self.sasl(11).await?;
        scram.update(&challenge).map_err(|error| Failure::Login(error.to_string()))?;
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        let outcome = self.sasl(12).await?;
        scram.finish(&outcome).map_err(|error| Failure::Login(error.to_string()))
    }

    async fn sasl(&mut self, expected: u32) -> Result<Bytes, Failure> {
        let mut body = self.authentication().await?;
        match body.try_get_u32() {
            Ok(kind) if kind == expected => Ok(body),
            _ => Err(Failure::Protocol("an authentication message out of turn".into())),
        }
    }

    async fn authentication(&mut self) -> Result<Bytes, Failure> {
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'R' => return Ok(frame.body),
                b'N' => {}
                b'E' => return Err(ServerError::parse(&frame.body).into()),
                tag => return Err(Failure::unexpected(tag, "the login")),
            }
        }
    }

    /// The rows of a statement or of a replication command.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, Failure> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'D' => rows.push(text_row(frame.body).ok_or(Failure::Protocol("a malformed row".into()))?),
                b'E' => refused = Some(ServerError::parse(&frame.body)),
                b'Z' => return refused.map_or(Ok(rows), |error| Err(error.into())),
                b'T' | b'C' | b'I' | b'N' | b'S' => {}
                tag => return Err(Failure::unexpected(tag, "a query")),
            }
        }
    }

    /// Sends a statement whose answer is read frame by frame.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<(), Failure> {
        self.send(|out| frontend::query(sql, out)).await
    }

    /// Sends a command that begins a stream, and waits until the server has begun it.
    pub(super) async fn begin_stream(&mut self, command: &str) -> Result<(), Failure> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'W' => return Ok(()),
                b'E' => return Err(ServerError::parse(&frame.body).into()),
                b'N' | b'S' => {}
                tag => return Err(Failure::unexpected(tag, "the start of a stream")),
            }
        }
    }

    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()> + Send,
    ) -> Result<(), Failure> {
        self.outbound.clear();
        write(&mut self.outbound)?;
        self.io.write_all(&self.outbound).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Says goodbye, and waits until the server has hung up: its process has let go of the slot by then.
    pub(super) async fn close(&mut self, limit: Duration) {
        let parting = async {
            self.send(|out| {
                frontend::terminate(out);
                Ok(())
            })
            .await?;
            loop {
                self.fill().await?;
                self.inbound.clear();
            }
        };
        let _hung_up: Result<Result<(), Failure>, _> = tokio::time::timeout(limit, parting).await;
    }

    async fn frame(&mut self) -> Result<Frame, Failure> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The next message, where all of it has come.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>, Failure> {
        let Some((head, rest)) = self.inbound.split_first_chunk::<5>() else { return Ok(None) };
        let [tag, length @ ..] = *head;
        let length = usize::try_from(i32::from_be_bytes(length))
            .ok()
            .and_then(|length| length.checked_sub(4))
            .ok_or_else(|| Failure::Protocol("a message of an impossible length".into()))?;
        if rest.len() < length {
            let missing = length - rest.len();
            self.inbound.reserve(missing);
            return Ok(None);
        }
        self.inbound.advance(5);
        let body = if length < LARGE {
            let body = Bytes::copy_from_slice(&self.inbound[..length]);
            self.inbound.advance(length);
            body
        } else {
            self.inbound.split_to(length).freeze()
        };
        Ok(Some(Frame { tag, body }))
    }

    /// Reads some bytes. Dropped before it is ready, it has read none.
    pub(super) async fn fill(&mut self) -> Result<(), Failure> {
        self.inbound.reserve(READ);
        match self.io.read_buf(&mut self.inbound).await? {
            0 => Err(Failure::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

async fn socket(
    config: &Config,
    place: usize,
    host: &Host,
    port: u16,
    tls: Option<&dyn Secure>,
) -> Result<(Box<dyn Io>, bool), Failure> {
    let name = match host {
        #[cfg(unix)]
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            return Ok((Box::new(tokio::net::UnixStream::connect(path).await?), false));
        }
        Host::Tcp(name) => name,
    };
    let tcp = match config.get_hostaddrs().get(place) {
        Some(address) => TcpStream::connect((*address, port)).await?,
        None => TcpStream::connect((name.as_str(), port)).await?,
    };
    tcp.set_nodelay(true)?;
    let required = config.get_ssl_mode() == SslMode::Require;
    let tls = match tls {
        Some(tls) if config.get_ssl_mode() != SslMode::Disable => tls,
        _ if required => return Err(Failure::Config("sslmode=require, but no encryption is given")),
        _ => return Ok((Box::new(tcp), false)),
    };
    encrypted(tcp, name, config.get_ssl_negotiation(), required, tls).await
}

async fn encrypted(
    mut tcp: TcpStream,
    name: &str,
    negotiation: SslNegotiation,
    required: bool,
    tls: &dyn Secure,
) -> Result<(Box<dyn Io>, bool), Failure> {
    if negotiation != SslNegotiation::Direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        tcp.write_all(&request).await?;
        match tcp.read_u8().await? {
            b'S' => {}
            _ if required => return Err(Failure::Login("the server offers no encryption".to_owned())),
            _ => return Ok((Box::new(tcp), false)),
        }
    }
    Ok((tls.secure(name, tcp).await.map_err(Failure::Tls)?, true))
}

fn text_row(mut body: Bytes) -> Option<TextRow> {
    let columns = body.try_get_u16().ok()?;
    let mut row = Vec::with_capacity(usize::from(columns));
    for _ in 0..columns {
        let Ok(length) = usize::try_from(body.try_get_i32().ok()?) else {
            row.push(None);
            continue;
        };
        if body.len() < length {
            return None;
        }
        row.push(Some(String::from_utf8(body.split_to(length).to_vec()).ok()?));
    }
    Some(row)
}
