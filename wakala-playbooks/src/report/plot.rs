//! A chart as SVG.

use std::ops::Range;

use plotters::chart::ChartContext;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    AreaSeries, Cartesian2d, ChartBuilder, Circle, Color, DrawingAreaErrorKind, EmptyElement,
    IntoDrawingArea, IntoFont, PathElement, RGBColor, Ranged, Rectangle, SVGBackend, ShapeStyle, Text,
    TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::badges;
use super::chart::{Chart, Form};
use super::marks::{PlacedMark, PlacedSpan};
use super::sample::{levels, pieces};
use super::scale::{self, Ticks};
use super::style;

/// The drawing's units in one CSS pixel: the backend has whole units only, and a line needs finer ones.
const SCALE: i32 = 4;
const FINE: u32 = SCALE.unsigned_abs();
/// The width of a column whose points are drawn as one, in CSS pixels.
const COLUMN: f64 = 2.0;
/// The height of a badge and of the line that leads to it, in CSS pixels.
const BADGE: i32 = 16;
const LEADER: i32 = 9;
/// The space right of the data, in CSS pixels.
const RIGHT: u32 = 26;
/// The width of a letter of a label, in CSS pixels; on the safe side.
const LETTER: f64 = 7.0;

/// What all charts of a page share.
#[derive(Debug)]
pub(super) struct Axis<'a> {
    /// Where it ends, in seconds from the start; above 0.
    pub(super) end: f64,
    pub(super) marks: &'a [PlacedMark],
    pub(super) spans: &'a [PlacedSpan],
}

/// The size of a drawing, in CSS pixels.
#[derive(Debug)]
pub(super) struct Layout {
    width: u32,
    height: u32,
    left: u32,
    time_ticks: u32,
    value_ticks: u32,
}

/// For screens and paper.
pub(super) const WIDE: Layout = Layout { width: 960, height: 216, left: 56, time_ticks: 12, value_ticks: 4 };
/// For phones.
pub(super) const NARROW: Layout = Layout { width: 368, height: 190, left: 46, time_ticks: 4, value_ticks: 3 };

impl Layout {
    /// The width of the data, in CSS pixels.
    fn plot_width(&self) -> f64 {
        f64::from(self.width - self.left - RIGHT)
    }
}

type Axes = Cartesian2d<Ruler, Ruler>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// An axis from 0 with ticks of our own.
struct Ruler {
    line: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Ruler {
    fn new(end: f64, ticks: Vec<f64>) -> Self {
        Self { line: (0.0..end).into(), ticks }
    }
}

impl Ranged for Ruler {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.line.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.line.range()
    }
}

/// The chart as an `svg` element. Its colours are the light ones of [`style`].
pub(super) fn draw(chart: &Chart, axis: &Axis<'_>, layout: &Layout) -> String {
    let mut svg = String::new();
    draw_into(&mut svg, chart, axis, layout).expect("a drawing into memory takes every shape");
    svg
}

fn draw_into(svg: &mut String, chart: &Chart, axis: &Axis<'_>, layout: &Layout) -> Drawn {
    let ticks = Ticks::new(chart.highest(), layout.value_ticks);
    let top = ticks.top();
    let root = SVGBackend::with_string(svg, (layout.width * FINE, layout.height * FINE)).into_drawing_area();
    let times = scale::time_ticks(axis.end, layout.time_ticks);
    let lane = if axis.marks.is_empty() { 8 } else { (LEADER + BADGE + 2).unsigned_abs() };
    let mut context = ChartBuilder::on(&root)
        .margin_top(lane * FINE)
        .margin_right(RIGHT * FINE)
        .x_label_area_size(26 * FINE)
        .y_label_area_size(layout.left * FINE)
        .build_cartesian_2d(Ruler::new(axis.end, times), Ruler::new(top, ticks.values.clone()))?;
    let mut canvas = Canvas { context: &mut context, axis, layout, top };
    canvas.spans()?;
    canvas.mesh(chart, &ticks)?;
    canvas.mark_lines()?;
    canvas.limits(chart)?;
    canvas.series(chart)?;
    canvas.badges()?;
    drop(context);
    root.present()
}

struct Canvas<'c, 'a, 'b> {
    context: &'c mut ChartContext<'a, SVGBackend<'b>, Axes>,
    axis: &'c Axis<'c>,
    layout: &'c Layout,
    top: f64,
}

