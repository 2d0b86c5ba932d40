//! The parts of the page that a run fills.

use std::time::SystemTime;

use maud::{Markup, html};
use wakala_core::{EffectKnown, Obligation, Record, Residual, RunReport, Status, StepOutcome, StepReport};

use super::text;

/// How the run ended, and what asks for attention.
pub(super) fn summary(run: &RunReport) -> Markup {
    let took = run.ended_at.duration_since(run.started_at).unwrap_or_default();
    let approved_by = run.journal.iter().find_map(|entry| match &entry.record {
        Record::Created { approval: Some(approval), .. } => Some(&approval.by),
        Record::Decided { gate, approved: true, by, .. } if gate.as_str() == "plan" => Some(by),
        _ => None,
    });
    let (tone, advice) = (tone_of(run.status), advice(run));
    html! {
        div class={ "verdict " (tone) } {
            p { strong class="status" { (run.status) } " " (run.reason) }
            @if !advice.is_empty() { p { (advice) } }
            (attention(run))
        }
        dl class="facts" {
            div { dt { "Playbook" } dd { (run.playbook) } }
            div { dt { "Began" } dd { (text::clock(run.started_at)) } }
            div { dt { "Ended" } dd { (text::clock(run.ended_at)) } }
            div { dt { "Took" } dd { (text::took(took)) } }
            @if let Some(by) = approved_by { div { dt { "Approved by" } dd { (by) } } }
            div { dt { "Run" } dd { code { (run.run_id) } } }
        }
    }
}

fn tone_of(status: Status) -> &'static str {
    match status {
        Status::Succeeded => "good",
        Status::Compensated | Status::Stopped => "warn",
        Status::Held | Status::Stuck => "bad",
        _ => "neutral",
    }
}

fn advice(run: &RunReport) -> &'static str {
    match run.status {
        Status::Compensated if run.residuals.is_empty() => "All that it did is taken back.",
        Status::Compensated => "What was not to be taken back is listed below.",
        Status::Held => "What was done is kept as listed below. A person decides what comes next.",
        Status::Stuck => "Something could not be taken back. A person must look.",
        _ => "",
    }
}

/// What a reader must not miss.
fn attention(run: &RunReport) -> Markup {
    let failed = run
        .steps
        .iter()
        .filter(|step| {
            use StepOutcome::{Failed, UndoFailed, Unverified};
            matches!(step.outcome, Failed { .. } | Unverified | UndoFailed(_))
        })
        .count();
    let first_due = run.obligations.iter().map(|owed| owed.due).min();
    html! {
        @if failed > 0 {
            p {
                a href="#steps" {
                    (failed) (if failed == 1 { " step" } else { " steps" }) " failed or not seen to be in force"
                }
            }
        }
        @if let Some(due) = first_due {
            p {
                a href="#owed" {
                    (run.obligations.len())
                    (if run.obligations.len() == 1 { " temporary change is" } else { " temporary changes are" })
                    " still owed back, "
                    (if run.obligations.len() == 1 { "by " } else { "the first by " }) (text::clock(due))
                }
            }
        }
    }
}

/// What the times on the charts and in the timeline count from.
pub(super) fn time_zero(run: Option<&RunReport>, origin: SystemTime) -> String {
    let zero = text::clock(origin);
    match run.map(|run| run.started_at.duration_since(origin)) {
        Some(Ok(lead)) if !lead.is_zero() => {
            format!("Time 0 is {zero}, {} before the run began.", text::took(lead))
        }
        Some(Ok(_)) => format!("Time 0 is {zero}, when the run began."),
        Some(Err(late)) => {
            format!("Time 0 is {zero}, {} after the run began.", text::took(late.duration()))
        }
        None => format!("Time 0 is {zero}."),
    }
}

