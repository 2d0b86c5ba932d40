//! Offered load over time.

use std::time::Duration;

use crate::{Error, Result};

/// Requests per second over time: straight lines between points, the last value for ever after.
///
/// ```
/// use std::time::Duration;
/// use wakala_core::sim::Load;
///
/// let load = Load::from_points([(Duration::ZERO, 600.0), (Duration::from_secs(100), 800.0)]);
/// assert_eq!(load.at(Duration::from_secs(50)), 700.0);
/// assert_eq!(load.at(Duration::from_secs(5000)), 800.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    // Seconds and requests per second, by time.
    points: Vec<(f64, f64)>,
    noise: f64,
}

impl Load {
    /// The same load all the time.
    pub fn constant(requests_per_second: f64) -> Self {
        Self { points: vec![(0.0, requests_per_second)], noise: 0.0 }
    }

    /// Straight lines between points of time since the start and requests per second.
    ///
    /// [`WorldBuilder::build`](super::WorldBuilder::build) refuses points that go back in time, negative loads and
    /// loads that are no number.
    pub fn from_points(points: impl IntoIterator<Item = (Duration, f64)>) -> Self {
        let points = points.into_iter().map(|(at, value)| (at.as_secs_f64(), value)).collect();
        Self { points, noise: 0.0 }
    }

    /// A steady `base`; from `at` on it climbs to `peak` within `ramp`, holds it for `hold` and falls back within
    /// twice the ramp.
    pub fn spike(base: f64, peak: f64, at: Duration, ramp: Duration, hold: Duration) -> Self {
        let (top, end) = (at + ramp, at + ramp + hold);
        Self::from_points([
            (Duration::ZERO, base),
            (at, base),
            (top, peak),
            (end, peak),
            (end + 2 * ramp, base),
        ])
    }

