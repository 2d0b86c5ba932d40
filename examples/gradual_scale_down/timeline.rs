//! Sizes and error rate over time, with what the run did in between.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use wakala_core::sim::{Frame, World};
use wakala_core::{Clock as _, Record, RunReport};

/// How far apart two lines are where nothing happens.
const STEP: Duration = Duration::from_secs(300);
/// How many replicas a mark of the bar stands for.
const REPLICAS_PER_MARK: usize = 2;

/// The lines of a simulated run, in order.
#[derive(Debug, Serialize)]
pub(crate) struct Timeline(pub(crate) Vec<Line>);

/// One moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// How the production was.
    Sizes(Sizes),
    /// What happened, and when.
    Event {
        /// Seconds since the run's start.
        second: u64,
        /// In a line.
        text: String,
    },
}

#[derive(Debug, Serialize)]
pub(crate) struct Sizes {
    /// Seconds since the run's start.
    second: u64,
    pub(crate) api: u32,
    pub(crate) worker: u32,
    /// The minimum of the API's autoscaler.
    minimum: Option<u32>,
    load: f64,
    pub(crate) error_rate: f64,
}

impl Timeline {
    /// What happened in `world` from the start of the run to its end.
    pub(crate) fn of(world: &World, report: &RunReport) -> Self {
        let begun = world.clock().now() - world.elapsed();
        let second = |at: SystemTime| at.duration_since(begun).unwrap_or_default().as_secs();
        let (start, end) = (second(report.started_at), second(report.ended_at));
        let mut lines: Vec<(u64, Line)> = report
            .journal
            .iter()
            .filter(|entry| tells(&entry.record))
            .map(|entry| (second(entry.at), entry.record.to_string()))
            .map(|(at, text)| (at, Line::Event { second: at - start, text }))
            .collect();
        let frames = world.history();
        let shown = |index: usize| {
            let (frame, before) = (&frames[index], &frames[index.saturating_sub(1)]);
            let changed = sizes(frame) != sizes(before) || fails(frame) != fails(before);
            let since = frame.second - start;
            changed || since == 0 || frame.second == end || since.is_multiple_of(STEP.as_secs())
        };
        let within = (0..frames.len()).filter(|index| (start..=end).contains(&frames[*index].second));
        for index in within.filter(|index| shown(*index)) {
            let frame = &frames[index];
            lines.push((frame.second, Line::Sizes(Sizes::of(frame, start))));
        }
        // In each second what happened comes first, and what came of it after.
        lines.sort_by_key(|(second, line)| (*second, matches!(line, Line::Sizes(_))));
        Self(lines.into_iter().map(|(_, line)| line).collect())
    }
}

/// Whether a person wants to see it between the sizes.
fn tells(record: &Record) -> bool {
    matches!(
        record,
        Record::Failed { .. }
            | Record::GuardTurned { .. }
            | Record::SoakClosed { .. }
            | Record::SoakOpened { .. }
            | Record::Undone { .. }
            | Record::Unwinding { .. }
            | Record::UndoFailed { .. }
            | Record::Ended { .. }
    )
}

/// Ready replicas of the API and the worker, and the minimum of the API's autoscaler.
fn sizes(frame: &Frame) -> Option<(u32, u32, Option<u32>)> {
    let (api, worker) = (frame.workload("wakala-api")?, frame.workload("wakala-worker")?);
    Some((api.ready, worker.ready, api.autoscaler.map(|(min, _)| min)))
}

fn fails(frame: &Frame) -> bool {
    frame.error_rate > Some(0.01)
}

impl Sizes {
    fn of(frame: &Frame, start: u64) -> Self {
        let (api, worker, minimum) = sizes(frame).unwrap_or_default();
        Self {
            second: frame.second - start,
            api,
            worker,
            minimum,
            load: frame.load,
            error_rate: frame.error_rate.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let autoscaled =
            self.0.iter().any(|line| matches!(line, Line::Sizes(Sizes { minimum: Some(_), .. })));
        let minimum = if autoscaled { "  min" } else { "" };
        writeln!(f, "  time   api{minimum}  worker   load/s  per replica  errors")?;
        for line in &self.0 {
            match line {
                Line::Sizes(sizes) => writeln!(f, "{sizes}")?,
                Line::Event { second, text } => writeln!(f, "{}  - {text}", stamp(*second))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { second, api, worker, minimum, load, error_rate } = self;
        let minimum = minimum.map(|minimum| format!("{minimum:>5}")).unwrap_or_default();
        let each = load / f64::from((*api).max(1));
        let bar = "#".repeat((*api as usize).div_ceil(REPLICAS_PER_MARK));
        let errors = error_rate * 100.0;
        write!(
            f,
            "{} {api:>5}{minimum}  {worker:>6} {load:>8.0}  {each:>11.0} {errors:>5.1} %  {bar}",
            stamp(*second)
        )
    }
}

fn stamp(second: u64) -> String {
    format!("{:>3}:{:02}", second / 60, second % 60)
}
