//! `pgbouncer.ini` as a document: what is not changed stays as it is, to the byte.

use std::fmt;
use std::ops::Range;

use wakala_core::{Error, ErrorKind, Result};

use super::connstr::{Parameter, parameters, quoted};

/// A `pgbouncer.ini`, read as PgBouncer reads it and written back to the byte.
///
/// Comments, unknown keys, order, spacing and line ends stay; a changed value is changed where it stands. A key that
/// was added and is taken away again leaves no trace.
///
/// ```
/// use wakala_db::PgBouncerIni;
///
/// let mut ini = PgBouncerIni::parse("[databases]\napp = host=db pool_size=5 ; kept\n[pgbouncer]\n# as agreed\nmax_client_conn = 100\n");
/// ini.set_setting("max_client_conn", Some("500"))?;
/// assert!(ini.to_string().ends_with("# as agreed\nmax_client_conn = 500\n"));
/// # Ok::<(), wakala_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgBouncerIni {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// With its end, if it has one.
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Blank, or a comment.
    Nothing,
    Include,
    Section(String),
    Entry {
        key: Range<usize>,
        value: Range<usize>,
        quoted: bool,
    },
    Bad(String),
}

/// A line that sets something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) section: Option<&'a str>,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    /// Whether the key stands in quotation marks.
    pub(super) quoted: bool,
}

/// What C's `isspace` takes for blank.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn classify(text: &str) -> Kind {
    let start = text.len() - text.trim_start_matches(is_blank).len();
    let body = &text[start..];
    if body.is_empty() || body.starts_with(['#', ';']) {
        return Kind::Nothing;
    }
    if body.strip_prefix("%include").is_some_and(|rest| rest.starts_with([' ', '\t'])) {
        return Kind::Include;
    }
    if let Some(rest) = body.strip_prefix('[') {
        let Some((name, after)) = rest.split_once(']') else {
            return Kind::Bad("the section's name has no closing bracket".to_owned());
        };
        let after = after.trim_start_matches(is_blank);
        return if after.is_empty() || after.starts_with(['#', ';']) {
            Kind::Section(name.to_owned())
        } else {
            Kind::Bad(format!("something follows [{name}]; give it a line of its own"))
        };
    }
    let (key, quoted, mut at) = if let Some(rest) = body.strip_prefix('\'') {
        let Some(length) = rest.find(['\'', '\n']).filter(|at| rest.as_bytes()[*at] == b'\'') else {
            return Kind::Bad("the quotation mark of the key is not closed".to_owned());
        };
        (start + 1..start + 1 + length, true, start + length + 2)
    } else {
        let length = body
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*')))
            .unwrap_or(body.len());
        (start..start + length, false, start + length)
    };
    let blanks = |at: usize| at + text[at..].len() - text[at..].trim_start_matches([' ', '\t']).len();
    at = blanks(at);
    if key.is_empty() || !text[at..].starts_with('=') {
        return Kind::Bad(format!("{:?} is not key = value", body.trim_end_matches(is_blank)));
    }
    at = blanks(at + 1);
    let value = at..at + text[at..].trim_end_matches(is_blank).len();
    Kind::Entry { key, value, quoted }
}

impl Line {
    fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind: classify(&text), text }
    }
}

impl PgBouncerIni {
    /// Reads a document. Lines that PgBouncer would refuse are kept, and found by [`check`](Self::check).
    pub fn parse(text: &str) -> Self {
        Self { lines: text.split_inclusive('\n').map(Line::new).collect() }
    }

