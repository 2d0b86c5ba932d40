//! Requests sent one behind the other, without waiting for answers in between.

use std::future::Future;
use std::pin::Pin;

use futures::poll;
use std::task::Poll;
use tokio_postgres::Error as ClientError;
use wakala_core::Error;

/// Which request of the flight it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// Begin, savepoint, progress, commit.
    Frame,
    /// Rows of a table; at one by one, the place of the change.
    Rows(usize),
    /// What the caller wanted in the same transaction.
    Also(usize),
}

/// What came back instead of success.
#[derive(Debug)]
pub(super) enum Failure {
    Client(ClientError),
    Ours(Error),
    /// Another number of rows than one.
    Count(u64),
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

enum Request<'a> {
    Waiting(Answer<'a>),
    Answered(Result<(), Failure>),
}

/// The requests under way, in order.
pub(super) struct Flight<'a> {
    requests: Vec<(Leg, Request<'a>)>,
}

impl<'a> Flight<'a> {
    pub(super) fn new() -> Self {
        Self { requests: Vec::new() }
    }

    /// Sends a request: the first look at such a future does that, without a wait.
    pub(super) async fn send<F>(&mut self, leg: Leg, request: F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'a,
    {
        let mut request: Answer<'a> = Box::pin(request);
        let request = match poll!(request.as_mut()) {
            Poll::Ready(answer) => Request::Answered(answer),
            Poll::Pending => Request::Waiting(request),
        };
        self.requests.push((leg, request));
    }

    /// Waits for all answers. What failed first is why those behind it did.
    ///
    /// # Errors
    /// The first failure, with its place. All the answers have come then, too.
    pub(super) async fn land(&mut self) -> Result<(), (Leg, Failure)> {
        let mut first = Ok(());
        for (leg, request) in self.requests.drain(..) {
            let answer = match request {
                Request::Waiting(answer) => answer.await,
                Request::Answered(answer) => answer,
            };
            if let Err(failure) = answer
                && first.is_ok()
            {
                first = Err((leg, failure));
            }
        }
        first
    }
}
