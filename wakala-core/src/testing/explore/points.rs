//! The calls of a run, numbered, and what goes wrong at each.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::calls::{Answer, Call, Kind, fail};
use super::invariants::{Books, Breach, Half, Law, Owners};
use super::scene::{Dark, Scene, Snapshot};
use super::schedule::{Back, Schedule, Then, Trouble};
use crate::testing::lock;
use crate::{Clock as _, Control, Plan, Result, StepId};

/// How long a run that was told to pause stays so.
const PAUSE: Duration = Duration::from_secs(600);

/// What the one who drives a run is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Crashed(Then),
    Suspended(Back),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Alive,
    Dead,
    Suspended,
    /// It was suspended, and somebody took over meanwhile.
    Stale,
}

/// Stands between the engine and everything that it calls. Clones are the same wire.
#[derive(Clone)]
pub(super) struct Wire(Arc<Shared>);

struct Shared {
    scene: Scene,
    owners: Owners,
    recording: bool,
    state: Mutex<State>,
}

struct State {
    troubles: Vec<(u64, Trouble)>,
    postponed: Option<Trouble>,
    calls: Vec<Kind>,
    /// The processes so far; calls of the last one are numbered and meet troubles.
    fates: Vec<Fate>,
    polled: usize,
    signal: Option<Signal>,
    /// Of calls that wait for their process to go on.
    wakers: Vec<Waker>,
    /// Calls under way that change the world, by process.
    under_way: BTreeMap<usize, u32>,
    /// The epochs of the leases that processes were given.
    leases: BTreeMap<usize, u64>,
    /// Who was given a lease last, and at which call.
    leased_at: Option<(usize, usize)>,
    letters: Vec<(Duration, Control)>,
    dark_until: Duration,
    books: Books,
    timeline: Vec<String>,
}

