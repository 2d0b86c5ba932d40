//! A catalog as stable text, from which its fingerprint is made.

use std::fmt::Write as _;

use super::read::Facts;
use super::tables::{Identity, identity};
use super::types::OwnType;
use crate::config::quoted;

/// The same text for the same tables on every server: no object ids, no order but that of names and columns.
///
/// Names, kinds, columns in order with types, collations, nullability, identity and generated expressions; the key; own
/// types down to the labels of enums. Not defaults, indexes, constraints and partitions, which may change during a move.
pub(super) fn describe(facts: &Facts, tenant: &str) -> String {
    let mut text = format!("tenant {}\n", quoted(tenant));
    for relation in &facts.relations {
        let mut line = |words: String| writeln!(text, "{words}").expect("a String takes all text");
        line(format!("table {}.{}", quoted(&relation.schema), quoted(&relation.name)));
        let key = match identity(&relation.replica_identity, facts.indexes_of(relation.oid)) {
            Identity::Key(columns) => format!("{columns:?}"),
            Identity::Full => {
                let primary = facts.indexes_of(relation.oid).iter().find(|index| index.primary);
                format!("all, {:?}", primary.map(|index| &index.columns))
            }
            Identity::Nothing(_) => "none".to_owned(),
        };
        line(format!(" key {key}"));
        for column in facts.columns_of(relation.oid) {
            let generated = if column.generated.is_empty() { None } else { column.expression.as_deref() };
            line(format!(
                " column {} {} null {} collation {:?} identity {:?} generated {:?} {generated:?}",
                quoted(&column.name),
                column.type_name,
                !column.not_null,
                column.collation,
                column.identity,
                column.generated,
            ));
        }
    }
    let used = facts
        .relations
        .iter()
        .flat_map(|relation| facts.columns_of(relation.oid))
        .map(|column| column.type_oid);
    for (name, own) in facts.types.own_of(used) {
        let OwnType { kind, labels, definition, .. } = own;
        writeln!(text, "type {name} {kind:?} {labels:?} {definition:?}").expect("a String takes all text");
    }
    text
}
