//! Waiting for one object to change without asking again and again.

use std::fmt::Debug;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use wakala_core::{Error, ErrorKind, Result, RunContext};

use crate::Cluster;
use crate::error::{Call, classify, is_expired};

/// Between a watch that ended and the next look, so that a proxy that ends all of them is not hammered.
const PAUSE: Duration = Duration::from_millis(500);

/// What came of watching.
pub(crate) enum Watched<K> {
    /// The object as it is now.
    Changed(K),
    /// The watch cannot go on from where it was: read the object again.
    Lost,
}

/// Returns with the first change of the object `name` after resource version `from`.
pub(crate) async fn next_change<K>(
    cluster: &Cluster,
    cx: &RunContext,
    operation: &'static str,
    subject: &str,
    (api, name): (&Api<K>, &str),
    from: &str,
) -> Result<Watched<K>>
where
    K: Clone + DeserializeOwned + Debug + Send + 'static,
{
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let events = match cluster.read(cx, operation, subject, opened(api.watch(&params, from))).await? {
        Some(events) => events,
        None => return Ok(Watched::Lost),
    };
    let mut events = pin!(events);
    loop {
        match cx.until(events.next()).await? {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                return match newest(object, events).await {
                    Some(object) => Ok(Watched::Changed(object)),
                    None => Err(deleted(operation, subject)),
                };
            }
            Some(Ok(WatchEvent::Deleted(_))) => return Err(deleted(operation, subject)),
            Some(Ok(WatchEvent::Bookmark(_))) => {}
            Some(Ok(WatchEvent::Error(status))) if is_expired(&status) => return Ok(Watched::Lost),
            Some(Err(kube::Error::Api(status))) if is_expired(&status) => return Ok(Watched::Lost),
            Some(Ok(WatchEvent::Error(status))) => {
                return Err(classify(kube::Error::Api(status), operation, subject, Call::Read));
            }
            Some(Err(error)) => return Err(classify(error, operation, subject, Call::Read)),
            None => {
                cx.sleep(PAUSE).await?;
                return Ok(Watched::Lost);
            }
        }
    }
}

/// Skips to the last of the changes that have arrived already; `None` where that is the object's end.
async fn newest<K>(
    mut object: K,
    mut events: Pin<&mut impl Stream<Item = kube::Result<WatchEvent<K>>>>,
) -> Option<K> {
    while let Some(Some(Ok(event))) = events.next().now_or_never() {
        match event {
            WatchEvent::Added(newer) | WatchEvent::Modified(newer) => object = newer,
            WatchEvent::Deleted(_) => return None,
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
    }
    Some(object)
}

fn deleted(operation: &'static str, subject: &str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "it was deleted meanwhile").on(subject)
}

/// A watch that cannot start where it should is no error.
async fn opened<S>(request: impl Future<Output = kube::Result<S>>) -> kube::Result<Option<S>> {
    match request.await {
        Ok(events) => Ok(Some(events)),
        Err(kube::Error::Api(status)) if is_expired(&status) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Answer, scripted};

    fn deployment(version: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "api", "resourceVersion": version}})
    }

    fn event(kind: &str, object: Value) -> String {
        format!("{}\n", json!({"type": kind, "object": object}))
    }

    fn expired() -> Value {
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
            "message": "too old resource version"})
    }

    /// The version of the change that is found, `None` where the watch is lost.
    async fn watch(answer: impl Into<Answer>) -> Result<Option<String>> {
        let (cluster, served) = scripted([answer]);
        let api = cluster.namespaced::<Deployment>("production");
        let cx = RunContext::detached();
        let watched = next_change(&cluster, &cx, "changed", "it", (&api, "api"), "5").await;
        let asked = served.await.expect("the server does not panic").remove(0);
        assert!(asked.line.contains("fieldSelector=metadata.name%3Dapi"), "{asked:?}");
        assert!(asked.line.contains("resourceVersion=5"), "{asked:?}");
        Ok(match watched? {
            Watched::Changed(object) => object.metadata.resource_version,
            Watched::Lost => None,
        })
    }

    #[tokio::test]
    async fn the_newest_change_that_has_arrived_is_found() {
        let bookmark =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"resourceVersion": "6"}});
        let lines = [
            event("BOOKMARK", bookmark),
            event("MODIFIED", deployment("7")),
            event("MODIFIED", deployment("8")),
        ];
        assert_eq!(watch((200, lines.concat())).await.unwrap().as_deref(), Some("8"));
    }

    #[tokio::test]
    async fn a_version_too_old_to_watch_from_is_no_error() {
        assert_eq!(watch((410, expired())).await.unwrap(), None);
        assert_eq!(watch((200, event("ERROR", expired()))).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_watch_that_ends_is_no_error() {
        assert_eq!(watch((200, String::new())).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_end_of_the_object_is_one() {
        for lines in [
            event("DELETED", deployment("7")),
            event("MODIFIED", deployment("7")) + &event("DELETED", deployment("8")),
        ] {
            assert_eq!(watch((200, lines)).await.unwrap_err().kind(), ErrorKind::NotFound);
        }
    }

    #[tokio::test]
    async fn other_errors_are_classified() {
        let overloaded =
            json!({"kind": "Status", "status": "Failure", "code": 429, "reason": "TooManyRequests"});
        for answer in [(429, overloaded.to_string()), (200, event("ERROR", overloaded.clone()))] {
            assert_eq!(watch(answer).await.unwrap_err().kind(), ErrorKind::RateLimited);
        }
    }
}
