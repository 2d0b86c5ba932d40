//! The text format in which a pod shows its metrics.
//!
//! Strict, as Prometheus is: a page with one line that cannot be read is no page, since a counter that was overlooked
//! is one that looks healthy. (Hence no library: prometheus-parse skips lines that it cannot read and splits labels at
//! every comma, openmetrics-parser is under the LGPL.)

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::metric::Series;

/// How many series of a pod one selection may match.
const MAX_SERIES: usize = 10_000;

/// What a page has of one selection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selected {
    /// Whether there is any series of that name, whatever its labels.
    pub(crate) named: bool,
    /// The values of the series that match, by a hash of their labels.
    pub(crate) values: Vec<(u64, f64)>,
}

/// Why a page is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Has a line that is no line of the format, counted from 1.
    Line(usize),
    /// Ends within a line.
    Truncated,
    /// Has a selected series twice.
    Twice(String),
    TooMany(String),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number} of its page is not in Prometheus' text format"),
            Self::Truncated => f.write_str("its page ends within a line"),
            Self::Twice(name) => write!(f, "its page has a series of {name} twice"),
            Self::TooMany(name) => write!(f, "its page has more than {MAX_SERIES} series of {name}"),
        }
    }
}

/// Reads a page, and keeps what is selected, in that order.
pub(crate) fn select(page: &str, selections: &[Series]) -> Result<Vec<Selected>, Malformed> {
    if !page.is_empty() && !page.ends_with('\n') {
        return Err(Malformed::Truncated);
    }
    let mut selected = vec![Selected::default(); selections.len()];
    let mut seen = HashSet::new();
    for (index, line) in page.lines().enumerate() {
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let sample = Sample::parse(line).ok_or(Malformed::Line(index + 1))?;
        let mut hash = None;
        for (series, found) in selections.iter().zip(&mut selected) {
            if series.name() != sample.name {
                continue;
            }
            found.named = true;
            let key = *hash.get_or_insert_with(|| hash_of(&sample.labels));
            if !series.matches(&sample.labels) {
                continue;
            }
            if found.values.len() == MAX_SERIES {
                return Err(Malformed::TooMany(sample.name.to_owned()));
            }
            found.values.push((key, sample.value));
        }
        if let Some(key) = hash
            && !seen.insert((sample.name, key))
        {
            return Err(Malformed::Twice(sample.name.to_owned()));
        }
    }
    Ok(selected)
}

fn hash_of(labels: &[(&str, String)]) -> u64 {
    let mut sorted: Vec<_> = labels.iter().collect();
    sorted.sort();
    let mut hasher = DefaultHasher::new();
    sorted.hash(&mut hasher);
    hasher.finish()
}

const BLANKS: [char; 2] = [' ', '\t'];

#[derive(Debug)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    /// `name{label="value",…} value [timestamp] [# exemplar]`.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = word(line, true)?;
        let rest = rest.trim_start_matches(BLANKS);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Vec::new(), rest),
        };
        let mut words = rest.split(BLANKS).filter(|word| !word.is_empty());
        let value = number(words.next()?)?;
        match words.next() {
            None => {}
            // OpenMetrics' exemplars, which some servers send to whoever asks.
            Some(word) if word.starts_with('#') => {}
            Some(timestamp) => {
                number(timestamp)?;
                if words.next().is_some_and(|word| !word.starts_with('#')) {
                    return None;
                }
            }
        }
        Some(Self { name, labels, value })
    }
}

/// Splits the name of a metric or of a label off.
fn word(text: &str, colons: bool) -> Option<(&str, &str)> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let (name, rest) = text.split_at(text.find(|c| !inside(c)).unwrap_or(text.len()));
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some((name, rest))
}

type Labels<'a> = Vec<(&'a str, String)>;

