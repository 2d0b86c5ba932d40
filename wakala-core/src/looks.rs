//! What was seen at each look, so that the queries of one tick cost one, and that there is a history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::{Error, ErrorKind, Result, Retry, RunContext};

/// How many looks are kept, and for how long.
const KEPT: usize = 720;
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// What a source saw at one moment.
#[derive(Debug)]
pub struct Look<T> {
    /// When it began; ages are counted by this.
    pub begun: Instant,
    /// The same by the run's clock, for samples.
    pub time: SystemTime,
    /// What was seen.
    pub seen: T,
}

/// Which look will do.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub enum Fresh {
    /// One that ended at most so long ago, or is under way.
    Within(Duration),
    /// One that began then or later.
    Since(Instant),
}

/// The looks of one metrics source, for who writes one: the queries of one tick share a look, and those of the last hour
/// (720 at most) are its history. Clones share them.
#[derive(Debug)]
pub struct Looks<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    kept: VecDeque<Arc<Look<T>>>,
    newest: Option<Newest<T>>,
}

#[derive(Debug)]
struct Newest<T> {
    ended: Instant,
    outcome: Result<Arc<Look<T>>, Failed>,
}

/// An error, for those who wait for the same look.
#[derive(Clone, Debug)]
struct Failed {
    kind: ErrorKind,
    retry: Retry,
    text: String,
}

impl<T> Clone for Looks<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { kept: VecDeque::new(), newest: None })))
    }
}

impl<T: Send + Sync> Looks<T> {
    /// A look that is fresh enough: one that others have taken, or else what `look` sees now. Whoever asks meanwhile waits
    /// for it and shares its outcome, an error too; one that was given up by its caller's deadline is not shared.
    ///
    /// # Errors
    /// Those of `look`, named by `operation` and `subject` where it was another's; `Cancelled`, `DeadlineExceeded` by the
    /// context.
    pub async fn take(
        &self,
        cx: &RunContext,
        (operation, subject): (&'static str, &str),
        fresh: Fresh,
        look: impl Future<Output = Result<T>> + Send,
    ) -> Result<Arc<Look<T>>> {
        let asked = Instant::now();
        let mut state = cx.until(self.0.lock()).await?;
        if let Some(Newest { ended, outcome }) = &state.newest {
            let fits = match (fresh, outcome) {
                (Fresh::Within(reuse), _) => *ended + reuse >= asked,
                (Fresh::Since(due), Ok(look)) => look.begun >= due,
                (Fresh::Since(due), Err(_)) => *ended >= due,
            };
            if fits {
                return outcome.clone().map_err(|failed| {
                    let message = format!("the look that it shares failed: {}", failed.text);
                    Error::new(failed.kind, operation, message).on(subject).with_retry(failed.retry)
                });
            }
        }
        let (begun, time) = (Instant::now(), cx.clock().now());
        match cx.until(look).await.and_then(|seen| seen) {
            Ok(seen) => {
                let look = Arc::new(Look { begun, time, seen });
                state.keep(Arc::clone(&look));
                Ok(look)
            }
            Err(error) => {
                // The end of this call is not the end of those that wait.
                if cx.check().is_ok() {
                    let failed = Failed { kind: error.kind(), retry: error.retry(), text: error.chain() };
                    state.newest = Some(Newest { ended: Instant::now(), outcome: Err(failed) });
                }
                Err(error)
            }
        }
    }

    /// All that are kept, oldest first.
    ///
    /// # Errors
    /// `Cancelled`, `DeadlineExceeded` by the context.
    pub async fn kept(&self, cx: &RunContext) -> Result<Vec<Arc<Look<T>>>> {
        Ok(cx.until(self.0.lock()).await?.kept.iter().cloned().collect())
    }
}

impl<T> State<T> {
    fn keep(&mut self, look: Arc<Look<T>>) {
        let age = |old: &Look<T>| look.begun.saturating_duration_since(old.begun);
        while self.kept.front().is_some_and(|old| self.kept.len() >= KEPT || age(old) > KEPT_FOR) {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&look));
        self.newest = Some(Newest { ended: Instant::now(), outcome: Ok(look) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const ANEW: Fresh = Fresh::Within(Duration::ZERO);

    async fn look(looks: &Looks<u32>, fresh: Fresh, answer: Result<u32>) -> Result<u32> {
        let cx = RunContext::detached();
        looks.take(&cx, ("look", "x"), fresh, async { answer }).await.map(|look| look.seen)
    }

    async fn kept(looks: &Looks<u32>) -> Vec<u32> {
        looks.kept(&RunContext::detached()).await.unwrap().iter().map(|look| look.seen).collect()
    }

    #[tokio::test]
    async fn a_look_serves_for_a_while() {
        let looks = Looks::default();
        let before = Instant::now();
        assert_eq!(look(&looks, Fresh::Within(HOUR), Ok(1)).await.unwrap(), 1);
        assert_eq!(look(&looks, Fresh::Within(HOUR), Ok(2)).await.unwrap(), 1);
        assert_eq!(look(&looks, Fresh::Since(before), Ok(3)).await.unwrap(), 1);
        assert_eq!(look(&looks, ANEW, Ok(4)).await.unwrap(), 4);
        assert_eq!(look(&looks, Fresh::Since(Instant::now()), Ok(5)).await.unwrap(), 5);
        assert_eq!(kept(&looks).await, [1, 4, 5]);
    }

    #[tokio::test]
    async fn those_who_wait_share_one_look_and_its_error() {
        let looks = Looks::<u32>::default();
        let (cx, calls) = (RunContext::detached(), AtomicU32::new(0));
        let ask = || {
            let look = async {
                calls.fetch_add(1, Ordering::Relaxed);
                // All are waiting by then.
                tokio::task::yield_now().await;
                Err(Error::new(ErrorKind::Denied, "look", "no").on("x").with_retry(Retry::Never))
            };
            looks.take(&cx, ("look", "x"), ANEW, look)
        };
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        for error in [first.unwrap_err(), second.unwrap_err(), third.unwrap_err()] {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(look(&looks, ANEW, Ok(7)).await.unwrap(), 7, "an error does not stay");
    }

    #[tokio::test]
    async fn one_that_was_given_up_is_not_shared() {
        let looks = Looks::<u32>::default();
        let cx = RunContext::detached().with_deadline(Duration::from_millis(5));
        let never = std::future::pending::<Result<u32>>();
        let error = looks.take(&cx, ("look", "x"), ANEW, never).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(look(&looks, Fresh::Within(HOUR), Ok(1)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn memory_has_an_end() {
        let looks = Looks::default();
        for n in 0..2000 {
            look(&looks, ANEW, Ok(n)).await.unwrap();
        }
        assert_eq!(kept(&looks).await, (2000 - 720..2000).collect::<Vec<_>>());
        let later = Look { begun: Instant::now() + HOUR * 2, time: SystemTime::now(), seen: 7 };
        looks.0.lock().await.keep(Arc::new(later));
        assert_eq!(kept(&looks).await, [7]);
    }
}
