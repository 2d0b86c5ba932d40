//! What tables have to do with each other and with what is beside them: foreign keys, sequences, triggers, locks.

use std::collections::BTreeMap;

use super::super::table::Table;
use super::finding::Findings;
use super::read::{Facts, ForeignKey};
use super::tables::whole;
use crate::config::quoted;

/// A sequence that feeds a column of a table of tenants. Nothing of it is in a change stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// By its place in [`Catalog::tables`](super::Catalog::tables).
    pub(crate) table: usize,
    /// The name of the column.
    pub(crate) column: String,
    pub(crate) increment: i64,
    /// The latest that it gave; `None` where it gave none, or the role may not know.
    pub(crate) last_value: Option<i64>,
}

impl Sequence {
    /// The name as SQL has it.
    pub(crate) fn quoted(&self) -> String {
        whole(&self.schema, &self.name)
    }
}

/// A table that belongs to no tenant, but to which rows of tenants refer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) schema: String,
    pub(crate) name: String,
}

/// The foreign keys from a table of tenants to one.
pub(super) fn between_tenants(facts: &Facts) -> impl Iterator<Item = &ForeignKey> {
    facts
        .foreign_keys
        .iter()
        .filter(|key| facts.relation(key.child).is_some() && facts.relation(key.parent).is_some())
}

/// Whether the key joins rows of one tenant only.
pub(super) fn stays_within(key: &ForeignKey, tenant: &str) -> bool {
    key.child_columns
        .iter()
        .zip(&key.parent_columns)
        .any(|(child, parent)| child == tenant && parent == tenant)
}

pub(super) fn references(facts: &Facts) -> Vec<Reference> {
    let found: BTreeMap<&(String, String), i64> = facts
        .foreign_keys
        .iter()
        .filter(|key| facts.relation(key.child).is_some() && facts.relation(key.parent).is_none())
        .map(|key| (&key.parent_name, key.parent))
        .collect();
    found.into_keys().map(|(schema, name)| Reference { schema: schema.clone(), name: name.clone() }).collect()
}

pub(super) fn sequences(facts: &Facts, tables: &[Table], findings: &mut Findings) -> Vec<Sequence> {
    let mut sequences = Vec::new();
    for sequence in &facts.sequences {
        let Some(relation) = facts.relation(sequence.relation) else { continue };
        let place =
            tables.iter().position(|table| table.schema == relation.schema && table.name == relation.name);
        let Some(table) = place else { continue };
        findings.warn(
            whole(&sequence.schema, &sequence.name),
            format!(
                "this sequence feeds {}.{}, and a change stream does not carry it: the numbers that the destination \
                 gives next may be those of rows that came",
                whole(&relation.schema, &relation.name),
                quoted(&sequence.column)
            ),
            "give each shard numbers of its own (INCREMENT BY and START WITH), or let the move raise the \
             destination's past the source's before it opens",
        );
        sequences.push(Sequence {
            schema: sequence.schema.clone(),
            name: sequence.name.clone(),
            table,
            column: sequence.column.clone(),
            increment: sequence.increment,
            last_value: sequence.last_value,
        });
    }
    sequences
}

pub(super) fn judge(facts: &Facts, tenant: &str, findings: &mut Findings) {
    foreign_keys(facts, tenant, findings);
    unique(facts, tenant, findings);
    firing(facts, findings);
    unguarded(facts, findings);
    activity(facts, findings);
    if !facts.relations.is_empty() {
        findings.warn(
            format!("{} tables", facts.relations.len()),
            "TRUNCATE is not carried over: while a move is under way, the guards of these tables refuse it",
            "use DELETE meanwhile",
        );
    }
}