/// The labels up to the brace that ends them, and what follows it.
fn labels(mut text: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels: Labels<'_> = Vec::new();
    loop {
        text = text.trim_start_matches(BLANKS);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = word(text, false)?;
        let rest = rest.trim_start_matches(BLANKS).strip_prefix('=')?;
        let (value, rest) = quoted(rest.trim_start_matches(BLANKS).strip_prefix('"')?)?;
        if labels.iter().any(|(known, _)| *known == name) {
            return None;
        }
        labels.push((name, value));
        let rest = rest.trim_start_matches(BLANKS);
        text = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// The text up to the quotation mark that ends it, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                // Prometheus leaves other escapes as they are.
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

/// A number; NaN and infinities included.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(page: &str, series: impl Into<Series>) -> Result<Vec<f64>, Malformed> {
        let selected = select(page, &[series.into()])?;
        Ok(selected[0].values.iter().map(|(_, value)| *value).collect())
    }

    #[test]
    fn samples_are_read_as_prometheus_reads_them() {
        for (line, value) in [
            ("m 1", 1.0),
            ("  m\t 1.5e3 ", 1500.0),
            ("m{} 2", 2.0),
            ("m{ a = \"x\" , } 2", 2.0),
            ("m {a=\"x\",b=\"y\"}3", 3.0),
            ("m{a=\"}, b=\\\"{\\\\\"} 4", 4.0),
            ("m 5 1700000000000", 5.0),
            ("m 5 1700000000.123", 5.0),
            ("m 6 # {trace_id=\"1\"} 0.5", 6.0),
            ("m 6 1700000000 # {trace_id=\"1\"} 0.5", 6.0),
            ("m +Inf", f64::INFINITY),
            ("m -Inf", f64::NEG_INFINITY),
            ("m{unit=\"Ω\"} -0.25", -0.25),
        ] {
            let page = format!("# HELP m Things.\n# TYPE m gauge\n\n{line}\n# EOF\n");
            assert_eq!(values(&page, "m"), Ok(vec![value]), "{line}");
        }
        assert!(values("m NaN\n", "m").unwrap()[0].is_nan());
    }

    #[test]
    fn a_line_that_cannot_be_read_makes_a_page_none() {
        for line in [
            "m",
            "m x",
            "m 1 x",
            "m 1 2 3",
            "1m 1",
            "m-x 1",
            "m{a} 1",
            "m{a=x} 1",
            "m{a=\"x\" 1",
            "m{a=\"x} 1",
            "m{a=\"x\"b=\"y\"} 1",
            "m{a=\"x\",a=\"y\"} 1",
            "m{,} 1",
            "m{\"quoted name\"} 1",
            "<html>",
            "{\"error\": 1}",
            "=",
        ] {
            assert_eq!(values(&format!("m 1\n{line}\n"), "other"), Err(Malformed::Line(2)), "{line}");
        }
    }

    #[test]
    fn a_page_that_was_cut_off_is_none() {
        assert_eq!(values("m 123\nm 4", "m"), Err(Malformed::Truncated));
        assert_eq!(values("", "m"), Ok(vec![]));
    }

    #[test]
    fn a_series_that_comes_twice_makes_a_page_none() {
        let page = "m{a=\"1\",b=\"2\"} 1\nm{b=\"2\",a=\"1\"} 1\n";
        assert_eq!(values(page, "m"), Err(Malformed::Twice("m".into())));
        assert_eq!(values(page, Series::named("m").with_label("a", "3")), Err(Malformed::Twice("m".into())));
        assert_eq!(values(page, "other"), Ok(vec![]));
    }

    #[test]
    fn labels_select() {
        let page = "r_total{code=\"200\"} 9\nr_total{code=\"500\"} 1\nr_total{code=\"503\"} 2\nr_total_x 7\n";
        assert_eq!(values(page, "r_total"), Ok(vec![9.0, 1.0, 2.0]));
        assert_eq!(values(page, Series::named("r_total").with_label("code", "503")), Ok(vec![2.0]));
        assert_eq!(
            values(page, Series::named("r_total").with_label_starting("code", "5")),
            Ok(vec![1.0, 2.0])
        );
        assert_eq!(values(page, Series::named("r_total").with_label("verb", "GET")), Ok(vec![]));
    }

    #[test]
    fn a_name_without_a_matching_series_is_told_from_no_name() {
        let of_4xx = Series::named("r_total").with_label_starting("code", "4");
        let named = |page: &str| select(page, std::slice::from_ref(&of_4xx)).unwrap()[0].named;
        assert!(named("r_total{code=\"200\"} 9\n"));
        assert!(!named("# TYPE r_total counter\nother 1\n"));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let page: String = (0..=MAX_SERIES).map(|number| format!("m{{n=\"{number}\"}} 1\n")).collect();
        assert_eq!(values(&page, "m"), Err(Malformed::TooMany("m".into())));
    }
}