    /// The lines that set something, in their order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut section = None;
        self.lines.iter().enumerate().filter_map(move |(index, line)| match &line.kind {
            Kind::Section(name) => {
                section = Some(name.as_str());
                None
            }
            Kind::Entry { key, value, quoted } => Some(Entry {
                line: index + 1,
                section,
                key: &line.text[key.clone()],
                value: &line.text[value.clone()],
                quoted: *quoted,
            }),
            _ => None,
        })
    }

    /// The sections in their order, with the number of the line.
    pub(super) fn sections(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().filter_map(|(index, line)| match &line.kind {
            Kind::Section(name) => Some((index + 1, name.as_str())),
            _ => None,
        })
    }

    /// Lines that are nothing that PgBouncer knows.
    pub(super) fn bad_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().filter_map(|(index, line)| match &line.kind {
            Kind::Bad(why) => Some((index + 1, why.as_str())),
            _ => None,
        })
    }

    /// The first line that takes in another file.
    pub(super) fn include(&self) -> Option<usize> {
        self.lines.iter().position(|line| line.kind == Kind::Include).map(|index| index + 1)
    }

    /// The value of a key of `[pgbouncer]`; the last one counts.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.entry("pgbouncer", key).map(|entry| entry.value)
    }

    /// The names in `[databases]`, each once, in their order; `*` stands for any other.
    pub fn databases(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for entry in self.entries().filter(|entry| entry.section == Some("databases")) {
            if !names.contains(&entry.key) {
                names.push(entry.key);
            }
        }
        names
    }

    /// A parameter of a database's line, as it counts: without quotation marks, the last one of its key. `None` also
    /// where the line cannot be read.
    pub fn parameter(&self, database: &str, key: &str) -> Option<String> {
        let found = parameters(self.entry("databases", database)?.value).ok()?;
        found.into_iter().rfind(|p| p.key == key).map(|p| p.value.into_owned())
    }

    /// The parameter as it is written.
    pub(super) fn raw_parameter(&self, database: &str, key: &str) -> Option<&str> {
        let value = self.entry("databases", database)?.value;
        let found = parameters(value).ok()?;
        found.into_iter().rfind(|p| p.key == key).map(|p| &value[p.raw])
    }

    /// How many parameters stand before the one that counts.
    pub(super) fn position_of(&self, database: &str, key: &str) -> Option<usize> {
        let found = parameters(self.entry("databases", database)?.value).ok()?;
        found.iter().rposition(|p| p.key == key)
    }

    fn entry(&self, section: &str, key: &str) -> Option<Entry<'_>> {
        self.entries().filter(|entry| entry.section == Some(section) && entry.key == key).last()
    }

    /// Sets a key of `[pgbouncer]`, or takes it away.
    ///
    /// # Errors
    /// `InvalidConfig` where the text cannot stand there, `NotFound` where there is no such section to add it to. Nothing
    /// is changed then.
    pub fn set_setting(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        let at = self.entry("pgbouncer", key).map(|entry| entry.line - 1);
        let Some(value) = value else {
            while let Some(entry) = self.entry("pgbouncer", key) {
                self.remove(entry.line - 1);
            }
            return Ok(());
        };
        if value.contains(['\n', '\0']) || value.trim_matches(is_blank) != value {
            let message =
                format!("{value:?} cannot be the value of a line; leave out line ends and outer blanks");
            return Err(Error::invalid("set_setting", message).on(key));
        }
        match at {
            Some(at) => self.replace_value(at, value),
            None => {
                let line = Line::new(format!("{key} = {value}"));
                if !matches!(&line.kind, Kind::Entry { key: place, .. } if &line.text[place.clone()] == key) {
                    return Err(Error::invalid("set_setting", format!("{key:?} is no name of a key")));
                }
                let at = self.end_of("pgbouncer").ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "set_setting", "there is no section [pgbouncer]").on(key)
                })?;
                self.insert(at, line.text);
            }
        }
        Ok(())
    }

    /// Sets a parameter of a database's line, or takes it away.
    ///
    /// # Errors
    /// `NotFound` where there is no such database, `InvalidConfig` where its line cannot be read or the text cannot stand
    /// in it. Nothing is changed then.
    pub fn set_parameter(&mut self, database: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.set_raw_parameter(database, key, value.map(quoted).as_deref())
    }

    pub(super) fn set_raw_parameter(&mut self, database: &str, key: &str, raw: Option<&str>) -> Result<()> {
        let refuse = |why: String| Error::invalid("set_parameter", why).on(format!("database {database}"));
        let Some(entry) = self.entry("databases", database) else {
            let there = self.databases().join(", ");
            let message = format!("it is not in the section [databases]; there are: {there}");
            return Err(
                Error::new(ErrorKind::NotFound, "set_parameter", message).on(format!("database {database}"))
            );
        };
        let found = parameters(entry.value)
            .map_err(|why| refuse(format!("line {} cannot be read: {why}", entry.line)))?;
        let line = match (raw, found.iter().rfind(|p| p.key == key)) {
            (Some(raw), Some(there)) => spliced(entry.value, &there.raw, raw),
            (Some(raw), None) => {
                let separator = if entry.value.is_empty() { "" } else { " " };
                format!("{}{separator}{key}={raw}", entry.value)
            }
            (None, _) => without(entry.value, &found, key),
        };
        match parameters(&line) {
            _ if line.contains(['\n', '\0']) => {
                return Err(refuse(format!("{raw:?} cannot stand in a line")));
            }
            Err(why) => return Err(refuse(why)),
            Ok(_) => {}
        }
        let at = entry.line - 1;
        self.replace_value(at, &line);
        Ok(())
    }

    fn replace_value(&mut self, at: usize, value: &str) {
        let line = &mut self.lines[at];
        if let Kind::Entry { value: place, .. } = &line.kind {
            *line = Line::new(spliced(&line.text, place, value));
        }
    }

    /// The place after the last entry of the last section of that name.
    fn end_of(&self, section: &str) -> Option<usize> {
        let (header, _) = self.sections().filter(|(_, name)| *name == section).last()?;
        let body = self.lines[header..].iter().take_while(|line| !matches!(line.kind, Kind::Section(_)));
        let last = body.enumerate().filter(|(_, line)| !matches!(line.kind, Kind::Nothing)).last();
        Some(last.map_or(header, |(index, _)| header + index + 1))
    }

    /// Puts a line in after another one, which lends it its end.
    fn insert(&mut self, at: usize, text: String) {
        let before = &mut self.lines[at - 1];
        let body = before.text.trim_end_matches(['\r', '\n']).len();
        let end = before.text[body..].to_owned();
        if end.is_empty() {
            let end = if self.lines.iter().any(|line| line.text.ends_with("\r\n")) { "\r\n" } else { "\n" };
            let before = &mut self.lines[at - 1];
            *before = Line::new(format!("{}{end}", before.text));
        }
        self.lines.insert(at, Line::new(text + &end));
    }

    /// The reverse of [`insert`](Self::insert).
    fn remove(&mut self, at: usize) {
        let line = self.lines.remove(at);
        if at > 0 && !line.text.ends_with('\n') {
            let before = &mut self.lines[at - 1];
            *before = Line::new(before.text.trim_end_matches(['\r', '\n']));
        }
    }
}

