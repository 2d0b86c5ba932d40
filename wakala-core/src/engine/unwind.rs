//! Takes steps back: last begun first, one at a time, under a scope of its own.

use tokio_util::sync::CancellationToken;

use tracing::Instrument as _;

use super::Status;
use super::interpreter::{Halt, Interpreter, abandoned, backoff};
use crate::clock::within;
use crate::event::Notice;
use crate::store::{Failure, Record, Unwind};
use crate::{Error, ErrorKind, Phase, PlannedStep, ResourceKey, Result, Retry, StepId, StepNode, Undone};

/// How often taking a step back is tried.
const ATTEMPTS: u32 = 6;

impl Interpreter<'_> {
    /// Takes back the steps in scope that have an effect; goes on after one that fails.
    pub(super) async fn take_back(&self, scope: Unwind, why: &str) -> Result<(Status, String)> {
        let begun = self.journal.read(|state| state.unwinding.clone()).await;
        if begun.is_none_or(|begun| begun != (scope, why.to_owned())) {
            self.journal.write(Record::Unwinding { scope, why: why.to_owned() }).await?;
        }
        let (mut stuck, mut deferred, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        // What the steps that are not wholly back still hold.
        let mut held: Vec<ResourceKey> = Vec::new();
        for id in self.journal.read(|state| state.to_take_back(scope)).await {
            if let Some(Halt::Abandon(by, reason)) = self.halted() {
                return Ok(abandoned(&by, &reason));
            }
            let (Some(node), Some(planned)) = (self.nodes.get(&id), self.planned.get(&id)) else {
                return Err(Error::new(ErrorKind::Unexpected, "undo", "the playbook lacks this step").on(id));
            };
            // Below what is not back there is nothing that this step would know.
            if planned.step.resources.iter().any(|key| held.iter().any(|held| held.overlaps(key))) {
                waiting.push(id.to_string());
                continue;
            }
            let span = tracing::info_span!("wakala.undo", wakala.step.id = %id);
            match self.undo(&id, node, planned).instrument(span).await? {
                Ok(undone) => {
                    if let Undone::Deferred(_) = &undone {
                        deferred.push(id.to_string());
                        held.extend(planned.step.resources.iter().cloned());
                    }
                    self.journal.write(Record::Undone { step: id, undone }).await?;
                }
                Err(_) if matches!(self.halted(), Some(Halt::Abandon(..))) => continue,
                Err(error) => {
                    stuck.push(id.to_string());
                    held.extend(planned.step.resources.iter().cloned());
                    self.journal
                        .write(Record::UndoFailed { step: id, failure: Failure::from(&error) })
                        .await?;
                }
            }
        }
        if let Some(Halt::Abandon(by, reason)) = self.halted() {
            return Ok(abandoned(&by, &reason));
        }
        let left = match waiting.as_slice() {
            [] => String::new(),
            steps => format!("; {} come after that", steps.join(", ")),
        };
        Ok(if !stuck.is_empty() {
            let stuck = stuck.join(", ");
            (Status::Stuck, format!("{why}, but {stuck} could not be taken back: a person must look{left}"))
        } else if !deferred.is_empty() {
            (Status::Held, format!("{why}, {} only in part: revert again later{left}", deferred.join(", ")))
        } else {
            (Status::Compensated, why.to_owned())
        })
    }

    async fn undo(&self, id: &StepId, node: &StepNode, planned: &PlannedStep) -> Result<Result<Undone>> {
        // A cancelled run must still be able to take itself back.
        let cx = self.cx.clone().with_cancellation(CancellationToken::new());
        for attempt in 1..=ATTEMPTS {
            self.ensure_lease().await?;
            let intent = Record::UndoIntent { step: id.clone(), attempt };
            if !self.journal.write_if(intent, |state| state.abandoned.is_none()).await? {
                let message = "the run was abandoned before it was taken back";
                return Ok(Err(Error::new(ErrorKind::Cancelled, "undo", message).on(id)));
            }
            self.ensure_lease().await?;
            let cx = cx.for_step(id, Phase::Undo, attempt).with_deadline(planned.limit());
            let call = node.step.undo(&cx, &planned.step);
            let answer = within(&**cx.clock(), planned.limit(), call).await.unwrap_or_else(|| {
                let limit = humantime::format_duration(planned.limit());
                Err(Error::new(ErrorKind::DeadlineExceeded, "undo", format!("no end within {limit}")).on(id))
            });
            let error = match answer {
                Ok(undone) => return Ok(Ok(undone)),
                Err(error) => error,
            };
            // Undo observes by itself and repeats without harm, so an unknown fate is no reason to stop.
            let hint = match error.retry() {
                Retry::Never | Retry::Exhausted => return Ok(Err(error)),
                _ if attempt == ATTEMPTS => return Ok(Err(error)),
                Retry::Safe { after } => after,
                Retry::ObserveFirst => None,
            };
            let after = hint.unwrap_or_else(|| backoff(attempt));
            cx.notice(Notice::Retrying { step: id.clone(), error: error.chain(), after });
            cx.clock().sleep(after).await;
            if matches!(self.halted(), Some(Halt::Abandon(..))) {
                return Ok(Err(error));
            }
        }
        unreachable!("the last attempt returns")
    }
}
