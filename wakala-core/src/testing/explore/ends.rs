//! What must hold where a run is at an end, or was left by its process.

use std::collections::BTreeSet;

use futures::FutureExt as _;

use super::RUN;
use super::invariants::{Breach, Law, Owners};
use super::scene::Snapshot;
use crate::store::{Journal, LeaseState, RunHead, StoredRun};
use crate::{Engine, Entry, Plan, Record, RunCondition, RunId, RunReport, Status, StepId, StepOutcome};

/// The keys in which two snapshots differ.
pub(super) fn differences<'a>(before: &'a Snapshot, now: &'a Snapshot) -> BTreeSet<&'a str> {
    let keys = before.keys().chain(now.keys());
    keys.filter(|key| before.get(*key) != now.get(*key)).map(String::as_str).collect()
}

/// Looks at a run from outside, without troubles.
pub(super) struct Onlooker<'a> {
    pub(super) engine: &'a Engine,
    pub(super) plan: &'a Plan,
    pub(super) owners: Owners,
    /// The world before the run.
    pub(super) before: &'a Snapshot,
    /// How many lines the journal had when it was last looked at, and the hash of all of them.
    pub(super) known: Option<(usize, String)>,
    /// Whether to look at everything that anybody can look at, also where it takes long.
    pub(super) thorough: bool,
}

