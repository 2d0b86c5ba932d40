//! What only the rows can tell. Reads, within a time, and says where the time was too short.

use std::time::{Duration, Instant};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use wakala_core::{ErrorKind, Result};

use super::super::tenant::{Tenants, literal};
use super::finding::Findings;
use super::read::{ColumnFacts, ForeignKey, IndexFacts, Relation, rows, run};
use super::relations::{between_tenants, stays_within};
use super::tables::whole;
use super::{Catalog, begin, end};
use crate::config::quoted;

/// So many rows are taken from one side to the other at a time.
const BATCH: usize = 5_000;

/// What one look at rows came to.
enum Look {
    Clean,
    /// An example.
    Found(String),
    /// Why it is not known.
    Open(String),
}

/// What is looked for, and with which words the outcome is told.
struct Check<'a> {
    object: String,
    found: &'a str,
    remedy: &'a str,
    unknown: &'a str,
}

impl Check<'_> {
    fn tell(self, look: Result<Look>, findings: &mut Findings) -> Result<()> {
        match look {
            Ok(Look::Clean) => {}
            Ok(Look::Found(example)) => {
                findings.refuse(self.object, format!("{}, such as {example}", self.found), self.remedy);
            }
            Ok(Look::Open(why)) => {
                findings.warn(
                    self.object,
                    format!("{}: {why}", self.unknown),
                    "find out, or move at a quieter time",
                );
            }
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => {
                let why = format!("{}: the time that was given did not suffice", self.unknown);
                findings.warn(self.object, why, "find out, or give the preflight more time");
            }
            Err(error) if error.kind() == ErrorKind::Denied => {
                findings.refuse(
                    self.object,
                    format!("{}: the role may not read the table", self.unknown),
                    "GRANT SELECT ON this table to the role on both sides, and USAGE ON its SCHEMA",
                );
            }
            // The server does not understand the question: two collations that do not go together, for instance.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::Unexpected) => {
                findings.warn(self.object, format!("{}: {error}", self.unknown), "find out by hand");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Both databases, the tenants, and until when.
pub(super) struct Sides<'a> {
    pub(super) source: &'a Client,
    pub(super) destination: &'a Client,
    pub(super) catalog: &'a Catalog,
    pub(super) other: &'a Catalog,
    pub(super) tenants: &'a Tenants,
    pub(super) tenant_column: &'a str,
    pub(super) until: Instant,
}

impl Sides<'_> {
    /// Rows of the tenants that are on the destination already, foreign keys to other tenants, values that must be
    /// unique and are taken, rows of reference tables that are missing or different.
    pub(super) async fn check(&self, findings: &mut Findings) -> Result<()> {
        let facts = &self.catalog.facts;
        for relation in &facts.relations {
            let check = Check {
                object: format!("destination: {}", whole(&relation.schema, &relation.name)),
                found: "it has rows of the tenants already",
                remedy: "see whose they are; delete what an earlier move left behind",
                unknown: "whether it has rows of the tenants already is not known",
            };
            check.tell(self.leftover(relation).await, findings)?;
        }
        for key in between_tenants(facts).filter(|key| !stays_within(key, self.tenant_column)) {
            let check = Check {
                object: format!(
                    "source: {} {}",
                    whole(&key.child_name.0, &key.child_name.1),
                    quoted(&key.name)
                ),
                found: "rows of different tenants are joined by this foreign key, which a move would tear",
                remedy: "correct the rows, or move these tenants together",
                unknown: "whether it joins rows of different tenants is not known",
            };
            check.tell(self.crossing(key).await, findings)?;
        }
        for relation in &facts.relations {
            for index in facts.indexes_of(relation.oid).iter().filter(|index| self.is_global(index)) {
                let check = Check {
                    object: format!("{} {}", whole(&relation.schema, &relation.name), quoted(&index.name)),
                    found: "values that must be unique are taken by other tenants on the destination",
                    remedy: "change the values on one side, or add the tenant column to the index",
                    unknown: "whether its values are free on the destination is not known",
                };
                check.tell(self.collision(relation, index).await, findings)?;
            }
        }
        let beside =
            |key: &&ForeignKey| facts.relation(key.child).is_some() && facts.relation(key.parent).is_none();
        for key in facts.foreign_keys.iter().filter(beside) {
            let check = Check {
                object: whole(&key.parent_name.0, &key.parent_name.1),
                found: "rows to which the tenants refer are missing or different on the destination",
                remedy: "make this reference table the same on both sides",
                unknown: "whether the rows to which the tenants refer are the same on the destination is not known",
            };
            if self
                .other
                .references
                .iter()
                .any(|table| (&table.schema, &table.name) == (&key.parent_name.0, &key.parent_name.1))
            {
                check.tell(self.reference(key).await, findings)?;
            }
        }
        Ok(())
    }

    fn is_global(&self, index: &IndexFacts) -> bool {
        index.unique && !index.columns.iter().any(|column| column == self.tenant_column)
    }

    fn tenant(&self) -> String {
        quoted(self.tenant_column)
    }

    /// The ids as a list for IN.
    fn ids(&self) -> String {
        (0..self.tenants.ids().len()).map(|place| self.tenants.literal(place)).collect::<Vec<_>>().join(", ")
    }

    fn left(&self) -> Duration {
        // Zero would mean no limit.
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Begins a transaction whose statements end in time.
    async fn begin(&self, client: &Client) -> Result<()> {
        begin(client).await?;
        let limit = format!("SET LOCAL statement_timeout = {}", self.left().as_millis());
        run(client, "preflight", &limit).await
    }

    async fn ask(
        &self,
        client: &Client,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>> {
        self.begin(client).await?;
        let answer = rows(client, "preflight", sql, parameters).await;
        end(client, answer).await
    }

    async fn leftover(&self, relation: &Relation) -> Result<Look> {
        let (tenant, name) = (self.tenant(), whole(&relation.schema, &relation.name));
        let sql = format!("SELECT {tenant}::text FROM {name} WHERE {tenant} IN ({}) LIMIT 1", self.ids());
        let found = self.ask(self.destination, &sql, &[]).await?;
        Ok(found
            .first()
            .map_or(Look::Clean, |row| Look::Found(format!("tenant {}", row.get::<_, String>(0)))))
    }

    async fn crossing(&self, key: &ForeignKey) -> Result<Look> {
        if let Some(open) = self.own_way(&self.described(key.parent, &key.parent_columns)) {
            return Ok(open);
        }
        let (tenant, ids) = (self.tenant(), self.ids());
        let joined = joined(key, "c", "p");
        let child = whole(&key.child_name.0, &key.child_name.1);
        let parent = whole(&key.parent_name.0, &key.parent_name.1);
        // Tenants that move together may be joined: they stay so.
        let half = |inside: &str, outside: &str| {
            format!(
                "(SELECT c.{tenant}::text, p.{tenant}::text FROM {child} c JOIN {parent} p ON {joined} \
                 WHERE {inside}.{tenant} IN ({ids}) AND {outside}.{tenant} NOT IN ({ids}) LIMIT 1)"
            )
        };
        let sql = format!("{} UNION ALL {}", half("c", "p"), half("p", "c"));
        let found = self.ask(self.source, &sql, &[]).await?;
        let example = |row: &Row| {
            format!(
                "one of tenant {} that refers to tenant {}",
                row.get::<_, String>(0),
                row.get::<_, String>(1)
            )
        };
        Ok(found.first().map_or(Look::Clean, |row| Look::Found(example(row))))
    }

    async fn collision(&self, relation: &Relation, index: &IndexFacts) -> Result<Look> {
        if index.partial || index.expressions {
            return Ok(Look::Open("it is not of plain columns of all rows".to_owned()));
        }
        let columns = self.described(relation.oid, &index.columns);
        if let Some(open) = self.own_way(&columns) {
            return Ok(open);
        }
        let name = whole(&relation.schema, &relation.name);
        let (tenant, ids) = (self.tenant(), self.ids());
        let texts: Vec<String> =
            columns.iter().map(|column| format!("t.{}::text", quoted(&column.name))).collect();
        let keys = format!("SELECT {} FROM {name} t WHERE t.{tenant} IN ({ids})", texts.join(", "));
        let names = names(columns.len());
        let taken = format!(
            "SELECT {} FROM {} JOIN {name} d ON {} WHERE d.{tenant} NOT IN ({ids}) LIMIT 1",
            example(&columns, &names),
            unnested(&names),
            equal(&columns, &names, "d"),
        );
        self.batches(&keys, columns.len(), &taken).await
    }

    async fn reference(&self, key: &ForeignKey) -> Result<Look> {
        let parent = whole(&key.parent_name.0, &key.parent_name.1);
        let child = whole(&key.child_name.0, &key.child_name.1);
        let columns = self.described(key.parent, &key.parent_columns);
        if let Some(open) = self.own_way(&columns) {
            return Ok(open);
        }
        let all: Vec<String> = self
            .catalog
            .facts
            .columns_of(key.parent)
            .iter()
            .map(|column| format!("r.{}", quoted(&column.name)))
            .collect();
        let hash = format!("hashtextextended(ROW({})::text COLLATE \"C\", 0)::text", all.join(", "));
        let texts: Vec<String> =
            columns.iter().map(|column| format!("r.{}::text", quoted(&column.name))).collect();
        let keys = format!(
            "SELECT {}, {hash} FROM {parent} r WHERE EXISTS (SELECT FROM {child} c WHERE c.{} IN ({}) AND {})",
            texts.join(", "),
            self.tenant(),
            self.ids(),
            joined(key, "c", "r"),
        );
        // The hash is the last of the lists.
        let names = names(columns.len() + 1);
        let hash_name = &names[columns.len()];
        let differing = format!(
            "SELECT {} FROM {} WHERE NOT EXISTS (SELECT FROM {parent} r WHERE {} AND {hash} = k.{hash_name}) LIMIT 1",
            example(&columns, &names),
            unnested(&names),
            equal(&columns, &names, "r"),
        );
        self.batches(&keys, columns.len() + 1, &differing).await
    }

    fn described(&self, relation: i64, names: &[String]) -> Vec<&ColumnFacts> {
        let columns = self.catalog.facts.columns_of(relation);
        names.iter().filter_map(|name| columns.iter().find(|column| column.name == *name)).collect()
    }

    /// Values that an extension compares are not looked at: its operators are not on the search path.
    fn own_way(&self, columns: &[&ColumnFacts]) -> Option<Look> {
        let own = |column: &&&ColumnFacts| self.catalog.facts.types.compares_its_own_way(column.type_oid);
        let column = columns.iter().find(own)?;
        Some(Look::Open(format!("{} compares in its own way", column.type_name)))
    }

    /// Gives the rows of a query on the source, as lists of texts, to one on the destination, until that finds
    /// something. No more than a batch is held.
    async fn batches(&self, keys: &str, width: usize, look: &str) -> Result<Look> {
        self.begin(self.source).await?;
        let read = async {
            run(self.source, "preflight", &format!("DECLARE wakala_keys NO SCROLL CURSOR FOR {keys}"))
                .await?;
            loop {
                let limit = format!("SET LOCAL statement_timeout = {}", self.left().as_millis());
                run(self.source, "preflight", &limit).await?;
                let fetch = format!("FETCH FORWARD {BATCH} FROM wakala_keys");
                let found = rows(self.source, "preflight", &fetch, &[]).await?;
                if found.is_empty() {
                    return Ok(Look::Clean);
                }
                let last = found.len() < BATCH;
                let lists: Vec<Vec<Option<String>>> =
                    (0..width).map(|place| found.iter().map(|row| row.get(place)).collect()).collect();
                drop(found);
                let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
                    lists.iter().map(|list| (list as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect();
                let seen = self.ask(self.destination, look, &parameters).await?;
                if let Some(row) = seen.first() {
                    return Ok(Look::Found(row.get(0)));
                }
                if last {
                    return Ok(Look::Clean);
                }
            }
        }
        .await;
        end(self.source, read).await
    }
}

/// The condition that a row of the child refers to one of the parent.
fn joined(key: &ForeignKey, child: &str, parent: &str) -> String {
    let pairs = key.child_columns.iter().zip(&key.parent_columns);
    let equal = pairs.map(|(one, other)| format!("{child}.{} = {parent}.{}", quoted(one), quoted(other)));
    equal.collect::<Vec<_>>().join(" AND ")
}

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("k{number}")).collect()
}

/// The parameters, which are lists of texts, as rows `k`.
fn unnested(names: &[String]) -> String {
    let lists: Vec<String> = (1..=names.len()).map(|number| format!("${number}::text[]")).collect();
    format!("unnest({}) AS k ({})", lists.join(", "), names.join(", "))
}

/// The condition that a row of a table is the one of the texts. A text from outside yields to the column's collation.
fn equal(columns: &[&ColumnFacts], names: &[String], table: &str) -> String {
    let equal = columns
        .iter()
        .zip(names)
        .map(|(column, name)| format!("{table}.{} = k.{name}::{}", quoted(&column.name), column.type_name));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// An expression that shows the texts to people.
fn example(columns: &[&ColumnFacts], names: &[String]) -> String {
    let parts = columns.iter().zip(names).map(|(column, name)| {
        let shown = literal(&format!("{} ", quoted(&column.name)));
        format!("{shown} || coalesce(k.{name}, 'NULL')")
    });
    parts.collect::<Vec<_>>().join(" || ', ' || ")
}
