//! Values in the forms of the protocol: parameters, arrays of them, and the data of COPY.

use std::error::Error as StdError;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use crate::mover::change::Value;

/// A parameter in the form that the server takes.
#[derive(Clone, Debug)]
pub(super) struct Param {
    format: Format,
    bytes: Option<Bytes>,
}

/// Whether all values of a column, or of all columns, travel in one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There are only nulls.
    Any,
    Binary,
    Text,
    Mixed,
}

impl Kind {
    pub(super) fn of<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        values.into_iter().fold(Self::Any, |kind, value| match (kind, value) {
            (kind, Value::Null) => kind,
            (Self::Any | Self::Binary, Value::Binary(_)) => Self::Binary,
            (Self::Any | Self::Text, Value::Text(_)) => Self::Text,
            _ => Self::Mixed,
        })
    }
}

impl Param {
    /// `None` for what is not a value.
    pub(super) fn one(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self { format: Format::Binary, bytes: None }),
            Value::Binary(bytes) => Some(Self { format: Format::Binary, bytes: Some(bytes.clone()) }),
            Value::Text(bytes) => Some(Self { format: Format::Text, bytes: Some(bytes.clone()) }),
            Value::Unchanged => None,
        }
    }

    pub(super) fn count(rows: usize) -> Self {
        let rows = i64::try_from(rows).expect("what is in memory can be counted");
        Self { format: Format::Binary, bytes: Some(Bytes::copy_from_slice(&rows.to_be_bytes())) }
    }

    /// An array; `None` where the values are of several forms. `element` is the type of the elements on this server,
    /// `delimiter` its own between elements in text.
    pub(super) fn array<'a, I>(values: I, element: u32, delimiter: u8) -> Option<Self>
    where
        I: Iterator<Item = &'a Value> + Clone,
    {
        match Kind::of(values.clone()) {
            Kind::Any | Kind::Binary => {
                Some(Self { format: Format::Binary, bytes: Some(binary_array(values, element)) })
            }
            Kind::Text => Some(Self { format: Format::Text, bytes: Some(text_array(values, delimiter)) }),
            Kind::Mixed => None,
        }
    }
}

impl ToSql for Param {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        Ok(match &self.bytes {
            None => IsNull::Yes,
            Some(bytes) => {
                out.extend_from_slice(bytes);
                IsNull::No
            }
        })
    }

    // The form is what the server of the other shard gave, of a column of the same type.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.to_sql(kind, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        self.format
    }
}

fn length(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("a value of PostgreSQL has less than 1 GiB")
}

fn binary_array<'a>(values: impl Iterator<Item = &'a Value> + Clone, element: u32) -> Bytes {
    let mut out = BytesMut::new();
    let (mut count, mut nulls) = (0_i32, 0);
    for value in values.clone() {
        count += 1;
        nulls |= i32::from(*value == Value::Null);
    }
    out.put_i32(1); // dimensions
    out.put_i32(nulls);
    out.put_u32(element);
    out.put_i32(count);
    out.put_i32(1); // the lower bound
    for value in values {
        binary_field(value, &mut out);
    }
    out.freeze()
}

/// A value with its length, as arrays and COPY have it.
fn binary_field(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Binary(bytes) | Value::Text(bytes) => {
            out.put_i32(length(bytes));
            out.extend_from_slice(bytes);
        }
        Value::Null | Value::Unchanged => out.put_i32(-1),
    }
}

fn text_array<'a>(values: impl Iterator<Item = &'a Value>, delimiter: u8) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'{');
    for (place, value) in values.enumerate() {
        if place > 0 {
            out.put_u8(delimiter);
        }
        match value {
            Value::Binary(bytes) | Value::Text(bytes) => {
                out.put_u8(b'"');
                for byte in bytes {
                    if matches!(byte, b'"' | b'\\') {
                        out.put_u8(b'\\');
                    }
                    out.put_u8(*byte);
                }
                out.put_u8(b'"');
            }
            Value::Null | Value::Unchanged => out.extend_from_slice(b"NULL"),
        }
    }
    out.put_u8(b'}');
    out.freeze()
}

/// Before the rows of COPY in binary.
pub(super) const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// After them.
pub(super) const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

pub(super) fn copy_binary(row: &[&Value], out: &mut BytesMut) {
    out.put_i16(i16::try_from(row.len()).expect("a table has at most 1600 columns"));
    for value in row {
        binary_field(value, out);
    }
}

pub(super) fn copy_text(row: &[&Value], out: &mut BytesMut) {
    for (place, value) in row.iter().enumerate() {
        if place > 0 {
            out.put_u8(b'\t');
        }
        match value {
            Value::Null | Value::Unchanged => out.extend_from_slice(b"\\N"),
            Value::Binary(bytes) | Value::Text(bytes) => {
                for byte in bytes {
                    match byte {
                        b'\\' => out.extend_from_slice(b"\\\\"),
                        b'\n' => out.extend_from_slice(b"\\n"),
                        b'\r' => out.extend_from_slice(b"\\r"),
                        b'\t' => out.extend_from_slice(b"\\t"),
                        _ => out.put_u8(*byte),
                    }
                }
            }
        }
    }
    out.put_u8(b'\n');
}
