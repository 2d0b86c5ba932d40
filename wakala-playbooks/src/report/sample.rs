//! As few points as draw the same line.

/// Seconds since the start, value.
pub(super) type Point = (f64, f64);

/// The pieces of a line, broken where a value is not a number.
///
/// Of all points within one column of `width` seconds it keeps the first, the lowest, the highest and the last: what
/// is drawn is the same, peaks included, and its size depends on the chart and not on the data. A gap that is
/// narrower than a column is not seen and not kept.
pub(super) fn pieces(points: &[Point], width: f64) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    let mut column: Option<Column> = None;
    let mut gap = false;
    for &point in points {
        if !point.1.is_finite() {
            gap = true;
            continue;
        }
        let at = (point.0 / width).floor();
        match &mut column {
            Some(current) if at <= current.at => current.add(point),
            previous => {
                let broken = previous.as_ref().is_none_or(|previous| gap && at - previous.at >= 2.0);
                if let Some(full) = previous.replace(Column::new(at, point)) {
                    full.write(&mut pieces);
                }
                if broken {
                    pieces.push(Vec::new());
                }
            }
        }
        gap = false;
    }
    if let Some(last) = column {
        last.write(&mut pieces);
    }
    pieces
}

#[derive(Debug)]
struct Column {
    at: f64,
    first: Point,
    low: Point,
    high: Point,
    last: Point,
}

impl Column {
    fn new(at: f64, point: Point) -> Self {
        Self { at, first: point, low: point, high: point, last: point }
    }

    fn add(&mut self, point: Point) {
        if point.1 < self.low.1 {
            self.low = point;
        }
        if point.1 > self.high.1 {
            self.high = point;
        }
        self.last = point;
    }

    fn write(self, pieces: &mut [Vec<Point>]) {
        let (early, late) =
            if self.low.0 <= self.high.0 { (self.low, self.high) } else { (self.high, self.low) };
        if let Some(piece) = pieces.last_mut() {
            piece.extend([self.first, early, late, self.last]);
            piece.dedup();
        }
    }
}

/// The line of a quantity that keeps its value until the next point.
pub(super) fn levels(points: &[Point]) -> Vec<Point> {
    let mut line = Vec::with_capacity(points.len() * 2);
    let mut level = f64::NAN;
    for &(at, value) in points {
        if level.is_finite() && level != value {
            line.push((at, level));
        }
        line.push((at, value));
        level = value;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_points_are_kept_as_they_are() {
        let points = [(0.0, 1.0), (60.0, 5.0), (120.0, 2.0)];
        assert_eq!(pieces(&points, 8.0), [points.to_vec()]);
        assert!(pieces(&[], 8.0).is_empty());
        assert!(pieces(&[(1.0, f64::NAN)], 8.0).is_empty());
    }

    #[test]
    fn many_points_keep_their_peaks() {
        let mut points: Vec<Point> = (0..100_000u32).map(|n| (f64::from(n) / 100.0, 1.0)).collect();
        points[55_555].1 = 9.0;
        points[55_560].1 = -3.0;
        let pieces = pieces(&points, 2.0);
        assert_eq!(pieces.len(), 1);
        assert!(pieces[0].len() <= 4 * 500, "{}", pieces[0].len());
        assert!(pieces[0].contains(&points[55_555]) && pieces[0].contains(&points[55_560]));
        assert_eq!((pieces[0].first(), pieces[0].last()), (points.first(), points.last()));
        assert!(pieces[0].is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn a_gap_breaks_the_line_where_it_can_be_seen() {
        let points =
            [(0.0, 1.0), (60.0, f64::NAN), (120.0, 2.0), (120.5, f64::INFINITY), (121.0, 3.0), (180.0, 4.0)];
        assert_eq!(pieces(&points, 8.0), [vec![(0.0, 1.0)], vec![(120.0, 2.0), (121.0, 3.0), (180.0, 4.0)]]);
    }

    #[test]
    fn levels_stay_until_the_next_point() {
        let line = levels(&[(0.0, 5.0), (10.0, 50.0), (20.0, f64::NAN), (30.0, 8.0)]);
        assert_eq!(line[..4], [(0.0, 5.0), (10.0, 5.0), (10.0, 50.0), (20.0, 50.0)]);
        assert!(line[4].1.is_nan());
        assert_eq!(line[5..], [(30.0, 8.0)]);
    }
}
