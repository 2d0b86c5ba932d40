//! Where kube's errors become wakala's, and nowhere else.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use kube::core::Status;
use wakala_core::{Error, ErrorKind, Retry};

/// What a failed request would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
}

impl Call {
    /// The answer where the request may have reached the server.
    fn perhaps_sent(self) -> Retry {
        match self {
            Self::Read => SAFE,
            Self::Write => Retry::ObserveFirst,
        }
    }
}

const SAFE: Retry = Retry::Safe { after: None };

/// The error of a request that was given up.
pub(crate) fn timed_out(limit: Duration, operation: &'static str, subject: &str, call: Call) -> Error {
    let message = match call {
        Call::Read => format!("the API server has not answered within {limit:?}"),
        Call::Write => {
            format!(
                "the API server has not answered within {limit:?}; it may have made the change all the same"
            )
        }
    };
    Error::new(ErrorKind::DeadlineExceeded, operation, message).on(subject).with_retry(call.perhaps_sent())
}

/// The error of a request that failed.
pub(crate) fn classify(error: kube::Error, operation: &'static str, subject: &str, call: Call) -> Error {
    let (kind, message, retry) = match &error {
        kube::Error::Api(status) => judge_status(status, call),
        kube::Error::Auth(_) => (
            ErrorKind::Denied,
            "credentials could not be had; log in again, or mend the kubeconfig's exec entry".to_owned(),
            SAFE,
        ),
        kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => (
            ErrorKind::InvalidConfig,
            "the request cannot be written; look at the names in it".to_owned(),
            Retry::Never,
        ),
        other => judge_transport(other, call),
    };
    let said_already = |status: &Status| message.contains(said(status).as_str());
    let source: Option<Box<dyn StdError + Send + Sync>> = match error {
        kube::Error::Api(status) if said_already(&status) => None,
        // kube would show all fields of the status in its own text.
        kube::Error::Api(status) => Some(status),
        other => Some(other.into()),
    };
    let judged = Error::new(kind, operation, message).on(subject).with_retry(retry);
    match source {
        Some(source) => judged.with_source(source),
        None => judged,
    }
}

/// Whether the API server refused a watch because what it should start from is too old.
pub(crate) fn is_expired(status: &Status) -> bool {
    status.code == 410 || matches!(status.reason.as_str(), "Expired" | "Gone")
}

/// Whether a write was refused since the object had changed, so that it had no effect.
pub(crate) fn is_lost_race(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict && matches!(error.retry(), Retry::Safe { .. })
}

fn judge_status(status: &Status, call: Call) -> (ErrorKind, String, Retry) {
    let said = said(status);
    let hint = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|after| *after > 0);
    let after = hint.map(|seconds| Duration::from_secs(seconds.into()));
    match status.code {
        401 => (
            ErrorKind::Denied,
            format!("the API server does not accept the credentials; log in again ({said})"),
            Retry::Never,
        ),
        403 => (ErrorKind::Denied, denied(&status.message).unwrap_or(said), Retry::Never),
        404 => (ErrorKind::NotFound, said, Retry::Never),
        405 => (ErrorKind::Unsupported, said, Retry::Never),
        408 | 504 => {
            (ErrorKind::DeadlineExceeded, format!("the API server timed out ({said})"), call.perhaps_sent())
        }
        409 if status.reason == "Conflict" && !is_field_conflict(status) => {
            (ErrorKind::Conflict, format!("changed by somebody else meanwhile ({said})"), SAFE)
        }
        409 => (ErrorKind::Conflict, said, Retry::Never),
        429 => (
            ErrorKind::RateLimited,
            format!("the API server asks to slow down ({said})"),
            Retry::Safe { after },
        ),
        400..=499 => (ErrorKind::InvalidConfig, said, Retry::Never),
        // Webhooks are asked before anything is stored, and this one could not be asked.
        500 if status.message.contains("failed calling webhook") => (
            ErrorKind::Unavailable,
            format!("an admission webhook does not answer ({said})"),
            Retry::Safe { after },
        ),
        500..=599 => (ErrorKind::Unavailable, format!("the API server failed ({said})"), call.perhaps_sent()),
        _ => (ErrorKind::Unexpected, said, call.perhaps_sent()),
    }
}