/// Every step and what became of it.
pub(super) fn steps(run: &RunReport) -> Markup {
    html! {
        section id="steps" {
            h2 { "Steps" }
            table class="stack" {
                thead { tr { th scope="col" { "Step" } th scope="col" { "Outcome" } th scope="col" class="num" { "Took" } } }
                tbody {
                    @for StepReport { id, summary, outcome, took, .. } in &run.steps {
                        @let (tone, word, detail) = tell(outcome);
                        tr {
                            th scope="row" { code { (id) } div class="muted" { (summary) } }
                            td {
                                span class={ "pill " (tone) } { (word) }
                                @if !detail.is_empty() { div class="detail" { (detail) } }
                            }
                            @if took.is_zero() {
                                td class="num none" { "\u{2013}" }
                            } @else {
                                td class="num" { (text::took(*took)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The tone, a word or two, and what there is to say beyond.
fn tell(outcome: &StepOutcome) -> (&'static str, &'static str, String) {
    match outcome {
        StepOutcome::Done => ("good", "done", String::new()),
        StepOutcome::WasSo => ("good", "was so already", String::new()),
        StepOutcome::TakenBack => ("neutral", "taken back", String::new()),
        StepOutcome::NotBegun => ("neutral", "not begun", String::new()),
        StepOutcome::Unverified => ("warn", "not verified", "Begun, not seen to be in force.".to_owned()),
        StepOutcome::NotOurs(what) => ("warn", "left alone", format!("Somebody changed it since: {what}")),
        StepOutcome::Deferred(what) => ("warn", "taken back in part", what.clone()),
        StepOutcome::Failed { effect, failure } => {
            let effect = match effect {
                EffectKnown::None => "Nothing changed",
                EffectKnown::Some => "In part in force",
                EffectKnown::Unknown => "Effect unknown",
            };
            ("bad", "failed", format!("{effect}: {failure}"))
        }
        StepOutcome::UndoFailed(failure) => ("bad", "undo failed", failure.to_string()),
        other => ("neutral", "other", other.to_string()),
    }
}

/// What was changed and not taken back, and what is owed back.
pub(super) fn leftovers(run: &RunReport) -> Markup {
    let summary = |id| run.steps.iter().find(|step| step.id == id).map_or("", |step| &step.summary);
    html! {
        section id="left" {
            h2 { "Changed and not taken back" }
            @if run.residuals.is_empty() {
                p { "Nothing that this run knows of." }
            } @else {
                table class="stack" {
                    thead { tr { th scope="col" { "Step" } th scope="col" { "Change" } th scope="col" { "To undo" } } }
                    tbody {
                        @for Residual { step, summary, changes, certain, undo, .. } in &run.residuals {
                            tr {
                                th scope="row" { code { (step) } div class="muted" { (summary) } }
                                td {
                                    @for change in changes {
                                        div class="change" {
                                            @if !change.path.is_empty() { code { (change.path) } " " }
                                            span class="muted" { (change.from.as_deref().unwrap_or("(none)")) " \u{2192}" } " "
                                            strong { (change.to.as_deref().unwrap_or("(none)")) }
                                        }
                                    }
                                    @if !certain { span class="pill warn" { "not certain" } }
                                }
                                td data-label="To undo: " { (undo) }
                            }
                        }
                    }
                }
            }
        }
        section id="owed" {
            h2 { "Owed back" }
            @if run.obligations.is_empty() {
                p { "Nothing: no temporary change is in force." }
            } @else {
                table class="stack" {
                    thead { tr { th scope="col" { "Step" } th scope="col" { "Due" } th scope="col" { "After the run's start" } } }
                    tbody {
                        @for Obligation { step, due, .. } in &run.obligations {
                            tr {
                                th scope="row" { code { (step) } div class="muted" { (summary(step.clone())) } }
                                td data-label="Due: " { (text::clock(*due)) }
                                td data-label="After the start: " { (text::took(due.duration_since(run.started_at).unwrap_or_default())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The journal.
pub(super) fn timeline(run: &RunReport, origin: SystemTime) -> Markup {
    html! {
        section id="timeline" {
            h2 { "Timeline" }
            p class="note" { (time_zero(Some(run), origin)) }
            table class="timeline" {
                thead { tr { th scope="col" class="num" { "Time" } th scope="col" class="num" { "UTC" } th scope="col" { "What happened" } } }
                tbody {
                    @for entry in &run.journal {
                        tr class=(tone(&entry.record)) {
                            td class="num" { (text::since(entry.at, origin)) }
                            td class="num muted" { (text::time_of_day(entry.at)) }
                            td { (entry.record) }
                        }
                    }
                }
            }
        }
    }
}

fn tone(record: &Record) -> &'static str {
    match record {
        Record::Failed { .. } | Record::UndoFailed { .. } | Record::SoakClosed { failure: Some(_), .. } => {
            "bad"
        }
        Record::GuardTurned { verdict, .. } if !verdict.is_pass() => "bad",
        Record::Verified { .. } | Record::SoakClosed { failure: None, .. } => "good",
        Record::Ended { status, .. } => tone_of(*status),
        _ => "neutral",
    }
}
