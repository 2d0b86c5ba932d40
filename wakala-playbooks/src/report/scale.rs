//! Where the ticks of an axis are and what they are called.

/// The lengths between two ticks of the time axis, in seconds.
const TIME_STEPS: [f64; 19] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0,
    21_600.0, 43_200.0, 86_400.0, 604_800.0,
];
/// Up to here the time axis counts seconds.
const SECONDS_UP_TO: f64 = 180.0;
/// Up to here it counts minutes, then hours.
const MINUTES_UP_TO: f64 = 10_800.0;

/// The ticks of a value axis that starts at 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    step: f64,
}

impl Ticks {
    /// At most `most` steps up to `max` or a little above.
    pub(super) fn new(max: f64, most: u32) -> Self {
        // Beyond these bounds the arithmetic below has no digits left.
        let max = if max.is_finite() && max > 0.0 { max.clamp(1e-9, 1e15) } else { 1.0 };
        let step = round_up(max / f64::from(most));
        let values = steps(step, max + step * 0.999);
        Self { values, step }
    }

    /// The upper end of the axis.
    pub(super) fn top(&self) -> f64 {
        self.values.last().copied().unwrap_or(1.0)
    }

    /// What a tick is called.
    pub(super) fn label(&self, value: f64) -> String {
        let (divisor, suffix) = match self.top() {
            top if top >= 1e7 => (1e6, "M"),
            top if top >= 1e4 => (1e3, "k"),
            _ => (1.0, ""),
        };
        let step = self.step / divisor;
        let is_whole = |shown: f64| (shown - shown.round()).abs() < 1e-6;
        let decimals = [1.0, 1e1, 1e2, 1e3].iter().position(|power| is_whole(step * power)).unwrap_or(4);
        let suffix = if value == 0.0 { "" } else { suffix };
        format!("{:.*}{suffix}", if value == 0.0 { 0 } else { decimals }, value / divisor)
    }
}

/// The next of 1, 2, 5, 10, 20, ...
fn round_up(value: f64) -> f64 {
    let magnitude = 10f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * magnitude >= value * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * magnitude
}

/// Where a time axis ends that must show all up to `last`: there, or at the next whole minute where that is close.
pub(super) fn axis_end(last: f64) -> f64 {
    let whole = (last / 60.0).ceil() * 60.0;
    if last <= 0.0 {
        1.0
    } else if whole - last <= last * 0.01 {
        whole
    } else {
        last
    }
}

/// The ticks of a time axis from 0 to `end`, at most `most` steps, in seconds.
pub(super) fn time_ticks(end: f64, most: u32) -> Vec<f64> {
    let shortest = match end {
        _ if end <= SECONDS_UP_TO => 1.0,
        _ if end <= MINUTES_UP_TO => 60.0,
        _ => 900.0,
    };
    let wanted = (end / f64::from(most)).max(shortest);
    let step = TIME_STEPS.into_iter().find(|step| *step >= wanted * (1.0 - 1e-9));
    steps(step.unwrap_or_else(|| round_up(wanted / 86_400.0) * 86_400.0), end)
}

/// What a moment is called on a time axis that ends at `end`.
pub(super) fn time_label(seconds: f64, end: f64) -> String {
    let part = |unit: f64| format!("{:.0}", (seconds / unit).floor());
    if seconds == 0.0 {
        "0".to_owned()
    } else if end <= SECONDS_UP_TO {
        format!("{} s", part(1.0))
    } else if end <= MINUTES_UP_TO {
        format!("{} min", part(60.0))
    } else {
        format!("{}:{:02.0} h", part(3600.0), (seconds % 3600.0 / 60.0).floor())
    }
}

fn steps(step: f64, end: f64) -> Vec<f64> {
    // The product and not a running sum, so that errors do not add up.
    (0u32..).map(|n| f64::from(n) * step).take_while(|value| *value <= end * (1.0 + 1e-9)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(max: f64) -> Vec<String> {
        let ticks = Ticks::new(max, 4);
        ticks.values.iter().map(|value| ticks.label(*value)).collect()
    }

    #[test]
    fn value_ticks_are_round_and_cover_the_maximum() {
        assert_eq!(labels(50.0), ["0", "20", "40", "60"]);
        assert_eq!(labels(3.4), ["0", "1", "2", "3", "4"]);
        assert_eq!(labels(0.3), ["0", "0.1", "0.2", "0.3"]);
        assert_eq!(labels(0.034), ["0", "0.01", "0.02", "0.03", "0.04"]);
        assert_eq!(labels(12_000.0), ["0", "5k", "10k", "15k"]);
        assert_eq!(labels(10_000.0), ["0", "5k", "10k"]);
        for nothing in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(labels(nothing), ["0", "0.5", "1.0"]);
        }
        for odd in [f64::from_bits(1), 1e-300, 1e300, f64::MAX] {
            assert!((2..=6).contains(&Ticks::new(odd, 4).values.len()), "{odd}");
        }
        for max in [1e-6, 0.07, 0.99, 1.0, 19.0, 20.0, 21.0, 999.0, 4e8] {
            let ticks = Ticks::new(max, 4);
            assert!(ticks.top() >= max * 0.999 && ticks.top() <= max * 2.6, "{max}: {ticks:?}");
            assert!((2..=6).contains(&ticks.values.len()), "{max}: {ticks:?}");
        }
    }

    #[test]
    fn time_ticks_are_what_a_clock_shows() {
        let labels = |end, most| -> Vec<String> {
            time_ticks(end, most).into_iter().map(|tick| time_label(tick, end)).collect()
        };
        assert_eq!(labels(45.0, 5), ["0", "10 s", "20 s", "30 s", "40 s"]);
        assert_eq!(labels(3600.0, 6), ["0", "10 min", "20 min", "30 min", "40 min", "50 min", "60 min"]);
        assert_eq!(labels(200.0, 8), ["0", "1 min", "2 min", "3 min"]);
        assert_eq!(labels(18_000.0, 3), ["0", "2:00 h", "4:00 h"]);
        assert_eq!(labels(12_000.0, 8), ["0", "0:30 h", "1:00 h", "1:30 h", "2:00 h", "2:30 h", "3:00 h"]);
        assert!(time_ticks(1e9, 6).len() <= 7);
        assert_eq!([0.0, 45.0, 3595.0, 3610.0].map(axis_end), [1.0, 45.0, 3600.0, 3610.0]);
    }
}
