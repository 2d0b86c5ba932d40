//! How values of a type may travel and be compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::types::Type;

use super::super::tenant::TenantType;

/// Enough of a type to judge it.
#[derive(Clone, Debug)]
pub(super) struct OwnType {
    pub(super) name: String,
    /// Not the server's: its object id differs from database to database.
    pub(super) own: bool,
    pub(super) kind: Kind,
    /// The element, the base, the fields.
    pub(super) parts: Vec<i64>,
    /// Has a binary form.
    pub(super) binary: bool,
    /// Of an enum, in order.
    pub(super) labels: Vec<String>,
    /// The fields of a composite, the base and the checks of a domain.
    pub(super) definition: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Array,
    Base,
    Composite,
    Domain,
    Enum,
    Range,
}

impl Kind {
    pub(super) fn from_catalog(kind: &str, array: bool) -> Self {
        match kind {
            "b" if array => Self::Array,
            "c" => Self::Composite,
            "d" => Self::Domain,
            "e" => Self::Enum,
            "m" | "r" => Self::Range,
            _ => Self::Base,
        }
    }
}

/// All types of the columns, by object id.
#[derive(Clone, Debug, Default)]
pub(super) struct Types(HashMap<i64, OwnType>);

fn builtin(oid: i64) -> Option<Type> {
    Type::from_oid(u32::try_from(oid).ok()?)
}

impl Types {
    pub(super) fn insert(&mut self, oid: i64, what: OwnType) {
        self.0.insert(oid, what);
    }

    /// The same, of a domain what it is made from.
    fn base(&self, mut oid: i64) -> i64 {
        while let Some(OwnType { kind: Kind::Domain, parts, .. }) = self.0.get(&oid) {
            match parts.first() {
                Some(part) => oid = *part,
                None => break,
            }
        }
        oid
    }

    /// Whether equal hashes mean equal bytes: the type has a hash of its own, the same on every database, and nothing
    /// that counts as equal looks different. Of all others the text is exact: of numbers by their display scale, of
    /// intervals by their units, of arrays by their dimensions.
    pub(super) fn hashes_exactly(&self, oid: i64) -> bool {
        let exact = [
            Type::BOOL,
            Type::BYTEA,
            Type::CHAR,
            Type::NAME,
            Type::INT8,
            Type::INT2,
            Type::INT4,
            Type::TEXT,
            Type::OID,
            Type::CIDR,
            Type::INET,
            Type::MACADDR,
            Type::MACADDR8,
            Type::BPCHAR,
            Type::VARCHAR,
            Type::DATE,
            Type::TIME,
            Type::TIMETZ,
            Type::TIMESTAMP,
            Type::TIMESTAMPTZ,
            Type::UUID,
        ];
        builtin(self.base(oid)).is_some_and(|base| exact.contains(&base))
    }

    /// Whether the binary form has object ids in it, or there is none.
    pub(super) fn needs_text(&self, oid: i64) -> bool {
        let only_text = [
            Type::REGCLASS,
            Type::REGCOLLATION,
            Type::REGCONFIG,
            Type::REGDICTIONARY,
            Type::REGNAMESPACE,
            Type::REGOPER,
            Type::REGOPERATOR,
            Type::REGPROC,
            Type::REGPROCEDURE,
            Type::REGROLE,
            Type::REGTYPE,
            // An empty one has a binary form that the server does not read.
            Type::TSQUERY,
        ];
        if builtin(oid).is_some_and(|builtin| only_text.contains(&builtin)) {
            return true;
        }
        let Some(found) = self.0.get(&oid) else { return true };
        let own = |part: &i64| self.0.get(part).is_none_or(|part| part.own);
        match found.kind {
            Kind::Domain => found.parts.iter().any(|part| self.needs_text(*part)),
            Kind::Array | Kind::Composite | Kind::Range => {
                !found.binary || found.parts.iter().any(|part| own(part) || self.needs_text(*part))
            }
            Kind::Base | Kind::Enum => !found.binary,
        }
    }

    /// Whether its equality is an extension's, which is found by the search path only.
    pub(super) fn compares_its_own_way(&self, oid: i64) -> bool {
        self.0.get(&self.base(oid)).is_none_or(|base| base.own && base.kind == Kind::Base)
    }

    /// Only of these types may the tenant column be: a row filter takes no own types, and the ids of the stream are
    /// compared byte by byte.
    pub(super) fn tenant(oid: i64) -> Option<TenantType> {
        Some(match builtin(oid)? {
            Type::INT2 => TenantType::SmallInt,
            Type::INT4 => TenantType::Integer,
            Type::INT8 => TenantType::BigInt,
            Type::UUID => TenantType::Uuid,
            Type::TEXT | Type::VARCHAR => TenantType::Text,
            _ => return None,
        })
    }

    /// Whether it could hold the number of a large object.
    pub(super) fn may_be_large_object(&self, oid: i64) -> bool {
        builtin(self.base(oid)) == Some(Type::OID)
    }

    /// All own types that the given ones are made of, by name.
    pub(super) fn own_of(&self, oids: impl Iterator<Item = i64>) -> BTreeMap<&str, &OwnType> {
        let mut own = BTreeMap::new();
        let mut todo: Vec<i64> = oids.collect();
        let mut seen = BTreeSet::new();
        while let Some(oid) = todo.pop() {
            if !seen.insert(oid) {
                continue;
            }
            let Some(found) = self.0.get(&oid) else { continue };
            todo.extend(&found.parts);
            if found.own {
                own.insert(found.name.as_str(), found);
            }
        }
        own
    }
}
