//! The ways into a run: begin it, go on with it, take it back, abandon it.

use super::interpreter::{Interpreter, abandoned, backoff};
use super::journal::Journal;
use super::lease::LeaseKeeper;
use super::state::RunState;
use super::{Engine, Revert, RunHandle, RunReport, Status};
use crate::store::{
    Damage, Entry, Journal as Stored, Lease, LeaseState, LeaseTerms, NewRun, Record, Release, Takeover,
    Unwind, driven,
};
use crate::{
    Approval, Control, Error, ErrorKind, Event, Plan, Playbook, ResourceKey, Result, Retry, RunId, RunInfo,
    Urgency,
};

/// How often giving back what a run held is tried.
const RELEASE_ATTEMPTS: u32 = 3;

impl Engine {
    /// Runs an approved plan to its end. What happened is in the report, failures too.
    ///
    /// # Errors
    /// Only before the first effect: `Denied` where the approval is for another plan, `Conflict` where the plan is
    /// too old or another run holds one of its resources, `InvalidConfig` where the preflight refused it or the
    /// playbook changed since, and what the store says.
    pub async fn run(
        &self,
        playbook: &Playbook,
        plan: &Plan,
        approval: &Approval,
        run: &RunHandle,
    ) -> Result<RunReport> {
        plan.check_approval(approval)?;
        self.begin(playbook, plan, Some(approval.clone()), run).await
    }

