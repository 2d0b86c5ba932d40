//! Answers as the AWS REST-JSON protocol shapes them.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};
use uuid::Uuid;

pub(super) type Reply = Response<Full<Bytes>>;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    let mut reply = Response::new(Full::from(body.to_string()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let id = HeaderValue::try_from(Uuid::now_v7().to_string()).expect("a UUID is visible ASCII");
    reply.headers_mut().insert(REQUEST_ID, id);
    reply
}

/// An error of the API: its code in `x-amzn-errortype`, its message and the objects it is about in the body.
///
/// EKS API reference, "Errors" of each action: `clusterName` and `nodegroupName` beside `message`.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: String,
    message: String,
    // Not a map: the size of serde_json's depends on features that other crates of the build may set.
    subject: Vec<(&'static str, String)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), subject: Vec::new() }
    }

    /// "The specified parameter is invalid." HTTP 400.
    pub(super) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidParameterException", message)
    }

    /// "The specified resource is in use." HTTP 409.
    pub(super) fn in_use(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "ResourceInUseException", message)
    }

    /// "The specified resource could not be found." HTTP 404.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
    }

    /// What this testbed cannot answer, said so that nobody takes it for an answer of AWS.
    pub(super) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplementedByTestbed", message)
    }

    #[must_use]
    pub(super) fn about(mut self, cluster: &str, nodegroup: Option<&str>) -> Self {
        self.subject = vec![("clusterName", cluster.to_owned())];
        self.subject.extend(nodegroup.map(|nodegroup| ("nodegroupName", nodegroup.to_owned())));
        self
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn reply(&self) -> Reply {
        let subject = self.subject.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into()));
        let mut body: Map<String, Value> = subject.collect();
        body.insert("message".into(), self.message.clone().into());
        let mut reply = json(self.status, &Value::Object(body));
        // A scripted code may be anything; one that cannot be a header is left out rather than half sent.
        if let Ok(code) = HeaderValue::try_from(&self.code) {
            reply.headers_mut().insert(ERROR_TYPE, code);
        }
        reply
    }
}
