//! Where the two sides differ.

use std::collections::{BTreeMap, BTreeSet};

use super::super::tenant::literal;
use super::finding::Findings;
use super::read::{ColumnFacts, Facts, IndexFacts, Relation};
use super::tables::{identity, whole};
use super::types::{Kind, OwnType};
use crate::config::quoted;

const RECREATE: &str =
    "make both the same before the move; a table made by pg_dump --schema-only of the other side is";

/// Refuses all that the fingerprint is made of, warns of what may be different.
pub(super) fn compare(source: &Facts, destination: &Facts, findings: &mut Findings) {
    let theirs = by_name(destination);
    let ours = by_name(source);
    for (name, relation) in &ours {
        match theirs.get(name) {
            None => findings.refuse(name, "this table is only on the source", RECREATE),
            Some(other) => table(name, (source, relation), (destination, other), findings),
        }
    }
    for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
        findings.refuse(name, "this table is only on the destination", RECREATE);
    }
    types(source, destination, findings);
    references(source, destination, findings);
}

fn by_name(facts: &Facts) -> BTreeMap<String, &Relation> {
    facts.relations.iter().map(|relation| (whole(&relation.schema, &relation.name), relation)).collect()
}

type Side<'a> = (&'a Facts, &'a Relation);

fn table(name: &str, source: Side<'_>, destination: Side<'_>, findings: &mut Findings) {
    let ours = source.0.columns_of(source.1.oid);
    let theirs = destination.0.columns_of(destination.1.oid);
    columns(name, ours, theirs, true, findings);
    let keys = [source, destination]
        .map(|(facts, relation)| identity(&relation.replica_identity, facts.indexes_of(relation.oid)));
    if keys[0] != keys[1] {
        findings.refuse(
            name,
            format!("its replica identity is {:?} on the source, {:?} on the destination", keys[0], keys[1]),
            format!("ALTER TABLE {name} REPLICA IDENTITY … as on the other side"),
        );
    }
    let constraints = |(facts, relation): Side<'_>| -> BTreeMap<String, String> {
        let indexes = facts.indexes_of(relation.oid).iter();
        let checks = facts.checks.get(&relation.oid).into_iter().flatten();
        indexes
            .map(|index| (index_rule(index), index.definition.clone()))
            .chain(checks.map(|check| (check.clone(), check.clone())))
            .collect()
    };
    let ours = constraints(source);
    for (rule, definition) in constraints(destination) {
        if !ours.contains_key(&rule) {
            findings.warn(
                name,
                format!("only the destination has {definition}, which may refuse rows that come"),
                "see that all rows of the tenants meet it, or make it on the source first",
            );
        }
    }
    partitions(name, source, destination, findings);
}

/// What an index forbids, whatever its name.
fn index_rule(index: &IndexFacts) -> String {
    let definition = &index.definition;
    let method = definition.split_once(" USING ").map_or(definition.as_str(), |(_, rule)| rule);
    format!("unique {} exclusion {} {method}", index.unique, index.exclusion)
}

fn partitions(name: &str, source: Side<'_>, destination: Side<'_>, findings: &mut Findings) {
    if destination.1.kind != "p" {
        return;
    }
    let bounds = |(facts, relation): Side<'_>| -> BTreeSet<String> {
        let leaves = facts.leaves.iter().filter(|leaf| leaf.root == relation.oid);
        leaves.map(|leaf| leaf.bound.clone()).collect()
    };
    let (ours, theirs) = (bounds(source), bounds(destination));
    let missing: Vec<&str> = ours.difference(&theirs).map(String::as_str).collect();
    let what = if source.1.kind == "p" && !missing.is_empty() {
        format!("the destination has no partitions {}", missing.join(", "))
    } else if source.1.kind != "p" {
        "only the destination's is partitioned".to_owned()
    } else {
        return;
    };
    findings.warn(
        name,
        format!("{what}: a row that fits in none of its partitions stops the move"),
        "see that there is a partition for each row of the tenants",
    );
}

/// `strict` about a table of tenants; of reference tables only what the comparison of rows needs.
fn columns(name: &str, ours: &[ColumnFacts], theirs: &[ColumnFacts], strict: bool, findings: &mut Findings) {
    let find = |list: &[ColumnFacts], wanted: &str| list.iter().any(|column| column.name == wanted);
    for column in ours.iter().filter(|column| !find(theirs, &column.name)) {
        let object = format!("{name}.{}", quoted(&column.name));
        findings.refuse(object, "this column is only on the source", RECREATE);
    }
    for column in theirs.iter().filter(|column| !find(ours, &column.name)) {
        let object = format!("{name}.{}", quoted(&column.name));
        findings.refuse(object, "this column is only on the destination", RECREATE);
    }
    for column in ours {
        let Some(other) = theirs.iter().find(|other| other.name == column.name) else { continue };
        one_column(name, column, other, strict, findings);
    }
    let names =
        |list: &[ColumnFacts]| -> Vec<String> { list.iter().map(|column| quoted(&column.name)).collect() };
    let (ours, theirs) = (names(ours), names(theirs));
    let sorted = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
    if strict && ours != theirs && sorted(&ours) == sorted(&theirs) {
        findings.refuse(
            name,
            format!(
                "its columns are in the order {} on the source, {} on the destination",
                ours.join(", "),
                theirs.join(", ")
            ),
            RECREATE,
        );
    }
}

