//! Notifiers that are broken in one way each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use wakala_core::testing::FakeNotifier;
use wakala_core::testing::conformance::{NotifierCase, notifier};
use wakala_core::{Notification, Notifier, Result, RunContext, RunId};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    CutsAtLineEnds,
    DestinationChanges,
    Forgets,
    NeverTwice,
    ShowsToken,
    SwallowsErrors,
}

#[derive(Clone, Debug)]
struct Broken {
    inner: FakeNotifier,
    defect: Defect,
    sent: Arc<AtomicU32>,
}

fn broken(defect: Defect) -> NotifierCase {
    let broken = Broken { inner: FakeNotifier::new(), defect, sent: Arc::default() };
    let received = broken.inner.clone();
    NotifierCase::new(broken.clone()).with_secret("s3cr3t").with_unreachable(broken).with_received(
        move || {
            let texts = received.sent().into_iter().map(|sent| sent.text).collect();
            async move { texts }
        },
    )
}

#[async_trait]
impl Notifier for Broken {
    fn destination(&self) -> String {
        match self.defect {
            Defect::DestinationChanges => RunId::generate().to_string(),
            Defect::ShowsToken => "https://chat.example/s3cr3t".to_owned(),
            _ => self.inner.destination(),
        }
    }

    async fn notify(&self, cx: &RunContext, notification: &Notification) -> Result<()> {
        let mut notification = notification.clone();
        let before = self.sent.fetch_add(1, Ordering::Relaxed);
        match self.defect {
            Defect::CutsAtLineEnds => {
                notification.text = notification.text.lines().next().unwrap_or_default().to_owned();
            }
            Defect::Forgets => return Ok(()),
            Defect::NeverTwice if before > 0 => return Ok(()),
            _ => {}
        }
        self.inner.notify(cx, &notification).await
    }
}

fails!(
    changing,
    notifier::destination_is_stable,
    broken(Defect::DestinationChanges),
    "the destination changes"
);
fails!(
    talkative,
    notifier::secrets_are_not_shown,
    broken(Defect::ShowsToken),
    "a secret of 6 characters is shown"
);
fails!(forgetful, notifier::delivers, broken(Defect::Forgets), "one message\" 1 times");
fails!(only_once, notifier::delivers_twice, broken(Defect::NeverTwice), "twice\" 2 times");
fails!(first_line, notifier::delivers_any_text, broken(Defect::CutsAtLineEnds), "1 times");
fails!(
    silent_outage,
    notifier::unreachable_is_an_error,
    broken(Defect::SwallowsErrors),
    "a message to nobody counts as sent"
);