impl Onlooker<'_> {
    /// The run as it is in the store; `None` where it was never made.
    pub(super) fn stored(&mut self) -> Result<Option<StoredRun>, Breach> {
        let Some(stored) = self.engine.store().load(&RunId::from(RUN)).now_or_never() else {
            return Err(Breach::of(Law::CalmRun, "the scene's store does not answer at once"));
        };
        let Ok(stored) = stored else { return Ok(None) };
        if stored.lines.len() as u64 != stored.head.length
            || (0..).zip(&stored.lines).any(|(seq, line)| line.seq != seq)
        {
            return Err(Breach::of(Law::Journal, "lines that were written are not there"));
        }
        if let Some((count, hash)) = &self.known
            && stored.lines.get(count - 1).is_none_or(|line| line.hash != *hash)
        {
            return Err(Breach::of(Law::Journal, "lines that were there are gone or are others"));
        }
        self.known = stored.lines.last().map(|line| (stored.lines.len(), line.hash.clone()));
        Ok(Some(stored))
    }

    /// What the store knows about the run besides its journal.
    pub(super) fn head(&self) -> Option<RunHead> {
        let all = self.engine.store().list().now_or_never().and_then(Result::ok).unwrap_or_default();
        all.into_iter().find(|head| head.run.as_str() == RUN)
    }

    /// The report as anybody can have it.
    pub(super) fn report(&self) -> Result<RunReport, Breach> {
        let report = self.engine.report(&RunId::from(RUN)).now_or_never();
        report
            .and_then(Result::ok)
            .ok_or_else(|| Breach::of(Law::Explained, "the run is in the store and there is no report of it"))
    }

    /// Whether the run is at an end by its journal.
    pub(super) fn ended(&self, stored: &StoredRun) -> Option<Status> {
        let last = stored.lines.last().filter(|line| line.body.contains("\"ended\":"))?;
        match serde_json::from_str::<Entry>(&last.body).ok()?.record {
            Record::Ended { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether each line of the journal is as it was written.
    pub(super) fn check_whole(&mut self) -> Result<(), Breach> {
        if !self.thorough {
            // Whoever takes the run back does the same.
            return Ok(());
        }
        let damage = self.stored()?.and_then(|stored| Journal::read(&stored).damage);
        damage.map_or(Ok(()), |damage| Err(Breach::of(Law::Journal, damage.to_string())))
    }

    /// What must hold once a process says that it is done.
    pub(super) fn check_end(&mut self, report: &RunReport, now: &Snapshot) -> Result<(), Breach> {
        if report.reason.trim().is_empty() {
            return Err(Breach::of(
                Law::Explained,
                format!("the run ended as {} and does not say why", report.status),
            ));
        }
        self.check_residuals(report, now)?;
        let Some(stored) = self.stored()? else {
            return Err(Breach::of(Law::Journal, "a run that ended is not in the store"));
        };
        // Where its process could not write the end, the journal may have that of an earlier pass.
        let wrote_end = report.journal.last().is_some_and(|last| {
            matches!(last.record, Record::Ended { .. }) && last.epoch == stored.head.epoch
        });
        if wrote_end && self.ended(&stored) != Some(report.status) {
            let what = format!("its process says {}, its journal {:?}", report.status, self.ended(&stored));
            return Err(Breach::of(Law::Explained, what));
        }
        self.check_owed(report, now)
    }

    /// What must hold once nobody drives the run and its lease has lapsed.
    pub(super) fn check_orphan(&mut self, now: &Snapshot) -> Result<(), Breach> {
        let Some(stored) = self.stored()? else { return Ok(()) };
        let summary = self.engine.summary(&RunId::from(RUN)).now_or_never();
        let Some(Ok(summary)) = summary else {
            return Err(Breach::of(Law::Condition, "nobody can see the run"));
        };
        let report = self.report()?;
        if let Some(status) = self.ended(&stored) {
            if summary.condition != RunCondition::Ended(status) {
                let what = format!("a run that ended as {status} shows as {}", summary.condition);
                return Err(Breach::of(Law::Condition, what));
            }
        } else {
            if !matches!(summary.condition, RunCondition::Orphaned(_)) {
                let what = format!("a run that nobody drives shows as {}", summary.condition);
                return Err(Breach::of(Law::Condition, what));
            }
            let listed = || self.engine.runs().now_or_never().and_then(Result::ok).unwrap_or_default();
            if self.thorough && !listed().iter().any(|run| run.run_id.as_str() == RUN) {
                return Err(Breach::of(Law::Condition, "a run that nobody drives is in no list"));
            }
            if stored.head.resources != self.plan.resources() {
                let what = format!("a run that nobody drives holds only {:?}", stored.head.resources);
                return Err(Breach::of(Law::Condition, what));
            }
        }
        self.check_residuals(&report, now)?;
        self.check_owed(&report, now)
    }

    /// Whether nothing is held that need not be.
    pub(super) fn check_given_back(&self, report: &RunReport) -> Result<(), Breach> {
        let Some(head) = self.head() else { return Ok(()) };
        if head.lease != LeaseState::Free {
            let what = format!("the run is {}, and its lease is {:?}", report.status, head.lease);
            return Err(Breach::of(Law::Lease, what));
        }
        let wanted = if report.status.is_open() { self.plan.resources() } else { Vec::new() };
        if head.resources != wanted {
            let what = format!("the run is {}, and holds {:?}", report.status, head.resources);
            return Err(Breach::of(Law::Lease, what));
        }
        let closed = !report.status.is_open() && report.obligations.is_empty();
        if head.closed != closed {
            let (is, must) = (head.closed, closed);
            let what = format!("the run is {}, closed is {is} and must be {must}", report.status);
            return Err(Breach::of(Law::Lease, what));
        }
        Ok(())
    }

    fn check_residuals(&self, report: &RunReport, now: &Snapshot) -> Result<(), Breach> {
        let differing = differences(self.before, now);
        for key in &differing {
            if !self.is_listed(report, key) && !self.is_not_ours(report, key) {
                let status = report.status;
                let what =
                    format!("{key} differs from before, and the report of the {status} run does not list it");
                let law = if status == Status::Compensated { Law::Undo } else { Law::Residuals };
                return Err(Breach::of(law, what));
            }
        }
        for left in report.residuals.iter().filter(|left| left.certain) {
            let known = self.before.keys().any(|key| self.owners.is_of(&left.step, key));
            if known && !differing.iter().any(|key| self.owners.is_of(&left.step, key)) {
                let what = format!("the report is certain that {} differs, and it is as before", left.step);
                return Err(Breach::of(Law::Residuals, what));
            }
        }
        Ok(())
    }

    /// Whatever is temporary and there is owed, by the report and by the list of all that is owed.
    fn check_owed(&self, report: &RunReport, now: &Snapshot) -> Result<(), Breach> {
        let mut listed = None;
        for key in differences(self.before, now) {
            let temporary: Vec<_> = self
                .owners
                .steps(key)
                .filter(|step| self.plan.step(step).is_some_and(|planned| planned.policy.temporary.is_some()))
                .collect();
            if temporary.is_empty() || self.is_not_ours(report, key) {
                continue;
            }
            if !report.obligations.iter().any(|owed| temporary.contains(&&owed.step)) {
                return Err(Breach::of(
                    Law::Owed,
                    format!("{key} is temporary and there, and the report forgets it"),
                ));
            }
            let owed = listed.get_or_insert_with(|| {
                self.engine.obligations().now_or_never().and_then(Result::ok).unwrap_or_default()
            });
            if !owed.iter().any(|(run, owed)| run.as_str() == RUN && temporary.contains(&&owed.step)) {
                return Err(Breach::of(
                    Law::Owed,
                    format!("{key} is temporary and there, and no list has it"),
                ));
            }
        }
        Ok(())
    }

    fn is_listed(&self, report: &RunReport, key: &str) -> bool {
        report.residuals.iter().any(|left| self.owners.is_of(&left.step, key))
    }

    /// Whether the report says that it left something alone because it is of somebody else.
    fn is_not_ours(&self, report: &RunReport, key: &str) -> bool {
        self.owners.steps(key).any(|step| {
            let step = report.step(step.as_str());
            step.is_some_and(|step| matches!(step.outcome, StepOutcome::NotOurs(_)))
        })
    }

    /// What must hold once everything was taken back; `foreign` are the steps that even without trouble are not taken back.
    pub(super) fn check_back(
        &self,
        report: &RunReport,
        now: &Snapshot,
        foreign: &BTreeSet<StepId>,
    ) -> Result<(), Breach> {
        for key in differences(self.before, now) {
            let foreign = self.owners.steps(key).any(|step| foreign.contains(step));
            if !self.is_listed(report, key) && !foreign {
                let (was, is) = (self.before.get(key), now.get(key));
                let what = format!("{key} was taken back and is {is:?}, it was {was:?} before");
                return Err(Breach::of(Law::Undo, what));
            }
        }
        Ok(())
    }
}
