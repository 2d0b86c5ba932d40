//! A clock that stands still until it is told to move.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::Clock;

/// A clock that stands still until it is told to move: virtual time for tests and simulations.
///
/// Either move it by hand with [`advance`](Self::advance), or let [`run`](Self::run) do it: it polls a future and,
/// whenever nothing can go on without time passing, jumps to the next moment that somebody sleeps for. An hour of
/// soak then takes as long as the work in it. Clones share the same time.
///
/// ```
/// use std::time::Duration;
/// use wakala_core::{Clock, ManualClock};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = ManualClock::default();
/// clock.run(clock.sleep(Duration::from_secs(3600))).await;
/// assert_eq!(clock.monotonic(), Duration::from_secs(3600));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    epoch: SystemTime,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    next_id: u64,
    // By deadline, then by order of registration: which sleeper wakes first never depends on chance.
    sleepers: BTreeMap<(Duration, u64), Waker>,
}

impl ManualClock {
    /// A clock that shows `epoch` and stands still.
    pub fn new(epoch: SystemTime) -> Self {
        Self { epoch, state: Arc::default() }
    }

    /// Moves the clock on by `duration` and wakes whoever slept until then.
    pub fn advance(&self, duration: Duration) {
        let target = self.state().elapsed + duration;
        self.move_to(target);
    }

    /// Moves the clock to the next moment that somebody sleeps for; `false` where nobody sleeps.
    pub fn advance_to_next(&self) -> bool {
        let next = self.state().sleepers.keys().next().map(|&(deadline, _)| deadline);
        next.is_some_and(|deadline| {
            self.move_to(deadline);
            true
        })
    }

    /// Runs `future` to its end, moving the clock whenever nothing can go on without it.
    ///
    /// The future may hold any number of concurrent parts, as long as they are polled by it: a spawned task is not
    /// seen to be busy, and time goes on meanwhile.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let signal =
            Arc::new(Signal { woken: AtomicBool::new(false), outer: Mutex::new(Waker::noop().clone()) });
        let waker = Waker::from(Arc::clone(&signal));
        poll_fn(move |outer| {
            lock(&signal.outer).clone_from(outer.waker());
            signal.woken.store(false, Ordering::SeqCst);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(output);
            }
            if !signal.woken.load(Ordering::SeqCst) && !self.advance_to_next() {
                return Poll::Pending;
            }
            // Back through the executor and not in a loop here: a part that gave up its turn because of tokio's
            // cooperative budget gets a fresh one only there.
            outer.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    fn move_to(&self, target: Duration) {
        let woken = {
            let mut state = self.state();
            state.elapsed = state.elapsed.max(target);
            let later = state.sleepers.split_off(&(target, u64::MAX));
            std::mem::replace(&mut state.sleepers, later)
        };
        // Outside the lock: a waker may poll at once and ask for the time.
        woken.into_values().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Default for ManualClock {
    /// Starts on 2026-01-01T00:00:00Z.
    fn default() -> Self {
        Self::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.epoch + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.state().elapsed
    }

    async fn sleep(&self, duration: Duration) {
        let deadline = self.monotonic() + duration;
        Sleep { clock: self.clone(), deadline, id: None }.await;
    }
}

struct Sleep {
    clock: ManualClock,
    deadline: Duration,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut state = clock.state();
        if state.elapsed >= self.deadline {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            state.next_id += 1;
            state.next_id
        });
        state.sleepers.insert((self.deadline, id), cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // A sleeper that gave up must not hold the clock at its deadline.
        if let Some(id) = self.id {
            self.clock.state().sleepers.remove(&(self.deadline, id));
        }
    }
}

struct Signal {
    woken: AtomicBool,
    outer: Mutex<Waker>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        lock(&self.outer).wake_by_ref();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while these locks are held, so the data is whole even where the flag says otherwise.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn run_passes_time_only_when_nothing_else_can_go_on() {
        let clock = ManualClock::default();
        let order = Mutex::new(Vec::new());
        let part = |name: &'static str, delays: &'static [u64]| {
            let (clock, order) = (&clock, &order);
            async move {
                for &delay in delays {
                    clock.sleep(SECOND * u32::try_from(delay).unwrap()).await;
                    order.lock().unwrap().push((name, clock.monotonic().as_secs()));
                }
            }
        };
        clock.run(async { tokio::join!(part("a", &[3, 3]), part("b", &[2, 2, 2])) }).await;
        let expected = vec![("b", 2), ("a", 3), ("b", 4), ("a", 6), ("b", 6)];
        let mut seen = order.into_inner().unwrap();
        seen[3..].sort_unstable();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn a_dropped_sleeper_does_not_hold_the_clock() {
        let clock = ManualClock::default();
        clock
            .run(async {
                tokio::select! {
                    () = clock.sleep(SECOND) => {}
                    () = clock.sleep(SECOND * 60) => {}
                }
                clock.sleep(SECOND).await;
            })
            .await;
        assert_eq!(clock.monotonic(), SECOND * 2);
        assert!(!clock.advance_to_next());
    }

    #[tokio::test]
    async fn run_waits_for_the_outside_world_without_time() {
        let clock = ManualClock::default();
        let (tx, rx) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { tx.send(7) });
        assert_eq!(clock.run(rx).await, Ok(7));
        assert_eq!(clock.monotonic(), Duration::ZERO);
    }
}
