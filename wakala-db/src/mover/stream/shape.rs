//! What the source says its tables are, compared with what the move knows of them.

use wakala_core::{Error, ErrorKind, Retry};

use super::failure::Failure;
use super::wire::{TextRow, Wire};
use crate::mover::table::Table;
use crate::mover::tenant::literal;

/// A table as relation messages will describe it, unless it changes.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) schema: String,
    pub(super) name: String,
    /// In the order of [`Table::columns`].
    pub(super) columns: Vec<Typed>,
    /// Sent by some servers, and not wanted.
    pub(super) generated: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Typed {
    pub(super) name: String,
    /// The type's number and its modifier.
    pub(super) kind: (u32, i32),
}

/// The catalog's answer for one table; `Err` inside of it where the table is not what the move knows.
pub(super) async fn shape(wire: &mut Wire, table: &Table) -> Result<Result<Shape, Error>, Failure> {
    let sql = format!(
        "SELECT a.attname, a.atttypid, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod), \
                pg_catalog.format_type(a.atttypid, NULL), a.attgenerated::pg_catalog.text \
         FROM pg_catalog.pg_attribute AS a \
         JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        literal(&table.schema),
        literal(&table.name),
    );
    let rows = wire.query(&sql).await?;
    let mut columns = Vec::with_capacity(rows.len());
    for row in rows {
        columns.push(Found::read(row).ok_or_else(|| Failure::Protocol("an odd row of pg_attribute".into()))?);
    }
    Ok(compare(table, columns))
}

#[derive(Debug)]
struct Found {
    name: String,
    kind: (u32, i32),
    type_names: [String; 2],
    generated: bool,
}

impl Found {
    fn read(row: TextRow) -> Option<Self> {
        let [name, number, modifier, whole, bare, generated] = <[Option<String>; 6]>::try_from(row).ok()?;
        Some(Self {
            name: name?,
            kind: (number?.parse().ok()?, modifier?.parse().ok()?),
            type_names: [whole?, bare?],
            generated: !generated?.is_empty(),
        })
    }
}

fn compare(table: &Table, found: Vec<Found>) -> Result<Shape, Error> {
    let changed = |what: String| {
        let message = format!(
            "{what}; tables must stay as they are while tenants move: undo that, or give the move up and begin a new one"
        );
        Error::new(ErrorKind::Conflict, "change_stream", message)
            .on(format!("table {table}"))
            .with_retry(Retry::Never)
    };
    if found.is_empty() {
        return Err(changed("it is gone".to_owned()));
    }
    let mut columns = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let Some(now) = found.iter().find(|now| now.name == column.name && !now.generated) else {
            return Err(changed(format!("column {} is gone", column.name)));
        };
        if !now.type_names.contains(&column.type_name) {
            let types = format!("{} instead of {}", now.type_names[0], column.type_name);
            return Err(changed(format!("column {} is of type {types}", column.name)));
        }
        columns.push(Typed { name: now.name.clone(), kind: now.kind });
    }
    let mut generated = Vec::new();
    for now in found {
        if now.generated {
            generated.push(now.name);
        } else if !columns.iter().any(|column| column.name == now.name) {
            return Err(changed(format!("column {} is new", now.name)));
        }
    }
    Ok(Shape { schema: table.schema.clone(), name: table.name.clone(), columns, generated })
}
