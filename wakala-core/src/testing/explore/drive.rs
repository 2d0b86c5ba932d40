//! Plays one schedule: run, go on, take back, take back again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::RUN;
use super::calls::Kind;
use super::ends::{Onlooker, differences};
use super::invariants::{Breach, Law, Owners};
use super::points::Wire;
use super::scene::{Scene, Snapshot};
use super::schedule::{Back, Schedule, Then};
use super::turns::{Flag, Turn};
use super::wraps::{WiredStore, wired};
use crate::store::LeaseState;
use crate::{
    Approval, Engine, Plan, Playbook, Result, Revert, RunHandle, RunId, RunReport, Status, StepId,
    StepOutcome,
};

/// Leases of explored runs.
const LEASE: Duration = Duration::from_secs(60);
/// How often explored runs look into their mailbox.
const MAIL: Duration = Duration::from_secs(15);
/// How often the same is tried once nothing goes wrong any more.
const TRIES: usize = 6;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(300);

/// What is the same in all schedules of a scene.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) plan: Plan,
    /// The plan's hash: to be computed once and not in each schedule.
    pub(super) hash: String,
    pub(super) approval: Approval,
    /// What the run without trouble was like; `None` while that is found out.
    pub(super) calm: Option<Calm>,
}

/// What a run without trouble is like.
#[derive(Clone, Debug)]
pub(super) struct Calm {
    pub(super) calls: Vec<Kind>,
    pub(super) took: Duration,
    after: Snapshot,
    foreign: BTreeSet<StepId>,
}

/// What came of one schedule.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) breach: Option<Breach>,
    /// How many of the troubles were met by a call.
    pub(super) met: usize,
    pub(super) calm: Calm,
    pub(super) timeline: Vec<String>,
}

/// What somebody does next about the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Begin,
    Resume { force: bool },
    Revert,
    Abandon,
}

pub(super) type RunFuture = Pin<Box<dyn Future<Output = Result<RunReport>>>>;

pub(super) struct Process {
    pub(super) number: usize,
    pub(super) future: RunFuture,
    /// When it goes on, where it is suspended.
    pub(super) back: Back,
}

/// The engine of somebody who looks on, or of one process of a run.
pub(super) fn engine(scene: &Scene) -> Engine {
    (scene.engine)(Engine::new())
        .with_clock(Arc::new(scene.clock.clone()))
        .with_store(Arc::clone(&scene.store))
        .with_lease(LEASE)
        .with_mail_interval(MAIL)
}

/// Plays a schedule in a fresh scene; with `recording` it keeps a timeline.
pub(super) fn play(setting: &Setting, scene: &Scene, schedule: &Schedule, recording: bool) -> Played {
    let wire = Wire::new(scene, Some((&setting.plan, &setting.hash)), schedule, recording);
    let before = (scene.snapshot)();
    let onlooker = engine(scene);
    let mut director = Director {
        setting,
        playbook: wired(&scene.playbook, &wire),
        wire: wire.clone(),
        onlooker: Onlooker {
            engine: &onlooker,
            plan: &setting.plan,
            owners: Owners::of(&setting.plan),
            before: &before,
            known: None,
            thorough: schedule.troubles().len() <= 1,
        },
        suspended: Vec::new(),
        awake: Vec::new(),
        polls: 0,
        after: Snapshot::new(),
        foreign: BTreeSet::new(),
    };
    let result = catch_unwind(AssertUnwindSafe(|| director.all()));
    let breach = match result {
        Ok(Ok(())) => None,
        Ok(Err(breach)) => Some(breach),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Some(Breach::of(Law::Panic, text))
        }
    };
    let met = schedule.troubles().len() - wire.unmet();
    let calm =
        Calm { calls: wire.calls(), took: scene.now(), after: director.after, foreign: director.foreign };
    Played { breach, met, calm, timeline: wire.timeline() }
}

/// Plans while one call goes wrong: whatever comes of it, the world is as it was.
pub(super) fn plan(scene: &Scene, schedule: &Schedule) -> (Result<Plan>, Vec<Kind>, Option<Breach>) {
    let wire = Wire::new(scene, None, schedule, false);
    let playbook = wired(&scene.playbook, &wire);
    let before = (scene.snapshot)();
    let store = WiredStore { inner: Arc::clone(&scene.store), wire: wire.clone() };
    let engine = engine(scene).with_store(Arc::new(store));
    wire.process();
    let planned = {
        let mut future = std::pin::pin!(scene.clock.run(engine.plan(&playbook)));
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag);
        loop {
            // Planning has a limit of its own for every call, so it does come to its end.
            if let Poll::Ready(planned) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                break planned;
            }
        }
    };
    let now = (scene.snapshot)();
    let changed: Vec<_> = differences(&before, &now).into_iter().map(str::to_owned).collect();
    let breach = (!changed.is_empty())
        .then(|| Breach::of(Law::PlanReadsOnly, format!("planning changed {}", changed.join(", "))));
    (planned, wire.calls(), breach)
}