    /// As [`run`](Self::run), once somebody has approved the plan: from any process, by
    /// [asking](Self::ask) for [`Control::Approve`]. The run exists and holds its resources from the start; without an
    /// approval while the plan is valid it ends with nothing done.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub async fn run_when_approved(
        &self,
        playbook: &Playbook,
        plan: &Plan,
        run: &RunHandle,
    ) -> Result<RunReport> {
        self.begin(playbook, plan, None, run).await
    }

    async fn begin(
        &self,
        playbook: &Playbook,
        plan: &Plan,
        approval: Option<Approval>,
        run: &RunHandle,
    ) -> Result<RunReport> {
        plan.check(playbook, &*self.clock)?;
        let resources = plan.resources();
        let supersedes =
            if run.supersedes() { self.less_urgent(plan.urgency(), &resources).await? } else { Vec::new() };
        let (plan_kept, superseded) = (Box::new(plan.clone()), supersedes.first().cloned());
        let created = Record::Created { plan: plan_kept, approval, supersedes: superseded };
        let first = Entry::new(0, self.clock.now(), 1, created);
        let line = first.line(run.id(), None);
        let tip = line.hash.clone();
        let new = NewRun {
            run: run.id().clone(),
            resources,
            terms: self.terms(),
            first: line,
            supersedes: supersedes.clone(),
        };
        let asked_at = self.clock.monotonic();
        let create = self.ask_store("create", Some(run.id()), self.store.create(new));
        let lease = match create.await {
            Ok(lease) => lease,
            // A lost answer is looked into, as those of steps are.
            Err(error)
                if error.retry() == Retry::ObserveFirst
                    && self.last_line_is(run.id(), &tip).await.unwrap_or(false) =>
            {
                Lease { epoch: 1 }
            }
            Err(error) => return Err(error),
        };
        for old in &supersedes {
            self.close_superseded(old, run.id()).await;
        }
        let stored = Stored { entries: vec![first], tip: Some(tip), damage: None };
        let journal = Journal::new(self, run.id(), lease.epoch, stored)?;
        let keeper = LeaseKeeper::new(asked_at, self.lease);
        let report = Interpreter::new(self, playbook, plan, journal, keeper, run).run().await;
        Ok(self.released(report, lease.epoch).await)
    }

    /// Goes on with a run whose process is gone, or that was held, from where its journal ends.
    ///
    /// The playbook must be built as it was for the run. What was begun is observed before anything is repeated: what is
    /// in force is adopted, what is not is applied again under the same idempotency key, what is on its way is waited for,
    /// and anything else holds the run. A soak goes on by the time that it had covered.
    ///
    /// [`RunHandle::by`] names who decides so.
    ///
    /// # Errors
    /// Only before the first effect: `NotFound` for an unknown run; `Conflict` where a process drives it (see
    /// [`RunHandle::by_force`]), where it is at its end (one whose process was gone before it could give back what it held
    /// does so now, and its report is returned), or where its plan was not begun while it was valid;
    /// `InvalidConfig` where nobody is named, or the playbook is not the one that was planned: that is recorded, and the
    /// run shows as blocked; `Unexpected` for a damaged journal, `Unsupported` for one of a later version.
    pub async fn resume(&self, playbook: &Playbook, run: &RunHandle) -> Result<RunReport> {
        let (stored, state) = self.readable("resume", run.id()).await?;
        let refuse =
            |kind, message: String| Err(Error::new(kind, "resume", message).on(format!("run {}", run.id())));
        if let Some((status, _)) = state.ended()
            && !status.is_open()
        {
            let head = self.load(run.id()).await?.head;
            if head.lease == LeaseState::Free {
                let message = format!("it is at its end ({status}); plan and run anew, or revert it");
                return refuse(ErrorKind::Conflict, message);
            }
            // Its process was gone before it could give back what it held.
            self.decided("resume", run).await?;
            let epoch = self.acquired(run, &head.resources).await?.0.epoch;
            return Ok(self.released(self.report(run.id()).await?, epoch).await);
        }
        self.decided("resume", run).await?;
        let plan = state.plan().clone();
        let age = self.clock.now().duration_since(plan.made_at()).unwrap_or_default();
        if state.is_untouched() && age > plan.valid_for() {
            let message = "it was not begun while its plan was valid; abandon it, and plan again";
            return refuse(ErrorKind::Conflict, message.to_owned());
        }
        let (journal, keeper, epoch) = self.take_over(run, stored, &plan.resources(), true).await?;
        if let Some(difference) = plan.difference(playbook) {
            let reason = format!(
                "the playbook is not the one that was planned ({difference}); build it as it was, or revert or abandon \
                 the run"
            );
            let by = run.who().to_owned();
            let written = journal.write(Record::Blocked { reason: reason.clone(), by }).await;
            let release = self.store.release(run.id(), epoch, Release::Lease);
            let released = self.ask_store("release", Some(run.id()), release).await;
            written.and(released)?;
            return refuse(ErrorKind::InvalidConfig, reason);
        }
        let report = Interpreter::new(self, playbook, &plan, journal, keeper, run).run().await;
        Ok(self.released(report, epoch).await)
    }

    /// Takes back what a run did, last step first. Idempotent: what is back already is left alone.
    ///
    /// For a run that is at an end, and for one whose process is gone; [`RunHandle::by`] then names who decides so. The
    /// playbook must have the run's steps, built as they were; only their `observe` and `undo` are used.
    ///
    /// # Errors
    /// Only before the first effect: `NotFound` for an unknown run, `Conflict` where a process drives it or
    /// another run holds one of its resources, `InvalidConfig` where the playbook lacks one of the run's steps.
    pub async fn revert(&self, playbook: &Playbook, run: &RunHandle, scope: Revert) -> Result<RunReport> {
        let (stored, state) = self.readable("revert", run.id()).await?;
        let plan = state.plan().clone();
        let orphan = state.ended().is_none();
        if orphan {
            self.decided("revert", run).await?;
        }
        let steps: Vec<_> = playbook.steps().iter().map(|node| node.step.id()).collect();
        if let Some(planned) = plan.steps().iter().find(|planned| !steps.contains(&planned.step.id)) {
            let (id, name) = (&planned.step.id, playbook.name());
            let message = format!("the playbook {name} lacks its step {id}; build it as it was for the run");
            return Err(Error::invalid("revert", message).on(format!("run {}", run.id())));
        }
        let (journal, keeper, epoch) = self.take_over(run, stored, &plan.resources(), orphan).await?;
        let scope = match scope {
            Revert::Everything => Unwind::Everything,
            Revert::Temporary => Unwind::Temporary,
        };
        let report = Interpreter::new(self, playbook, &plan, journal, keeper, run).revert(scope).await;
        Ok(self.released(report, epoch).await)
    }

    /// Ends a run that nobody drives and leaves everything as it is. Its resources are free for others from then on; what
    /// is owed stays [listed](Self::obligations).
    ///
    /// [`RunHandle::by`] names who decides so. Also for a run whose journal is damaged or of a later version: that one
    /// stays as it is, and only the store and the log know who abandoned it.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Conflict` where a process drives it (see [`RunHandle::by_force`]) or it is at its
    /// end; `InvalidConfig` where nobody or no reason is named.
    pub async fn abandon(&self, run: &RunHandle, reason: &str) -> Result<()> {
        self.named("abandon", run)?;
        if reason.trim().is_empty() {
            return Err(Error::invalid("abandon", "say why").on(format!("run {}", run.id())));
        }
        let stored = Stored::read(&self.load(run.id()).await?);
        let state = RunState::of(run.id(), &stored.entries);
        let (status, text) = abandoned(run.who(), reason);
        if let Ok(state) = &state
            && let Some((ended, _)) = state.ended().filter(|(ended, _)| !ended.is_open())
        {
            let message = format!("it is at its end ({ended}) already");
            return Err(Error::new(ErrorKind::Conflict, "abandon", message).on(format!("run {}", run.id())));
        }
        let release = if stored.damage.is_some() || state.is_err() {
            self.ask(run.id(), Control::Abandon, run.who(), reason).await?;
            let lease = self.acquired(run, &[]).await?.0;
            tracing::warn!(run = %run.id(), by = run.who(), reason, "abandoned a run whose journal cannot be read");
            self.store.release(run.id(), lease.epoch, Release::Closed)
        } else {
            let resources = state?.plan().resources();
            let (journal, _, epoch) = self.take_over(run, stored, &resources, true).await?;
            journal.end(status, text).await?;
            let owes = !self.report(run.id()).await?.obligations.is_empty();
            self.store.release(run.id(), epoch, if owes { Release::Resources } else { Release::Closed })
        };
        self.ask_store("release", Some(run.id()), release).await
    }

    /// A run that can be read to its end, with what follows from it.
    async fn readable(&self, operation: &'static str, run: &RunId) -> Result<(Stored, RunState)> {
        let stored = Stored::read(&self.load(run).await?);
        let refuse = |kind, message: String| Error::new(kind, operation, message).on(format!("run {run}"));
        match &stored.damage {
            None => {}
            Some(damage @ Damage::Newer { .. }) => {
                return Err(refuse(ErrorKind::Unsupported, damage.to_string()));
            }
            Some(damage) => {
                let message = format!(
                    "{damage}; look at what is left of it, mend the world by hand, and abandon the run"
                );
                return Err(refuse(ErrorKind::Unexpected, message));
            }
        }
        let state = RunState::of(run, &stored.entries)?;
        if let Some(approval) = &state.approval
            && approval.plan_hash != state.plan().hash()
        {
            let message = "its plan is not the one that was approved; abandon the run".to_owned();
            return Err(refuse(ErrorKind::Denied, message));
        }
        Ok((stored, state))
    }

    /// Takes the lease, and records who decided so where it matters.
    async fn take_over(
        &self,
        run: &RunHandle,
        stored: Stored,
        resources: &[ResourceKey],
        record: bool,
    ) -> Result<(Journal<'_>, LeaseKeeper, u64)> {
        let asked_at = self.clock.monotonic();
        let (lease, forced) = self.acquired(run, resources).await?;
        // Between reading and taking, somebody else may have written on: from here on nobody else can.
        let tip = stored.tip.as_deref().unwrap_or_default();
        let stored = if self.last_line_is(run.id(), tip).await? {
            stored
        } else {
            self.readable("take over", run.id()).await?.0
        };
        let journal = Journal::new(self, run.id(), lease.epoch, stored)?;
        let ended = journal.read(|state| state.ended().map(|(status, _)| *status)).await;
        if let Some(status) = ended.filter(|status| record && !status.is_open()) {
            let report = self.report(run.id()).await?;
            self.released(report, lease.epoch).await;
            let message = format!("it has come to its end meanwhile ({status})");
            return Err(Error::new(ErrorKind::Conflict, "take over", message).on(format!("run {}", run.id())));
        }
        if record {
            let (by, owner) = (run.who().to_owned(), self.owner.to_string());
            journal.write(Record::TakenOver { by, owner, forced }).await?;
        }
        Ok((journal, LeaseKeeper::new(asked_at, self.lease), lease.epoch))
    }

    /// The lease of a run, and whether it was taken from an owner that may be alive.
    async fn acquired(&self, run: &RunHandle, resources: &[ResourceKey]) -> Result<(Lease, bool)> {
        let held = matches!(self.load(run.id()).await?.head.lease, LeaseState::Held { .. });
        let terms = self.terms();
        let acquire = self.store.acquire(run.id(), resources, &terms, run.takeover());
        match self.ask_store("acquire", Some(run.id()), acquire).await {
            Ok(lease) => Ok((lease, held)),
            Err(error) if error.retry() == Retry::ObserveFirst => {
                let head = self.load(run.id()).await?.head;
                match head.lease {
                    LeaseState::Held { owner, .. } if owner == *self.owner => {
                        Ok((Lease { epoch: head.epoch }, held))
                    }
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Fails where a process drives the run, and where nobody is named who decides about it.
    async fn decided(&self, operation: &'static str, run: &RunHandle) -> Result<()> {
        let head = self.load(run.id()).await?.head;
        if let (LeaseState::Held { owner, left }, Takeover::Lapsed) = (&head.lease, run.takeover()) {
            return Err(driven(operation, run.id(), owner, *left));
        }
        self.named(operation, run)
    }

    fn named(&self, operation: &'static str, run: &RunHandle) -> Result<()> {
        if run.who().trim().is_empty() {
            let message = "nobody is named who decides so; name the person with RunHandle::by";
            return Err(Error::invalid(operation, message).on(format!("run {}", run.id())));
        }
        Ok(())
    }

    fn terms(&self) -> LeaseTerms {
        LeaseTerms { owner: self.owner.to_string(), ttl: self.lease }
    }

    /// The runs that hold some of `resources` and may be taken over from.
    async fn less_urgent(&self, urgency: Urgency, resources: &[ResourceKey]) -> Result<Vec<RunId>> {
        let mut found = Vec::new();
        for head in self.ask_store("list", None, self.store.list()).await? {
            if !head.resources.iter().any(|held| resources.iter().any(|wanted| wanted.overlaps(held))) {
                continue;
            }
            let stored = Stored::read(&self.load(&head.run).await?);
            if let Ok(state) = RunState::of(&head.run, &stored.entries)
                && state.plan().urgency() < urgency
            {
                found.push(head.run);
            }
        }
        Ok(found)
    }

    /// Writes into the journal of a run that it was taken over from. Where that fails, the run that took over says so.
    async fn close_superseded(&self, old: &RunId, by: &RunId) {
        let close = async {
            let handle = RunHandle::new(old.clone()).by(format!("run {by}")).by_force();
            let stored = Stored::read(&self.load(old).await?);
            let (journal, _, epoch) = self.take_over(&handle, stored, &[], true).await?;
            let reason = format!("run {by} took over what it held, and the sizes that it began with");
            journal.end(Status::Superseded, reason).await?;
            let owes = !self.report(old).await?.obligations.is_empty();
            self.store.release(old, epoch, if owes { Release::Resources } else { Release::Closed }).await
        };
        if let Err(error) = close.await {
            let text =
                format!("run {old} is superseded, and its journal could not be told so ({})", error.chain());
            let notice = crate::Notice::Note { text };
            let info = RunInfo { id: by.clone(), playbook: String::new() };
            self.observer.on_event(&info, &Event::Notice { at: self.clock.now(), notice });
        }
    }

    /// Gives up what the run's end allows. A store that fails now must not cost the report of what was done.
    async fn released(&self, mut report: RunReport, epoch: u64) -> RunReport {
        let what = match report.status {
            Status::Held | Status::Stuck => Release::Lease,
            // Another owner has all of it.
            Status::Superseded => return report,
            _ if report.obligations.is_empty() => Release::Closed,
            _ => Release::Resources,
        };
        for attempt in 1.. {
            let release = self.store.release(&report.run_id, epoch, what);
            let Err(error) = self.ask_store("release", Some(&report.run_id), release).await else { break };
            if error.kind() == ErrorKind::Conflict {
                // Whoever took the run over has what it held, and it is not for this process to say how it stands.
                if !report.journal.last().is_some_and(|last| matches!(last.record, Record::Ended { .. })) {
                    report.status = Status::Superseded;
                }
                report.reason =
                    format!("{}; somebody else drives the run by now ({})", report.reason, error.chain());
                break;
            }
            if attempt == RELEASE_ATTEMPTS || matches!(error.retry(), Retry::Never | Retry::Exhausted) {
                report.reason = format!(
                    "{}; its resources could not be given back ({}): resume it once more to do so",
                    report.reason,
                    error.chain()
                );
                break;
            }
            self.clock.sleep(backoff(attempt)).await;
        }
        report
    }

    /// Whether the journal's last line is the one of that hash.
    pub(super) async fn last_line_is(&self, run: &RunId, hash: &str) -> Result<bool> {
        let stored = self.load(run).await?;
        Ok(stored.lines.last().is_some_and(|last| last.hash == hash))
    }
}
