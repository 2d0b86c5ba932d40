//! Each table by itself: what the mover needs of it, and what forbids to move its rows.

use super::super::table::{ChunkType, Column, Format, Table};
use super::super::tenant::TenantType;
use super::finding::Findings;
use super::read::{ColumnFacts, Facts, IndexFacts, Relation};
use super::types::Types;
use crate::config::quoted;

/// The columns by which the change stream identifies a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Key(Vec<String>),
    /// All columns.
    Full,
    /// None, and why.
    Nothing(&'static str),
}

/// As the server finds it for an update.
pub(super) fn identity(setting: &str, indexes: &[IndexFacts]) -> Identity {
    let usable = |index: &&IndexFacts| index.valid && index.immediate;
    let found = match setting {
        "f" => return Identity::Full,
        "n" => return Identity::Nothing("its replica identity is NOTHING"),
        "i" => indexes.iter().find(|index| index.replica).filter(usable),
        _ => match indexes.iter().find(|index| index.primary) {
            Some(index) if !index.immediate => {
                return Identity::Nothing("its primary key is deferrable, which is no replica identity");
            }
            found => found,
        },
    };
    match found {
        Some(index) => Identity::Key(index.columns.clone()),
        None if setting == "i" => {
            Identity::Nothing("the index of its replica identity is gone or not usable")
        }
        None => Identity::Nothing("it has no primary key"),
    }
}

