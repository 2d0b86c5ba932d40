//! One node: a connection, a time limit, nothing repeated.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, ServerError, Value};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use wakala_core::{Error, Result};

use crate::config::{NodeAddress, RedisAccess};
use crate::error::{Call, Opening, name_of, tls_error};

/// So much of what a server says first is kept: enough for a refusal.
const OPENING_BYTES: usize = 256;

/// What a server says to one command of several.
pub(crate) type Answer = Result<Value, ServerError>;

/// One node, and the connection to it that is kept. Cheap to clone; clones share the connection.
///
/// Commands of several callers go over the same connection and are answered in turn: one that takes long (`MIGRATE`, say)
/// holds up those behind it. Whoever must not wait for that, a probe, has a `Node` of its own.
#[derive(Clone, Debug)]
pub(crate) struct Node(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: NodeAddress,
    access: RedisAccess,
    // Held while a connection is made, so that all who wait get the same one.
    kept: tokio::sync::Mutex<Option<Arc<Connection>>>,
    made: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    link: MultiplexedConnection,
    driver: JoinHandle<()>,
    heard: Arc<Heard>,
    has_tls: bool,
    number: u64,
}

/// Why a call has no answers.
struct Failed {
    error: Error,
    /// It was lost on a connection that an earlier call had made.
    on_kept: bool,
}

impl Node {
    /// Nothing is sent yet.
    pub(crate) fn new(address: NodeAddress, access: RedisAccess) -> Self {
        let (kept, made) = (tokio::sync::Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Shared { address, access, kept, made }))
    }

    pub(crate) fn address(&self) -> &NodeAddress {
        &self.0.address
    }

    /// One command; the server's refusal is an error that names the command.
    pub(crate) async fn command(&self, call: &Call, command: Cmd) -> Result<Value> {
        self.command_within(call, command, self.0.access.reply_limit).await
    }

    /// The same with a time limit of its own for the answer.
    pub(crate) async fn command_within(&self, call: &Call, command: Cmd, limit: Duration) -> Result<Value> {
        let name = name_of(&command);
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        match self.pipeline_within(call, pipeline, limit).await?.pop() {
            Some(Ok(value)) => Ok(value),
            Some(Err(refusal)) => Err(call.refused(&name, &refusal)),
            None => Err(call.odd_answer("nothing")),
        }
    }

    /// Several commands in one write. Each has an answer of its own, in their order: a refusal of one says nothing of the
    /// others. An error is about all of them: any number of the first may have been carried out.
    pub(crate) async fn pipeline(&self, call: &Call, pipeline: Pipeline) -> Result<Vec<Answer>> {
        self.pipeline_within(call, pipeline, self.0.access.reply_limit).await
    }

    /// The same with a time limit of its own for all answers.
    pub(crate) async fn pipeline_within(
        &self,
        call: &Call,
        mut pipeline: Pipeline,
        limit: Duration,
    ) -> Result<Vec<Answer>> {
        pipeline.ignore_errors();
        self.exchange(call, &pipeline, limit).await.map_err(|failed| failed.error)
    }

    /// Several commands that change nothing: where the connection that was kept turns out to be lost, they are sent once
    /// more on a new one.
    pub(crate) async fn look(
        &self,
        call: &Call,
        mut pipeline: Pipeline,
        limit: Duration,
    ) -> Result<Vec<Answer>> {
        pipeline.ignore_errors();
        match self.exchange(call, &pipeline, limit).await {
            Err(Failed { on_kept: true, .. }) => {
                self.exchange(call, &pipeline, limit).await.map_err(|failed| failed.error)
            }
            outcome => outcome.map_err(|failed| failed.error),
        }
    }

    /// Forgets the connection; the next call makes another.
    pub(crate) async fn close(&self) {
        self.0.kept.lock().await.take();
    }

    async fn exchange(
        &self,
        call: &Call,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<Answer>, Failed> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let (connection, is_kept) =
            self.connection(call).await.map_err(|error| Failed { error, on_kept: false })?;
        let mut link = connection.link.clone();
        match timeout_at(Instant::now() + limit, pipeline.query_async::<Value>(&mut link)).await {
            Ok(Ok(Value::Array(values))) if values.len() == pipeline.len() => {
                let answers = values.into_iter().map(|value| match value {
                    Value::ServerError(refusal) => Err(refusal),
                    value => Ok(value),
                });
                Ok(answers.collect())
            }
            Ok(Ok(_)) => {
                self.forget(&connection).await;
                Err(Failed { error: call.odd_answer("more or less than it was asked"), on_kept: false })
            }
            Ok(Err(error)) => {
                self.forget(&connection).await;
                let opening = connection.opening();
                Err(Failed { error: call.lost(error, &opening), on_kept: is_kept })
            }
            Err(_) => {
                // Its answer, when it comes, would hold up those of later commands.
                self.forget(&connection).await;
                Err(Failed { error: call.no_answer_within(limit), on_kept: false })
            }
        }
    }

    async fn forget(&self, connection: &Connection) {
        self.0.kept.lock().await.take_if(|kept| kept.number == connection.number);
    }

    /// The connection that there is, and that it is an earlier call's, or else a new one.
    async fn connection(&self, call: &Call) -> Result<(Arc<Connection>, bool)> {
        let Shared { access, kept, .. } = &*self.0;
        let limit = access.connect_limit;
        let work = async {
            let mut kept = kept.lock().await;
            // The server may have closed it meanwhile, which is known by then if it was long ago.
            if let Some(connection) = kept.as_ref().filter(|connection| !connection.driver.is_finished()) {
                return Ok((Arc::clone(connection), true));
            }
            *kept = None;
            let connection = Arc::new(self.connect(call).await?);
            *kept = Some(Arc::clone(&connection));
            Ok((connection, false))
        };
        match timeout_at(Instant::now() + limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(call.no_connection_within(limit, access.tls.is_some())),
        }
    }

    async fn connect(&self, call: &Call) -> Result<Connection> {
        let Shared { address, access, made, .. } = &*self.0;
        let stream = TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(|error| call.unreachable(error))?;
        stream.set_nodelay(true).map_err(|error| call.unreachable(error))?;
        let heard = Arc::new(Heard::default());
        let (link, driver) = match &access.tls {
            None => open(call, Listening { stream, heard: Arc::clone(&heard) }).await?,
            Some(tls) => {
                let name = match &tls.server_name {
                    Some(name) => name.clone(),
                    None => ServerName::try_from(address.host().to_owned()).map_err(|error| {
                        Error::invalid(call.operation, "no certificate is made out for such a host")
                            .on(&call.subject)
                            .with_source(error)
                    })?,
                };
                let stream = TlsConnector::from(Arc::clone(&tls.config))
                    .connect(name, stream)
                    .await
                    .map_err(|error| call.no_tls(error))?;
                open(call, Listening { stream, heard: Arc::clone(&heard) }).await?
            }
        };
        let number = made.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { link, driver, heard, has_tls: access.tls.is_some(), number };
        self.log_in(call, &connection).await?;
        Ok(connection)
    }

    async fn log_in(&self, call: &Call, connection: &Connection) -> Result<()> {
        let access = &self.0.access;
        let mut pipeline = Pipeline::new();
        if let Some(password) = &access.password {
            pipeline.cmd("AUTH");
            if let Some(name) = &access.username {
                pipeline.arg(name);
            }
            pipeline.arg(password.expose_secret());
        }
        if access.database != 0 {
            pipeline.cmd("SELECT").arg(access.database);
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        // Nothing of the caller's has been sent yet.
        let call = Call { writes: false, ..call.clone() };
        let names: Vec<_> = pipeline.cmd_iter().map(name_of).collect();
        let answers = pipeline.ignore_errors().query_async::<Vec<Value>>(&mut connection.link.clone()).await;
        let answers = answers.map_err(|error| {
            let opening = connection.opening();
            call.lost(error, &opening)
        })?;
        for (name, answer) in names.iter().zip(answers) {
            if let Value::ServerError(refusal) = answer {
                return Err(call.refused(name, &refusal));
            }
        }
        Ok(())
    }
}