fn said(status: &Status) -> String {
    match (status.message.trim(), status.reason.as_str()) {
        ("", "") => format!("status {} without a word", status.code),
        ("", reason) => reason.to_owned(),
        (message, _) => message.to_owned(),
    }
}

/// Server-side apply also answers "Conflict", where another manager owns a field: the same again would fail again.
fn is_field_conflict(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "FieldManagerConflict")
}

/// Says which permission is missing, from the authorizer's message:
/// `deployments.apps "api" is forbidden: User "dev" cannot patch resource "deployments/scale" in API group "apps" in
/// the namespace "production"`. `None` for refusals of other sorts: quotas, admission.
fn denied(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("User \"")?;
    let (user, rest) = rest.split_once("\" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once('"')?;
    let quoted_after = |word: &str| Some(rest.split_once(word)?.1.split_once('"')?.0);
    let group = quoted_after("in API group \"").filter(|group| !group.is_empty()).unwrap_or("core");
    let (scope, role) = match quoted_after("in the namespace \"") {
        Some(namespace) => (format!("in namespace {namespace}"), "Role"),
        None => ("in the whole cluster".to_owned(), "ClusterRole"),
    };
    Some(format!(
        "{user} may not {verb} {resource} (API group {group}) {scope}; grant it with a {role} that allows \
         {verb} on {resource}"
    ))
}

fn judge_transport(error: &kube::Error, call: Call) -> (ErrorKind, String, Retry) {
    if chain(error).any(|cause| {
        cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect())
    }) {
        let message = "the API server cannot be reached; nothing was sent".to_owned();
        return (ErrorKind::Unavailable, message, SAFE);
    }
    let timed_out = chain(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::TimedOut);
    let (kind, what) = match error {
        _ if timed_out => (ErrorKind::DeadlineExceeded, "the connection to the API server timed out"),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
            (ErrorKind::Unexpected, "the API server's answer cannot be read")
        }
        _ => (ErrorKind::Unavailable, "the connection to the API server was lost"),
    };
    let doubt = match call {
        Call::Read => "",
        Call::Write => "; it may have made the change all the same",
    };
    (kind, format!("{what}{doubt}"), call.perhaps_sent())
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

#[cfg(test)]
mod tests {
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    const BOTH: [Call; 2] = [Call::Read, Call::Write];

    fn status(code: u16, reason: &str, message: &str) -> Status {
        Status::failure(message, reason).with_code(code)
    }

    fn judge(status: Status, call: Call) -> Error {
        classify(kube::Error::Api(status.boxed()), "op", "deployment a/b", call)
    }

    #[test]
    fn statuses_have_the_answer_of_their_kind() {
        use ErrorKind::*;
        let unsure = Retry::ObserveFirst;
        // Code, reason, kind, retry of a read, retry of a write.
        for (code, reason, kind, read, write) in [
            (400, "BadRequest", InvalidConfig, Retry::Never, Retry::Never),
            (401, "Unauthorized", Denied, Retry::Never, Retry::Never),
            (403, "Forbidden", Denied, Retry::Never, Retry::Never),
            (404, "NotFound", NotFound, Retry::Never, Retry::Never),
            (405, "MethodNotAllowed", Unsupported, Retry::Never, Retry::Never),
            (409, "AlreadyExists", Conflict, Retry::Never, Retry::Never),
            (409, "Conflict", Conflict, SAFE, SAFE),
            (422, "Invalid", InvalidConfig, Retry::Never, Retry::Never),
            (429, "TooManyRequests", RateLimited, SAFE, SAFE),
            (500, "InternalError", Unavailable, SAFE, unsure),
            (502, "", Unavailable, SAFE, unsure),
            (503, "ServiceUnavailable", Unavailable, SAFE, unsure),
            (504, "Timeout", DeadlineExceeded, SAFE, unsure),
        ] {
            for (call, retry) in BOTH.into_iter().zip([read, write]) {
                let error = judge(status(code, reason, "the server's words"), call);
                assert_eq!((error.kind(), error.retry()), (kind, retry), "{code} {reason} {call:?}");
                assert!(error.to_string().starts_with("op on deployment a/b: "), "{error}");
                assert_eq!(error.chain().matches("the server's words").count(), 1, "{}", error.chain());
            }
        }
    }

