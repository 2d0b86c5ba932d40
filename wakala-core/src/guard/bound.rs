//! Bounds, and whether a value could break them at all.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::{MetricQuery, Unit};

/// On which side of its limit a value is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Below,
    Above,
}

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Below => "below",
            Self::Above => "above",
        })
    }
}

/// Where the limit comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Fixed(f64),
    Baseline(Baseline),
}

/// A limit that follows from what was seen before the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline {
    pub(super) factor: f64,
    pub(super) slack: f64,
    pub(super) window: Duration,
    pub(super) min_samples: usize,
}

impl Bound {
    pub(super) fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::Above => value > limit,
        }
    }

    /// By how much a value is on the wrong side of a limit; not above 0 where it is on the right one.
    pub(super) fn excess(self, value: f64, limit: f64) -> f64 {
        match self {
            Self::Below => value - limit,
            Self::Above => limit - value,
        }
    }

    /// The limit that follows from a baseline.
    pub(super) fn limit(self, rule: &Baseline, baseline: f64) -> f64 {
        match self {
            Self::Below => baseline.mul_add(rule.factor, rule.slack),
            Self::Above => baseline.mul_add(rule.factor, -rule.slack),
        }
    }

    /// Why no value within `values` breaks the limit, or every value does.
    pub(super) fn futility(self, query: &MetricQuery, limit: f64, values: &Values) -> Option<String> {
        let Values { lowest, highest, .. } = *values;
        let (idle, hopeless) = match self {
            // A share that may be anything but the whole of it fails too late to guard, and 1 for 1 % is a slip.
            Self::Below => (limit > highest || values.is_share && limit >= highest, limit <= lowest),
            Self::Above => (limit < lowest, limit >= highest),
        };
        let hint = if values.is_share && limit >= 1.0 { "; a ratio is 0.05 where one says 5 %" } else { "" };
        let range = format!("{query} lies within {lowest}..{highest}");
        if idle {
            return Some(format!(
                "it could never fail: {range}, must be {self} {limit}; choose a limit that can be broken{hint}"
            ));
        }
        hopeless.then(|| {
            format!(
                "it could never hold: {range}, must be {self} {limit}; choose a limit that can be kept{hint}"
            )
        })
    }
}

/// The values that a metric can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    lowest: f64,
    highest: f64,
    is_share: bool,
}

impl Values {
    /// As somebody who knows the metric says.
    pub(super) fn declared((lowest, highest): (f64, f64)) -> Self {
        Self { lowest, highest, is_share: false }
    }

    /// As its unit says, as long as what was seen does not say otherwise: some differences are negative, and a
    /// utilisation can be above what was requested.
    pub(super) fn of(unit: Unit, (lowest, highest): (f64, f64)) -> Self {
        let is_share = unit == Unit::Ratio && highest <= 1.0;
        Self {
            lowest: if lowest < 0.0 { f64::NEG_INFINITY } else { 0.0 },
            highest: if is_share { 1.0 } else { f64::INFINITY },
            is_share,
        }
    }
}

/// A value for people: four digits after the point, and fewer or more where these would hide it.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.1}"),
        size if size == 0.0 || size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: (f64, f64) = (0.0, 0.5);

    #[test]
    fn futility_by_unit_and_bound() {
        use Bound::{Above, Below};
        let (fail, hold, fine) = ("it could never fail", "it could never hold", "");
        for (bound, limit, unit, seen, expected) in [
            (Below, 0.01, Unit::Ratio, ANY, fine),
            (Below, 0.999, Unit::Ratio, ANY, fine),
            (Below, 1.0, Unit::Ratio, ANY, fail),
            (Below, 1.0, Unit::Ratio, (1.0, 1.0), fail),
            (Below, 5.0, Unit::Ratio, ANY, fail),
            // A utilisation above the request: the ratio is none that ends at 1.
            (Below, 1.2, Unit::Ratio, (0.4, 1.3), fine),
            (Below, 0.0, Unit::Ratio, ANY, hold),
            (Below, 0.0, Unit::Count, ANY, hold),
            (Below, -1.0, Unit::Seconds, ANY, hold),
            (Below, 0.0, Unit::Count, (-3.0, 4.0), fine),
            (Below, 1e9, Unit::Bytes, ANY, fine),
            (Above, 0.0, Unit::PerSecond, ANY, fine),
            (Above, -0.1, Unit::PerSecond, ANY, fail),
            (Above, -0.1, Unit::Ratio, ANY, fail),
            (Above, -0.1, Unit::Count, (-3.0, 4.0), fine),
            (Above, 0.8, Unit::Ratio, ANY, fine),
            (Above, 1.0, Unit::Ratio, ANY, hold),
            (Above, 1.0, Unit::Ratio, (0.4, 1.3), fine),
            (Above, 1e9, Unit::Count, ANY, fine),
        ] {
            let text = bound.futility(&"m".into(), limit, &Values::of(unit, seen)).unwrap_or_default();
            let as_expected = text.starts_with(expected) && text.is_empty() == expected.is_empty();
            assert!(as_expected, "{bound} {limit} in {unit:?}, seen {seen:?}: {text:?}");
        }
    }

    #[test]
    fn declared_values_count_and_their_ends_can_be_reached() {
        let values = Values::declared((0.0, 4.0));
        let text = |bound: Bound, limit| bound.futility(&"m".into(), limit, &values).is_some();
        assert_eq!([1.0, 4.0, 4.1, 0.0].map(|limit| text(Bound::Below, limit)), [false, false, true, true]);
        assert_eq!([1.0, 0.0, -0.1, 4.0].map(|limit| text(Bound::Above, limit)), [false, false, true, true]);
    }

    #[test]
    fn numbers_are_not_hidden_by_rounding() {
        let shown = [0.0, 0.2, 12.5, 0.00004, 1_073_741_824.0, -2.0].map(number);
        assert_eq!(shown, ["0.0000", "0.2000", "12.5000", "4.000e-5", "1073741824.0", "-2.0000"]);
    }
}
