//! What the mover knows of a table, the same on both shards.

use std::fmt;

/// A table with rows of tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// In the order of the table; generated ones are left out, since nobody writes them.
    pub(crate) columns: Vec<Column>,
    /// Which of the columns holds the tenant.
    pub(crate) tenant: usize,
    /// The columns that identify a row, in the order of the index of the replica identity (of the primary key, where the
    /// identity is the full row). The tenant is one of them.
    pub(crate) key: Vec<usize>,
    /// The column of the key by whose ranges a large tenant is copied in pieces.
    pub(crate) chunk_by: Option<(usize, ChunkType)>,
    pub(crate) format: Format,
}

/// A column that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// As `format_type` says it, schema included where it is not in `pg_catalog`: usable in a cast.
    pub(crate) type_name: String,
    /// `GENERATED ALWAYS AS IDENTITY`: an insert must say OVERRIDING, and no update may name it.
    pub(crate) identity_always: bool,
    /// Whether its values are compared by their text: what has no hash of its own, or one that differs from database to
    /// database (enums hash their object id).
    pub(crate) hash_as_text: bool,
}

/// How chunk keys compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkType {
    /// `smallint`, `integer`, `bigint`.
    Integer,
    Uuid,
}

/// How rows travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Binary,
    /// Where the binary form has object ids that differ from database to database: arrays and composites of own types.
    Text,
}

impl Table {
    /// The name as SQL has it.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", crate::config::quoted(&self.schema), crate::config::quoted(&self.name))
    }

    /// The names of all columns as SQL has them, with commas.
    pub(crate) fn column_list(&self) -> String {
        self.columns.iter().map(|column| crate::config::quoted(&column.name)).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