impl Connection {
    fn opening(&self) -> Opening {
        let heard = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        Opening { has_tls: self.has_tls, ..heard.clone() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Else it would live on until the last answer came that nobody waits for.
        self.driver.abort();
    }
}

/// Hands a stream to the client, whose own login is not used: it hides the server's words.
async fn open<S>(call: &Call, stream: S) -> Result<(MultiplexedConnection, JoinHandle<()>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    let limits = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let (link, driver) = MultiplexedConnection::new_with_config(&settings, stream, limits)
        .await
        .map_err(|error| call.lost(error, &Opening::default()))?;
    Ok((link, tokio::spawn(driver)))
}

/// The first that a server said on a connection.
#[derive(Debug, Default)]
struct Heard(Mutex<Opening>);

impl Heard {
    fn hear(&self, bytes: &[u8], outcome: &Poll<std::io::Result<()>>) {
        let mut opening = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OPENING_BYTES.saturating_sub(opening.words.len());
        opening.words.extend(bytes.iter().take(room));
        if let Poll::Ready(Err(error)) = outcome
            && opening.tls.is_none()
        {
            opening.tls = tls_error(error).cloned();
        }
    }
}

/// A stream whose first words are kept: the client throws away what is an answer to nothing.
struct Listening<S> {
    stream: S,
    heard: Arc<Heard>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.heard.hear(&buffer.filled()[before..], &outcome);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
