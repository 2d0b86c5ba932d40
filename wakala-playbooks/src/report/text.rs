//! How times and numbers are written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that a date of four digits can show.
const LAST: u64 = 253_402_300_799;

/// `2026-03-04 10:15:00 UTC`.
pub(super) fn clock(at: SystemTime) -> String {
    let (date, time) = date_and_time(at);
    if date.is_empty() { time } else { format!("{date} {time} UTC") }
}

/// `10:15:00`.
pub(super) fn time_of_day(at: SystemTime) -> String {
    date_and_time(at).1
}

fn date_and_time(at: SystemTime) -> (String, String) {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) if since.as_secs() <= LAST => {
            let text = humantime::format_rfc3339_seconds(at).to_string();
            let (date, time) = text.split_once('T').unwrap_or((&text, ""));
            (date.to_owned(), time.trim_end_matches('Z').to_owned())
        }
        _ => (String::new(), "unknown time".to_owned()),
    }
}

/// `14:05` in minutes and seconds, `1:02:33` from an hour on, with a minus sign before `origin`.
pub(super) fn since(at: SystemTime, origin: SystemTime) -> String {
    match at.duration_since(origin) {
        Ok(after) => minutes(after.as_secs()),
        Err(before) => format!("\u{2212}{}", minutes(before.duration().as_secs())),
    }
}

/// As [`since`], for a time in seconds from the start.
pub(super) fn minutes(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `350 ms`, `4.2 s`, `12 min 30 s`, `2 h 5 min`.
pub(super) fn took(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {small_unit}") }
    };
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{}.{} s", seconds, duration.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        _ => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
    }
}

/// Three digits that count or more: `0.034`, `3.42`, `12`, `12.3k`.
pub(super) fn number(value: f64) -> String {
    let (value, suffix) = match value.abs() {
        size if size >= 1e7 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.099_95 => 3,
        size if size >= 0.009_995 => 4,
        _ => 6,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// Numbers below each other: as many decimals as the smallest needs to show two digits that count, at most 4, and
/// thousands apart.
pub(super) fn column(values: &[Option<f64>]) -> Vec<Option<String>> {
    let numbers = || values.iter().flatten().map(|value| value.abs()).filter(|value| *value > 0.0);
    let decimals = if numbers().all(|value| value.fract() == 0.0) {
        0
    } else {
        let smallest = numbers().fold(f64::INFINITY, f64::min);
        [10.0, 1.0, 0.1, 0.01].iter().position(|least| smallest >= *least).unwrap_or(4)
    };
    values.iter().map(|value| value.map(|value| thousands(&format!("{:.decimals$}", value + 0.0)))).collect()
}

/// Puts a narrow space before every third digit of the whole part.
fn thousands(number: &str) -> String {
    let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::with_capacity(number.len() + 8);
    for (place, letter) in whole.char_indices() {
        let left = whole.len() - place;
        if left % 3 == 0 && text.ends_with(|before: char| before.is_ascii_digit()) {
            text.push('\u{202f}');
        }
        text.push(letter);
    }
    text + fraction
}

/// A number with its unit: `3.4 s`, `12%`.
pub(super) fn with_unit(number: &str, unit: &str) -> String {
    match unit {
        "" => number.to_owned(),
        "%" => format!("{number}%"),
        unit => format!("{number}\u{a0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_never_panic() {
        let start = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        assert_eq!(clock(start), "2026-01-01 00:00:00 UTC");
        assert_eq!(since(start + Duration::from_secs(845), start), "14:05");
        assert_eq!(since(start + Duration::from_secs(3753), start), "1:02:33");
        assert_eq!(since(start, start + Duration::from_secs(61)), "\u{2212}1:01");
        assert_eq!(clock(UNIX_EPOCH - Duration::from_secs(1)), "unknown time");
        assert_eq!(time_of_day(UNIX_EPOCH + Duration::from_secs(LAST + 1)), "unknown time");
    }

    #[test]
    fn durations_have_two_parts_at_most() {
        let texts = [350, 4_290, 59_999, 60_000, 750_000, 3_600_000, 7_530_000]
            .map(|millis| took(Duration::from_millis(millis)));
        assert_eq!(texts, ["350 ms", "4.2 s", "59 s", "1 min", "12 min 30 s", "1 h", "2 h 5 min"]);
    }

    #[test]
    fn columns_have_the_same_decimals() {
        let texts = |values: &[f64]| -> Vec<String> {
            column(&values.iter().copied().map(Some).collect::<Vec<_>>()).into_iter().flatten().collect()
        };
        assert_eq!(
            texts(&[12_914_220.0, 201_377.0, 0.0]),
            ["12\u{202f}914\u{202f}220", "201\u{202f}377", "0"]
        );
        assert_eq!(texts(&[61.2, 8.54, 0.954]), ["61.20", "8.54", "0.95"]);
        assert_eq!(texts(&[5.0, 17.1, -1234.5]), ["5.0", "17.1", "-1\u{202f}234.5"]);
        assert_eq!(texts(&[0.5, 0.000_012]), ["0.5000", "0.0000"]);
        assert_eq!(column(&[None, Some(1.0)]), [None, Some("1".to_owned())]);
    }

    #[test]
    fn numbers_show_what_counts() {
        let texts = [0.0, 0.000_12, 0.034, 3.417, 12.0, 99.96, 1234.0, 12_345.0, 2.5e7].map(number);
        assert_eq!(texts, ["0", "0.00012", "0.034", "3.42", "12", "100", "1234", "12.3k", "25M"]);
    }
}
