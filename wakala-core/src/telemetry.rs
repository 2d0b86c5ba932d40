//! What goes on, for the log and the dashboards of the program that the engine is part of.
//!
//! Names of spans, fields and counters are listed in `docs/telemetry.md`.

use crate::event::{Event, Notice, Observer, RunInfo};
#[cfg(feature = "metrics")]
use crate::store::Record;

/// Writes events to the log of the program, through [`tracing`], within the spans that the engine opens for each run,
/// step, soak and undo.
///
/// Facts are `INFO`, or `WARN` where they are trouble; what is retried is `WARN`; the rest is `DEBUG`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingObserver;

impl Observer for TracingObserver {
    fn on_event(&self, run: &RunInfo, event: &Event) {
        let (id, playbook) = (run.id.as_str(), run.playbook.as_str());
        match event {
            Event::Record(entry) if entry.record.is_trouble() => tracing::warn!(
                wakala.run.id = id,
                wakala.playbook = playbook,
                wakala.seq = entry.seq,
                wakala.event = entry.record.name(),
                "{}",
                entry.record
            ),
            Event::Record(entry) => tracing::info!(
                wakala.run.id = id,
                wakala.playbook = playbook,
                wakala.seq = entry.seq,
                wakala.event = entry.record.name(),
                "{}",
                entry.record
            ),
            Event::Notice { notice: Notice::Retrying { step, error, after }, .. } => tracing::warn!(
                wakala.run.id = id,
                wakala.playbook = playbook,
                wakala.step.id = step.as_str(),
                wakala.event = "retrying",
                after = ?after,
                "{error}"
            ),
            Event::Notice { notice: Notice::Note { text }, .. } => tracing::warn!(
                wakala.run.id = id,
                wakala.playbook = playbook,
                wakala.event = "note",
                "{text}"
            ),
            Event::Notice { notice, .. } => {
                tracing::debug!(wakala.run.id = id, wakala.playbook = playbook, ?notice);
            }
        }
    }
}

/// Counts events through the [`metrics`] facade, for whichever recorder the program installs.
#[cfg(feature = "metrics")]
#[derive(Clone, Copy, Debug, Default)]
pub struct MetricsObserver;

#[cfg(feature = "metrics")]
impl MetricsObserver {
    /// The observer; tells the recorder that is installed what its counters mean.
    pub fn new() -> Self {
        use metrics::{Unit, describe_counter};
        describe_counter!("wakala_runs_started_total", Unit::Count, "Runs that began");
        describe_counter!("wakala_runs_resumed_total", Unit::Count, "Times that a process took a run over");
        describe_counter!("wakala_runs_ended_total", Unit::Count, "Passes over runs that ended, by status");
        describe_counter!("wakala_records_total", Unit::Count, "Facts written to journals, by kind");
        describe_counter!("wakala_effects_total", Unit::Count, "Calls that change the world, by direction");
        describe_counter!("wakala_steps_failed_total", Unit::Count, "Steps that failed");
        describe_counter!("wakala_retries_total", Unit::Count, "Calls that failed and are repeated");
        describe_counter!("wakala_guard_verdicts_total", Unit::Count, "Answers of guards, by verdict");
        Self
    }
}

#[cfg(feature = "metrics")]
impl Observer for MetricsObserver {
    fn on_event(&self, run: &RunInfo, event: &Event) {
        use metrics::counter;
        let playbook = || run.playbook.clone();
        match event {
            Event::Record(entry) => {
                counter!("wakala_records_total", "playbook" => playbook(), "kind" => entry.record.name())
                    .increment(1);
                match &entry.record {
                    Record::Created { .. } => {
                        counter!("wakala_runs_started_total", "playbook" => playbook()).increment(1);
                    }
                    Record::TakenOver { .. } => {
                        counter!("wakala_runs_resumed_total", "playbook" => playbook()).increment(1);
                    }
                    Record::Ended { status, .. } => {
                        let status = status.to_string().to_lowercase();
                        counter!("wakala_runs_ended_total", "playbook" => playbook(), "status" => status)
                            .increment(1);
                    }
                    Record::Intent { .. } => {
                        counter!("wakala_effects_total", "playbook" => playbook(), "direction" => "forward")
                            .increment(1);
                    }
                    Record::UndoIntent { .. } => {
                        counter!("wakala_effects_total", "playbook" => playbook(), "direction" => "back")
                            .increment(1);
                    }
                    Record::Failed { .. } | Record::UndoFailed { .. } => {
                        counter!("wakala_steps_failed_total", "playbook" => playbook()).increment(1);
                    }
                    _ => {}
                }
            }
            Event::Notice { notice: Notice::Retrying { .. }, .. } => {
                counter!("wakala_retries_total", "playbook" => playbook()).increment(1);
            }
            Event::Notice { notice: Notice::Guard { guard, verdict, .. }, .. } => {
                let (guard, verdict) = (guard.to_string(), verdict.name());
                counter!("wakala_guard_verdicts_total", "playbook" => playbook(), "guard" => guard, "verdict" => verdict)
                    .increment(1);
            }
            Event::Notice { .. } => {}
        }
    }
}
