//! Where the SDK's errors become wakala's: the only place that knows them.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_eks::config::http::HttpResponse;
use aws_sdk_eks::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eks::operation::RequestId;
use wakala_core::{Error, ErrorKind, Retry};

/// One call to AWS, as its errors name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// As the code names it: `update_nodegroup_config`.
    pub(crate) operation: &'static str,
    /// As IAM names it: `eks:UpdateNodegroupConfig`.
    pub(crate) action: &'static str,
    /// The ARN that the permission would be for.
    pub(crate) resource: &'a str,
    /// The object, for people.
    pub(crate) subject: &'a str,
    pub(crate) region: &'a str,
    /// Whether it changes anything, so that a lost answer leaves its fate open.
    pub(crate) writes: bool,
    /// When to ask again where the object is busy with another change.
    pub(crate) busy_pause: Duration,
}

impl Call<'_> {
    /// The error that this call ended with.
    pub(crate) fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match &error {
            SdkError::ConstructionFailure(_) => self
                .error(
                    ErrorKind::InvalidConfig,
                    Retry::Never,
                    "the request cannot be built; correct its values",
                )
                .with_source(cause(error)),
            SdkError::TimeoutError(_) => self
                .error(
                    ErrorKind::DeadlineExceeded,
                    self.if_lost(),
                    if self.writes {
                        "no answer in time; it may have taken effect"
                    } else {
                        "no answer in time"
                    },
                )
                .with_source(cause(error)),
            SdkError::DispatchFailure(failure) => {
                let timed_out = failure.is_timeout();
                self.not_sent_or_lost(cause(error), timed_out)
            }
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                let kind = if status >= 500 { ErrorKind::Unavailable } else { ErrorKind::Unexpected };
                let message =
                    format!("the answer cannot be read (HTTP {status}); look for a proxy in between");
                self.error(kind, self.if_lost(), message).with_source(cause(error))
            }
            SdkError::ServiceError(refusal) => {
                let answer = Answer {
                    status: refusal.raw().status().as_u16(),
                    code: error.code(),
                    text: error.message(),
                    request_id: error.request_id(),
                    retry_after: refusal.raw().headers().get("retry-after").and_then(seconds),
                };
                self.refused(&answer)
            }
            // The SDK's enum may grow.
            _ => self
                .error(
                    ErrorKind::Unexpected,
                    self.if_lost(),
                    "the SDK failed in a way that this version does not know",
                )
                .with_source(cause(error)),
        }
    }

    /// The error for an answer that the API does not document: a field that is missing, say.
    pub(crate) fn puzzled(&self, message: impl Into<String>) -> Error {
        self.error(ErrorKind::Unexpected, self.if_lost(), message)
    }

    fn error(&self, kind: ErrorKind, retry: Retry, message: impl Into<String>) -> Error {
        Error::new(kind, self.operation, message.into()).on(self.subject).with_retry(retry)
    }

    /// What a call without an answer leaves: reads may simply be repeated.
    fn if_lost(&self) -> Retry {
        if self.writes { Retry::ObserveFirst } else { Retry::Safe { after: None } }
    }

    /// There is no answer: either nothing was sent, or what was sent is lost.
    fn not_sent_or_lost(&self, source: Box<dyn StdError + Send + Sync>, timed_out: bool) -> Error {
        if let Some(credentials) = find::<CredentialsError>(&*source) {
            let (kind, retry) = match credentials {
                CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => {
                    (ErrorKind::Unavailable, Retry::Safe { after: None })
                }
                _ => (ErrorKind::Denied, Retry::Never),
            };
            let message = "no credentials to sign it with; set a profile, a key or a role";
            return self.error(kind, retry, message).with_source(source);
        }
        let never_connected = find::<io::Error>(&*source).is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            )
        });
        let (kind, retry, message) = if never_connected {
            (ErrorKind::Unavailable, Retry::Safe { after: None }, "AWS cannot be reached")
        } else if timed_out {
            (ErrorKind::DeadlineExceeded, self.if_lost(), "no answer in time")
        } else {
            (ErrorKind::Unavailable, self.if_lost(), "no connection to AWS, or it was lost")
        };
        self.error(kind, retry, message).with_source(source)
    }

    /// AWS answered with an error.
    fn refused(&self, answer: &Answer<'_>) -> Error {
        let (kind, retry) = self.classify(answer);
        let Call { action, resource, region, .. } = self;
        let advice = match kind {
            ErrorKind::Conflict => "it is busy with another change, which has to end first".to_owned(),
            ErrorKind::Denied => format!("allow {action} on {resource}"),
            ErrorKind::InsufficientCapacity => {
                "ask for a higher quota, or choose less or another type".to_owned()
            }
            ErrorKind::InvalidConfig => "correct the values".to_owned(),
            ErrorKind::NotFound => format!("check the names, and the account, in region {region}"),
            ErrorKind::RateLimited => "AWS asks to slow down".to_owned(),
            _ if retry == Retry::ObserveFirst => "it may have taken effect".to_owned(),
            ErrorKind::Unavailable => "an error on the side of AWS".to_owned(),
            _ => "this version does not know it".to_owned(),
        };
        let code = answer.code.unwrap_or("no error code");
        let text = answer.text.unwrap_or("no message").trim_end_matches('.');
        let request = answer.request_id.unwrap_or("unknown");
        let status = answer.status;
        self.error(kind, retry, format!("{code}: {text}; {advice} (HTTP {status}, request {request})"))
    }

    fn classify(&self, answer: &Answer<'_>) -> (ErrorKind, Retry) {
        let throttled = Retry::Safe { after: answer.retry_after };
        let code = answer.code.unwrap_or_default();
        // EC2's throttling, passed on by EKS under the code of a bad request.
        if code == "InvalidRequestException"
            && answer.text.is_some_and(|text| text.to_ascii_lowercase().contains("request limit exceeded"))
        {
            return (ErrorKind::RateLimited, throttled);
        }
        match kind_of(code).unwrap_or(match answer.status {
            401 | 403 => ErrorKind::Denied,
            429 => ErrorKind::RateLimited,
            500.. => ErrorKind::Unavailable,
            _ => ErrorKind::Unexpected,
        }) {
            ErrorKind::RateLimited => (ErrorKind::RateLimited, throttled),
            ErrorKind::Conflict => (ErrorKind::Conflict, Retry::Safe { after: Some(self.busy_pause) }),
            ErrorKind::Unavailable => (ErrorKind::Unavailable, self.if_lost()),
            // A refusal is an answer, known or not: nothing has changed.
            kind => (kind, Retry::Never),
        }
    }
}

