//! The values by which large tenants are cut into chunks.

use std::fmt;

use wakala_core::{Error, Result};

use crate::mover::change::Value;
use crate::mover::table::ChunkType;

/// A value of a chunk column. Those of one column order as the server orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChunkKey {
    Integer(i64),
    Uuid([u8; 16]),
}

impl ChunkKey {
    /// What a change stream says; `None` where it is no value of the type.
    pub(crate) fn of(value: &Value, kind: ChunkType) -> Option<Self> {
        match (value, kind) {
            (Value::Binary(bytes), ChunkType::Integer) => {
                let number = match bytes.len() {
                    2 => i64::from(i16::from_be_bytes(bytes[..].try_into().ok()?)),
                    4 => i64::from(i32::from_be_bytes(bytes[..].try_into().ok()?)),
                    _ => i64::from_be_bytes(bytes[..].try_into().ok()?),
                };
                Some(Self::Integer(number))
            }
            (Value::Binary(bytes), ChunkType::Uuid) => Some(Self::Uuid(bytes[..].try_into().ok()?)),
            (Value::Text(bytes), kind) => Self::parse(std::str::from_utf8(bytes).ok()?, kind).ok(),
            (Value::Null | Value::Unchanged, _) => None,
        }
    }

    /// The text form of the server's, in which the registry keeps it.
    ///
    /// # Errors
    /// `Unexpected` where it is not of the type.
    pub(crate) fn parse(text: &str, kind: ChunkType) -> Result<Self> {
        match kind {
            ChunkType::Integer => text.parse().ok().map(Self::Integer),
            ChunkType::Uuid => uuid::Uuid::parse_str(text).ok().map(|id| Self::Uuid(id.into_bytes())),
        }
        .ok_or_else(|| {
            let kind = match kind {
                ChunkType::Integer => "an integer",
                ChunkType::Uuid => "a uuid",
            };
            Error::new(
                wakala_core::ErrorKind::Unexpected,
                "chunk_key",
                format!("the bound of a chunk is not {kind}"),
            )
            .on(format!("{text:?}"))
        })
    }

    /// A literal with its type.
    pub(crate) fn literal(self) -> String {
        match self {
            Self::Integer(_) => format!("'{self}'::bigint"),
            Self::Uuid(_) => format!("'{self}'::uuid"),
        }
    }
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).hyphenated().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn both_forms_of_a_value_are_one_key() {
        let binary = |bytes: &[u8]| Value::Binary(Bytes::copy_from_slice(bytes));
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        let integer = |value: &Value| ChunkKey::of(value, ChunkType::Integer);
        assert_eq!(integer(&binary(&(-2_i16).to_be_bytes())), Some(ChunkKey::Integer(-2)));
        assert_eq!(integer(&binary(&7_i32.to_be_bytes())), Some(ChunkKey::Integer(7)));
        assert_eq!(integer(&binary(&i64::MIN.to_be_bytes())), Some(ChunkKey::Integer(i64::MIN)));
        assert_eq!(integer(&text("-9223372036854775808")), Some(ChunkKey::Integer(i64::MIN)));
        assert_eq!(ChunkKey::Integer(i64::MIN).literal(), "'-9223372036854775808'::bigint");
        for bad in [binary(&[1, 2, 3]), text("x"), Value::Null, Value::Unchanged] {
            assert_eq!(integer(&bad), None, "{bad:?}");
        }
        let name = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let id = uuid::Uuid::parse_str(name).unwrap();
        let key = ChunkKey::of(&binary(id.as_bytes()), ChunkType::Uuid).unwrap();
        assert_eq!(ChunkKey::of(&text(name), ChunkType::Uuid), Some(key));
        assert_eq!(key.literal(), format!("'{name}'::uuid"));
        assert_eq!(ChunkKey::parse(&key.to_string(), ChunkType::Uuid).unwrap(), key);
    }
}
