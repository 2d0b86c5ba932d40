//! The HTTP server that clients talk to: records, injects faults, hands to EKS or to moto.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use super::call::{Call, Incoming, Operation};
use super::error::{Error, Result};
use super::fault::{Faults, Outcome};
use super::nodegroup::{Groups, NodegroupScaled};
use super::reply::{ApiError, Reply};

/// More than any test changes before its listener looks again.
const SCALED_BACKLOG: usize = 1024;

/// All that outlives one request.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) calls: Mutex<Vec<Call>>,
    /// Held from reading a group's sizes to the decision about them, and while an update takes effect.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) client: reqwest::Client,
    pub(super) faults: Mutex<Faults>,
    pub(super) groups: Mutex<Groups>,
    pub(super) moto: String,
    pub(super) scaled: broadcast::Sender<NodegroupScaled>,
    pub(super) update_duration: Mutex<Duration>,
}

/// An answer of moto's, read whole.
#[derive(Debug)]
pub(super) struct Proxied {
    pub(super) body: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) status: StatusCode,
}

/// Makes hyper close the connection without an answer.
#[derive(Debug)]
struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the connection is dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

/// A poisoned lock still holds what was written: a test that panicked must not hide behind another panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Front {
    pub(super) fn new(moto: String, update_duration: Duration) -> Result<Self> {
        // No proxy: the environment of a company's machine must not send loopback calls away. No idle connections:
        // they would belong to whichever runtime opened them, and an endpoint may be used from several.
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(Policy::none())
            .build()
            .map_err(|error| Error::Start { reason: format!("no HTTP client: {error}") })?;
        Ok(Self {
            calls: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            client,
            faults: Mutex::default(),
            groups: Mutex::default(),
            moto,
            scaled: broadcast::Sender::new(SCALED_BACKLOG),
            update_duration: Mutex::new(update_duration),
        })
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) -> Infallible {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Mostly a lack of file descriptors, which passes.
                    tracing::warn!(%error, "the AWS testbed could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let front = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(move |request| Arc::clone(&front).respond(request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection of the AWS testbed ended");
                }
            });
        }
    }

    async fn respond<B>(self: Arc<Self>, request: Request<B>) -> Result<Reply, Dropped>
    where
        B: Body<Data = Bytes> + Send,
    {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return Err(Dropped) };
        let incoming =
            Incoming { body: body.to_bytes(), headers: parts.headers, method: parts.method, uri: parts.uri };
        lock(&self.calls).push(incoming.record());
        let fault = lock(&self.faults).take(incoming.operation());
        let Some(fault) = fault else { return Ok(self.finish(incoming).await) };
        if fault.has_effect() {
            self.finish(incoming).await;
        }
        match fault.outcome() {
            Outcome::DroppedConnection => Err(Dropped),
            Outcome::Error(error) => Ok(error.reply()),
            Outcome::Hang => pending().await,
        }
    }

    /// Carries the request out also when its client leaves meanwhile, as AWS does.
    async fn finish(self: &Arc<Self>, incoming: Incoming) -> Reply {
        let front = Arc::clone(self);
        match tokio::spawn(async move { front.perform(&incoming).await }).await {
            Ok(reply) => reply,
            Err(error) => ApiError::not_implemented(format!("the AWS testbed failed: {error}")).reply(),
        }
    }

    async fn perform(self: &Arc<Self>, incoming: &Incoming) -> Reply {
        let operation = incoming.operation();
        if operation == Operation::Other {
            return self.proxy(incoming).await.into();
        }
        // "Common Error Types" of the EKS API reference: an unsigned request is refused with 403.
        let Some(scope) = incoming.scope() else {
            let code = "MissingAuthenticationTokenException";
            return ApiError::new(StatusCode::FORBIDDEN, code, "Missing Authentication Token").reply();
        };
        self.eks(operation, scope.region, incoming).await.unwrap_or_else(|error| error.reply())
    }

    /// moto's own answer to a request.
    pub(super) async fn proxy(&self, incoming: &Incoming) -> Proxied {
        let target = incoming.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut headers = incoming.headers.clone();
        remove_hop_by_hop(&mut headers);
        let request = self
            .client
            .request(incoming.method.clone(), format!("{}{target}", self.moto))
            .headers(headers)
            .body(incoming.body.clone());
        match Proxied::read(request).await {
            Ok(proxied) if proxied.is_unknown_route() => Proxied::explain(format!(
                "neither moto nor the AWS testbed knows {} {}",
                incoming.method,
                incoming.uri.path()
            )),
            Ok(proxied) => proxied,
            Err(error) => Proxied::explain(format!("moto did not answer: {error}")),
        }
    }
}

impl Proxied {
    pub(super) async fn read(request: reqwest::RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        let (status, mut headers) = (response.status(), response.headers().clone());
        remove_hop_by_hop(&mut headers);
        Ok(Self { body: response.bytes().await?, headers, status })
    }

    /// moto answers what it does not implement with a web page, which clients take for a broken service.
    fn is_unknown_route(&self) -> bool {
        let html = |value: &hyper::header::HeaderValue| value.as_bytes().starts_with(b"text/html");
        (self.status.is_client_error() || self.status.is_server_error())
            && self.headers.get(CONTENT_TYPE).is_some_and(html)
    }

    fn explain(message: String) -> Self {
        let (parts, _) = ApiError::not_implemented(message.clone()).reply().into_parts();
        let body = serde_json::json!({ "message": message }).to_string();
        Self { body: body.into(), headers: parts.headers, status: parts.status }
    }
}

impl From<Proxied> for Reply {
    fn from(proxied: Proxied) -> Self {
        let mut reply = Response::new(Full::new(proxied.body));
        *reply.status_mut() = proxied.status;
        *reply.headers_mut() = proxied.headers;
        reply
    }
}

/// The length goes with them: both sides read bodies whole and set it anew.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in [CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING] {
        headers.remove(name);
    }
}
