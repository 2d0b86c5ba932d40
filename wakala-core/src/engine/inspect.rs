//! Looking at runs and asking things of them, from any process that has the store.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::control::Request;
use super::state::RunState;
use super::{Control, Engine, Obligation, RunReport, Status};
use crate::store::{Entry, Journal, LeaseState, RunHead};
use crate::{Error, Result, RunId};

/// In which condition a run is.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCondition {
    /// It waits until somebody approves; the text says what.
    AwaitingApproval(String),
    /// It could not be gone on with as it is; the text says why.
    Blocked(String),
    /// It is at its end, for now or for good: [`Status::is_open`] tells.
    Ended(Status),
    /// Nobody drives it any more: resume, revert or abandon it. The text names who did.
    Orphaned(String),
    /// It begins no further effect until somebody lets it go on.
    Paused,
    /// A process drives it; the text names it.
    Running(String),
    /// Its journal cannot be read to its end; the text says why.
    Unreadable(String),
}

impl fmt::Display for RunCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AwaitingApproval(what) => write!(f, "AWAITING APPROVAL: {what}"),
            Self::Blocked(why) => write!(f, "BLOCKED: {why}"),
            Self::Ended(status) => status.fmt(f),
            Self::Orphaned(by) => write!(f, "ORPHANED: {by} is gone; resume, revert or abandon it"),
            Self::Paused => f.write_str("PAUSED"),
            Self::Running(by) => write!(f, "RUNNING: driven by {by}"),
            Self::Unreadable(why) => write!(f, "UNREADABLE: {why}"),
        }
    }
}

/// A run in a list.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run.
    pub run_id: RunId,
    /// Its playbook; nothing where the journal does not tell.
    pub playbook: String,
    /// How it stands.
    pub condition: RunCondition,
    /// Its last words, where it is at an end.
    pub reason: String,
    /// When something was last written.
    #[serde(with = "humantime_serde")]
    pub last_at: SystemTime,
    /// What it owes back.
    pub obligations: Vec<Obligation>,
}

impl Engine {
    /// What a run did and what is left of it, from its journal as far as it can be read.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `Unexpected` where not even its beginning can be read.
    pub async fn report(&self, run: &RunId) -> Result<RunReport> {
        let stored = self.load(run).await?;
        let Journal { entries, damage, .. } = Journal::read(&stored);
        let state = RunState::of(run, &entries)?;
        let mut report = RunReport::of(run, &state, entries);
        if let Some(damage) = damage {
            (report.status, report.reason) = (Status::Held, damage.to_string());
        } else if state.ended().is_none() {
            report.reason = format!("not at its end; {}", condition(&stored.head, &state));
        }
        Ok(report)
    }

    /// All runs that are not closed, and how they stand: those that go on, wait, are held, or owe something back.
    ///
    /// # Errors
    /// What the store says.
    pub async fn runs(&self) -> Result<Vec<RunSummary>> {
        let mut runs = Vec::new();
        for head in self.ask_store("list", None, self.store.list()).await? {
            if !head.closed {
                runs.push(self.summary(&head.run).await?);
            }
        }
        Ok(runs)
    }

    /// How one run stands.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; what the store says.
    pub async fn summary(&self, run: &RunId) -> Result<RunSummary> {
        let stored = self.load(run).await?;
        let Journal { entries, damage, .. } = Journal::read(&stored);
        let last_at = entries.last().map_or(SystemTime::UNIX_EPOCH, |entry| entry.at);
        let state = RunState::of(run, &entries);
        let condition = match (&damage, &state) {
            (Some(damage), _) => RunCondition::Unreadable(damage.to_string()),
            (None, Err(error)) => RunCondition::Unreadable(error.chain()),
            (None, Ok(state)) => condition(&stored.head, state),
        };
        let (mut playbook, mut reason, mut obligations) = Default::default();
        if let Ok(state) = state {
            let report = RunReport::of(run, &state, entries);
            playbook = report.playbook;
            obligations = report.obligations;
            reason = state.ended().map(|(_, reason)| reason.clone()).unwrap_or_default();
        }
        Ok(RunSummary { run_id: run.clone(), playbook, condition, reason, last_at, obligations })
    }

    /// What all runs together owe back, soonest first.
    ///
    /// # Errors
    /// What the store says.
    pub async fn obligations(&self) -> Result<Vec<(RunId, Obligation)>> {
        let runs = self.runs().await?;
        let mut owed: Vec<_> = runs
            .into_iter()
            .flat_map(|run| run.obligations.into_iter().map(move |owed| (run.run_id.clone(), owed)))
            .collect();
        owed.sort_by_key(|(_, owed)| owed.due);
        Ok(owed)
    }

    /// The facts of a run after a place in its journal, or from the start: to follow a run from another process, keep the
    /// last [`seq`](Entry::seq) and ask again.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    pub async fn events(&self, run: &RunId, after: Option<u64>) -> Result<Vec<Entry>> {
        let entries = Journal::read(&self.load(run).await?).entries;
        Ok(entries.into_iter().filter(|entry| after.is_none_or(|after| entry.seq > after)).collect())
    }

    /// Asks something of a run, from any process; returns once the request is kept, with its number. The run does it
    /// within its mail interval and records so; one that nobody drives does it first thing when it is gone on with.
    ///
    /// # Errors
    /// `NotFound` for an unknown run; `InvalidConfig` where nobody is named.
    pub async fn ask(&self, run: &RunId, control: Control, by: &str, reason: &str) -> Result<u64> {
        if by.trim().is_empty() {
            return Err(Error::invalid("ask", "nobody is named who asks").on(format!("run {run}")));
        }
        let request = Request { control, by: by.to_owned(), reason: reason.to_owned() };
        let body = serde_json::to_string(&request).expect("a request is made of strings only");
        self.ask_store("send", Some(run), self.store.send(run, body)).await
    }
}

fn condition(head: &RunHead, state: &RunState) -> RunCondition {
    if let Some((status, _)) = state.ended() {
        return RunCondition::Ended(*status);
    }
    if let Some(blocked) = &state.blocked {
        return RunCondition::Blocked(blocked.clone());
    }
    match &head.lease {
        LeaseState::Free => RunCondition::Orphaned("its process".to_owned()),
        LeaseState::Lapsed { owner } => RunCondition::Orphaned(owner.clone()),
        LeaseState::Held { owner, .. } => match &state.waiting {
            Some((gate, question)) => RunCondition::AwaitingApproval(format!("{gate}: {question}")),
            None if state.paused => RunCondition::Paused,
            None => RunCondition::Running(owner.clone()),
        },
    }
}
