//! A chart and what is written around it.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, PreEscaped, html};

use super::plot::{self, Axis};
use super::sample::Point;
use super::style::{self, Ink};
use super::text;

/// A chart of one or more quantities of the same unit over time. Its value axis starts at 0.
///
/// Points are a time counted from the page's origin and a value. A value that is not a number is a gap in the line,
/// one below 0 is drawn at 0. Thousands of points are fine: what is written depends on the width of the chart, and
/// peaks are kept.
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    unit: String,
    pub(super) series: Vec<Series>,
    pub(super) limits: Vec<(String, f64)>,
    pub(super) ceiling: Option<f64>,
}

/// One quantity.
#[derive(Clone, Debug)]
pub(super) struct Series {
    name: String,
    pub(super) form: Form,
    pub(super) points: Vec<Point>,
}

/// How a quantity is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Area,
    Levels,
    Line,
}

impl Chart {
    /// An empty chart; `unit` is that of its values as given, such as `s`, `req/s`, `%`, or empty for a count.
    pub fn new(title: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { title: title.into(), unit: unit.into(), series: Vec::new(), limits: Vec::new(), ceiling: None }
    }

    /// Adds a line from point to point. Lines are coloured in the order in which they are added to their chart.
    #[must_use]
    pub fn with_series(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (Duration, f64)>,
    ) -> Self {
        self.with(name.into(), Form::Line, points)
    }

    /// Adds a line that is filled below, in grey: for the load beside the capacity that meets it.
    #[must_use]
    pub fn with_area(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (Duration, f64)>,
    ) -> Self {
        self.with(name.into(), Form::Area, points)
    }

    /// Adds a quantity that keeps its value until the next point, such as a number of replicas.
    #[must_use]
    pub fn with_levels(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (Duration, f64)>,
    ) -> Self {
        self.with(name.into(), Form::Levels, points)
    }

    fn with(mut self, name: String, form: Form, points: impl IntoIterator<Item = (Duration, f64)>) -> Self {
        let mut points: Vec<Point> =
            points.into_iter().map(|(at, value)| (at.as_secs_f64(), value)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.series.push(Series { name, form, points });
        self
    }

    /// Adds a dashed line at one value, such as an objective.
    #[must_use]
    pub fn with_limit(mut self, name: impl Into<String>, value: f64) -> Self {
        self.limits.push((name.into(), value));
        self
    }

    /// Draws what is above `ceiling` at the ceiling, and says so: for an outage whose peak would hide everything
    /// else. A ceiling that is not above 0 is none.
    #[must_use]
    pub fn with_ceiling(mut self, ceiling: f64) -> Self {
        self.ceiling = (ceiling > 0.0).then_some(ceiling);
        self
    }

    /// The last moment with a value, in seconds.
    pub(super) fn end(&self) -> Option<f64> {
        self.series.iter().filter_map(|series| series.points.last()).map(|point| point.0).reduce(f64::max)
    }

    pub(super) fn markup(&self, axis: &Axis<'_>) -> Markup {
        let description = self.description();
        html! {
            figure {
                figcaption {
                    h3 {
                        (self.title)
                        @if !self.unit.is_empty() { span class="unit" { ", " (self.unit) } }
                    }
                    ul class="legend" {
                        @for (series, ink) in self.series.iter().zip(self.inks()) {
                            li {
                                i class={ "swatch " (ink.name) } {}
                                (series.name)
                                @if let Some(highest) = series.highest() {
                                    " " span class="muted" { "max " (self.value(highest)) }
                                }
                            }
                        }
                        @for (name, value) in &self.limits {
                            li { i class="swatch dashed limit" {} (name) " " span class="muted" { (self.value(*value)) } }
                        }
                        @if let Some(ceiling) = self.cut() {
                            li class="muted" { "cut at " (self.value(ceiling)) }
                        }
                    }
                }
                div class="wide" role="img" aria-label=(description) {
                    (PreEscaped(plot::draw(self, axis, &plot::WIDE)))
                }
                div class="narrow" role="img" aria-label=(description) {
                    (PreEscaped(plot::draw(self, axis, &plot::NARROW)))
                }
            }
        }
    }

    /// The colour of each series. Areas are the background and have one of their own, so that the lines of all charts
    /// are coloured in the same order.
    pub(super) fn inks(&self) -> impl Iterator<Item = &'static Ink> {
        let mut lines = style::SERIES.iter().cycle();
        self.series.iter().map(move |series| match series.form {
            Form::Area => &style::AREA,
            Form::Levels | Form::Line => lines.next().expect("a cycle does not end"),
        })
    }

    /// The highest value that the chart must show.
    pub(super) fn highest(&self) -> f64 {
        let values = self.series.iter().filter_map(Series::highest);
        let values = values.chain(self.limits.iter().map(|limit| limit.1));
        let highest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        self.ceiling.map_or(highest, |ceiling| highest.min(ceiling))
    }

    /// What a tick is called.
    pub(super) fn tick(&self, label: &str) -> String {
        // A long unit is in the heading; beside each tick it would take the width that the data need.
        if self.unit.chars().count() <= 2 { text::with_unit(label, &self.unit) } else { label.to_owned() }
    }

    fn value(&self, value: f64) -> String {
        text::with_unit(&text::number(value), &self.unit)
    }

    /// The ceiling, where something is above it.
    fn cut(&self) -> Option<f64> {
        let ceiling = self.ceiling?;
        self.series.iter().filter_map(Series::highest).any(|highest| highest > ceiling).then_some(ceiling)
    }

    /// The chart in words, for those who cannot see it.
    fn description(&self) -> String {
        let mut words = format!("{} over time.", self.title);
        for series in &self.series {
            if let (Some(highest), Some(last)) = (series.highest(), series.last()) {
                let (highest, last) = (self.value(highest), self.value(last));
                let _ = write!(words, " {}: at most {highest}, {last} in the end.", series.name);
            }
        }
        for (name, value) in &self.limits {
            let _ = write!(words, " {name}: {}.", self.value(*value));
        }
        words
    }
}

impl Series {
    fn values(&self) -> impl DoubleEndedIterator<Item = f64> {
        self.points.iter().map(|point| point.1).filter(|value| value.is_finite())
    }

    fn highest(&self) -> Option<f64> {
        self.values().reduce(f64::max)
    }

    fn last(&self) -> Option<f64> {
        self.values().next_back()
    }
}
