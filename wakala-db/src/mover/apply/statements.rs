//! What the destination says of the tables, and the statements prepared there.

use std::collections::{HashMap, HashSet};

use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Statement};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::sql::{self, Deed, Form};
use crate::error::Call;
use crate::mover::table::Table;

/// Each holds memory on both sides. There are more only where a batch has more combinations of unchanged columns.
const MOST_PREPARED: usize = 200;

/// A column as the destination has it.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) oid: u32,
    /// Zero where there are no arrays of it, because it is one.
    pub(super) array: u32,
    pub(super) delimiter: u8,
    /// The operator by which indexes find equal values.
    equals: String,
}

/// Which statement is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) table: usize,
    pub(super) deed: Deed,
    pub(super) form: Form,
}

#[derive(Debug)]
pub(super) struct Statements {
    columns: Vec<Vec<Typed>>,
    prepared: HashMap<Shape, Statement>,
}

const COLUMNS: &str = "
SELECT i.place::integer - 1, a.attname::text, a.atttypid, t.typarray, t.typdelim,
    coalesce((
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM pg_opclass AS c
        JOIN pg_am AS am ON am.oid = c.opcmethod AND am.amname = 'btree'
        JOIN pg_amop AS p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3
            AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
        JOIN pg_operator AS o ON o.oid = p.amopopr
        JOIN pg_namespace AS n ON n.oid = o.oprnamespace
        WHERE c.opcdefault AND c.opcintype = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
    ), 'OPERATOR(pg_catalog.=)')
FROM unnest($1) WITH ORDINALITY AS i(name, place)
JOIN pg_attribute AS a ON a.attrelid = to_regclass(i.name) AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid";

impl Statements {
    /// # Errors
    /// `NotFound` where the destination lacks a table or a column.
    pub(super) async fn read(client: &Client, tables: &[Table], call: &Call) -> Result<Self> {
        let names: Vec<String> = tables.iter().map(Table::quoted).collect();
        let rows = client
            .query_typed(COLUMNS, &[(&names, Type::TEXT_ARRAY)])
            .await
            .map_err(|error| call.failed(error))?;
        let mut found: HashMap<(usize, String), Typed> = HashMap::new();
        for row in rows {
            let place: i32 = row.get(0);
            let delimiter: i8 = row.get(4);
            let typed = Typed {
                oid: row.get(2),
                array: row.get(3),
                delimiter: u8::try_from(delimiter).unwrap_or(b','),
                equals: row.get(5),
            };
            found.insert((usize::try_from(place).unwrap_or(usize::MAX), row.get(1)), typed);
        }
        let mut columns = Vec::new();
        for (place, table) in tables.iter().enumerate() {
            let typed = table.columns.iter().map(|column| {
                found.remove(&(place, column.name.clone())).ok_or_else(|| {
                    let message = "the destination does not have it; its schema has to be that of the source";
                    Error::new(ErrorKind::NotFound, call.operation, message)
                        .on(format!("{}, column {} of {table}", call.subject, column.name))
                        .with_retry(Retry::Never)
                })
            });
            columns.push(typed.collect::<Result<Vec<_>>>()?);
        }
        Ok(Self { columns, prepared: HashMap::new() })
    }

    pub(super) fn column(&self, table: usize, column: usize) -> &Typed {
        &self.columns[table][column]
    }

    /// Whether rows can be given as one array for each of these columns.
    pub(super) fn have_arrays(&self, table: usize, columns: &[usize]) -> bool {
        columns.iter().all(|column| self.column(table, *column).array != 0)
    }

    /// Prepares what is not yet, and forgets others where they are too many. Call it before anything is sent that may fail: in a failed transaction nothing can be
    /// prepared.
    pub(super) async fn prepare(
        &mut self,
        client: &Client,
        tables: &[Table],
        shapes: impl Iterator<Item = Shape> + Send,
        call: &Call,
    ) -> Result<()> {
        let wanted: HashSet<Shape> = shapes.collect();
        let count = |prepared: &HashMap<Shape, Statement>| {
            wanted.iter().filter(|shape| !prepared.contains_key(*shape)).count()
        };
        if self.prepared.len() + count(&self.prepared) > MOST_PREPARED {
            self.prepared.retain(|shape, _| wanted.contains(shape));
        }
        for shape in wanted {
            if self.prepared.contains_key(&shape) {
                continue;
            }
            let table = &tables[shape.table];
            let equals = table.key.iter().map(|at| self.column(shape.table, *at).equals.clone());
            let text = sql::text(table, &shape.deed, shape.form, &equals.collect::<Vec<_>>());
            let columns = sql::parameters(table, &shape.deed);
            let mut types: Vec<Type> = columns
                .iter()
                .map(|column| {
                    let typed = self.column(shape.table, *column);
                    of_oid(if shape.form == Form::Many { typed.array } else { typed.oid })
                })
                .collect();
            if shape.form == Form::Many {
                types.push(Type::INT8);
            }
            let statement = client.prepare_typed(&text, &types).await.map_err(|error| call.failed(error))?;
            self.prepared.insert(shape, statement);
        }
        Ok(())
    }

    pub(super) fn of(&self, shape: &Shape) -> &Statement {
        self.prepared.get(shape).expect("it was prepared before")
    }
}

/// Only the number is told to the server.
fn of_oid(oid: u32) -> Type {
    Type::from_oid(oid)
        .unwrap_or_else(|| Type::new(oid.to_string(), oid, Kind::Simple, "pg_catalog".to_owned()))
}