/// The name as SQL has it.
pub(super) fn whole(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

/// The tenant column's type: the one that most tables have, of those that will do.
pub(super) fn common_tenant_type(facts: &Facts, tenant: &str) -> Option<TenantType> {
    let kinds: Vec<TenantType> = facts
        .relations
        .iter()
        .filter_map(|relation| facts.columns_of(relation.oid).iter().find(|column| column.name == tenant))
        .filter_map(|column| Types::tenant(column.type_oid))
        .collect();
    let count = |kind: TenantType| kinds.iter().filter(|other| **other == kind).count();
    // The first of those with the same count, so that the answer is always the same.
    kinds.iter().copied().rev().max_by_key(|kind| count(*kind))
}

/// Judges one table; `None` where it cannot be described, and then there is a refusal.
pub(super) fn table(
    facts: &Facts,
    relation: &Relation,
    tenant: &str,
    common: TenantType,
    findings: &mut Findings,
) -> Option<Table> {
    let name = whole(&relation.schema, &relation.name);
    let columns = facts.columns_of(relation.oid);
    storage(facts, relation, &name, findings);
    rights(facts, relation, &name, findings);
    tenant_column(columns, &name, tenant, common, findings);
    large_objects(facts, columns, &name, findings);
    let key = key(facts, relation, &name, tenant, findings)?;
    partitions(facts, relation, &name, findings);

    let written: Vec<&ColumnFacts> = columns.iter().filter(|column| column.generated.is_empty()).collect();
    let place = |wanted: &str| written.iter().position(|column| column.name == wanted);
    let Some(places) = key.iter().map(|column| place(column)).collect::<Option<Vec<usize>>>() else {
        findings.refuse(
            &name,
            "a generated column is in its key, which the change stream does not carry",
            "identify the rows by an index without it, and choose that by REPLICA IDENTITY USING INDEX",
        );
        return None;
    };
    let tenant = place(tenant)?;
    let chunk_type = |place: usize| match written[place].type_name.as_str() {
        "smallint" | "integer" | "bigint" => Some(ChunkType::Integer),
        "uuid" => Some(ChunkType::Uuid),
        _ => None,
    };
    let chunk_by = places
        .iter()
        .filter(|place| **place != tenant)
        .find_map(|place| chunk_type(*place).map(|kind| (*place, kind)));
    let needs_text = written.iter().any(|column| facts.types.needs_text(column.type_oid));
    Some(Table {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        columns: written
            .iter()
            .map(|column| Column {
                name: column.name.clone(),
                type_name: column.type_name.clone(),
                identity_always: column.identity == "a",
                hash_as_text: !column.deterministic || !facts.types.hashes_exactly(column.type_oid),
            })
            .collect(),
        tenant,
        key: places,
        chunk_by,
        format: if needs_text { Format::Text } else { Format::Binary },
    })
}

fn storage(facts: &Facts, relation: &Relation, name: &str, findings: &mut Findings) {
    if relation.kind == "f" {
        findings.refuse(
            name,
            "it is a foreign table: its rows are on another server, and their changes in no stream",
            "leave its schema out of the scope of the move",
        );
    }
    if relation.persistence == "u" {
        findings.refuse(
            name,
            "it is unlogged: its changes are in no stream",
            format!("ALTER TABLE {name} SET LOGGED"),
        );
    }
    if relation.inherits {
        findings.refuse(
            name,
            "it inherits or is inherited from, which a change stream does not tell apart",
            format!("ALTER TABLE … NO INHERIT {name}, or make it a partitioned table"),
        );
    }
    for leaf in facts.leaves.iter().filter(|leaf| leaf.root == relation.oid) {
        let leaf_name = whole(&leaf.schema, &leaf.name);
        if leaf.kind == "f" {
            findings.refuse(
                &leaf_name,
                format!("this partition of {name} is a foreign table: its changes are in no stream"),
                format!("ALTER TABLE {name} DETACH PARTITION {leaf_name}"),
            );
        }
        if leaf.persistence == "u" {
            findings.refuse(
                &leaf_name,
                format!("this partition of {name} is unlogged: its changes are in no stream"),
                format!("ALTER TABLE {leaf_name} SET LOGGED"),
            );
        }
    }
}

fn rights(facts: &Facts, relation: &Relation, name: &str, findings: &mut Findings) {
    let role = quoted(&facts.role);
    if relation.row_security {
        findings.refuse(
            name,
            format!("row security applies to the role {role}, which would see and copy only a part"),
            format!("ALTER ROLE {role} BYPASSRLS"),
        );
    }
    if !relation.schema_usage {
        let schema = quoted(&relation.schema);
        findings.refuse(
            name,
            format!("the role {role} may not use the schema {schema}"),
            format!("GRANT USAGE ON SCHEMA {schema} TO {role}"),
        );
    }
    if !relation.missing_privileges.is_empty() {
        let missing = relation.missing_privileges.join(", ");
        findings.refuse(
            name,
            format!("the role {role} lacks {missing} on it"),
            format!("GRANT {missing} ON TABLE {name} TO {role}"),
        );
    }
    if !relation.is_owner {
        let owner = quoted(&relation.owner);
        findings.refuse(
            name,
            format!("the role {role} is no member of its owner {owner}, so that it can neither publish nor guard it"),
            format!("GRANT {owner} TO {role}"),
        );
    }
}

fn tenant_column(
    columns: &[ColumnFacts],
    name: &str,
    tenant: &str,
    common: TenantType,
    findings: &mut Findings,
) {
    let Some(column) = columns.iter().find(|column| column.name == tenant) else { return };
    let object = format!("{name}.{}", quoted(tenant));
    let quoted = quoted(tenant);
    if !column.not_null {
        findings.refuse(
            &object,
            "it may be null, and a row without a tenant is nobody's to move",
            format!("ALTER TABLE {name} ALTER COLUMN {quoted} SET NOT NULL"),
        );
    }
    if !column.generated.is_empty() {
        findings.refuse(
            &object,
            "it is a generated column, by which a publication cannot filter",
            "make it a plain column",
        );
    }
    let to = common.sql();
    let change = |to: &str| format!("ALTER TABLE {name} ALTER COLUMN {quoted} TYPE {to}");
    match Types::tenant(column.type_oid) {
        None => findings.refuse(
            &object,
            format!(
                "its type {} cannot be that of a tenant; smallint, integer, bigint, uuid, text and varchar can",
                column.type_name
            ),
            change(to),
        ),
        Some(kind) if kind != common => findings.refuse(
            &object,
            format!("its type is {}, while that of other tables is {to}", column.type_name),
            change(to),
        ),
        Some(_) => {}
    }
    let own_collation =
        column.collation.as_deref().is_some_and(|collation| !collation.starts_with("pg_catalog."));
    if own_collation || !column.deterministic {
        let collation = column.collation.as_deref().unwrap_or_default();
        findings.refuse(
            &object,
            format!(
                "its collation {collation} is not one of the server's own, by which a publication can filter"
            ),
            format!("{} COLLATE \"C\"", change(&column.type_name)),
        );
    }
}

fn large_objects(facts: &Facts, columns: &[ColumnFacts], name: &str, findings: &mut Findings) {
    if !facts.large_objects {
        return;
    }
    for column in columns.iter().filter(|column| facts.types.may_be_large_object(column.type_oid)) {
        findings.refuse(
            format!("{name}.{}", quoted(&column.name)),
            format!(
                "it is of type {} in a database with large objects, and a change stream does not carry those",
                column.type_name
            ),
            "keep their content in a bytea column; where the column holds other numbers, make it a bigint",
        );
    }
}

/// The columns that identify a row.
fn key(
    facts: &Facts,
    relation: &Relation,
    name: &str,
    tenant: &str,
    findings: &mut Findings,
) -> Option<Vec<String>> {
    let indexes = facts.indexes_of(relation.oid);
    let columns = facts.columns_of(relation.oid);
    let primary =
        indexes.iter().find(|index| index.primary && index.immediate).map(|index| index.columns.clone());
    match identity(&relation.replica_identity, indexes) {
        Identity::Key(key) if key.iter().any(|column| column == tenant) => Some(key),
        Identity::Key(key) => {
            findings.refuse(
                name,
                format!(
                    "its replica identity ({}) is without {}: a publication that filters by it would make UPDATE \
                     and DELETE fail for every tenant",
                    list(&key),
                    quoted(tenant)
                ),
                remedy(relation, name, tenant, indexes, columns, Some(&key)),
            );
            None
        }
        // With the tenant it identifies as well, and finds the same row by the same index.
        Identity::Full => match primary {
            Some(mut key) => {
                if !key.iter().any(|column| column == tenant) {
                    key.insert(0, tenant.to_owned());
                }
                Some(key)
            }
            None => {
                findings.refuse(
                    name,
                    "it has no primary key, so that no row can be told from its copy",
                    remedy(relation, name, tenant, indexes, columns, None),
                );
                None
            }
        },
        Identity::Nothing(why) => {
            findings.refuse(
                name,
                format!("{why}: once published, its rows can be neither updated nor deleted"),
                remedy(relation, name, tenant, indexes, columns, primary.as_deref()),
            );
            None
        }
    }
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

/// SQL that gives the table an identity with the tenant in it: by an index that is there, or by a new one.
fn remedy(
    relation: &Relation,
    name: &str,
    tenant: &str,
    indexes: &[IndexFacts],
    columns: &[ColumnFacts],
    key: Option<&[String]>,
) -> String {
    let not_null = |wanted: &String| columns.iter().any(|column| column.name == *wanted && column.not_null);
    let fits = |index: &&IndexFacts| {
        index.unique
            && index.immediate
            && index.valid
            && !index.partial
            && !index.expressions
            && index.columns.iter().any(|column| column == tenant)
            && index.columns.iter().all(not_null)
    };
    let partitions =
        if relation.kind == "p" { ", and likewise of each partition by its own index" } else { "" };
    if let Some(index) = indexes.iter().find(fits) {
        let index = quoted(&index.name);
        return format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}{partitions}");
    }
    let Some(key) = key else {
        return format!("ALTER TABLE {name} ADD PRIMARY KEY ({}, …)", quoted(tenant));
    };
    let mut with_tenant = vec![tenant.to_owned()];
    with_tenant.extend(key.iter().filter(|column| *column != tenant).cloned());
    let index = quoted(&shortened(&relation.name, "_identity"));
    // Not possible on a partitioned table.
    let concurrently = if relation.kind == "p" { "" } else { "CONCURRENTLY " };
    format!(
        "CREATE UNIQUE INDEX {concurrently}{index} ON {name} ({}); \
         ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}{partitions}",
        list(&with_tenant)
    )
}

/// A name with an ending, within the 63 bytes that the server keeps.
fn shortened(name: &str, ending: &str) -> String {
    let mut room = 63 - ending.len();
    while !name.is_char_boundary(room.min(name.len())) {
        room -= 1;
    }
    format!("{}{ending}", &name[..room.min(name.len())])
}

/// The stream shows changes of partitions as those of the root, but each partition identifies its rows by itself.
fn partitions(facts: &Facts, relation: &Relation, name: &str, findings: &mut Findings) {
    let sorted = |identity: Identity| match identity {
        Identity::Key(mut columns) => {
            columns.sort_unstable();
            Identity::Key(columns)
        }
        other => other,
    };
    let root = sorted(identity(&relation.replica_identity, facts.indexes_of(relation.oid)));
    for leaf in facts.leaves.iter().filter(|leaf| leaf.root == relation.oid && leaf.kind == "r") {
        if sorted(identity(&leaf.replica_identity, facts.indexes_of(leaf.relation))) != root {
            let leaf_name = whole(&leaf.schema, &leaf.name);
            let remedy = match &root {
                Identity::Full => format!("ALTER TABLE {leaf_name} REPLICA IDENTITY FULL"),
                Identity::Key(columns) => format!(
                    "ALTER TABLE {leaf_name} REPLICA IDENTITY USING INDEX … by its unique index on ({})",
                    list(columns)
                ),
                Identity::Nothing(_) => format!("first correct {name}"),
            };
            findings.refuse(
                &leaf_name,
                format!("the replica identity of this partition is not that of {name}, so that its changes could not be applied"),
                remedy,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_indexes_fit() {
        assert_eq!(shortened("orders", "_identity"), "orders_identity");
        let long = shortened(&"é".repeat(31), "_identity");
        assert_eq!((long.len(), long.ends_with("é_identity")), (63, true));
        assert_eq!(shortened(&format!("{}é", "a".repeat(53)), "_identity").len(), 62);
    }
}
