//! Waiting for one object to change without asking again and again.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
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
                return Ok(Watched::Changed(object));
            }
            Some(Ok(WatchEvent::Deleted(_))) => {
                let message = "it was deleted meanwhile";
                return Err(Error::new(ErrorKind::NotFound, operation, message).on(subject));
            }
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

/// A watch that cannot start where it should is no error.
async fn opened<S>(request: impl Future<Output = kube::Result<S>>) -> kube::Result<Option<S>> {
    match request.await {
        Ok(events) => Ok(Some(events)),
        Err(kube::Error::Api(status)) if is_expired(&status) => Ok(None),
        Err(error) => Err(error),
    }
}
