//! Does one step: intent before effect, observe before repeating.

use std::pin::pin;
use std::time::Duration;

use futures::future::poll_immediate;
use tracing::Instrument as _;

use super::interpreter::{CALL_LIMIT, End, Interpreter, backoff, no_answer};
use super::state::RunState;
use crate::clock::within;
use crate::event::Notice;
use crate::step::drifted;
use crate::store::{EffectKnown, Failure, Record};
use crate::{Applied, Error, ErrorKind, Observed, Phase, PlannedStep, Result, Retry, RunContext, StepNode};

impl Interpreter<'_> {
    pub(super) async fn step(&self, node: &StepNode) -> Result<End> {
        let id = node.step.id();
        let Some(&planned) = self.planned.get(&id) else {
            return Err(Error::invalid("run", "the plan lacks this step; plan again").on(id));
        };
        // What an earlier process saw in force stays done; what only failed to be noted is tried again.
        let before = self.journal.read(|state| state.step(&id).cloned()).await.unwrap_or_default();
        if before.verified {
            return Ok(End::Done);
        }
        let handle = match &before.applied {
            Some(Applied::Started(handle)) => Some(handle.as_str().into()),
            _ => None,
        };
        let mut work = StepRun {
            interpreter: self,
            node,
            planned,
            cx: self.cx.for_step(&id, Phase::Apply, 1).with_handle(handle),
            effect: before.effect(),
            accepted: matches!(before.applied, Some(Applied::Changed | Applied::Started(_)))
                && before.failed.is_none(),
        };
        let span = tracing::info_span!("wakala.step", wakala.step.id = %id);
        match work.run().instrument(span).await {
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
    /// Whether an earlier process saw the effect accepted: it is only waited for.
    accepted: bool,
}

impl StepRun<'_> {
    async fn run(&mut self) -> Result<(), Early> {
        self.begin_after_pause().await?;
        if self.accepted {
            return self.settle(None).await;
        }
        let attempts = self.planned.policy.attempts;
        let mut attempt = 1;
        loop {
            self.cx = self.cx.clone().with_attempt(attempt);
            match self.look().await? {
                Observed::AtTarget => return self.adopt().await,
                Observed::InProgress(_) => {
                    self.adopt().await?;
                    return self.settle(None).await;
                }
                Observed::AtPrior if self.planned.step.is_no_change() => return Ok(()),
                Observed::AtPrior | Observed::Moved(_) => {}
                Observed::Drifted(changes) => {
                    return Err(Early::Failed(drifted("observe", self.cx.step(), &changes)));
                }
                Observed::CannotTell(why) => return Err(Early::Failed(self.cannot_tell(&why))),
            }
            let error = match self.apply(attempt).await? {
                Some(Ok(accepted)) => return self.settle(accepted).await,
                Some(Err(error)) => error,
                None => {
                    // What was seen before a pause may be old after it.
                    self.begin_after_pause().await?;
                    continue;
                }
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
            attempt += 1;
        }
    }

    /// Waits until the run is not paused, and gives the step all of its time from then on: a pause costs it nothing.
    async fn begin_after_pause(&mut self) -> Result<(), Early> {
        if !self.interpreter.wait_while_paused().await {
            return Err(Early::Stopped);
        }
        let (id, attempt, handle) =
            (self.cx.step().clone(), self.cx.attempt(), self.cx.handle().map(Into::into));
        self.cx = self
            .interpreter
            .cx
            .for_step(&id, Phase::Apply, attempt)
            .with_handle(handle)
            .with_deadline(self.planned.limit());
        Ok(())
    }

    /// Makes the effect, its intent recorded first. Not cut short by a stop request: a call that was begun is seen to
    /// its end, or to the limit of its time. Gives the record of its answer, where that is still to be written; nothing at
    /// all where the run is paused: then nothing was begun.
    async fn apply(&mut self, attempt: u32) -> Result<Option<Result<Option<Record>>>, Early> {
        self.interpreter.ensure_lease().await.map_err(Early::Journal)?;
        if self.interpreter.halted().is_some() {
            return Err(Early::Stopped);
        }
        let id = self.cx.step().clone();
        let intent = Record::Intent { step: id.clone(), attempt };
        // Asked within the write: a request that is in the journal first comes first.
        let write = self.interpreter.journal.write_if(intent, RunState::may_go_on);
        let begun = write.await.map_err(Early::Journal)?;
        if !begun {
            return Ok(None);
        }
        // Writing may have taken long, and an owner that was asleep must not act on an old intent.
        self.interpreter.ensure_lease().await.map_err(Early::Journal)?;
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
                    return Ok(Some(Ok(None)));
                }
                if applied != Applied::NoChange {
                    self.effect = EffectKnown::Some;
                }
                if let Applied::Started(handle) = &applied {
                    self.cx = self.cx.clone().with_handle(Some(handle.as_str().into()));
                }
                let changed = applied == Applied::Changed;
                let record = Record::Applied { step: id, applied };
                if changed {
                    return Ok(Some(Ok(Some(record))));
                }
                self.write(record).await?;
                Ok(Some(Ok(None)))
            }
            Err(error) => Ok(Some(Err(error))),
        }
    }

    /// Waits until the effect is in force. That it was accepted is recorded before anything is waited for; where there is
    /// nothing to wait for, the record that it is in force says both.
    async fn settle(&mut self, mut accepted: Option<Record>) -> Result<(), Early> {
        for failures in 1.. {
            let answer = {
                let mut settle = pin!(self.cx.until(self.node.step.settle(&self.cx, &self.planned.step)));
                let at_once = if accepted.is_some() { poll_immediate(&mut settle).await } else { None };
                if let Some(record) = accepted.take()
                    && !matches!(at_once, Some(Ok(Ok(Observed::AtTarget))))
                {
                    self.write(record).await?;
                }
                match at_once {
                    Some(answer) => answer,
                    None => settle.await,
                }
            };
            let error = match answer {
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
        error.kind() == ErrorKind::Cancelled && self.interpreter.halted().is_some()
    }

    fn cannot_tell(&self, why: &str) -> Error {
        Error::new(ErrorKind::Unexpected, "observe", format!("cannot tell where it stands: {why}"))
            .on(self.cx.step())
    }

    async fn write(&self, record: Record) -> Result<(), Early> {
        self.interpreter.journal.write(record).await.map_err(Early::Journal)
    }
}
