//! Notifiers that post to a URL.
//!
//! The URL is a secret: whoever knows a webhook's address can write to the channel. It is never printed, and the plan
//! names its host only.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use wakala_core::{
    Error, ErrorKind, ExposeSecret, Notification, Notifier, Result, Retry, RunContext, SecretString, Severity,
};

/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Slack,
}

/// Posts notifications as JSON to a URL. Sends once: repeating is the engine's business.
#[derive(Clone)]
pub struct WebhookNotifier {
    client: reqwest::Client,
    url: SecretString,
    host: String,
    format: Format,
}

impl fmt::Debug for WebhookNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookNotifier")
            .field("host", &self.host)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl WebhookNotifier {
    /// Posts `{"severity", "text", "fields"}`.
    ///
    /// # Errors
    /// `InvalidConfig` where `url` is no `http` or `https` URL. The error does not repeat it.
    pub fn json(url: SecretString) -> Result<Self> {
        Self::new(url, Format::Json)
    }

    /// Posts what Slack and its like take: `{"text"}`, the fields as lines of it.
    ///
    /// # Errors
    /// As for [`json`](Self::json).
    pub fn slack(url: SecretString) -> Result<Self> {
        Self::new(url, Format::Slack)
    }

    fn new(url: SecretString, format: Format) -> Result<Self> {
        let invalid = |message: &'static str| Error::invalid("build", message).on("webhook");
        let parsed =
            Url::parse(url.expose_secret()).map_err(|_| invalid("the URL cannot be parsed; check it"))?;
        let host = match (parsed.scheme(), parsed.host_str()) {
            ("http" | "https", Some(host)) => host.to_owned(),
            _ => return Err(invalid("the URL needs http or https and a host")),
        };
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| {
            Error::new(ErrorKind::Unexpected, "build", "no HTTP client").on("webhook").with_source(e)
        })?;
        Ok(Self { client, url, host, format })
    }

    fn body(&self, notification: &Notification) -> Value {
        match self.format {
            Format::Json => json!(notification),
            Format::Slack => {
                let mark = match notification.severity {
                    Severity::High => ":rotating_light: ",
                    Severity::Warning => ":warning: ",
                    Severity::Info => "",
                };
                let fields: String =
                    notification.fields.iter().map(|(name, value)| format!("\n• {name}: {value}")).collect();
                json!({ "text": format!("{mark}{}{fields}", notification.text) })
            }
        }
    }

    fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, "notify", message).on(self.destination())
    }
}

#[async_trait]
impl Notifier for WebhookNotifier {
    fn destination(&self) -> String {
        match self.format {
            Format::Json => format!("webhook at {}", self.host),
            Format::Slack => format!("Slack webhook at {}", self.host),
        }
    }

    async fn notify(&self, cx: &RunContext, notification: &Notification) -> Result<()> {
        let request = self.client.post(self.url.expose_secret()).json(&self.body(notification)).send();
        let response = cx.until(request).await?.map_err(|error| {
            // The library's text holds the URL.
            let error = error.without_url();
            let kind = if error.is_timeout() { ErrorKind::DeadlineExceeded } else { ErrorKind::Unavailable };
            self.error(kind, "the receiver cannot be reached".to_owned()).with_source(error)
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS => self
                .error(ErrorKind::RateLimited, "too many messages".to_owned())
                .with_retry(Retry::Safe { after }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.error(ErrorKind::Denied, format!("refused with {status}; check the URL's token"))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => self.error(
                ErrorKind::NotFound,
                format!("refused with {status}; the webhook does not exist (any more)"),
            ),
            status if status.is_server_error() => {
                self.error(ErrorKind::Unavailable, format!("the receiver answers {status}"))
            }
            status => self.error(ErrorKind::InvalidConfig, format!("refused with {status}")),
        })
    }
}
