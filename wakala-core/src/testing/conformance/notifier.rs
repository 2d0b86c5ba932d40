//! What every [`Notifier`] must do.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Common, common_case, must, skip};
use crate::{ErrorKind, Notification, Notifier, Severity};

type Received = Arc<dyn Fn() -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// A notifier to check.
pub struct NotifierCase {
    common: Common,
    notifier: Arc<dyn Notifier>,
    secrets: Vec<String>,
    received: Option<Received>,
    unreachable: Option<Arc<dyn Notifier>>,
}

common_case!(NotifierCase);

impl NotifierCase {
    /// Checks `notifier`.
    pub fn new(notifier: impl Notifier) -> Self {
        Self {
            common: Common::new(),
            notifier: Arc::new(notifier),
            secrets: Vec::new(),
            received: None,
            unreachable: None,
        }
    }

    /// A secret that the notifier was made with: a token, the path of a webhook.
    #[must_use]
    pub fn with_secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// What the receiver got so far: the text of each message, freed of the wire's escapes.
    #[must_use]
    pub fn with_received<F>(mut self, received: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<String>> + Send + 'static,
    {
        self.received = Some(Arc::new(move || Box::pin(received())));
        self
    }

    /// The same sort of notifier with a receiver that does not answer.
    #[must_use]
    pub fn with_unreachable(mut self, notifier: impl Notifier) -> Self {
        self.unreachable = Some(Arc::new(notifier));
        self
    }

    async fn send(&self, text: &str) {
        let notification = Notification::new(Severity::Info, text).with_field("playbook", "conformance");
        must(self.notifier.notify(&self.common.cx, &notification).await, "notify");
    }

    async fn assert_received(&self, behaviour: &str, text: &str, times: usize) {
        let Some(received) = &self.received else {
            return skip(
                behaviour,
                "the case cannot ask the receiver; only that sending succeeds is checked",
            );
        };
        let received = received().await;
        let count = received.iter().filter(|message| message.contains(text)).count();
        assert_eq!(count, times, "the receiver should have {text:?} {times} times among {received:?}");
    }
}

impl fmt::Debug for NotifierCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifierCase").field("common", &self.common).finish_non_exhaustive()
    }
}

impl<N: Notifier> From<N> for NotifierCase {
    fn from(notifier: N) -> Self {
        Self::new(notifier)
    }
}

/// Runs every check of this module, each on a notifier of its own.
pub async fn all<C: Into<NotifierCase>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { notifier, __conformance_all! [make] }
}

/// The destination is there and does not change.
pub async fn destination_is_stable(case: impl Into<NotifierCase>) {
    let case = case.into();
    let destination = case.notifier.destination();
    assert!(!destination.is_empty(), "the destination is empty; the plan must say where messages go");
    assert_eq!(destination, case.notifier.destination(), "the destination changes");
}

/// Neither the destination nor `Debug` nor an error shows a secret.
pub async fn secrets_are_not_shown(case: impl Into<NotifierCase>) {
    let case = case.into();
    let check = async {
        if case.secrets.is_empty() {
            return skip("secrets_are_not_shown", "the case names no secret");
        }
        let mut shown = vec![case.notifier.destination(), format!("{:?}", case.notifier)];
        if let Some(unreachable) = &case.unreachable {
            shown.extend([unreachable.destination(), format!("{unreachable:?}")]);
            let cx = case.common.patient();
            let notification = Notification::new(Severity::Info, "conformance");
            if let Ok(Err(error)) = cx.until(unreachable.notify(&cx, &notification)).await {
                shown.push(format!("{error:?}"));
            }
        }
        for (secret, text) in
            case.secrets.iter().flat_map(|secret| shown.iter().map(move |text| (secret, text)))
        {
            // The message must not print it either.
            let at = text.find(secret.as_str());
            assert!(at.is_none(), "a secret of {} characters is shown at {at:?} of a text", secret.len());
        }
    };
    case.common.drive(check).await;
}

/// A message arrives.
pub async fn delivers(case: impl Into<NotifierCase>) {
    let case = case.into();
    let check = async {
        case.send("conformance: one message").await;
        case.assert_received("delivers", "conformance: one message", 1).await;
    };
    case.common.drive(check).await;
}

/// A message may be sent again.
pub async fn delivers_twice(case: impl Into<NotifierCase>) {
    let case = case.into();
    let check = async {
        case.send("conformance: twice").await;
        case.send("conformance: twice").await;
        case.assert_received("delivers_twice", "conformance: twice", 2).await;
    };
    case.common.drive(check).await;
}

/// Any text arrives as it is: quotes, line ends, letters beyond ASCII, what other systems take for markup.
pub async fn delivers_any_text(case: impl Into<NotifierCase>) {
    let case = case.into();
    let text = "conformance: \"50\" <of> 50 & {ready} \\ 100 %\nzweite Zeile: Größe ≥ 50 🚨";
    let check = async {
        case.send(text).await;
        case.assert_received("delivers_any_text", text, 1).await;
    };
    case.common.drive(check).await;
}

/// A receiver that does not answer is an error within the context's deadline.
pub async fn unreachable_is_an_error(case: impl Into<NotifierCase>) {
    let case = case.into();
    let check = async {
        let Some(notifier) = &case.unreachable else {
            return skip("unreachable_is_an_error", "the case names no unreachable notifier");
        };
        let cx = case.common.patient();
        let notification = Notification::new(Severity::Info, "conformance");
        let sent =
            must(cx.until(notifier.notify(&cx, &notification)).await, "notify within the case's limit");
        let Err(error) = sent else { panic!("a message to nobody counts as sent") };
        let kinds = [ErrorKind::Unavailable, ErrorKind::DeadlineExceeded];
        assert!(kinds.contains(&error.kind()), "it must be one of {kinds:?}: {error:?}");
    };
    case.common.drive(check).await;
}
