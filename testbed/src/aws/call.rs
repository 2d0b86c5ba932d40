//! What came in: the operation, and the record that tests read.

use std::time::Instant;

use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method, Uri};
use serde_json::Value;

/// An operation of the EKS API that this endpoint can tell apart, by method and path as the API reference gives them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// `POST /clusters`
    CreateCluster,
    /// `POST /clusters/{name}/node-groups`
    CreateNodegroup,
    /// `DELETE /clusters/{name}/node-groups/{nodegroupName}`
    DeleteNodegroup,
    /// `GET /clusters/{name}`
    DescribeCluster,
    /// `GET /clusters/{name}/node-groups/{nodegroupName}`
    DescribeNodegroup,
    /// `GET /clusters/{name}/updates/{updateId}`
    DescribeUpdate,
    /// `GET /clusters/{name}/node-groups`
    ListNodegroups,
    /// `GET /clusters/{name}/updates`
    ListUpdates,
    /// `POST /clusters/{name}/node-groups/{nodegroupName}/update-config`
    UpdateNodegroupConfig,
    /// Everything else: the rest of EKS and every other service.
    Other,
}

/// One call as it arrived, whatever became of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// When it had arrived whole.
    pub at: Instant,
    /// The body where it is JSON.
    pub body: Option<Value>,
    /// `clientRequestToken` of the body.
    pub client_request_token: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// Which operation this is.
    pub operation: Operation,
    /// The path, undecoded, without the query.
    pub path: String,
    /// The query, undecoded, where there is one.
    pub query: Option<String>,
}

/// A request read whole.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) body: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) method: Method,
    pub(super) uri: Uri,
}

/// The credential scope of an AWS signature, version 4: whom a request is for.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

impl Incoming {
    /// Read from `Credential=<key>/<date>/<region>/<service>/aws4_request`; the signature itself is not checked.
    pub(super) fn scope(&self) -> Option<Scope<'_>> {
        let authorization = self.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?.split_once("Credential=")?.1;
        let mut parts = credential.split([',', ' ']).next()?.split('/').skip(2);
        let (region, service) = (parts.next()?, parts.next()?);
        (parts.next()? == "aws4_request").then_some(Scope { region, service })
    }

    pub(super) fn segments(&self) -> Vec<&str> {
        self.uri.path().split('/').filter(|segment| !segment.is_empty()).collect()
    }

    pub(super) fn operation(&self) -> Operation {
        if self.scope().is_some_and(|scope| scope.service != "eks") {
            return Operation::Other;
        }
        match (self.method.as_str(), self.segments().as_slice()) {
            ("POST", ["clusters"]) => Operation::CreateCluster,
            ("GET", ["clusters", _]) => Operation::DescribeCluster,
            ("POST", ["clusters", _, "node-groups"]) => Operation::CreateNodegroup,
            ("GET", ["clusters", _, "node-groups"]) => Operation::ListNodegroups,
            ("GET", ["clusters", _, "node-groups", _]) => Operation::DescribeNodegroup,
            ("DELETE", ["clusters", _, "node-groups", _]) => Operation::DeleteNodegroup,
            ("POST", ["clusters", _, "node-groups", _, "update-config"]) => Operation::UpdateNodegroupConfig,
            ("GET", ["clusters", _, "updates"]) => Operation::ListUpdates,
            ("GET", ["clusters", _, "updates", _]) => Operation::DescribeUpdate,
            _ => Operation::Other,
        }
    }

    pub(super) fn record(&self) -> Call {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        let client_request_token = body
            .as_ref()
            .and_then(|body| body.get("clientRequestToken"))
            .and_then(Value::as_str)
            .map(str::to_owned);
        Call {
            at: Instant::now(),
            body,
            client_request_token,
            method: self.method.to_string(),
            operation: self.operation(),
            path: self.uri.path().to_owned(),
            query: self.uri.query().map(str::to_owned),
        }
    }

    /// The decoded value of a query parameter.
    pub(super) fn query_value(&self, name: &str) -> Option<String> {
        let url = reqwest::Url::parse(&format!("http://endpoint/?{}", self.uri.query()?)).ok()?;
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}