fn foreign_keys(facts: &Facts, tenant: &str, findings: &mut Findings) {
    for key in &facts.foreign_keys {
        let child = whole(&key.child_name.0, &key.child_name.1);
        let parent = whole(&key.parent_name.0, &key.parent_name.1);
        if facts.relation(key.child).is_none() {
            findings.refuse(
                &child,
                format!(
                    "it refers to {parent} by {}, but is not among the tables of tenants: its rows would stay behind",
                    quoted(&key.name)
                ),
                format!("give it the column {}, or drop the foreign key", quoted(tenant)),
            );
        }
    }
    for key in between_tenants(facts).filter(|key| !stays_within(key, tenant)) {
        let child = whole(&key.child_name.0, &key.child_name.1);
        let parent = whole(&key.parent_name.0, &key.parent_name.1);
        let tenant = quoted(tenant);
        findings.warn(
            format!("{child} {}", quoted(&key.name)),
            format!("this foreign key to {parent} is without {tenant}, so that nothing keeps a row from referring to another tenant's"),
            format!("let the foreign key of {child} and what it refers to in {parent} begin with {tenant}"),
        );
    }
}

fn unique(facts: &Facts, tenant: &str, findings: &mut Findings) {
    for relation in &facts.relations {
        for index in facts.indexes_of(relation.oid) {
            if index.columns.iter().any(|column| column == tenant) {
                continue;
            }
            let kind = if index.exclusion { "exclusion constraint" } else { "unique index" };
            findings.warn(
                format!("{} {}", whole(&relation.schema, &relation.name), quoted(&index.name)),
                format!(
                    "this {kind} is without {}, so that a row that comes can collide with another tenant's, which \
                     stops the move",
                    quoted(tenant)
                ),
                "make the values unique over all shards (uuid, or numbers of each shard's own), or add the column to it",
            );
        }
    }
}

fn firing(facts: &Facts, findings: &mut Findings) {
    for firing in &facts.firing {
        let Some(relation) = facts.relation(firing.relation) else { continue };
        let name = whole(&relation.schema, &relation.name);
        let kind = if firing.rule { "rule" } else { "trigger" };
        let mode = if firing.always { "ALWAYS" } else { "REPLICA" };
        let own = quoted(&firing.name);
        findings.refuse(
            format!("{name} {own}"),
            format!("this {kind} is ENABLE {mode}: it would also fire for the rows that the move applies"),
            format!("ALTER TABLE {name} ENABLE {} {own}", kind.to_uppercase()),
        );
    }
}

/// Writers that no guard sees: what they write after the fence is lost.
fn unguarded(facts: &Facts, findings: &mut Findings) {
    for (subscription, oid) in &facts.subscribed {
        let root = facts.leaves.iter().find(|leaf| leaf.relation == *oid).map_or(*oid, |leaf| leaf.root);
        let Some(relation) = facts.relation(root) else { continue };
        let own = quoted(subscription);
        findings.refuse(
            whole(&relation.schema, &relation.name),
            format!("the subscription {own} writes it past all guards, even after the tenants are elsewhere"),
            format!(
                "ALTER SUBSCRIPTION {own} DISABLE and DROP SUBSCRIPTION {own}, or leave the table out of it"
            ),
        );
    }
    for role in &facts.unguarded {
        findings.refuse(
            format!("role {role}"),
            "its sessions begin with session_replication_role = replica, and so write past all guards, even after the \
             tenants are elsewhere",
            format!("ALTER ROLE {role} RESET session_replication_role, in the database too where it is set for that"),
        );
    }
}

fn activity(facts: &Facts, findings: &mut Findings) {
    for name in &facts.event_triggers {
        findings.warn(
            quoted(name),
            "this event trigger also fires where the move makes and drops its guards and publications",
            "see that it lets them pass",
        );
    }
    let name_of = |oid: i64| facts.relation(oid).map(|relation| whole(&relation.schema, &relation.name));
    for (gid, relation) in &facts.prepared {
        let Some(name) = name_of(*relation) else { continue };
        findings.warn(
            &name,
            format!("the prepared transaction {gid:?} holds it: slot and fence wait until that ends"),
            format!(
                "COMMIT PREPARED or ROLLBACK PREPARED {}",
                super::super::tenant::literal(gid).trim_start()
            ),
        );
    }
    for (relation, mode) in &facts.locked {
        let Some(name) = name_of(*relation) else { continue };
        findings.warn(
            &name,
            format!("a session holds or awaits {mode} on it, as changes of its definition do"),
            "let that end first; a change of the definition during a move stops it",
        );
    }
}
