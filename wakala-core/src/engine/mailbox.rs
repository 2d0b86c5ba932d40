//! Does what others ask of a run.

use super::Stop;
use super::control::Request;
use super::interpreter::{Halt, Interpreter, PLAN_GATE};
use crate::clock::within;
use crate::event::Notice;
use crate::playbook::Gate;
use crate::store::{Letter, Record};
use crate::{Control, Result, StepId};

/// What was decided about a gate.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) approved: bool,
    pub(super) by: String,
    pub(super) reason: String,
}

impl Interpreter<'_> {
    /// Looks into the mailbox for as long as it is polled.
    pub(super) async fn attend(&self) {
        let (engine, run) = (self.engine, &self.journal.run);
        loop {
            let after = self.journal.read(|state| state.mail).await;
            let mail = engine.ask_store("mail", Some(run), engine.store.mail(run, after)).await;
            // A store that cannot be asked now is asked again; the run itself finds out when it writes.
            for letter in mail.unwrap_or_default() {
                if self.obey(letter).await.is_err() {
                    break;
                }
            }
            engine.clock.sleep(engine.mail_interval).await;
        }
    }

    /// Does what one letter asks for. It is in the journal first, so that it is neither lost nor done twice.
    async fn obey(&self, letter: Letter) -> Result<()> {
        let number = Some(letter.number);
        let Ok(Request { control, by, reason }) = serde_json::from_str(&letter.body) else {
            // Of a later version, perhaps: it cannot be done, and must not hold up what comes after it.
            let (by, reason) = (String::new(), letter.body);
            return self
                .journal
                .write(Record::Controlled { number, control: Control::Unknown, by, reason })
                .await;
        };
        let record =
            Record::Controlled { number, control: control.clone(), by: by.clone(), reason: reason.clone() };
        self.journal.write(record).await?;
        match control {
            Control::Pause => self.pause(true),
            Control::Resume => self.pause(false),
            Control::Unknown => {}
            Control::CancelKeep => self.halt(Halt::Stop(Stop::Keep, by, reason)),
            Control::CancelRevert => self.halt(Halt::Stop(Stop::TakeBack, by, reason)),
            Control::Abandon => self.halt(Halt::Abandon(by, reason)),
            Control::Approve { gate, plan_hash } if plan_hash == self.plan.hash() => {
                self.decide(gate, Decision { approved: true, by, reason }).await;
            }
            Control::Approve { gate, .. } => {
                let text = format!("{by} approved another plan than this one; {gate} stays undecided");
                self.cx.notice(Notice::Note { text });
            }
            Control::Reject { gate } => {
                self.decide(gate, Decision { approved: false, by, reason }).await;
            }
        }
        Ok(())
    }

    fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    async fn decide(&self, gate: StepId, decision: Decision) {
        let waits = self.journal.read(|state| state.waiting.clone()).await;
        if waits.is_none_or(|(waiting, _)| waiting != gate) {
            let text =
                format!("{gate} is no gate that the run waits at; what {} decided is void", decision.by);
            self.cx.notice(Notice::Note { text });
            return;
        }
        self.decision.send_replace(Some((gate, decision)));
    }

    /// Waits at a gate; `None` where the run halts meanwhile.
    pub(super) async fn wait_at(&self, gate: &Gate) -> Result<Option<Decision>> {
        // One gate at a time: who decides must be able to tell which one is meant.
        let _one = self.at_gate.lock().await;
        let Gate { id, question, within: limit } = gate;
        let mut decisions = self.decision.subscribe();
        self.journal.write(Record::Waiting { gate: id.clone(), question: question.clone() }).await?;
        let decided = async {
            decisions.wait_for(|decision| matches!(decision, Some((gate, _)) if gate == id)).await.ok();
            decisions.borrow().clone().map(|(_, decision)| decision)
        };
        let decision = tokio::select! {
            biased;
            () = self.cx.cancellation().cancelled() => return Ok(None),
            decided = within(&*self.engine.clock, *limit, decided) => decided.flatten(),
        };
        let decision = decision.unwrap_or_else(|| Decision {
            approved: false,
            by: String::new(),
            reason: format!("nobody decided within {}", humantime::format_duration(*limit)),
        });
        let Decision { approved, by, reason } = decision.clone();
        self.journal.write(Record::Decided { gate: id.clone(), approved, by, reason }).await?;
        Ok(Some(decision))
    }

    /// The gate before everything else, for a plan that came without approval.
    pub(super) fn plan_gate(&self) -> Gate {
        let age = self.engine.clock.now().duration_since(self.plan.made_at()).unwrap_or_default();
        let question = format!("run the plan {} of {}?", &self.plan.hash()[..12], self.plan.playbook());
        crate::gate(PLAN_GATE, question).within(self.plan.valid_for().saturating_sub(age))
    }
}
