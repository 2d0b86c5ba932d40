//! Moments and times that the charts show beside the data.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use wakala_core::{Entry, Record, RunReport, Status, Verdict};

use super::text;

/// A moment that all charts show as a numbered line.
#[derive(Clone, Debug)]
pub struct Mark {
    at: Moment,
    text: String,
    failure: bool,
}

impl Mark {
    /// Something that happened, at a time counted from the charts' start.
    pub fn note(at: Duration, text: impl Into<String>) -> Self {
        Self { at: Moment::Since(at), text: text.into(), failure: false }
    }

    /// Something that went wrong, at a time counted from the charts' start.
    pub fn failure(at: Duration, text: impl Into<String>) -> Self {
        Self { at: Moment::Since(at), text: text.into(), failure: true }
    }
}

/// When something was, by the clock or since the charts' start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    Clock(SystemTime),
    Since(Duration),
}

impl Moment {
    /// Seconds since the charts' start; `None` before it.
    fn place(self, origin: SystemTime) -> Option<f64> {
        match self {
            Self::Clock(at) => at.duration_since(origin).ok(),
            Self::Since(duration) => Some(duration),
        }
        .map(|since| since.as_secs_f64())
    }
}

/// All marks and spans of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    marks: Vec<Mark>,
    spans: Vec<(String, Moment, Moment)>,
    first_start: Option<SystemTime>,
}

/// A mark on the time axis.
#[derive(Debug)]
pub(super) struct PlacedMark {
    pub(super) at: f64,
    pub(super) text: String,
    pub(super) failure: bool,
}

/// A span on the time axis.
#[derive(Debug)]
pub(super) struct PlacedSpan {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Events {
    pub(super) fn add_mark(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    pub(super) fn add_span(&mut self, name: String, from: Moment, to: Moment) {
        self.spans.push((name, from, to));
    }

    /// When the first run that was added began.
    pub(super) fn first_start(&self) -> Option<SystemTime> {
        self.first_start
    }

    pub(super) fn add_run(&mut self, run: &RunReport) {
        self.first_start.get_or_insert(run.started_at);
        // A guard that passes is news only after it did not.
        let mut troubled = BTreeSet::new();
        for (place, entry) in run.journal.iter().enumerate() {
            let failure = match &entry.record {
                Record::Created { .. }
                | Record::Adopted { .. }
                | Record::Skipped { .. }
                | Record::Controlled { .. }
                | Record::Decided { approved: true, .. }
                | Record::TakenOver { .. }
                | Record::Waiting { .. }
                | Record::Undone { .. }
                | Record::Verified { .. }
                | Record::SoakClosed { failure: None, .. } => false,
                Record::Applied { .. } if is_done_at_once(entry, &run.journal[place..]) => continue,
                Record::Applied { .. } => false,
                Record::Blocked { .. }
                | Record::Decided { approved: false, .. }
                | Record::Failed { .. }
                | Record::UndoFailed { .. }
                | Record::SoakClosed { failure: Some(_), .. } => true,
                Record::GuardTurned { soak, guard, verdict } => {
                    let guard = (soak.clone(), guard.clone());
                    let news =
                        if verdict.is_pass() { troubled.remove(&guard) } else { troubled.insert(guard) };
                    if !news && verdict.is_pass() {
                        continue;
                    }
                    matches!(verdict, Verdict::Fail(_))
                }
                Record::SoakOpened { soak, .. } => {
                    let end = soak_end(entry, &run.journal[place..]);
                    self.add_span(soak.to_string(), Moment::Clock(entry.at), Moment::Clock(end));
                    false
                }
                Record::Ended { status, .. } => matches!(status, Status::Held | Status::Stuck),
                _ => continue,
            };
            let text = match &entry.record {
                // The reason is at the head of the page.
                Record::Ended { status, .. } => format!("run ended: {status}"),
                record => record.to_string(),
            };
            self.add_mark(Mark { at: Moment::Clock(entry.at), text, failure });
        }
    }

    /// Places everything on the time axis, in the order of time.
    pub(super) fn resolve(&self, origin: SystemTime) -> (Vec<PlacedMark>, Vec<PlacedSpan>) {
        let mut marks: Vec<_> = self
            .marks
            .iter()
            .filter_map(|mark| {
                let at = mark.at.place(origin)?;
                Some(PlacedMark { at, text: mark.text.clone(), failure: mark.failure })
            })
            .collect();
        marks.sort_by(|a, b| a.at.total_cmp(&b.at));
        let mut spans: Vec<_> = self
            .spans
            .iter()
            .filter_map(|(name, from, to)| {
                let (from, to) = (from.place(origin).unwrap_or(0.0), to.place(origin)?);
                (to > from).then(|| PlacedSpan { name: name.clone(), from, to })
            })
            .collect();
        spans.sort_by(|a, b| a.from.total_cmp(&b.from));
        (marks, spans)
    }
}

/// Whether the step is in force in the same moment, so that its being accepted is no news of its own.
fn is_done_at_once(applied: &Entry, later: &[Entry]) -> bool {
    let Record::Applied { step, .. } = &applied.record else { return false };
    later
        .iter()
        .take_while(|entry| entry.at == applied.at)
        .any(|entry| matches!(&entry.record, Record::Verified { step: done } if done == step))
}

/// When a soak closed, or the last that is known of its run.
fn soak_end(opened: &Entry, later: &[Entry]) -> SystemTime {
    let Record::SoakOpened { soak, .. } = &opened.record else { return opened.at };
    later
        .iter()
        .find(|entry| matches!(&entry.record, Record::SoakClosed { soak: closed, .. } if closed == soak))
        .or(later.last())
        .map_or(opened.at, |entry| entry.at)
}

/// What the numbers and the shading on the charts mean.
pub(super) fn legend(marks: &[PlacedMark], spans: &[PlacedSpan]) -> Markup {
    html! {
        @if !spans.is_empty() {
            ul class="legend spans" {
                @for span in spans {
                    li {
                        i class="swatch span" {}
                        (span.name) " "
                        span class="muted" { (minutes(span.from)) "\u{2013}" (minutes(span.to)) }
                    }
                }
            }
        }
        @if !marks.is_empty() {
            ol class="marks" {
                @for (place, mark) in marks.iter().enumerate() {
                    li {
                        span class={ "number" @if mark.failure { " failure" } @else { " mark" } } { (place + 1) } " "
                        span class="at" { (minutes(mark.at)) } " "
                        span { (mark.text) }
                    }
                }
            }
        }
    }
}

fn minutes(seconds: f64) -> String {
    text::minutes(Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs())
}