/// Plays one schedule.
pub(super) struct Director<'a> {
    pub(super) setting: &'a Setting,
    playbook: Playbook,
    pub(super) wire: Wire,
    pub(super) onlooker: Onlooker<'a>,
    pub(super) suspended: Vec<Process>,
    /// Those that were taken over from and go on beside the one that took over.
    pub(super) awake: Vec<Process>,
    pub(super) polls: u64,
    /// The world after the run, before anything was taken back on purpose.
    after: Snapshot,
    foreign: BTreeSet<StepId>,
}

impl Director<'_> {
    fn all(&mut self) -> Result<(), Breach> {
        // What is there before the first call counts as the beginning of all that follows.
        self.wire.look()?;
        let report = self.until_closed(Act::Begin)?;
        self.after = self.now();
        match &self.setting.calm {
            None if report.status != Status::Succeeded => {
                let what = format!("without any trouble it ends as {}: {}", report.status, report.reason);
                return Err(Breach::of(Law::CalmRun, what));
            }
            Some(calm) if report.status == Status::Succeeded && calm.after != self.after => {
                let others: Vec<_> =
                    differences(&calm.after, &self.after).into_iter().map(str::to_owned).collect();
                let what = format!("it succeeded, and {} is not as without trouble", others.join(", "));
                return Err(Breach::of(Law::SameEnd, what));
            }
            _ => {}
        }
        let report = self.until_closed(Act::Revert)?;
        self.foreign = report
            .steps
            .iter()
            .filter(|step| matches!(step.outcome, StepOutcome::NotOurs(_)))
            .map(|step| step.id.clone())
            .collect();
        let foreign =
            self.setting.calm.as_ref().map_or_else(|| self.foreign.clone(), |calm| calm.foreign.clone());
        let back = self.now();
        self.onlooker.check_back(&report, &back, &foreign)?;
        let report = self.until_closed(Act::Revert)?;
        let again = self.now();
        self.onlooker.check_back(&report, &again, &foreign)?;
        if let Some(key) = differences(&back, &again).first() {
            return Err(Breach::of(
                Law::Undo,
                format!("{key} was back, and changed when it was taken back again"),
            ));
        }
        self.onlooker.check_whole()
    }

    pub(super) fn now(&self) -> Snapshot {
        (self.wire.scene().snapshot)()
    }

    /// Does what is to be done until the run is at an end that nobody need go on from.
    fn until_closed(&mut self, first: Act) -> Result<RunReport, Breach> {
        let mut act = first;
        for _ in 0..TRIES {
            let report = self.pass(act)?;
            let wanted = match first {
                Act::Revert => report.status == Status::Compensated,
                _ => !report.status.is_open(),
            };
            if wanted {
                self.give_back(&report)?;
                return Ok(report);
            }
            act = if first == Act::Revert { Act::Revert } else { Act::Resume { force: false } };
            // What could not be done now may be possible later.
            self.wire.scene().clock.advance(PAUSE);
        }
        let report = self.onlooker.report()?;
        let what = format!("gone on with {TRIES} times, it is still {}: {}", report.status, report.reason);
        Err(Breach::of(Law::End, what))
    }

    /// One act, and whatever must be done until a process has told how it ended.
    fn pass(&mut self, first: Act) -> Result<RunReport, Breach> {
        let mut act = first;
        let mut last = String::new();
        for _ in 0..2 * TRIES {
            let mut process = self.spawn(act);
            let number = process.number;
            self.wire.note(|| format!("      p{number} {act:?}"));
            match self.turn(&mut process)? {
                Turn::Ended(Ok(report)) => {
                    self.wire
                        .note(|| format!("      p{number} ended as {}: {}", report.status, report.reason));
                    let now = self.now();
                    drop(process);
                    if report.status == Status::Superseded {
                        let what = format!(
                            "nobody took over, and the run says {}: {}",
                            report.status, report.reason
                        );
                        return Err(Breach::of(Law::Explained, what));
                    }
                    self.onlooker.check_end(&report, &now)?;
                    return self.finish_suspended(report);
                }
                Turn::Ended(Err(error)) => {
                    last = error.chain();
                    self.wire.note(|| format!("      p{number} refused: {last}"));
                    if self.wire.with_books(|books| books.is_active(number)) {
                        let what = format!("{act:?} was refused after its first effect: {last}");
                        return Err(Breach::of(Law::Explained, what));
                    }
                    self.lapse()?;
                    act = self.next_after_refusal(first, act)?;
                }
                Turn::Crashed(then) => {
                    drop(process);
                    act = self.next_after_loss(first, then)?;
                }
                Turn::Suspended(back) => {
                    self.suspended.push(Process { back, ..process });
                    act = self.next_after_loss(first, Then::Resume)?;
                }
            }
            if let Some(report) = self.is_over(act)? {
                return self.finish_suspended(report);
            }
        }
        Err(Breach::of(Law::End, format!("nothing helps: {act:?} is refused: {last}")))
    }

    /// A run whose process was lost after it had written its end: nothing is left to do but to give back what it holds.
    fn is_over(&mut self, act: Act) -> Result<Option<RunReport>, Breach> {
        if !matches!(act, Act::Resume { .. } | Act::Abandon) {
            return Ok(None);
        }
        let Some(stored) = self.onlooker.stored()? else { return Ok(None) };
        match self.onlooker.ended(&stored) {
            Some(status) if !status.is_open() => Ok(Some(self.onlooker.report()?)),
            _ => Ok(None),
        }
    }

    fn next_after_refusal(&mut self, first: Act, act: Act) -> Result<Act, Breach> {
        let Some(stored) = self.onlooker.stored()? else { return Ok(Act::Begin) };
        let ended = self.onlooker.ended(&stored);
        Ok(match act {
            Act::Begin => Act::Resume { force: false },
            Act::Resume { .. } if first == Act::Revert && ended.is_some() => Act::Revert,
            Act::Abandon => Act::Resume { force: false },
            other => other,
        })
    }

    fn next_after_loss(&mut self, first: Act, then: Then) -> Result<Act, Breach> {
        if then != Then::Force {
            self.lapse()?;
            let now = self.now();
            self.onlooker.check_orphan(&now)?;
        }
        let Some(stored) = self.onlooker.stored()? else { return Ok(Act::Begin) };
        let ended = self.onlooker.ended(&stored);
        Ok(match then {
            // There is nothing to go on with: what was asked for last is asked for again.
            _ if first == Act::Revert && ended.is_some() => Act::Revert,
            Then::Resume => Act::Resume { force: false },
            Then::Force => Act::Resume { force: true },
            Then::Revert => Act::Revert,
            Then::Abandon => Act::Abandon,
        })
    }

    /// Lets time pass until nobody counts as driving the run.
    fn lapse(&mut self) -> Result<(), Breach> {
        for _ in 0..20 {
            let Some(head) = self.onlooker.head() else { return Ok(()) };
            let LeaseState::Held { left, .. } = head.lease else { return Ok(()) };
            self.wire.scene().clock.advance(left + Duration::from_millis(1));
            self.wire.look()?;
        }
        Err(Breach::of(Law::Lease, "the lease of a process that is gone does not lapse"))
    }

    /// What is at its end holds nothing, or lets go of it when somebody goes on with the run.
    fn give_back(&mut self, report: &RunReport) -> Result<(), Breach> {
        let mut found = self.onlooker.check_given_back(report);
        for _ in 0..3 {
            if found.is_ok() {
                break;
            }
            self.lapse()?;
            let mut process = self.spawn(Act::Resume { force: false });
            if let Turn::Suspended(back) = self.turn(&mut process)? {
                self.suspended.push(Process { back, ..process });
                self.lapse()?;
            }
            found = self.onlooker.check_given_back(report);
        }
        self.finish_suspended(report.clone())?;
        found
    }

    fn spawn(&self, act: Act) -> Process {
        let number = self.wire.process();
        let scene = self.wire.scene();
        let store = WiredStore { inner: Arc::clone(&scene.store), wire: self.wire.clone() };
        let engine = engine(scene).with_store(Arc::new(store)).with_owner(format!("process {number}"));
        let handle = RunHandle::new(RUN).by("explore");
        let playbook = match &scene.rebuild {
            Some(rebuild) => wired(&rebuild(), &self.wire),
            None => self.playbook.clone(),
        };
        let future: RunFuture = match act {
            Act::Begin => {
                let (plan, approval) = (self.setting.plan.clone(), self.setting.approval.clone());
                Box::pin(async move { engine.run(&playbook, &plan, &approval, &handle).await })
            }
            Act::Resume { force } => {
                let handle = if force { handle.by_force() } else { handle };
                Box::pin(async move { engine.resume(&playbook, &handle).await })
            }
            Act::Revert => {
                Box::pin(async move { engine.revert(&playbook, &handle, Revert::Everything).await })
            }
            Act::Abandon => Box::pin(async move {
                engine.abandon(&handle, "explored").await?;
                engine.report(&RunId::from(RUN)).await
            }),
        };
        Process { number, future, back: Back::Late }
    }
}