impl Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    pub(super) fn new(
        scene: &Scene,
        plan: Option<(&Plan, &str)>,
        schedule: &Schedule,
        recording: bool,
    ) -> Self {
        // A store that loses what it was given does so without trouble too.
        let thorough = schedule.troubles().len() <= 1;
        let state = State {
            troubles: schedule.troubles().to_vec(),
            postponed: None,
            calls: Vec::new(),
            fates: Vec::new(),
            polled: 0,
            signal: None,
            wakers: Vec::new(),
            under_way: BTreeMap::new(),
            leases: BTreeMap::new(),
            leased_at: None,
            letters: Vec::new(),
            dark_until: Duration::ZERO,
            books: Books::new(scene, plan, thorough),
            timeline: Vec::new(),
        };
        let owners = plan.map(|(plan, _)| Owners::of(plan)).unwrap_or_default();
        Self(Arc::new(Shared { scene: scene.clone(), owners, recording, state: Mutex::new(state) }))
    }

    pub(super) fn scene(&self) -> &Scene {
        &self.0.scene
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    // ---- for whoever drives the run

    /// A new process: the one whose calls meet troubles from now on.
    pub(super) fn process(&self) -> usize {
        let mut state = self.state();
        state.fates.push(Fate::Alive);
        state.fates.len() - 1
    }

    pub(super) fn enter(&self, process: usize) {
        self.state().polled = process;
    }

    pub(super) fn take_signal(&self) -> Option<Signal> {
        self.state().signal.take()
    }

    pub(super) fn is_dead(&self, process: usize) -> bool {
        self.state().fates[process] == Fate::Dead
    }

    /// Lets a suspended process go on, and says whether somebody took the run over from it: whether `epoch` is the one
    /// of another lease than its own.
    pub(super) fn thaw(&self, process: usize, epoch: u64) -> bool {
        let (wakers, stale) = {
            let mut state = self.state();
            let stale = state.leases.get(&process).is_some_and(|own| *own < epoch);
            state.fates[process] = if stale { Fate::Stale } else { Fate::Alive };
            (std::mem::take(&mut state.wakers), stale)
        };
        wakers.into_iter().for_each(Waker::wake);
        stale
    }

    /// Whether a process had a lease of the run, and `epoch` is that of a later one.
    pub(super) fn is_rival(&self, process: usize, epoch: u64) -> bool {
        self.state().leases.get(&process).is_some_and(|own| *own < epoch)
    }

    /// The store gave a process the lease.
    pub(super) fn leased(&self, process: usize, epoch: u64) {
        let mut state = self.state();
        state.leases.insert(process, epoch);
        state.leased_at = Some((process, state.calls.len()));
    }

    /// What is to be asked of the run by now.
    pub(super) fn due_letters(&self) -> Vec<Control> {
        let now = self.0.scene.now();
        let mut state = self.state();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.letters).into_iter().partition(|(at, _)| *at <= now);
        state.letters = later;
        due.into_iter().map(|(_, control)| control).collect()
    }

    /// Looks at the world, and says whether anything was found to be wrong so far.
    pub(super) fn look(&self) -> Result<(), Breach> {
        let scene = &self.0.scene;
        let sizes = scene.sizes.as_ref().map(|sizes| sizes());
        let broken = scene.checks.iter().find_map(|check| check().err());
        let now = scene.now();
        let mut state = self.state();
        if let Some(sizes) = sizes {
            state.books.sizes(&sizes, now);
        }
        if let Some(what) = broken {
            state.books.breach(Law::Check, what);
        }
        state.books.found()
    }

    pub(super) fn with_books<T>(&self, read: impl FnOnce(&mut Books) -> T) -> T {
        read(&mut self.state().books)
    }

    pub(super) fn calls(&self) -> Vec<Kind> {
        self.state().calls.clone()
    }

    /// How many calls the present process has made since the store gave it the lease.
    pub(super) fn calls_since_lease(&self) -> Option<usize> {
        let state = self.state();
        let (process, calls) = state.leased_at?;
        (process + 1 == state.fates.len()).then(|| state.calls.len() - calls)
    }

    pub(super) fn unmet(&self) -> usize {
        let state = self.state();
        state.troubles.len() + usize::from(state.postponed.is_some())
    }

    pub(super) fn timeline(&self) -> Vec<String> {
        std::mem::take(&mut self.state().timeline)
    }

    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        if self.0.recording {
            let now = self.0.scene.now();
            let line = format!("{:>10.3}s  {}", now.as_secs_f64(), text());
            self.state().timeline.push(line);
        }
    }

    // ---- for the calls

    /// Makes one call, or lets it go wrong.
    pub(super) async fn call<T: Answer>(&self, call: Call<'_>, inner: impl Future<Output = T> + Send) -> T {
        let process = self.state().polled;
        self.alive(process).await;
        let (number, trouble) = self.arrive(process, call);
        self.note(|| {
            let what = trouble.map(|trouble| format!("   <-- {trouble}")).unwrap_or_default();
            format!("{number:>5} p{process} {call}{what}")
        });
        let answer = match trouble {
            None => inner.await,
            Some(Trouble::CrashBefore(then)) => self.crash(process, then).await,
            Some(Trouble::CrashAfter(then)) => {
                inner.await;
                self.crash(process, then).await
            }
            Some(Trouble::StaleBefore(back)) => {
                self.suspend(process, back).await;
                inner.await
            }
            Some(Trouble::StaleAfter(back)) => {
                let answer = inner.await;
                self.suspend(process, back).await;
                answer
            }
            Some(Trouble::Fail(fault)) => fail(fault, call, inner).await,
            Some(Trouble::Dark(span)) => {
                self.darken(span, Dark::Error);
                inner.await
            }
            Some(Trouble::Silent(span)) => {
                self.darken(span, Dark::Silence);
                inner.await
            }
            Some(Trouble::Pause) => {
                self.write_letter(Duration::ZERO, Control::Pause);
                self.write_letter(PAUSE, Control::Resume);
                inner.await
            }
            Some(Trouble::CancelKeep) => {
                self.write_letter(Duration::ZERO, Control::CancelKeep);
                inner.await
            }
            Some(Trouble::CancelRevert) => {
                self.write_letter(Duration::ZERO, Control::CancelRevert);
                inner.await
            }
            Some(Trouble::Abandon) => {
                self.write_letter(Duration::ZERO, Control::Abandon);
                inner.await
            }
        };
        self.note(|| format!("      p{process}   {}", answer.describe()));
        answer
    }

    /// The number of a call, and what goes wrong at it.
    fn arrive(&self, process: usize, call: Call<'_>) -> (usize, Option<Trouble>) {
        let mut state = self.state();
        if process + 1 != state.fates.len() {
            return (0, None);
        }
        state.calls.push(call.kind());
        let number = state.calls.len();
        let met = state.troubles.iter().position(|(point, _)| *point == number as u64);
        let mut trouble = met.map(|place| state.troubles.remove(place).1).or_else(|| state.postponed.take());
        if matches!(trouble, Some(Trouble::StaleBefore(_) | Trouble::StaleAfter(_))) {
            let writes = state.under_way.get(&process).is_some_and(|count| *count > 0);
            if writes || !call.is_fair_for_stale() {
                state.postponed = trouble.take();
            }
        }
        (number, trouble)
    }

    /// Returns at once for a process that is alive, once it goes on for one that is suspended, and never for one that is
    /// gone.
    async fn alive(&self, process: usize) {
        poll_fn(|cx| {
            let mut state = self.state();
            match state.fates[process] {
                Fate::Alive | Fate::Stale => Poll::Ready(()),
                Fate::Dead => Poll::Pending,
                Fate::Suspended => {
                    state.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
    }

    async fn crash<T>(&self, process: usize, then: Then) -> T {
        {
            let mut state = self.state();
            state.fates[process] = Fate::Dead;
            if process + 1 == state.fates.len() {
                state.signal.get_or_insert(Signal::Crashed(then));
            }
        }
        pending().await
    }

    async fn suspend(&self, process: usize, back: Back) {
        {
            let mut state = self.state();
            // One that others took over from goes on to its end.
            if process + 1 != state.fates.len() {
                return;
            }
            state.fates[process] = Fate::Suspended;
            state.signal.get_or_insert(Signal::Suspended(back));
        }
        self.alive(process).await;
    }

    fn darken(&self, span: Duration, how: Dark) {
        let scene = &self.0.scene;
        match &scene.blackout {
            Some(blackout) => blackout.darken(scene.clock.now(), span, how),
            None => self.state().dark_until = scene.now() + span,
        }
    }

    /// Whether guards cannot ask their sources; only in a scene without a blackout of its own.
    pub(super) fn is_dark(&self) -> bool {
        self.0.scene.now() < self.state().dark_until
    }

    /// How often a source said nothing because of a blackout.
    pub(super) fn refused(&self) -> u64 {
        self.0.scene.blackout.as_ref().map_or(0, super::Blackout::refused)
    }

    pub(super) fn write_letter(&self, after: Duration, control: Control) {
        let at = self.0.scene.now() + after;
        self.state().letters.push((at, control));
    }

    /// Makes a call that changes the world, and looks at what it changes.
    pub(super) async fn watched<T>(
        &self,
        step: &StepId,
        half: Half,
        mut call: Pin<Box<dyn Future<Output = Result<T>> + Send + '_>>,
    ) -> Result<T> {
        let process = self.state().polled;
        let stale = self.state().fates[process] == Fate::Stale;
        let _flight = Flight::of(self, process);
        self.with_books(|books| books.begun(step, half, process, stale));
        let Shared { scene: Scene { snapshot, .. }, owners, .. } = &*self.0;
        let own = |all: Snapshot| -> Snapshot {
            all.into_iter().filter(|(key, _)| owners.is_of(step, key)).collect()
        };
        poll_fn(|cx| {
            let before = own(snapshot());
            let answer = call.as_mut().poll(cx);
            let after = own(snapshot());
            if before != after {
                self.note(|| format!("      p{process}   {step} changed: {before:?} -> {after:?}"));
                self.with_books(|books| books.changed(step, half, process, stale));
            }
            answer
        })
        .await
    }

    /// A line that the store has.
    pub(super) fn written(&self, process: usize, seq: u64, body: &str) {
        let (now, recording) = (self.0.scene.now(), self.0.recording);
        let stale = self.state().fates[process] == Fate::Stale;
        let (waiting, text) =
            self.with_books(|books| books.written((seq, body), process, stale, now, recording));
        if let Some(text) = text {
            self.note(|| format!("      p{process}   | {text}"));
        }
        if let Some(approval) = waiting {
            self.write_letter(Duration::from_secs(20), approval);
        }
    }

    pub(super) fn polled(&self) -> usize {
        self.state().polled
    }
}

/// Counts a call under way for as long as it lives.
struct Flight {
    wire: Wire,
    process: usize,
}

impl Flight {
    fn of(wire: &Wire, process: usize) -> Self {
        *wire.state().under_way.entry(process).or_default() += 1;
        Self { wire: wire.clone(), process }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(count) = self.wire.state().under_way.get_mut(&self.process) {
            *count -= 1;
        }
    }
}
