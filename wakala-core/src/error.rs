//! One error type for all of wakala: what went wrong ([`ErrorKind`]) and whether the call may be repeated
//! ([`Retry`]).

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A `Result` whose error is wakala's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms that a playbook can branch on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The run was cancelled before the call was made.
    Cancelled,
    /// Somebody else changed, owns or uses the object.
    Conflict,
    /// A deadline passed. For a write: whether it took effect is in [`Error::retry`].
    DeadlineExceeded,
    /// The caller lacks a permission.
    Denied,
    /// The provider has no capacity of this sort: try another place or another type.
    InsufficientCapacity,
    /// The request can never succeed as written: bad parameter, broken bounds, contradiction.
    InvalidConfig,
    /// The object does not exist.
    NotFound,
    /// The provider asked to slow down.
    RateLimited,
    /// The provider could not be reached or answered that it is down.
    Unavailable,
    /// Nothing that this version knows; the source says more.
    Unexpected,
    /// The target cannot do this at all.
    Unsupported,
}

impl ErrorKind {
    /// What a caller may do when the provider said nothing more precise.
    const fn default_retry(self) -> Retry {
        match self {
            Self::RateLimited => Retry::Safe { after: None },
            Self::DeadlineExceeded | Self::Unavailable | Self::Unexpected => Retry::ObserveFirst,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::Conflict => "conflict",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::Denied => "denied",
            Self::InsufficientCapacity => "insufficient capacity",
            Self::InvalidConfig => "invalid configuration",
            Self::NotFound => "not found",
            Self::RateLimited => "rate limited",
            Self::Unavailable => "unavailable",
            Self::Unexpected => "unexpected",
            Self::Unsupported => "unsupported",
        })
    }
}

/// Whether, and when, the same call may be made again.
///
/// There are four answers and not two, since a call to infrastructure can end without anybody knowing whether it
/// took effect. The engine repeats [`Safe`](Retry::Safe) calls, reads before it repeats
/// [`ObserveFirst`](Retry::ObserveFirst), and gives up on the other two.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The call certainly had no effect and would fail the same way again.
    Never,
    /// The call certainly had no effect; it may be repeated, after the provider's own hint where it gave one.
    Safe {
        /// How long the provider asked to wait.
        #[serde(with = "humantime_serde", default)]
        after: Option<Duration>,
    },
    /// The call may have taken effect: read the state before repeating it.
    ObserveFirst,
    /// It was [`Safe`](Retry::Safe), and a lower layer already gave up.
    Exhausted,
}

/// Any error of wakala. One word wide.
///
/// `Display` is one line that names the operation, the object and what to do; the cause is in
/// [`source`](StdError::source) and is printed by [`Error::chain`].
///
/// ```
/// use wakala_core::{Error, ErrorKind, Retry};
///
/// let error = Error::new(ErrorKind::RateLimited, "set_desired", "too many requests; will try again")
///     .on("deployment production/wakala-api");
/// assert_eq!(error.retry(), Retry::Safe { after: None });
/// assert_eq!(error.to_string(), "set_desired on deployment production/wakala-api: too many requests; will try again");
/// ```
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    operation: &'static str,
    subject: String,
    message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation)?;
        if !self.subject.is_empty() {
            write!(f, " on {}", self.subject)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl StdError for Inner {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?}): {}", self.0.kind, self.0.retry, self.chain())
    }
}

impl Error {
    /// An error of `kind` in `operation`; `message` says what happened and what to do.
    ///
    /// The retry answer follows from the kind until [`with_retry`](Self::with_retry) says better: rate limits are
    /// safe to repeat, time-outs and outages must be observed first, all others are final.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.default_retry(),
            operation,
            subject: String::new(),
            message: message.into(),
            source: None,
        }))
    }

    /// Shorthand for the commonest error of builders: a parameter that can never work.
    pub fn invalid(operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidConfig, operation, message)
    }

    /// Names the object that the operation was about.
    #[must_use]
    pub fn on(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject = subject.to_string();
        self
    }

    /// Says whether the call may be repeated.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the call may be repeated.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The operation that failed, as the code names it.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The object that the operation was about; empty where there was none.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The error and all its causes on one line, for logs and reports.
    ///
    /// A cause whose text the line already ends with is left out, so that wrappers which repeat their source do
    /// not make it longer.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !text.is_empty() && !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_answer_whether_to_repeat() {
        let retry = |kind| Error::new(kind, "op", "m").retry();
        assert_eq!(retry(ErrorKind::RateLimited), Retry::Safe { after: None });
        assert_eq!(retry(ErrorKind::DeadlineExceeded), Retry::ObserveFirst);
        assert_eq!(retry(ErrorKind::Denied), Retry::Never);
    }

    #[test]
    fn chain_keeps_every_cause_once() {
        let root = std::io::Error::other("connection reset");
        let middle =
            Error::new(ErrorKind::Unavailable, "read", "no answer: connection reset").with_source(root);
        let top = Error::new(ErrorKind::Unavailable, "observe", "cannot tell")
            .on("deployment a/b")
            .with_source(middle);
        assert_eq!(top.chain(), "observe on deployment a/b: cannot tell: read: no answer: connection reset");
    }

    #[test]
    fn is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
