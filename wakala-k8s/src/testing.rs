//! For unit tests: clusters whose answers are written down beforehand.

use std::collections::VecDeque;

use kube::client::Body;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::Cluster;

/// Status and body.
pub(crate) struct Answer(u16, String);

impl From<(u16, Value)> for Answer {
    fn from((code, body): (u16, Value)) -> Self {
        Self(code, body.to_string())
    }
}

impl From<(u16, String)> for Answer {
    fn from((code, body): (u16, String)) -> Self {
        Self(code, body)
    }
}

/// What a server was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Method, path and query.
    pub(crate) line: String,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

/// A cluster that answers so, in that order, and what it was asked once it has given all answers.
pub(crate) fn scripted<A: Into<Answer>>(
    answers: impl IntoIterator<Item = A>,
) -> (Cluster, JoinHandle<Vec<Asked>>) {
    let (service, mut server) = tower_test::mock::pair::<http::Request<Body>, http::Response<Body>>();
    let mut answers: VecDeque<Answer> = answers.into_iter().map(Into::into).collect();
    let served = tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(Answer(code, body)) = answers.pop_front() {
            let Some((request, respond)) = server.next_request().await else { break };
            let (head, content) = request.into_parts();
            let content = content.collect_bytes().await.expect("requests are in memory");
            let content_type = head.headers.get("content-type").map(|value| value.to_str().expect("ASCII"));
            asked.push(Asked {
                line: format!("{} {}", head.method, head.uri),
                content_type: content_type.unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&content).unwrap_or(Value::Null),
            });
            let answer = http::Response::builder().status(code).body(Body::from(body.into_bytes()));
            respond.send_response(answer.expect("a status that exists"));
        }
        asked
    });
    (Cluster::from_client(kube::Client::new(service, "default")), served)
}

/// A cluster that is never asked.
pub(crate) fn cluster_of_nothing() -> Cluster {
    scripted(Vec::<Answer>::new()).0
}