impl Canvas<'_, '_, '_> {
    fn spans(&mut self) -> Drawn {
        for span in self.axis.spans {
            let shade = style::SPAN.light.mix(0.16).filled();
            let area = Rectangle::new([(span.from, self.top), (span.to, 0.0)], shade);
            self.context.plotting_area().draw(&area)?;
            let letters = f64::from(u32::try_from(span.name.chars().count()).unwrap_or(u32::MAX));
            let room = (span.to - span.from) / self.axis.end * self.layout.plot_width();
            if letters * LETTER + 10.0 <= room {
                let name = EmptyElement::at((span.from, self.top))
                    + Text::new(span.name.clone(), (6 * SCALE, 5 * SCALE), label(style::SPAN_TEXT.light, 11));
                self.context.plotting_area().draw(&name)?;
            }
        }
        Ok(())
    }

    fn mesh(&mut self, chart: &Chart, ticks: &Ticks) -> Drawn {
        let end = self.axis.end;
        self.context
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(stroke(style::GRID.light, SCALE))
            .axis_style(stroke(style::AXIS.light, SCALE))
            .set_all_tick_mark_size(4 * SCALE)
            .label_style(label(style::LABEL.light, 12))
            .x_label_formatter(&|seconds| scale::time_label(*seconds, end))
            .y_label_formatter(&|value| chart.tick(&ticks.label(*value)))
            .draw()
    }

    fn mark_lines(&mut self) -> Drawn {
        let mut last = None;
        for mark in self.axis.marks {
            let place = (mark.at / self.axis.end * self.layout.plot_width()).round();
            if last.replace((place, mark.failure)) == Some((place, mark.failure)) {
                continue;
            }
            let colour = mark_ink(mark.failure).mix(if mark.failure { 1.0 } else { 0.55 });
            let line = PathElement::new([(mark.at, 0.0), (mark.at, self.top)], stroke(colour, SCALE));
            self.context.plotting_area().draw(&line)?;
        }
        Ok(())
    }

    fn limits(&mut self, chart: &Chart) -> Drawn {
        for (_, value) in chart.limits.iter().filter(|limit| (0.0..=self.top).contains(&limit.1)) {
            let ends = [(0.0, *value), (self.axis.end, *value)];
            let line = PathElement::new(ends, stroke(style::LIMIT.light, SCALE + SCALE / 2));
            self.context.plotting_area().draw(&line)?;
        }
        Ok(())
    }

    fn series(&mut self, chart: &Chart) -> Drawn {
        let column = self.axis.end / self.layout.plot_width() * COLUMN;
        let ceiling = chart.ceiling.map_or(self.top, |ceiling| ceiling.min(self.top));
        for (series, ink) in chart.series.iter().zip(chart.inks()) {
            let colour = ink.light;
            let line = stroke(colour, 2 * SCALE);
            let points =
                if series.form == Form::Levels { levels(&series.points) } else { series.points.clone() };
            for mut piece in pieces(&points, column) {
                piece.iter_mut().for_each(|point| point.1 = point.1.clamp(0.0, ceiling));
                if let [alone] = piece[..] {
                    self.context.plotting_area().draw(&Circle::new(alone, 2 * SCALE, colour.filled()))?;
                } else if series.form == Form::Area {
                    let area = AreaSeries::new(piece, 0.0, colour.mix(0.16)).border_style(line);
                    self.context.draw_series(area)?;
                } else {
                    self.context.plotting_area().draw(&PathElement::new(piece, line))?;
                }
            }
        }
        Ok(())
    }

    fn badges(&mut self) -> Drawn {
        let width = self.layout.plot_width();
        for badge in badges::place(self.axis.marks, self.axis.end, width) {
            let (half, aside) = (pixels(badge.width() / 2.0), pixels(badge.centre - badge.at));
            let (high, low) = (-(LEADER + BADGE) * SCALE, -LEADER * SCALE);
            let at = (badge.at / width * self.axis.end, self.top);
            let colour = mark_ink(badge.failure);
            let text = label(style::MARK_TEXT.light, 11).pos(Pos::new(HPos::Center, VPos::Center));
            let element = EmptyElement::at(at)
                + PathElement::new([(0, 0), (aside, low)], stroke(colour.mix(0.7), SCALE))
                + Rectangle::new([(aside - half, high), (aside + half, low)], colour.filled())
                + Text::new(badge.label(), (aside, (high + low) / 2), text);
            self.context.plotting_area().draw(&element)?;
        }
        Ok(())
    }
}

fn mark_ink(failure: bool) -> RGBColor {
    if failure { style::FAILURE.light } else { style::MARK.light }
}

fn stroke(colour: impl Color, width: i32) -> ShapeStyle {
    ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: width.unsigned_abs() }
}

/// A text of that size in CSS pixels.
fn label(colour: RGBColor, size: i32) -> TextStyle<'static> {
    // The backend divides the size by this, since it takes it for the height of a line.
    const LINE: f64 = 1.24;
    ("sans-serif", f64::from(size * SCALE) * LINE).into_font().color(&colour)
}

/// CSS pixels in the drawing's units.
#[expect(clippy::cast_possible_truncation, reason = "saturates, and no badge is that wide")]
fn pixels(css: f64) -> i32 {
    (css * f64::from(SCALE)).round() as i32
}
