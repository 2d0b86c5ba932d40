//! Walks over a playbook, and keeps what must go on beside it: the lease, the mailbox, the guards of the whole run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::sync::{Mutex, watch};
use tracing::Instrument as _;

use super::journal::Journal;
use super::lease::LeaseKeeper;
use super::mailbox::Decision;
use super::{Engine, RunHandle, RunReport, Status, Stop};
use crate::limits::Limits;
use crate::playbook::{Gate, Node, Part};
use crate::store::{Record, Unwind};
use crate::{
    Control, Error, ErrorKind, OnFailure, Plan, PlannedStep, Playbook, Result, RunContext, StepId, StepNode,
};

/// How long one call may take before its fate counts as unknown.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The gate before everything else, where a plan is to be approved.
pub(super) const PLAN_GATE: &str = "plan";

/// How one part of the playbook ended. An error instead means that the journal is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Stopped,
}

/// Why a run stops before its end although nothing failed.
#[derive(Clone, Debug)]
pub(super) enum Halt {
    /// Somebody wants all to stay as it is: also what is being taken back.
    Abandon(String, String),
    /// A guard of the whole run.
    Guard(String),
    /// Somebody asked: who, and why.
    Stop(Stop, String, String),
}

impl Halt {
    /// What was asked later may still go before what was asked first.
    fn rank(&self) -> u8 {
        match self {
            Self::Guard(_) => 0,
            Self::Stop(..) => 1,
            Self::Abandon(..) => 2,
        }
    }
}

