//! The webhook notifiers against a real HTTP server on loopback.

use serde_json::{Value, json};
use wakala_core::{ErrorKind, Notification, Notifier, Retry, RunContext, SecretString, Severity};
use wakala_playbooks::notify::WebhookNotifier;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

async fn receiver(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(response).mount(&server).await;
    server
}

fn url(server: &MockServer) -> SecretString {
    format!("{}/services/T0/B0/token-xyz", server.uri()).into()
}

fn spike() -> Notification {
    Notification::new(Severity::High, "Traffic spike").with_field("run", "run-1")
}

async fn posted(server: &MockServer) -> Vec<Value> {
    let requests = server.received_requests().await.expect("the server records requests");
    requests.iter().map(|request| request.body_json().expect("the body is JSON")).collect()
}

#[tokio::test]
async fn json_webhook_posts_the_whole_notification() {
    let server = receiver(ResponseTemplate::new(204)).await;
    WebhookNotifier::json(url(&server)).unwrap().notify(&RunContext::detached(), &spike()).await.unwrap();
    let expected = json!({ "severity": "high", "text": "Traffic spike", "fields": { "run": "run-1" } });
    assert_eq!(posted(&server).await, [expected]);
}

#[tokio::test]
async fn slack_webhook_posts_text_only() {
    let server = receiver(ResponseTemplate::new(200)).await;
    WebhookNotifier::slack(url(&server)).unwrap().notify(&RunContext::detached(), &spike()).await.unwrap();
    assert_eq!(posted(&server).await, [json!({ "text": ":rotating_light: Traffic spike\n• run: run-1" })]);
}

#[tokio::test]
async fn answers_become_kinds_and_nothing_is_repeated() {
    let cases = [
        (ResponseTemplate::new(429).insert_header("retry-after", "7"), ErrorKind::RateLimited),
        (ResponseTemplate::new(403), ErrorKind::Denied),
        (ResponseTemplate::new(410), ErrorKind::NotFound),
        (ResponseTemplate::new(500), ErrorKind::Unavailable),
        (ResponseTemplate::new(400), ErrorKind::InvalidConfig),
    ];
    for (response, kind) in cases {
        let server = receiver(response).await;
        let notifier = WebhookNotifier::json(url(&server)).unwrap();
        let error = notifier.notify(&RunContext::detached(), &spike()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        if kind == ErrorKind::RateLimited {
            assert_eq!(error.retry(), Retry::Safe { after: Some(std::time::Duration::from_secs(7)) });
        }
        assert_eq!(posted(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn the_url_is_never_shown() {
    let server = receiver(ResponseTemplate::new(500)).await;
    let nobody_listens = "http://127.0.0.1:9/services/token-xyz".to_owned().into();
    for address in [url(&server), nobody_listens] {
        let notifier = WebhookNotifier::slack(address).unwrap();
        let error = notifier.notify(&RunContext::detached(), &spike()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        for text in [format!("{notifier:?}"), notifier.destination(), error.chain(), format!("{error:?}")] {
            assert!(!text.contains("token-xyz"), "{text}");
        }
    }
}

#[test]
fn bad_urls_are_refused_without_repeating_them() {
    for bad in ["", "not a url token-xyz", "ftp://host/token-xyz", "unix:/token-xyz"] {
        let error = WebhookNotifier::json(bad.to_owned().into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(!error.chain().contains("token-xyz"), "{}", error.chain());
    }
}
