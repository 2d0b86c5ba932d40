//! What a run did as one self-contained HTML page (feature `report`).
//!
//! The page has no script and loads nothing: it can be attached to an incident, opened offline, printed, read on a
//! phone, in light and in dark. All text is escaped, and the same input gives the same bytes.
//!
//! ```
//! use std::time::Duration;
//! use wakala_playbooks::report::{Better, Chart, Comparison, Mark, Page};
//!
//! let minutes = |m: u64| Duration::from_secs(60 * m);
//! let page = Page::new("Flash sale of 4 March")
//!     .with_comparison(
//!         Comparison::new(["autoscaler alone", "playbook"])
//!             .with_row("Over the objective", "min", Better::Lower, [17.5, 6.0])
//!             .with_row("Replica-hours", "h", Better::Lower, [21.4, 36.0]),
//!     )
//!     .with_chart(
//!         Chart::new("Latency p95", "s")
//!             .with_series("playbook", [(minutes(0), 0.2), (minutes(8), 2.4), (minutes(14), 0.3)])
//!             .with_limit("objective", 1.0),
//!     )
//!     .with_mark(Mark::note(minutes(9), "approved by the person on call"))
//!     .render();
//! assert!(page.starts_with("<!DOCTYPE html>"));
//! ```
//!
//! A run adds its own parts: [`Page::with_run`] its steps, leftovers and timeline, [`Page::with_marks_from`] its
//! events on the charts.

use std::time::{Duration, SystemTime};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use wakala_core::{Plan, Record, RunReport};

mod badges;
mod chart;
mod comparison;
mod marks;
mod plot;
mod run;
mod sample;
mod scale;
mod style;
mod text;

pub use chart::Chart;
pub use comparison::{Better, Comparison};
pub use marks::Mark;

use marks::{Events, Moment};

/// A page about one run, or about what several ways to meet the same load were worth.
///
/// Parts that are not given are left out.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    note: Option<String>,
    run: Option<RunReport>,
    plan: Option<Plan>,
    charts: Vec<Chart>,
    comparisons: Vec<Comparison>,
    events: Events,
    origin: Option<SystemTime>,
}

impl Page {
    /// An empty page of that title.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            note: None,
            run: None,
            plan: None,
            charts: Vec::new(),
            comparisons: Vec::new(),
            events: Events::default(),
            origin: None,
        }
    }

    /// A line or two below the title, such as where the load was recorded.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Shows a run: how it ended and why, its steps, what is left of it, its timeline, and its plan unless
    /// [`with_plan`](Self::with_plan) gives one.
    #[must_use]
    pub fn with_run(mut self, run: &RunReport) -> Self {
        self.run = Some(run.clone());
        self
    }

    /// Shows a plan, also one that was not run.
    #[must_use]
    pub fn with_plan(mut self, plan: &Plan) -> Self {
        self.plan = Some(plan.clone());
        self
    }

    /// Adds a chart below those that are there. All charts share one time axis.
    #[must_use]
    pub fn with_chart(mut self, chart: Chart) -> Self {
        self.charts.push(chart);
        self
    }

    /// Adds a table that compares alternatives.
    #[must_use]
    pub fn with_comparison(mut self, comparison: Comparison) -> Self {
        self.comparisons.push(comparison);
        self
    }

    /// Marks a moment on all charts. Marks are numbered in the order of time.
    #[must_use]
    pub fn with_mark(mut self, mark: Mark) -> Self {
        self.events.add_mark(mark);
        self
    }

    /// Shades the time from `from` to `to`, both counted from the charts' start, on all charts.
    #[must_use]
    pub fn with_span(mut self, name: impl Into<String>, from: Duration, to: Duration) -> Self {
        self.events.add_span(name.into(), Moment::Since(from), Moment::Since(to));
        self
    }

    /// Marks what the journal of a run tells: begun, steps accepted and in force or failed, guards that turned,
    /// stopped, taken back, ended. Its soaks are shaded.
    ///
    /// Events before the charts' start are left out.
    #[must_use]
    pub fn with_marks_from(mut self, run: &RunReport) -> Self {
        self.events.add_run(run);
        self
    }

    /// The moment from which all charts and the timeline count. As given, the start of the run.
    #[must_use]
    pub fn with_origin(mut self, origin: SystemTime) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The page. The same input gives the same bytes.
    pub fn render(&self) -> String {
        let origin = self
            .origin
            .or_else(|| self.run.as_ref().map(|run| run.started_at))
            .or(self.events.first_start())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let plan = self.plan.as_ref().or_else(|| self.run.as_ref().and_then(approved_plan));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // Nothing is loaded from anywhere and nothing runs, whatever a text may contain.
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(style::css())) }
                }
                body {
                    main {
                        header {
                            h1 { (self.title) }
                            @if let Some(note) = &self.note { p class="note" { (note) } }
                            @if let Some(run) = &self.run { (run::summary(run)) }
                        }
                        @for comparison in &self.comparisons { (comparison.markup()) }
                        (self.charts(origin))
                        @if let Some(run) = &self.run {
                            (run::steps(run))
                            (run::leftovers(run))
                        }
                        @if let Some(plan) = plan {
                            section id="plan" {
                                h2 { "Plan" }
                                p class="note" { "sha256 " code { (plan.hash()) } }
                                pre { (plan.to_string().trim_end()) }
                            }
                        }
                        @if let Some(run) = &self.run { (run::timeline(run, origin)) }
                    }
                }
            }
        }
        .into_string()
    }

    fn charts(&self, origin: SystemTime) -> Markup {
        if self.charts.is_empty() {
            return html! {};
        }
        let (marks, spans) = self.events.resolve(origin);
        let ends = self.charts.iter().filter_map(Chart::end);
        let ends = ends.chain(marks.iter().map(|mark| mark.at)).chain(spans.iter().map(|span| span.to));
        let end = ends.fold(0.0, f64::max);
        let axis = plot::Axis { end: scale::axis_end(end), marks: &marks, spans: &spans };
        html! {
            section id="charts" {
                h2 { "Over time" }
                @for chart in &self.charts { (chart.markup(&axis)) }
                (marks::legend(&marks, &spans))
                @if self.origin.is_some() || self.run.is_some() || self.events.first_start().is_some() {
                    p class="note" { (run::time_zero(self.run.as_ref(), origin)) }
                }
            }
        }
    }
}

/// The plan that a run was started with, from its journal.
fn approved_plan(run: &RunReport) -> Option<&Plan> {
    run.journal.iter().find_map(|entry| match &entry.record {
        Record::Created { plan, .. } => Some(&**plan),
        _ => None,
    })
}