/// An error answer of AWS.
#[derive(Debug)]
struct Answer<'a> {
    status: u16,
    code: Option<&'a str>,
    text: Option<&'a str>,
    request_id: Option<&'a str>,
    retry_after: Option<Duration>,
}

/// What AWS's error codes mean, of EKS and of the layers that all services share.
fn kind_of(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "BandwidthLimitExceeded"
        | "EC2ThrottledException"
        | "LimitExceededException"
        | "PriorRequestNotComplete"
        | "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown"
        | "ThrottledException"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "TransactionInProgressException" => ErrorKind::RateLimited,
        "InternalError"
        | "InternalFailure"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ServerException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "Unavailable" => ErrorKind::Unavailable,
        "InstanceLimitExceeded"
        | "InsufficientHostCapacity"
        | "InsufficientInstanceCapacity"
        | "ResourceLimitExceededException"
        | "UnfulfillableCapacity"
        | "VcpuLimitExceeded" => ErrorKind::InsufficientCapacity,
        "IncorrectInstanceState"
        | "InvalidStateException"
        | "OperationNotPermitted"
        | "PreconditionFailed"
        | "ResourceInUseException" => ErrorKind::Conflict,
        "ClientException"
        | "InvalidParameterException"
        | "InvalidRequestException"
        | "SerializationException"
        | "ValidationException" => ErrorKind::InvalidConfig,
        "NotFoundException" | "ResourceNotFoundException" => ErrorKind::NotFound,
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignatureException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired"
        | "SignatureDoesNotMatch"
        | "UnauthorizedOperation"
        | "UnrecognizedClientException" => ErrorKind::Denied,
        _ => return None,
    })
}

fn seconds(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(Duration::from_secs)
}

/// The cause below the SDK's own word for the phase.
fn cause<E>(error: SdkError<E, HttpResponse>) -> Box<dyn StdError + Send + Sync>
where
    E: StdError + Send + Sync + 'static,
{
    error.into_source().unwrap_or_else(Into::into)
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(15);

    fn classify(writes: bool, status: u16, code: Option<&str>, text: &str) -> (ErrorKind, Retry) {
        let call = Call {
            operation: "op",
            action: "eks:Op",
            resource: "arn",
            subject: "node group prod/api",
            region: "eu-west-1",
            writes,
            busy_pause: PAUSE,
        };
        let error =
            call.refused(&Answer { status, code, text: Some(text), request_id: None, retry_after: None });
        (error.kind(), error.retry())
    }

    #[test]
    fn codes_become_kinds_and_retry_answers() {
        let safe = Retry::Safe { after: None };
        let cases = [
            (429, Some("ThrottlingException"), "Rate exceeded", ErrorKind::RateLimited, safe),
            (400, Some("InvalidRequestException"), "Request limit exceeded.", ErrorKind::RateLimited, safe),
            (400, Some("InvalidRequestException"), "no such", ErrorKind::InvalidConfig, Retry::Never),
            (500, Some("ServerException"), "", ErrorKind::Unavailable, Retry::ObserveFirst),
            (503, None, "", ErrorKind::Unavailable, Retry::ObserveFirst),
            (
                409,
                Some("ResourceInUseException"),
                "",
                ErrorKind::Conflict,
                Retry::Safe { after: Some(PAUSE) },
            ),
            (404, Some("ResourceNotFoundException"), "", ErrorKind::NotFound, Retry::Never),
            (400, Some("ResourceLimitExceededException"), "", ErrorKind::InsufficientCapacity, Retry::Never),
            (403, Some("AccessDeniedException"), "", ErrorKind::Denied, Retry::Never),
            (403, Some("SomethingNew"), "", ErrorKind::Denied, Retry::Never),
            (429, Some("SomethingNew"), "", ErrorKind::RateLimited, safe),
            (418, Some("SomethingNew"), "", ErrorKind::Unexpected, Retry::Never),
        ];
        for (status, code, text, kind, retry) in cases {
            assert_eq!(classify(true, status, code, text), (kind, retry), "{status} {code:?} {text}");
        }
        assert_eq!(classify(false, 500, None, ""), (ErrorKind::Unavailable, safe));
    }
}
