//! The calls of a run: of which kind they are, and how one fails.

use std::fmt::{self, Debug};
use std::future::{Future, pending};
use std::time::SystemTime;

use crate::testing::Fault;
use crate::{Error, ErrorKind, GuardId, Result, Retry, StepId, Verdict};

/// What kind of call it is: what can go wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Guard,
    Mail,
    StepRead,
    StepWrite,
    StoreRead,
    StoreRenew,
    StoreWrite,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call<'a> {
    Guard(&'static str, &'a GuardId),
    Step(&'static str, &'a StepId),
    Store(&'static str),
}

impl Call<'_> {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Guard(..) => Kind::Guard,
            Self::Step("apply" | "undo", _) => Kind::StepWrite,
            Self::Step(..) => Kind::StepRead,
            Self::Store("mail") => Kind::Mail,
            Self::Store("renew") => Kind::StoreRenew,
            Self::Store("load" | "list") => Kind::StoreRead,
            Self::Store(_) => Kind::StoreWrite,
        }
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(method, id) => write!(f, "guard {id}.{method}"),
            Self::Step(method, id) => write!(f, "step {id}.{method}"),
            Self::Store(method) => write!(f, "store.{method}"),
        }
    }
}

/// An answer that can be a failure.
pub(super) trait Answer: Send + Sized {
    fn failed(error: Error) -> Self;
    fn is_failure(&self) -> bool;
    fn describe(&self) -> String;
}

impl<T: Debug + Send> Answer for Result<T> {
    fn failed(error: Error) -> Self {
        Err(error)
    }
    fn is_failure(&self) -> bool {
        self.is_err()
    }
    fn describe(&self) -> String {
        match self {
            Ok(value) => format!("{value:?}").chars().take(90).collect(),
            Err(error) => format!("error: {}", error.chain()),
        }
    }
}

impl Answer for Verdict {
    fn failed(error: Error) -> Self {
        Self::SourceError(error.chain())
    }
    fn is_failure(&self) -> bool {
        false
    }
    fn describe(&self) -> String {
        self.to_string()
    }
}

impl Answer for Option<Vec<(SystemTime, Verdict)>> {
    fn failed(_: Error) -> Self {
        None
    }
    fn is_failure(&self) -> bool {
        self.is_none()
    }
    fn describe(&self) -> String {
        self.as_ref().map_or("nothing of the past".to_owned(), |seen| format!("{} verdicts", seen.len()))
    }
}

/// Lets a call fail.
pub(super) async fn fail<T: Answer>(
    fault: Fault,
    call: Call<'_>,
    inner: impl Future<Output = T> + Send,
) -> T {
    if fault.has_effect() {
        let answer = inner.await;
        // Where the call itself fails, its own answer is the truth.
        if answer.is_failure() {
            return answer;
        }
    }
    let error = |kind, message| Error::new(kind, "call", message).on(call);
    T::failed(match fault {
        Fault::Retryable { after } => {
            error(ErrorKind::RateLimited, "injected: too many requests").with_retry(Retry::Safe { after })
        }
        Fault::Rejected => error(ErrorKind::Denied, "injected: refused").with_retry(Retry::Never),
        Fault::AnswerLost | Fault::RequestLost => {
            error(ErrorKind::Unavailable, "injected: the connection broke before the answer")
                .with_retry(Retry::ObserveFirst)
        }
        Fault::Hang | Fault::HangAfterEffect => pending().await,
    })
}