pub(super) struct Interpreter<'a> {
    pub(super) engine: &'a Engine,
    pub(super) playbook: &'a Playbook,
    pub(super) plan: &'a Plan,
    pub(super) nodes: BTreeMap<StepId, &'a StepNode>,
    pub(super) planned: BTreeMap<StepId, &'a PlannedStep>,
    pub(super) journal: Journal<'a>,
    pub(super) lease: LeaseKeeper,
    pub(super) run: &'a RunHandle,
    pub(super) cx: RunContext,
    pub(super) paused: watch::Sender<bool>,
    pub(super) decision: watch::Sender<Option<(StepId, Decision)>>,
    /// Held by the gate that waits.
    pub(super) at_gate: Mutex<()>,
    /// How many soaks are going on: they ask the guards of the whole run too.
    pub(super) soaking: watch::Sender<usize>,
    halt: StdMutex<Option<Halt>>,
    /// Why the run did not go to its end, first reason first.
    pub(super) reasons: Mutex<Vec<String>>,
    /// What failed and is only noted.
    pub(super) notes: Mutex<Vec<String>>,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        playbook: &'a Playbook,
        plan: &'a Plan,
        journal: Journal<'a>,
        lease: LeaseKeeper,
        run: &'a RunHandle,
    ) -> Self {
        let floors = engine.floors_with(plan.floors());
        let limits = if journal.epoch == 1 {
            Limits::new(floors)
        } else {
            Limits::used_up(floors, engine.clock.monotonic())
        };
        let cx = RunContext::new(run.id().clone(), Arc::clone(&engine.clock))
            .of_playbook(plan.playbook())
            .with_observer(Arc::clone(&engine.observer))
            .with_limits(limits)
            .with_cancellation(run.cancellation().child_token());
        journal.trips(cx.cancellation().clone());
        Self {
            engine,
            playbook,
            plan,
            nodes: playbook.steps().into_iter().map(|node| (node.step.id(), node)).collect(),
            planned: plan.steps().iter().map(|planned| (planned.step.id.clone(), planned)).collect(),
            journal,
            lease,
            run,
            cx,
            paused: watch::Sender::new(false),
            decision: watch::Sender::new(None),
            at_gate: Mutex::default(),
            soaking: watch::Sender::new(0),
            halt: StdMutex::default(),
            reasons: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// Goes from where the journal is to the end.
    pub(super) async fn run(self) -> RunReport {
        let span = tracing::info_span!(
            "wakala.run",
            wakala.run.id = %self.run.id(),
            wakala.playbook = self.plan.playbook(),
            wakala.run.epoch = self.journal.epoch
        );
        let work = async {
            let end = self.attended(self.forward(), true).await;
            self.report(end).await
        };
        work.instrument(span).await
    }

    /// Takes back what is in scope.
    pub(super) async fn revert(self, scope: Unwind) -> RunReport {
        let why = match scope {
            Unwind::Temporary => "what was temporary is taken back, as asked",
            _ => "everything is taken back, as asked",
        };
        let by = if self.run.who().is_empty() { String::new() } else { format!(" by {}", self.run.who()) };
        let span = tracing::info_span!(
            "wakala.revert",
            wakala.run.id = %self.run.id(),
            wakala.playbook = self.plan.playbook(),
            wakala.run.epoch = self.journal.epoch
        );
        let work = async {
            let end = self.attended(self.take_back(scope, &format!("{why}{by}")), false).await;
            self.report(end).await
        };
        work.instrument(span).await
    }

    /// Does `work` while the lease is kept, the mailbox read and the guards of the whole run asked.
    async fn attended<T>(&self, work: impl Future<Output = T>, guarded: bool) -> T {
        let beside = async {
            let guards =
                async { if guarded { self.watch_over().await } else { std::future::pending().await } };
            futures::join!(self.keep_lease(), self.attend(), guards);
        };
        tokio::select! {
            biased;
            done = work => done,
            () = beside => unreachable!("what goes on beside a run has no end of its own"),
        }
    }

    async fn forward(&self) -> Result<(Status, String)> {
        let (stop, abandoned_by, paused) =
            self.journal.read(|state| (state.stop, state.abandoned.clone(), state.paused)).await;
        let (unwinding, approved) =
            self.journal.read(|state| (state.unwinding.clone(), state.approval.is_some())).await;
        // What an earlier process was asked, or had begun to take back, is still to be done.
        if let Some((by, reason)) = abandoned_by {
            return Ok(abandoned(&by, &reason));
        }
        if let Some((scope, why)) = unwinding {
            return self.take_back(scope, &why).await;
        }
        if let Some(stop) = stop {
            self.halt(Halt::Stop(stop, String::new(), "as was asked before".to_owned()));
        }
        self.paused.send_replace(paused);
        if !approved {
            match self.wait_at(&self.plan_gate()).await? {
                Some(decision) if decision.approved => {}
                Some(Decision { by, reason, .. }) => {
                    let who = if by.is_empty() { String::new() } else { format!(" by {by}") };
                    return Ok((
                        Status::Stopped,
                        format!("the plan was not approved{who}: {reason}; nothing was done"),
                    ));
                }
                None => return self.conclude(End::Stopped).await,
            }
        }
        let end = self.part(self.playbook.root()).await?;
        self.conclude(end).await
    }

    /// What follows from how the steps ended.
    async fn conclude(&self, end: End) -> Result<(Status, String)> {
        self.journal.check()?;
        let why = self.reasons.lock().await.join("; ");
        match (end, self.halted()) {
            (End::Done, _) => Ok((Status::Succeeded, self.praise().await)),
            (_, Some(Halt::Abandon(by, reason))) => Ok(abandoned(&by, &reason)),
            // What a person asks for comes before what the playbook says, also where a step failed meanwhile.
            (_, Some(Halt::Stop(stop, by, reason))) => {
                if self.journal.read(|state| state.stop.is_none()).await {
                    let control =
                        if stop == Stop::TakeBack { Control::CancelRevert } else { Control::CancelKeep };
                    let (number, by, reason) = (None, by.clone(), reason.clone());
                    self.journal.write(Record::Controlled { number, control, by, reason }).await?;
                }
                let who = if by.is_empty() { String::new() } else { format!(" by {by}") };
                let (kept, why) = match end {
                    End::Failed => (Status::Held, format!("{why}; stopped as asked{who}")),
                    _ => (Status::Stopped, format!("stopped as asked{who}")),
                };
                match stop {
                    Stop::TakeBack => {
                        self.take_back(Unwind::Everything, &format!("{why}, and taken back")).await
                    }
                    Stop::Keep => Ok((kept, format!("{why}; what was done is kept"))),
                }
            }
            (_, Some(Halt::Guard(guard))) => {
                let why = if why.is_empty() { guard } else { format!("{why}; {guard}") };
                self.on_failure(&why).await
            }
            (End::Stopped | End::Failed, None) => self.on_failure(&why).await,
        }
    }

    async fn on_failure(&self, why: &str) -> Result<(Status, String)> {
        match self.plan.on_failure() {
            OnFailure::KeepAndHold => Ok((Status::Held, format!("{why}; what was done is kept"))),
            OnFailure::TakeBack => self.take_back(Unwind::Everything, &format!("{why}; taken back")).await,
            OnFailure::BackToHealthy => {
                let healthy = self.journal.read(|state| state.healthy.is_some()).await;
                let place = if healthy { "where the last soak had passed" } else { "where it began" };
                self.take_back(Unwind::SinceHealthy, &format!("{why}; back to {place}, and stopped there"))
                    .await
            }
        }
    }

    async fn praise(&self) -> String {
        let notes = self.notes.lock().await;
        if notes.is_empty() {
            return "every step is in force and every soak passed".to_owned();
        }
        format!("every other step is in force and every soak passed; {}, as is only noted", notes.join("; "))
    }

    async fn report(&self, end: Result<(Status, String)>) -> RunReport {
        let (status, reason) = end.unwrap_or_else(|error| (Status::Held, error.chain()));
        let written = self.journal.end(status, reason.clone()).await;
        let entries = self.journal.entries().await;
        let mut report = self.journal.read(|state| RunReport::of(self.run.id(), state, entries)).await;
        if let Err(error) = written {
            // The journal lacks its end, so the report cannot take it from there.
            if self.journal.is_fenced() {
                (report.status, report.reason) = (Status::Superseded, error.chain());
            } else {
                report.status = Status::Held;
                report.reason = format!("{reason}; {}", error.chain());
            }
        }
        report
    }

    fn part<'s>(&'s self, part: &'s Part) -> BoxFuture<'s, Result<End>> {
        Box::pin(async move {
            match &part.0 {
                Node::Step(node) => self.step(node).await,
                Node::Soak(soak) => self.soak(soak).await,
                Node::Gate(gate) => self.gate(gate).await,
                Node::Sequence(parts) => {
                    for part in parts {
                        match self.part(part).await? {
                            End::Done => {}
                            early => return Ok(early),
                        }
                    }
                    Ok(End::Done)
                }
                Node::Together(parts) => {
                    let ends = join_all(parts.iter().map(|part| self.part(part))).await;
                    let mut together = End::Done;
                    for end in ends {
                        together = match (together, end?) {
                            (End::Failed, _) | (_, End::Failed) => End::Failed,
                            (End::Stopped, _) | (_, End::Stopped) => End::Stopped,
                            _ => End::Done,
                        };
                    }
                    Ok(together)
                }
            }
        })
    }

    async fn gate(&self, gate: &Gate) -> Result<End> {
        if self.journal.read(|state| state.gates.get(&gate.id) == Some(&true)).await {
            return Ok(End::Done);
        }
        let Some(Decision { approved, by, reason }) = self.wait_at(gate).await? else {
            return Ok(End::Stopped);
        };
        if approved {
            return Ok(End::Done);
        }
        let who = if by.is_empty() { String::new() } else { format!(" by {by}") };
        self.reasons.lock().await.push(format!("gate {} was not passed{who} ({reason})", gate.id));
        Ok(End::Failed)
    }

    /// Stops the run where it is.
    pub(super) fn halt(&self, halt: Halt) {
        let mut kept = self.halt.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.rank() < halt.rank()) {
            *kept = Some(halt);
        }
        self.cx.cancellation().cancel();
    }

    /// Why the run is to stop, where it is.
    pub(super) fn halted(&self) -> Option<Halt> {
        let asked = || {
            let stop = self.run.stop_requested()?;
            Some(Halt::Stop(stop, self.run.who().to_owned(), String::new()))
        };
        let kept = self.halt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lost = || Some(Halt::Guard(self.journal.check().err()?.chain()));
        kept.or_else(asked).or_else(lost)
    }

    /// Returns once nothing more is in the way of an effect; `false` where the run halts instead.
    pub(super) async fn wait_while_paused(&self) -> bool {
        let mut paused = self.paused.subscribe();
        tokio::select! {
            biased;
            () = self.cx.cancellation().cancelled() => false,
            _ = paused.wait_for(|paused| !paused) => self.halted().is_none(),
        }
    }
}

/// How an abandoned run ends.
pub(super) fn abandoned(by: &str, reason: &str) -> (Status, String) {
    (Status::Abandoned, format!("abandoned by {by} ({reason}); everything is left as it is"))
}

/// The error for a call that was given up: it may yet take effect.
pub(super) fn no_answer(operation: &'static str, limit: Duration) -> Error {
    let limit = humantime::format_duration(limit);
    Error::new(ErrorKind::DeadlineExceeded, operation, format!("no answer within {limit}"))
}

/// The pause after the given number of failures in a row, from 1: half a second, doubled each time, at most 15 s.
pub(super) fn backoff(failures: u32) -> Duration {
    (Duration::from_millis(250) * 2u32.saturating_pow(failures.min(16))).min(Duration::from_secs(15))
}
