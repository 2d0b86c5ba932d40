//! Walks over a playbook and does its steps: intent before effect, observe before repeating.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::sync::Mutex;

use super::journal::Journal;
use super::{Engine, Revert, RunHandle, RunReport, Status, Stop};
use crate::clock::within;
use crate::event::Notice;
use crate::playbook::{Node, Part};
use crate::step::drifted;
use crate::store::{EffectKnown, Failure, Record};
use crate::{
    Applied, Control, Error, ErrorKind, Observed, OnFailure, Phase, Plan, PlannedStep, Result, Retry,
    RunContext, StepId, StepNode,
};

/// How long one call may take before its fate counts as unknown.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// How one part of the playbook ended. An error instead means that the journal is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    Stopped,
}

pub(super) struct Interpreter<'a> {
    pub(super) plan: &'a Plan,
    pub(super) nodes: BTreeMap<StepId, &'a StepNode>,
    pub(super) journal: Journal<'a>,
    pub(super) run: &'a RunHandle,
    pub(super) cx: RunContext,
    /// Why the run did not go to its end, first reason first.
    pub(super) reasons: Mutex<Vec<String>>,
    /// What failed and is only noted.
    notes: Mutex<Vec<String>>,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        plan: &'a Plan,
        nodes: BTreeMap<StepId, &'a StepNode>,
        journal: Journal<'a>,
        run: &'a RunHandle,
    ) -> Self {
        let cx = RunContext::new(run.id().clone(), Arc::clone(&engine.clock))
            .with_observer(Arc::clone(&engine.observer))
            .with_cancellation(run.cancellation().clone());
        Self { plan, nodes, journal, run, cx, reasons: Mutex::default(), notes: Mutex::default() }
    }

    pub(super) async fn run(self, root: &Part) -> RunReport {
        let end = match self.part(root).await {
            Ok(end) => self.conclude(end).await,
            Err(error) => Err(error),
        };
        self.report(end).await
    }

    pub(super) async fn revert(self, scope: Revert) -> RunReport {
        let why = match scope {
            Revert::Everything => "everything is taken back, as asked",
            Revert::Temporary => "what was temporary is taken back, as asked",
        };
        let end =
            self.take_back(|policy| scope == Revert::Everything || policy.temporary.is_some(), why).await;
        self.report(end).await
    }

    /// What follows from how the steps ended.
    async fn conclude(&self, end: End) -> Result<(Status, String)> {
        let why = self.reasons.lock().await.join("; ");
        match (end, self.run.stop_requested()) {
            (End::Done, _) => Ok((Status::Succeeded, self.praise().await)),
            // What a person asks for comes before what the playbook says, also where a step failed meanwhile.
            (End::Stopped | End::Failed, Some(stop)) => {
                let revert = stop == Stop::TakeBack;
                let control = if revert { Control::CancelRevert } else { Control::CancelKeep };
                let (by, reason) = (String::new(), String::new());
                self.journal.write(Record::Controlled { number: None, control, by, reason }).await?;
                let (kept, why) = match end {
                    End::Failed => (Status::Held, format!("{why}; stopped as asked")),
                    _ => (Status::Stopped, "stopped as asked".to_owned()),
                };
                if revert {
                    self.take_back(|_| true, &format!("{why}, and taken back")).await
                } else {
                    Ok((kept, format!("{why}; what was done is kept")))
                }
            }
            (End::Failed, None) if self.plan.on_failure() == OnFailure::TakeBack => {
                self.take_back(|_| true, &format!("{why}; taken back")).await
            }
            (End::Stopped | End::Failed, None) => Ok((Status::Held, format!("{why}; what was done is kept"))),
        }
    }

    async fn praise(&self) -> String {
        let notes = self.notes.lock().await;
        if notes.is_empty() {
            return "every step is in force and every soak passed".to_owned();
        }
        format!("every other step is in force and every soak passed; {}, as is only noted", notes.join("; "))
    }

    async fn report(self, end: Result<(Status, String)>) -> RunReport {
        let (status, reason) = end.unwrap_or_else(|error| (Status::Held, error.chain()));
        let written = self.journal.end(status, reason.clone()).await;
        let entries = self.journal.entries().await;
        let state = self.journal.state().await.expect("a journal keeps its first entry");
        let mut report = RunReport::of(self.run.id(), &state, entries);
        if let Err(error) = written {
            // The journal lacks its end, so the report cannot take it from there.
            report.status = Status::Held;
            report.reason = format!("{reason}; {}", error.chain());
        }
        report
    }

    fn part<'s>(&'s self, part: &'s Part) -> BoxFuture<'s, Result<End>> {
        Box::pin(async move {
            match &part.0 {
                Node::Step(node) => self.step(node).await,
                Node::Soak(soak) => self.soak(soak).await,
                Node::Gate(_) => unreachable!(),
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

    async fn step(&self, node: &StepNode) -> Result<End> {
        let id = node.step.id();
        let Some(planned) = self.plan.step(&id) else {
            return Err(Error::invalid("run", "the plan lacks this step; plan again").on(id));
        };
        let mut work = StepRun {
            interpreter: self,
            node,
            planned,
            cx: self.cx.for_step(&id, Phase::Apply, 1).with_deadline(planned.limit()),
            effect: EffectKnown::None,
        };
        match work.run().await {
            Ok(()) => {
                self.journal.write(Record::Verified { step: id }).await?;
                Ok(End::Done)
            }
            Err(Early::Journal(error)) => Err(error),
            Err(Early::Stopped) => Ok(End::Stopped),
            Err(Early::Failed(error)) => {
                let (effect, failure) = (work.effect, Failure::from(&error));
                self.journal.write(Record::Failed { step: id.clone(), effect, failure }).await?;
                if planned.policy.best_effort {
                    self.notes.lock().await.push(format!("step {id} failed ({})", error.chain()));
                    return Ok(End::Done);
                }
                self.reasons.lock().await.push(format!("step {id} failed ({})", error.chain()));
                Ok(End::Failed)
            }
        }
    }
}

/// Why a step did not get to its end.
enum Early {
    Failed(Error),
    Journal(Error),
    Stopped,
}

/// One step on its way.
struct StepRun<'s> {
    interpreter: &'s Interpreter<'s>,
    node: &'s StepNode,
    planned: &'s PlannedStep,
    cx: RunContext,
    /// What is known about the effect so far: what a failure from here on leaves behind.
    effect: EffectKnown,
}

impl StepRun<'_> {
    async fn run(&mut self) -> Result<(), Early> {
        let attempts = self.planned.policy.attempts;
        for attempt in 1..=attempts {
            self.cx = self.cx.clone().with_attempt(attempt);
            match self.look().await? {
                Observed::AtTarget => return self.adopt().await,
                Observed::InProgress(_) => {
                    self.adopt().await?;
                    return self.settle().await;
                }
                Observed::AtPrior if self.planned.step.is_no_change() => return Ok(()),
                Observed::AtPrior | Observed::Moved(_) => {}
                Observed::Drifted(changes) => {
                    return Err(Early::Failed(drifted("observe", self.cx.step(), &changes)));
                }
                Observed::CannotTell(why) => return Err(Early::Failed(self.cannot_tell(&why))),
            }
            let Err(error) = self.apply(attempt).await? else {
                return self.settle().await;
            };
            if self.is_stop(&error) {
                return Err(Early::Stopped);
            }
            let hint = match error.retry() {
                // This call had no effect; an earlier one may have had.
                Retry::Never | Retry::Exhausted if self.effect == EffectKnown::Unknown => {
                    return self.last_look(error).await;
                }
                Retry::Never | Retry::Exhausted => return Err(Early::Failed(error)),
                Retry::Safe { after } => after,
                Retry::ObserveFirst => {
                    self.effect = EffectKnown::Unknown;
                    None
                }
            };
            if attempt == attempts {
                return self.last_look(error).await;
            }
            let pause = hint.unwrap_or_else(|| backoff(attempt));
            self.cx.notice(Notice::Retrying {
                step: self.cx.step().clone(),
                error: error.chain(),
                after: pause,
            });
            if let Err(end) = self.cx.sleep(pause).await {
                return if self.is_stop(&end) { Err(Early::Stopped) } else { self.last_look(error).await };
            }
        }
        unreachable!("a step has at least one attempt, and each of them returns or goes on to the next")
    }

    /// Makes the effect, its intent recorded first. Not cut short by a stop request: a call that was begun is seen to
    /// its end, or to the limit of its time.
    async fn apply(&mut self, attempt: u32) -> Result<Result<()>, Early> {
        if self.interpreter.run.stop_requested().is_some() {
            return Err(Early::Stopped);
        }
        let id = self.cx.step().clone();
        self.write(Record::Intent { step: id.clone(), attempt }).await?;
        let limit = self.cx.time_left().map_or(CALL_LIMIT, |left| left.min(CALL_LIMIT));
        let call = self.node.step.apply(&self.cx, &self.planned.step);
        let answer = within(&**self.cx.clock(), limit, call)
            .await
            .unwrap_or_else(|| Err(no_answer("apply", limit).on(&id)));
        match answer {
            Ok(applied) => {
                if applied == Applied::NoChange && self.effect == EffectKnown::Unknown {
                    // The earlier call whose fate was unknown did it, and it shows only now.
                    self.adopt().await?;
                    return Ok(Ok(()));
                }
                if applied != Applied::NoChange {
                    self.effect = EffectKnown::Some;
                }
                if let Applied::Started(handle) = &applied {
                    self.cx = self.cx.clone().with_handle(Some(handle.as_str().into()));
                }
                self.write(Record::Applied { step: id, applied }).await?;
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Waits until the effect is in force.
    async fn settle(&mut self) -> Result<(), Early> {
        for failures in 1.. {
            let error = match self.cx.until(self.node.step.settle(&self.cx, &self.planned.step)).await {
                Ok(Ok(observed)) => return self.judge_settled(observed),
                Ok(Err(error)) => error,
                Err(end) => end,
            };
            match (error.kind(), error.retry()) {
                _ if self.is_stop(&error) => return Err(Early::Stopped),
                (ErrorKind::DeadlineExceeded, _) if self.cx.time_left() == Some(Duration::ZERO) => {
                    return self.last_look(error).await;
                }
                (_, Retry::Never | Retry::Exhausted) => {
                    // An operation that the provider gave up may have been rolled back by it.
                    let look = self.node.step.observe(&self.cx, &self.planned.step);
                    if let Some(Ok(Observed::AtPrior)) = within(&**self.cx.clock(), CALL_LIMIT, look).await {
                        self.effect = EffectKnown::None;
                    }
                    return Err(Early::Failed(error));
                }
                // Reading is always safe to repeat.
                (_, _) => match self.pause(failures, error).await {
                    Err(Early::Failed(error)) => return self.last_look(error).await,
                    other => other?,
                },
            }
        }
        unreachable!("the step's deadline ends the loop")
    }

    fn judge_settled(&mut self, observed: Observed) -> Result<(), Early> {
        let id = self.cx.step();
        Err(Early::Failed(match observed {
            Observed::AtTarget => return Ok(()),
            Observed::AtPrior if self.planned.step.is_no_change() => return Ok(()),
            Observed::AtPrior | Observed::Moved(_) => {
                self.effect = EffectKnown::None;
                let message =
                    "it was accepted, and then somebody put the prior state back; find out who owns it";
                Error::new(ErrorKind::Conflict, "settle", message).on(id)
            }
            Observed::Drifted(changes) => drifted("settle", id, &changes),
            Observed::InProgress(note) => {
                Error::new(ErrorKind::DeadlineExceeded, "settle", format!("not in force yet: {note}")).on(id)
            }
            Observed::CannotTell(why) => self.cannot_tell(&why),
        }))
    }

    /// Where the world stands, asked until it answers or the step's time is over.
    async fn look(&self) -> Result<Observed, Early> {
        for failures in 1.. {
            let look = self.node.step.observe(&self.cx, &self.planned.step);
            // A connection that died without a word must not cost the step all of its time.
            let error = match self.cx.until(within(&**self.cx.clock(), CALL_LIMIT, look)).await {
                Ok(Some(Ok(observed))) => return Ok(observed),
                Ok(Some(Err(error))) => error,
                Ok(None) => no_answer("observe", CALL_LIMIT).on(self.cx.step()),
                Err(end) => end,
            };
            match (error.kind(), error.retry()) {
                _ if self.is_stop(&error) => return Err(Early::Stopped),
                (ErrorKind::DeadlineExceeded, _) if self.cx.time_left() == Some(Duration::ZERO) => {
                    return Err(Early::Failed(error));
                }
                (_, Retry::Never | Retry::Exhausted) => return Err(Early::Failed(error)),
                (_, _) => self.pause(failures, error).await?,
            }
        }
        unreachable!("the step's deadline ends the loop")
    }

    /// One more look after the time is over, so that the report says where the world stands and not only that time
    /// is over.
    async fn last_look(&mut self, error: Error) -> Result<(), Early> {
        let id = self.cx.step().clone();
        let cx = self.interpreter.cx.for_step(&id, Phase::Apply, self.cx.attempt());
        let cx = cx.with_handle(self.cx.handle().map(Into::into));
        let look = self.node.step.observe(&cx, &self.planned.step);
        let message = match within(&**self.cx.clock(), CALL_LIMIT, look).await {
            Some(Ok(Observed::AtTarget)) => return self.adopt().await,
            Some(Ok(Observed::InProgress(note))) => {
                self.effect = EffectKnown::Some;
                let limit = humantime::format_duration(self.planned.limit());
                format!("not in force after {limit}: {note}")
            }
            Some(Ok(Observed::AtPrior | Observed::Moved(_))) => {
                self.effect = EffectKnown::None;
                format!("gave up, nothing has changed: {}", error.chain())
            }
            Some(Ok(Observed::Drifted(changes))) => {
                return Err(Early::Failed(drifted("observe", &id, &changes)));
            }
            Some(Ok(Observed::CannotTell(why))) => format!("gave up, {why}: {}", error.chain()),
            Some(Err(look)) => {
                format!("gave up, and where it stands cannot be read ({}): {}", look.chain(), error.chain())
            }
            None => format!("gave up, and the provider does not say where it stands: {}", error.chain()),
        };
        Err(Early::Failed(Error::new(error.kind(), "apply", message).on(id).with_source(error)))
    }

    async fn adopt(&self) -> Result<(), Early> {
        self.write(Record::Adopted { step: self.cx.step().clone() }).await
    }

    async fn pause(&self, failures: u32, error: Error) -> Result<(), Early> {
        let after = backoff(failures);
        self.cx.notice(Notice::Retrying { step: self.cx.step().clone(), error: error.chain(), after });
        match self.cx.sleep(after).await {
            Ok(()) => Ok(()),
            Err(end) if self.is_stop(&end) => Err(Early::Stopped),
            Err(_) => Err(Early::Failed(error)),
        }
    }

    /// Whether a call ended because somebody asked the run to stop, and not because of a cancellation of its own.
    fn is_stop(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Cancelled && self.interpreter.run.stop_requested().is_some()
    }

    fn cannot_tell(&self, why: &str) -> Error {
        Error::new(ErrorKind::Unexpected, "observe", format!("cannot tell where it stands: {why}"))
            .on(self.cx.step())
    }

    async fn write(&self, record: Record) -> Result<(), Early> {
        self.interpreter.journal.write(record).await.map_err(Early::Journal)
    }
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
