//! The parameters of a line of `[databases]`, `[users]` or `[peers]`: `host=db port=5432 password='it''s'`.

use std::borrow::Cow;
use std::ops::Range;

/// One `key=value` and where its value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter<'a> {
    pub(super) key: &'a str,
    /// As it counts.
    pub(super) value: Cow<'a, str>,
    /// Where the value stands as written, quotation marks included.
    pub(super) raw: Range<usize>,
    /// Where the key begins.
    pub(super) start: usize,
}

/// The parameters in their order; of two with one key, PgBouncer takes the last.
///
/// # Errors
/// Where PgBouncer refuses the line, or reads it otherwise than it looks.
pub(super) fn parameters(text: &str) -> Result<Vec<Parameter<'_>>, String> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize| {
        while bytes.get(at) == Some(&b' ') {
            at += 1;
        }
        at
    };
    let mut found = Vec::new();
    let mut at = skip(0);
    while at < bytes.len() {
        let start = at;
        while at < bytes.len() && !matches!(bytes[at], b'=' | b' ') {
            at += 1;
        }
        let key = &text[start..at];
        at = skip(at);
        if bytes.get(at) != Some(&b'=') || key.is_empty() {
            return Err(format!("{:?} is not key=value", text[start..].trim_end()));
        }
        if !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("{key:?} is no name of a parameter (parameters are parted by spaces)"));
        }
        at = skip(at + 1);
        let begin = at;
        let value = if bytes.get(at) == Some(&b'\'') {
            at = end_of_quoted(bytes, at + 1)
                .ok_or_else(|| format!("the quotation mark of {key} is not closed"))?;
            if bytes.get(at).is_some_and(|next| *next != b' ') {
                return Err(format!("a space must follow the closing quotation mark of {key}"));
            }
            unquoted(&text[begin + 1..at - 1])
        } else {
            while at < bytes.len() && bytes[at] != b' ' {
                at += 1;
            }
            let value = &text[begin..at];
            // Only a space ends a value: what looks like the next parameter would be part of this one.
            if value.chars().any(char::is_whitespace) {
                return Err(format!(
                    "the value of {key} has a blank that is no space; put a space, or quotation marks"
                ));
            }
            Cow::Borrowed(value)
        };
        if value.is_empty() {
            return Err(format!("{key} has no value; leave it out"));
        }
        found.push(Parameter { key, value, raw: begin..at, start });
        at = skip(at);
    }
    Ok(found)
}

/// The place after the closing quotation mark; two of them stand for one.
fn end_of_quoted(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match (bytes.get(at)?, bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn unquoted(inner: &str) -> Cow<'_, str> {
    if inner.contains('\'') { Cow::Owned(inner.replace("''", "'")) } else { Cow::Borrowed(inner) }
}

/// A value as it is written.
pub(super) fn quoted(value: &str) -> Cow<'_, str> {
    let plain = |c: char| c != '\'' && !c.is_whitespace();
    if !value.is_empty() && value.chars().all(plain) {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("'{}'", value.replace('\'', "''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let found = parameters(text).unwrap();
        found.into_iter().map(|p| (p.key.to_owned(), p.value.into_owned())).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_are_read_as_pgbouncer_reads_them() {
        assert_eq!(read("host=db  port = 5432 "), pairs(&[("host", "db"), ("port", "5432")]));
        assert_eq!(
            read("connect_query='select ''x y'' ' password=a'b"),
            pairs(&[("connect_query", "select 'x y' "), ("password", "a'b")])
        );
        assert_eq!(read(""), []);
    }

    #[test]
    fn raw_places_are_those_of_the_value() {
        let text = "a='x y' b=2";
        let found = parameters(text).unwrap();
        assert_eq!((&text[found[0].raw.clone()], &text[found[1].raw.clone()]), ("'x y'", "2"));
    }

    #[test]
    fn what_would_be_misread_is_refused() {
        for text in [
            "host",
            "=x",
            "host=",
            "host=''",
            "a='x",
            "a='x'b=1",
            "a=1\tb=2",
            "a=1;b=2 c",
            "pool size=5",
            "a-b=1",
        ] {
            assert!(parameters(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in ["5", "a b", "it's", "''", "=", "x=y", " "] {
            let text = format!("k={} z=1", quoted(value));
            assert_eq!(read(&text)[0].1, value, "{text}");
        }
    }
}
