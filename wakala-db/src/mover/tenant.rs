//! A tenant's id as the rows have it.

use std::collections::HashMap;

use bytes::Bytes;
use wakala_core::{Error, Result};

use super::change::Value;

/// Of which type the tenant column is, in all tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TenantType {
    SmallInt,
    Integer,
    BigInt,
    Uuid,
    /// `text` and `varchar`.
    Text,
}

impl TenantType {
    /// As SQL has it, for casts and literals.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::SmallInt => "smallint",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::Uuid => "uuid",
            Self::Text => "text",
        }
    }

    /// The text form that PostgreSQL gives, and the binary one.
    fn forms(self, id: &str) -> Option<(String, Bytes)> {
        match self {
            Self::SmallInt => {
                id.parse::<i16>().ok().map(|n| (n.to_string(), n.to_be_bytes().to_vec().into()))
            }
            Self::Integer => id.parse::<i32>().ok().map(|n| (n.to_string(), n.to_be_bytes().to_vec().into())),
            Self::BigInt => id.parse::<i64>().ok().map(|n| (n.to_string(), n.to_be_bytes().to_vec().into())),
            Self::Uuid => uuid::Uuid::parse_str(id)
                .ok()
                .map(|id| (id.hyphenated().to_string(), Bytes::copy_from_slice(id.as_bytes()))),
            Self::Text => Some((id.to_owned(), Bytes::copy_from_slice(id.as_bytes()))),
        }
    }
}

/// The tenants of one move, found again in rows.
#[derive(Clone, Debug)]
pub(crate) struct Tenants {
    kind: TenantType,
    /// In the order in which they were given.
    ids: Vec<String>,
    by_form: HashMap<Bytes, usize>,
    by_text: HashMap<Bytes, usize>,
}

impl Tenants {
    /// # Errors
    /// `InvalidConfig` for an id that is not of the type, or is there twice.
    pub(crate) fn new(kind: TenantType, ids: &[String]) -> Result<Self> {
        let mut tenants = Self { kind, ids: Vec::new(), by_form: HashMap::new(), by_text: HashMap::new() };
        for (place, id) in ids.iter().enumerate() {
            let invalid = |why: &str| Error::invalid("tenants", why.to_owned()).on(format!("tenant {id:?}"));
            let (text, binary) = kind
                .forms(id)
                .ok_or_else(|| invalid(&format!("the tenant column is of type {}", kind.sql())))?;
            if tenants.by_form.insert(binary, place).is_some() {
                return Err(invalid("it is in the list twice"));
            }
            tenants.by_text.insert(text.clone().into_bytes().into(), place);
            tenants.ids.push(text);
        }
        Ok(tenants)
    }

    /// The ids in the text form of the server's, in order.
    pub(crate) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Some of them, by their places.
    pub(crate) fn only(&self, places: &[usize]) -> Self {
        let ids: Vec<String> = places.iter().map(|place| self.ids[*place].clone()).collect();
        Self::new(self.kind, &ids).expect("they were fine among all")
    }

    pub(crate) fn kind(&self) -> TenantType {
        self.kind
    }

    /// Which of them a value of the tenant column means; `None` for somebody else.
    pub(crate) fn find(&self, value: &Value) -> Option<usize> {
        match value {
            Value::Binary(bytes) => self.by_form.get(bytes).copied(),
            Value::Text(bytes) => self.by_text.get(bytes).copied(),
            Value::Null | Value::Unchanged => None,
        }
    }

    /// A literal of the tenant's id, with its type.
    pub(crate) fn literal(&self, place: usize) -> String {
        format!("{}::{}", literal(&self.ids[place]), self.kind.sql())
    }
}

/// A text as SQL has it, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_found_in_both_forms_of_a_value() {
        let ids = ["7".to_owned(), "-2".to_owned()];
        let tenants = Tenants::new(TenantType::Integer, &ids).unwrap();
        assert_eq!(tenants.find(&Value::Binary(Bytes::from_static(&[0, 0, 0, 7]))), Some(0));
        assert_eq!(tenants.find(&Value::Text(Bytes::from_static(b"-2"))), Some(1));
        assert_eq!(tenants.find(&Value::Text(Bytes::from_static(b"8"))), None);
        assert_eq!(tenants.literal(1), "'-2'::integer");
        assert!(Tenants::new(TenantType::Integer, &["x".to_owned()]).is_err());
        let upper = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11".to_owned();
        assert!(Tenants::new(TenantType::Uuid, &[upper.clone(), upper.to_lowercase()]).is_err());
    }

    #[test]
    fn literals_keep_to_themselves() {
        assert_eq!(literal("o'b"), "'o''b'");
        assert_eq!(literal("a\\'; DROP"), " E'a\\\\''; DROP'");
    }
}
