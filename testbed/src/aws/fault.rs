//! Answers that a test asks for instead of the true one.

use std::collections::VecDeque;

use hyper::StatusCode;

use super::call::Operation;
use super::reply::ApiError;

/// What one or several calls get instead of their true answer.
///
/// Unless [`Fault::after_effect`] is asked for, the call has no effect.
///
/// ```
/// use wakala_testbed::aws::Fault;
///
/// let twice = Fault::throttled().times(2);
/// let may_have_happened = Fault::dropped_connection().after_effect();
/// # let _ = (twice, may_have_happened);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    kind: Kind,
    effect: bool,
    times: u32,
}

#[derive(Clone, Debug)]
enum Kind {
    DroppedConnection,
    Error(ApiError),
    Hang,
}

/// What the client sees of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    DroppedConnection,
    Error(ApiError),
    Hang,
}

impl Fault {
    /// An error answer with this HTTP status, error code and message.
    ///
    /// # Panics
    ///
    /// When `status` is not from 100 to 999, or `code` is not visible ASCII: an answer that no server can give.
    #[must_use]
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        assert!(
            !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_graphic()),
            "no error code: {code:?}"
        );
        let status = StatusCode::from_u16(status).expect("an HTTP status is from 100 to 999");
        Self::of(Kind::Error(ApiError::new(status, code, message)))
    }

    /// 403 `AccessDeniedException`: the caller's policy does not allow the action.
    #[must_use]
    pub fn access_denied() -> Self {
        Self::error(403, "AccessDeniedException", "User is not authorized to perform this action")
    }

    /// The connection ends without one byte of an answer. With [`Fault::after_effect`] this is the call of which the
    /// client cannot know whether it happened.
    #[must_use]
    pub fn dropped_connection() -> Self {
        Self::of(Kind::DroppedConnection)
    }

    /// No answer, ever; the connection stays open until the client gives up or the endpoint is dropped.
    #[must_use]
    pub fn hang() -> Self {
        Self::of(Kind::Hang)
    }

    /// 400 `InvalidRequestException` "Request limit exceeded": EC2's throttling as EKS passes it on, which the SDKs do
    /// not take for throttling.
    #[must_use]
    pub fn request_limit_exceeded() -> Self {
        Self::error(400, "InvalidRequestException", "Request limit exceeded.")
    }

    /// 500 `ServerException`.
    #[must_use]
    pub fn server_error() -> Self {
        Self::error(500, "ServerException", "Internal server error")
    }

    /// 429 `ThrottlingException`.
    #[must_use]
    pub fn throttled() -> Self {
        Self::error(429, "ThrottlingException", "Rate exceeded")
    }

    /// The call is carried out first, and only its answer is replaced. What it would have answered is lost, be it
    /// success or error.
    #[must_use]
    pub fn after_effect(mut self) -> Self {
        self.effect = true;
        self
    }

    /// For this many calls in a row; 1 unless set, and 0 for none.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    fn of(kind: Kind) -> Self {
        Self { kind, effect: false, times: 1 }
    }

    pub(super) fn has_effect(&self) -> bool {
        self.effect
    }

    pub(super) fn outcome(self) -> Outcome {
        match self.kind {
            Kind::DroppedConnection => Outcome::DroppedConnection,
            Kind::Error(error) => Outcome::Error(error),
            Kind::Hang => Outcome::Hang,
        }
    }
}

/// Faults still to be met, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Faults(VecDeque<(Operation, Fault)>);

impl Faults {
    pub(super) fn push(&mut self, operation: Operation, fault: Fault) {
        if fault.times > 0 {
            self.0.push_back((operation, fault));
        }
    }

    /// Takes one call's worth off the first fault for this operation.
    pub(super) fn take(&mut self, operation: Operation) -> Option<Fault> {
        let index = self.0.iter().position(|(of, _)| *of == operation)?;
        let fault = &mut self.0[index].1;
        fault.times -= 1;
        let taken = fault.clone();
        if taken.times == 0 {
            self.0.remove(index);
        }
        Some(taken)
    }

    pub(super) fn left(&self) -> u32 {
        self.0.iter().map(|(_, fault)| fault.times).sum()
    }
}