fn spliced(text: &str, place: &Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..place.start], &text[place.end..])
}

/// The line without any parameter of that key, and without the blanks before it.
fn without(text: &str, found: &[Parameter<'_>], key: &str) -> String {
    let mut left = String::new();
    let mut at = 0;
    for gone in found.iter().filter(|p| p.key == key) {
        left.push_str(text[at..gone.start].trim_end_matches(' '));
        at = gone.raw.end;
    }
    left.push_str(&text[at..]);
    left.trim_start_matches(' ').to_owned()
}

impl fmt::Display for PgBouncerIni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| f.write_str(&line.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "; head\r\n[databases]\r\n app = host=db  pool_size=5 x='a b'\r\n* = host=other\r\n\
        [users]\r\nbob = pool_mode=session\r\n\r\n[pgbouncer]\t; main\r\n\tmax_client_conn\t=  100  \r\n# tail\r\n\
        default_pool_size=3\r\nunknown_key = kept\r\n; end";

    #[test]
    fn a_document_is_itself_whatever_it_is() {
        for text in [TEXT, "", "\n", "[databases", "garbage\r\n\x0b%include x", "a='", "é = ü\n\n", "k\n=v"]
        {
            assert_eq!(PgBouncerIni::parse(text).to_string(), text);
        }
    }

    #[test]
    fn values_are_found_where_pgbouncer_finds_them() {
        let ini = PgBouncerIni::parse(TEXT);
        assert_eq!(ini.setting("max_client_conn"), Some("100"));
        assert_eq!(ini.databases(), ["app", "*"]);
        assert_eq!(ini.parameter("app", "x").as_deref(), Some("a b"));
        assert_eq!(ini.raw_parameter("app", "x"), Some("'a b'"));
        let twice = PgBouncerIni::parse("[databases]\na=port=1\na=port=2 port=3\n[pgbouncer]\nx=1\nx=2\n");
        assert_eq!((twice.parameter("a", "port").as_deref(), twice.setting("x")), (Some("3"), Some("2")));
        assert_eq!(PgBouncerIni::parse("[a]\n%include\tx\n").include(), Some(2));
    }

    #[test]
    fn a_change_touches_its_value_and_nothing_else() {
        let mut ini = PgBouncerIni::parse(TEXT);
        ini.set_setting("max_client_conn", Some("2000")).unwrap();
        ini.set_parameter("app", "pool_size", Some("50")).unwrap();
        let expected = TEXT.replace("=  100  ", "=  2000  ").replace("pool_size=5 ", "pool_size=50 ");
        assert_eq!(ini.to_string(), expected);
    }

    #[test]
    fn what_was_added_goes_without_a_trace() {
        for text in [
            TEXT,
            "[databases]\nапп=\napp=\n[pgbouncer]",
            "[pgbouncer]\n[databases]\napp = host=x",
            "[pgbouncer]\r\na=1\r\n[databases]\r\napp='\r\napp=",
        ] {
            let mut ini = PgBouncerIni::parse(text);
            ini.set_setting("reserve_pool_timeout", Some("3")).unwrap();
            ini.set_parameter("app", "reserve_pool", Some("7")).unwrap();
            let added = PgBouncerIni::parse(&ini.to_string());
            assert_eq!(added, ini, "what is written is read the same");
            assert_eq!(added.setting("reserve_pool_timeout"), Some("3"), "{ini}");
            assert_eq!(added.parameter("app", "reserve_pool").as_deref(), Some("7"), "{ini}");
            ini.set_setting("reserve_pool_timeout", None).unwrap();
            ini.set_parameter("app", "reserve_pool", None).unwrap();
            assert_eq!(ini.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_stand_there_is_refused_and_changes_nothing() {
        let mut ini = PgBouncerIni::parse(TEXT);
        assert!(ini.set_setting("a", Some("x\ny")).is_err());
        assert!(ini.set_setting("a", Some(" x")).is_err());
        assert!(ini.set_setting("a b", Some("x")).is_err());
        assert!(ini.set_setting("", Some("x")).is_err());
        assert!(ini.set_parameter("app", "x", Some("a\nb")).is_err());
        let error = ini.set_parameter("shop", "pool_size", Some("1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("app, *"), "{error}");
        assert_eq!(ini.to_string(), TEXT);
    }
}
