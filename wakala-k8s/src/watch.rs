//! Waiting for one object to change without asking again and again.

use std::fmt::{self, Debug};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use wakala_core::{Error, ErrorKind, Result, RunContext};

use crate::Cluster;
use crate::error::{Call, classify, is_expired};
use crate::snapshot::Snapshot;

/// Between a watch that ended and the next look, so that a proxy that ends all of them is not hammered.
const PAUSE: Duration = Duration::from_millis(500);

/// An open watch of one object. It may be left and gone on with, as long as it is kept.
pub(crate) struct Watch {
    events: BoxStream<'static, kube::Result<WatchEvent<Snapshot>>>,
    position: String,
}

impl Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("position", &self.position).finish_non_exhaustive()
    }
}

/// What came of watching.
pub(crate) enum Watched {
    /// The object as it is now.
    Changed(Box<Snapshot>),
    /// The watch cannot go on from where it was: read the object again.
    Lost,
}

impl Watch {
    /// Watches the object `name` for changes after resource version `from`; `None` where that is too long ago.
    pub(crate) async fn open<K>(
        cluster: &Cluster,
        cx: &RunContext,
        operation: &'static str,
        subject: &str,
        (api, name): (&Api<K>, &str),
        from: &str,
    ) -> Result<Option<Self>>
    where
        K: Clone + DeserializeOwned + Debug + Into<Snapshot> + Send + 'static,
    {
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let opened = async {
            match api.watch(&params, from).await {
                Ok(events) => Ok(Some(events.map(|event| event.map(into_snapshot)).boxed())),
                Err(kube::Error::Api(status)) if is_expired(&status) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let events = cluster.read(cx, operation, subject, opened).await?;
        Ok(events.map(|events| Self { events, position: from.to_owned() }))
    }

    /// Whether the next change it tells is the first after that resource version.
    pub(crate) fn is_at(&self, resource_version: &str) -> bool {
        self.position == resource_version
    }

    /// Returns with the newest change that has arrived, at the latest when one does. May be dropped.
    pub(crate) async fn next(
        &mut self,
        cx: &RunContext,
        operation: &'static str,
        subject: &str,
    ) -> Result<Watched> {
        let mut newest = None;
        loop {
            let event = match &newest {
                None => cx.until(self.events.next()).await?,
                // Whoever waits wants to know how it is, not how it came to be.
                Some(_) => match self.events.next().now_or_never() {
                    Some(event) => event,
                    None => break,
                },
            };
            match event {
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    self.position.clone_from(&object.resource_version);
                    newest = Some(object);
                }
                Some(Ok(WatchEvent::Deleted(_))) => {
                    let message = "it was deleted meanwhile";
                    return Err(Error::new(ErrorKind::NotFound, operation, message).on(subject));
                }
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                // What was learned before the end still holds.
                _ if newest.is_some() => break,
                Some(Ok(WatchEvent::Error(status)) | Err(kube::Error::Api(status))) => {
                    if is_expired(&status) {
                        return Ok(Watched::Lost);
                    }
                    return Err(classify(kube::Error::Api(status), operation, subject, Call::Read));
                }
                Some(Err(error)) => return Err(classify(error, operation, subject, Call::Read)),
                None => {
                    cx.sleep(PAUSE).await?;
                    return Ok(Watched::Lost);
                }
            }
        }
        Ok(newest.map_or(Watched::Lost, |object| Watched::Changed(Box::new(object))))
    }
}

fn into_snapshot<K: Into<Snapshot>>(event: WatchEvent<K>) -> WatchEvent<Snapshot> {
    match event {
        WatchEvent::Added(object) => WatchEvent::Added(object.into()),
        WatchEvent::Modified(object) => WatchEvent::Modified(object.into()),
        WatchEvent::Deleted(object) => WatchEvent::Deleted(object.into()),
        WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
        WatchEvent::Error(status) => WatchEvent::Error(status),
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
            "metadata": {"name": "api", "resourceVersion": version}, "spec": {"selector": {}, "template": {}}})
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
        let watched = match Watch::open(&cluster, &cx, "changed", "it", (&api, "api"), "5").await {
            Ok(Some(mut watch)) => watch.next(&cx, "changed", "it").await,
            Ok(None) => Ok(Watched::Lost),
            Err(error) => Err(error),
        };
        let asked = served.await.expect("the server does not panic").remove(0);
        assert!(asked.line.contains("fieldSelector=metadata.name%3Dapi"), "{asked:?}");
        assert!(asked.line.contains("resourceVersion=5"), "{asked:?}");
        Ok(match watched? {
            Watched::Changed(object) => Some(object.resource_version),
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