    /// Reads `timestamp,value` lines (RFC 3339 or `YYYY-MM-DD hh:mm:ss`, UTC), with or without a header; time counts
    /// from the first line, and a value times `scale` is requests per second.
    ///
    /// A line with an empty value is a gap and is bridged by a straight line.
    ///
    /// # Errors
    /// `InvalidConfig` names the first line that cannot be read, goes back in time or holds no valid load.
    pub fn from_csv(text: &str, scale: f64) -> Result<Self> {
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut start = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || (index == 0 && line.starts_with("timestamp")) {
                continue;
            }
            let bad = |what: &str| {
                Error::invalid("load", format!("line {}: {what}: {line:?}", index + 1)).on("the load trace")
            };
            let (time, value) = line.split_once(',').ok_or_else(|| bad("not timestamp,value"))?;
            let time = humantime::parse_rfc3339_weak(time.trim())
                .map_err(|e| bad("the timestamp is not of the form 2026-01-01T00:00:00Z").with_source(e))?;
            let start = *start.get_or_insert(time);
            let at =
                time.duration_since(start).map_err(|_| bad("earlier than the first line"))?.as_secs_f64();
            if value.trim().is_empty() {
                continue;
            }
            let value: f64 =
                value.trim().parse().map_err(|e| bad("the value is not a number").with_source(e))?;
            if !(value * scale).is_finite() || value * scale < 0.0 {
                return Err(bad("the value is not a load"));
            }
            if points.last().is_some_and(|&(last, _)| at <= last) {
                return Err(bad("not later than the line before"));
            }
            points.push((at, value * scale));
        }
        if points.is_empty() {
            return Err(Error::invalid("load", "there is no line with a value").on("the load trace"));
        }
        Ok(Self { points, noise: 0.0 })
    }

    /// The part of it from `from` on that lasts `lasting`, starting at zero.
    #[must_use]
    pub fn excerpt(&self, from: Duration, lasting: Duration) -> Self {
        let (begin, end) = (from.as_secs_f64(), (from + lasting).as_secs_f64());
        let within = self.points.iter().filter(|(at, _)| *at > begin && *at < end);
        let points = std::iter::once((0.0, self.at(from)))
            .chain(within.map(|&(at, value)| (at - begin, value)))
            .chain([(end - begin, self.at(from + lasting))])
            .collect();
        Self { points, noise: self.noise }
    }

    /// The same, times `factor`.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        self.points.iter_mut().for_each(|(_, value)| *value *= factor);
        self
    }

    /// Varies each second by chance, by at most this share of it: 0.05 is 5 % up or down. None as given.
    ///
    /// The chance follows the world's seed and the second alone, so worlds that are run differently meet the same load.
    #[must_use]
    pub fn with_noise(mut self, share: f64) -> Self {
        self.noise = share;
        self
    }

    /// Requests per second at that time, without noise.
    pub fn at(&self, time: Duration) -> f64 {
        let time = time.as_secs_f64();
        let after = self.points.partition_point(|(at, _)| *at <= time);
        let Some(&(right_at, right)) = self.points.get(after) else {
            return self.points.last().map_or(0.0, |&(_, value)| value);
        };
        let Some(&(left_at, left)) = after.checked_sub(1).and_then(|index| self.points.get(index)) else {
            return right;
        };
        left + (right - left) * (time - left_at) / (right_at - left_at)
    }

    /// The largest load, without noise.
    pub fn peak(&self) -> f64 {
        self.points.iter().fold(0.0, |peak, &(_, value)| value.max(peak))
    }

    /// When the last point is.
    pub fn duration(&self) -> Duration {
        self.points.last().map_or(Duration::ZERO, |&(at, _)| Duration::from_secs_f64(at))
    }

    pub(super) fn noise(&self) -> f64 {
        self.noise
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::invalid("build", message).on("the load"));
        if self.points.is_empty() {
            return refuse("it has no points; give at least one".to_owned());
        }
        if let Some((at, value)) = self.points.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return refuse(format!("{value} requests per second at {at} s is not a load"));
        }
        if let Some(pair) = self.points.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return refuse(format!("the point at {} s is not later than the one before", pair[1].0));
        }
        if !(0.0..1.0).contains(&self.noise) {
            return refuse(format!("a noise of {} is not a share from 0 to below 1", self.noise));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn csv_bridges_gaps_and_names_bad_lines() {
        let load = Load::from_csv(
            "timestamp,value\n2026-01-01T00:00:00Z,300\n2026-01-01 00:05:00,\n2026-01-01T00:10:00Z,600\n",
            0.1,
        )
        .unwrap();
        assert_eq!(load.at(MINUTE * 5), 45.0);
        assert_eq!((load.peak(), load.duration()), (60.0, MINUTE * 10));
        for (text, says) in [
            ("", "no line with a value"),
            ("timestamp,value\n", "no line with a value"),
            ("2026-01-01T00:00:00Z;3", "line 1: not timestamp,value"),
            ("yesterday,3", "line 1: the timestamp"),
            ("2026-01-01T00:00:00Z,many", "line 1: the value is not a number"),
            ("2026-01-01T00:00:00Z,-1", "line 1: the value is not a load"),
            ("2026-01-01T00:00:00Z,1\n2026-01-01T00:00:00Z,1", "line 2: not later"),
            ("2026-01-01T00:01:00Z,1\n2026-01-01T00:00:00Z,1", "line 2: earlier"),
        ] {
            let error = Load::from_csv(text, 1.0).unwrap_err();
            assert!(error.to_string().contains(says), "{text:?} gives {error}");
        }
    }

    #[test]
    fn excerpt_starts_at_zero_and_keeps_the_shape() {
        let load = Load::spike(100.0, 500.0, MINUTE * 10, MINUTE * 2, MINUTE * 5);
        let part = load.excerpt(MINUTE * 11, MINUTE * 3);
        for seconds in [0, 30, 60, 100, 180] {
            let at = Duration::from_secs(seconds);
            assert_eq!(part.at(at), load.at(MINUTE * 11 + at));
        }
        assert_eq!(part.duration(), MINUTE * 3);
    }

    #[test]
    fn nonsense_is_refused() {
        for load in [
            Load::constant(-1.0),
            Load::constant(f64::NAN),
            Load::from_points([]),
            Load::from_points([(MINUTE, 1.0), (MINUTE, 2.0)]),
            Load::constant(1.0).with_noise(1.0),
        ] {
            assert!(load.check().is_err(), "{load:?}");
        }
    }
}