    #[test]
    fn a_rate_limit_carries_the_servers_hint() {
        let details = StatusDetails {
            retry_after_seconds: 7,
            ..serde_json::from_str::<StatusDetails>("{}").expect("all its fields have defaults")
        };
        let error = judge(status(429, "TooManyRequests", "busy").with_details(details), Call::Write);
        assert_eq!(error.retry(), Retry::Safe { after: Some(Duration::from_secs(7)) });
    }

    #[test]
    fn a_missing_permission_is_named() {
        let message = "deployments.apps \"api\" is forbidden: User \"system:serviceaccount:ops:wakala\" cannot patch \
                       resource \"deployments/scale\" in API group \"apps\" in the namespace \"production\"";
        let error = judge(status(403, "Forbidden", message), Call::Write);
        assert!(error.chain().ends_with(&format!("{message}: Forbidden")), "{}", error.chain());
        assert_eq!(
            error.to_string(),
            "op on deployment a/b: system:serviceaccount:ops:wakala may not patch deployments/scale (API group apps) \
             in namespace production; grant it with a Role that allows patch on deployments/scale"
        );
        let message = "nodes is forbidden: User \"dev\" cannot list resource \"nodes\" in API group \"\" at the \
                       cluster scope";
        let error = judge(status(403, "Forbidden", message), Call::Read).to_string();
        assert!(error.contains("dev may not list nodes (API group core) in the whole cluster"), "{error}");
        assert!(error.contains("ClusterRole"), "{error}");
    }

    #[test]
    fn refusals_of_other_sorts_keep_their_words() {
        let message = "pods \"x\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=5";
        assert!(judge(status(403, "Forbidden", message), Call::Write).to_string().ends_with(message));
    }

    #[test]
    fn another_field_manager_is_no_lost_race() {
        let cause = StatusCause {
            reason: "FieldManagerConflict".into(),
            message: String::new(),
            field: ".spec.replicas".into(),
        };
        let mut details: StatusDetails = serde_json::from_str("{}").expect("all its fields have defaults");
        details.causes.push(cause);
        let error = judge(status(409, "Conflict", "conflict").with_details(details), Call::Write);
        assert_eq!(error.retry(), Retry::Never);
        assert!(!is_lost_race(&error));
        assert!(is_lost_race(&judge(status(409, "Conflict", "modified"), Call::Write)));
    }

    #[test]
    fn a_webhook_that_was_not_reached_changed_nothing() {
        let message =
            "Internal error occurred: failed calling webhook \"policy.example\": connection refused";
        let error = judge(status(500, "InternalError", message), Call::Write);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE));
    }

    #[test]
    fn lost_connections_leave_writes_in_doubt() {
        let reset = || kube::Error::Service(io::Error::from(io::ErrorKind::ConnectionReset).into());
        assert_eq!(classify(reset(), "op", "x", Call::Read).retry(), SAFE);
        let error = classify(reset(), "op", "x", Call::Write);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::ObserveFirst));
        assert!(error.to_string().contains("may have made the change"), "{error}");

        let slow = kube::Error::Service(io::Error::from(io::ErrorKind::TimedOut).into());
        let error = classify(slow, "op", "x", Call::Write);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::DeadlineExceeded, Retry::ObserveFirst));
    }

    #[test]
    fn answers_that_cannot_be_read_are_unexpected() {
        let broken = serde_json::from_str::<u8>("{").expect_err("it is no number");
        let error = classify(kube::Error::SerdeError(broken), "op", "x", Call::Write);
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::ObserveFirst));
    }

    #[tokio::test]
    async fn a_refused_connection_certainly_sent_nothing() {
        // A port that was free a moment ago and that nobody was told of.
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            listener.local_addr().expect("a bound listener has an address").port()
        };
        let url = format!("https://127.0.0.1:{port}").parse().expect("a URL");
        let cluster = crate::Cluster::from_config(kube::Config::new(url)).expect("a client");
        let cx = wakala_core::RunContext::detached();
        let answer = cluster.write(&cx, "op", "x", cluster.client().apiserver_version()).await;
        let error = answer.expect_err("nobody listens");
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAFE), "{error:?}");
        assert!(error.chain().contains("refused"), "{}", error.chain());
    }
}