fn one_column(name: &str, ours: &ColumnFacts, theirs: &ColumnFacts, strict: bool, findings: &mut Findings) {
    let column = quoted(&ours.name);
    let object = format!("{name}.{column}");
    let alter = format!("ALTER TABLE {name} ALTER COLUMN {column}");
    if ours.type_name != theirs.type_name {
        findings.refuse(
            &object,
            format!("its type is {} on the source, {} on the destination", ours.type_name, theirs.type_name),
            format!("on the destination {alter} TYPE {}", ours.type_name),
        );
        return;
    }
    if !strict {
        return;
    }
    if ours.collation != theirs.collation {
        let of = |side: &ColumnFacts| side.collation.clone().unwrap_or_default();
        findings.refuse(
            &object,
            format!("its collation is {} on the source, {} on the destination", of(ours), of(theirs)),
            format!("on the destination {alter} TYPE {} COLLATE {}", ours.type_name, of(ours)),
        );
    }
    if ours.not_null != theirs.not_null {
        let side = if ours.not_null { "source" } else { "destination" };
        findings.refuse(
            &object,
            format!("it is NOT NULL only on the {side}"),
            format!("{alter} SET NOT NULL on both, or DROP NOT NULL"),
        );
    }
    let kind = |side: &ColumnFacts| match (side.identity.as_str(), side.generated.as_str()) {
        ("a", _) => "GENERATED ALWAYS AS IDENTITY",
        ("d", _) => "GENERATED BY DEFAULT AS IDENTITY",
        (_, "s") => "GENERATED … STORED",
        (_, "v") => "GENERATED … VIRTUAL",
        _ => "plain",
    };
    if kind(ours) != kind(theirs) {
        findings.refuse(
            &object,
            format!("it is {} on the source, {} on the destination", kind(ours), kind(theirs)),
            RECREATE,
        );
    } else if ours.expression != theirs.expression {
        let of = |side: &ColumnFacts| side.expression.clone().unwrap_or_else(|| "none".to_owned());
        if ours.generated.is_empty() {
            findings.warn(
                &object,
                format!("its default is {} on the source, {} on the destination", of(ours), of(theirs)),
                "see that the applications do not mind; rows that move keep their values",
            );
        } else {
            findings.refuse(
                &object,
                format!("it is generated as {} on the source, {} on the destination", of(ours), of(theirs)),
                RECREATE,
            );
        }
    }
}

fn own_types(facts: &Facts) -> BTreeMap<&str, &OwnType> {
    let columns = facts.relations.iter().flat_map(|relation| facts.columns_of(relation.oid));
    facts.types.own_of(columns.map(|column| column.type_oid))
}

fn types(source: &Facts, destination: &Facts, findings: &mut Findings) {
    let theirs = own_types(destination);
    for (name, ours) in own_types(source) {
        // One that the destination lacks is named with the column that has it.
        let Some(theirs) = theirs.get(name) else { continue };
        let object = format!("type {name}");
        if ours.labels != theirs.labels {
            let missing: Vec<String> = ours
                .labels
                .iter()
                .filter(|label| !theirs.labels.contains(label))
                .map(|label| format!("ALTER TYPE {name} ADD VALUE {}", literal(label).trim_start()))
                .collect();
            let remedy = if missing.is_empty() {
                "make both the same before the move; labels are only added, by ALTER TYPE … ADD VALUE"
                    .to_owned()
            } else {
                format!("on the destination {}", missing.join("; "))
            };
            findings.refuse(
                &object,
                format!(
                    "its labels are {:?} on the source, {:?} on the destination",
                    ours.labels, theirs.labels
                ),
                remedy,
            );
        }
        if ours.definition != theirs.definition || ours.kind != theirs.kind {
            let kind = if ours.kind == Kind::Domain { "domain" } else { "type" };
            findings.refuse(
                &object,
                format!(
                    "this {kind} is {:?} on the source, {:?} on the destination",
                    ours.definition, theirs.definition
                ),
                RECREATE,
            );
        }
    }
}

/// The tables beside those of tenants must at least be there and look alike; their rows are compared elsewhere.
fn references(source: &Facts, destination: &Facts, findings: &mut Findings) {
    let parents = |facts: &Facts| -> BTreeMap<String, i64> {
        let keys = facts.foreign_keys.iter();
        keys.filter(|key| facts.relation(key.parent).is_none())
            .map(|key| (whole(&key.parent_name.0, &key.parent_name.1), key.parent))
            .collect()
    };
    let theirs = parents(destination);
    for (name, oid) in parents(source) {
        match theirs.get(&name) {
            Some(other) => {
                columns(&name, source.columns_of(oid), destination.columns_of(*other), false, findings)
            }
            None => findings.warn(
                &name,
                "on the source, foreign keys of tenants refer to this table, on the destination none",
                "make the foreign keys the same on both, or see that the destination needs none",
            ),
        }
    }
}
