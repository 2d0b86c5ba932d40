//! What Postgres must allow.

use std::collections::{BTreeMap, BTreeSet};

use wakala_core::Permission;

#[cfg(any(feature = "run-store", feature = "shards"))]
use crate::config::SchemaName;
use crate::config::quoted;

/// The [`Permission::system`] of everything in this crate.
const SYSTEM: &str = "postgres";

/// Membership in a role is granted in other words.
const MEMBER: &str = "MEMBER";
const ROLE: &str = "ROLE ";

/// Which privileges on which table. Lines and letters are only ever added.
#[cfg(feature = "run-store")]
const TABLES: [(&str, &[&str]); 5] = [
    ("claim", &["DELETE", "INSERT", "SELECT"]),
    ("letter", &["INSERT", "SELECT"]),
    ("line", &["INSERT", "SELECT"]),
    ("run", &["INSERT", "SELECT", "UPDATE"]),
    ("schema_version", &["SELECT"]),
];

#[cfg(feature = "run-store")]
const FUNCTIONS: [&str; 13] = [
    "acquire(text, text, bigint, text[], boolean)",
    "append(text, bigint, bigint, text, text)",
    "create_run(text, text, bigint, text, text, text[], text[])",
    "drive(text, bigint)",
    "durably()",
    "hold(text, text[])",
    "lapse(bigint)",
    "lock_claims(text[])",
    "overlapping_claim(text[], text[])",
    "paths_above(text[])",
    "release(text, bigint, boolean, boolean)",
    "renew(text, bigint, bigint)",
    "send(text, text)",
];

/// What a [`PostgresStore`](crate::PostgresStore) needs to work on a schema that somebody else migrated. Nothing of it is
/// spare.
#[cfg(feature = "run-store")]
pub fn store_permissions(schema: &SchemaName) -> Vec<Permission> {
    let name = schema.quoted();
    let tables = TABLES.iter().flat_map(|(table, actions)| {
        let resource = format!("TABLE {name}.{}", quoted(table));
        actions.iter().map(move |action| Permission::new(SYSTEM, *action, resource.clone()))
    });
    let functions = FUNCTIONS
        .iter()
        .map(|function| Permission::new(SYSTEM, "EXECUTE", format!("FUNCTION {name}.{function}")));
    std::iter::once(Permission::new(SYSTEM, "USAGE", format!("SCHEMA {name}")))
        .chain(tables)
        .chain(functions)
        .collect()
}

/// What a [`Directory`](crate::Directory) needs to work on tables that somebody else migrated. Nothing of it is spare.
///
/// Beside it, to take existing tables over, `SELECT` on them; to keep a legacy column, `SELECT` and `UPDATE` on its table.
#[cfg(feature = "shards")]
pub fn directory_permissions(schema: &SchemaName) -> Vec<Permission> {
    directory(schema, &["INSERT", "SELECT", "UPDATE"])
}

/// What a [`Router`](crate::Router) needs of the directory: it only reads. Nothing of it is spare.
#[cfg(feature = "shards")]
pub fn router_permissions(schema: &SchemaName) -> Vec<Permission> {
    directory(schema, &["SELECT"])
}

#[cfg(feature = "shards")]
fn directory(schema: &SchemaName, actions: &[&str]) -> Vec<Permission> {
    let name = schema.quoted();
    let tables = [("directory_version", &["SELECT"][..]), ("shard", actions), ("tenant", actions)];
    let tables = tables.into_iter().flat_map(|(table, actions)| {
        let resource = format!("TABLE {name}.{}", quoted(table));
        actions.iter().map(move |action| Permission::new(SYSTEM, *action, resource.clone()))
    });
    std::iter::once(Permission::new(SYSTEM, "USAGE", format!("SCHEMA {name}"))).chain(tables).collect()
}

/// What `migrate` of a store or a directory needs beside what it makes, which then belongs to whoever calls it: to
/// create the schema, in the database of that name.
///
/// Where the schema is made by somebody else, its owner needs nothing more.
#[cfg(any(feature = "run-store", feature = "shards"))]
pub fn migration_permissions(database: &str) -> Vec<Permission> {
    vec![Permission::new(SYSTEM, "CREATE", format!("DATABASE {}", quoted(database)))]
}

/// What a [`PostgresMetrics`](crate::PostgresMetrics) needs: to see what the sessions of others do, which the predefined
/// role `pg_monitor` may, and nobody who is not a member of it or of `pg_read_all_stats`.
#[cfg(feature = "metrics")]
pub fn metrics_permissions() -> Vec<Permission> {
    vec![Permission::new(SYSTEM, MEMBER, format!("{ROLE}{}", quoted("pg_monitor")))]
}

/// The SQL that gives `role` exactly the given permissions of Postgres; those of other systems are passed over.
///
/// One statement a resource, without a semicolon at the end; the order is always the same.
///
/// ```
/// use wakala_db::{SchemaName, sql_grants, store_permissions};
///
/// let grants = sql_grants("ops", &store_permissions(&SchemaName::default()));
/// assert!(grants.contains(&r#"GRANT INSERT, SELECT ON TABLE "wakala"."line" TO "ops""#.to_owned()));
/// ```
pub fn sql_grants(role: &str, permissions: &[Permission]) -> Vec<String> {
    let mut resources: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for permission in permissions.iter().filter(|permission| permission.system == SYSTEM) {
        resources.entry(&permission.resource).or_default().insert(&permission.action);
    }
    let role = quoted(role);
    resources
        .into_iter()
        .map(|(resource, actions)| {
            if let Some(group) = resource.strip_prefix(ROLE)
                && actions.contains(MEMBER)
            {
                return format!("GRANT {group} TO {role}");
            }
            let actions: Vec<&str> = actions.into_iter().collect();
            format!("GRANT {} ON {resource} TO {role}", actions.join(", "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_one_a_resource_and_of_postgres_only() {
        let permissions = [
            Permission::new("postgres", "SELECT", "TABLE a"),
            Permission::new("aws", "eks:Describe", "TABLE a"),
            Permission::new("postgres", "INSERT", "TABLE a"),
            Permission::new("postgres", "INSERT", "TABLE a"),
            Permission::new("postgres", "MEMBER", "ROLE \"pg_monitor\""),
        ];
        assert_eq!(
            sql_grants("o\"ps", &permissions),
            ["GRANT \"pg_monitor\" TO \"o\"\"ps\"", "GRANT INSERT, SELECT ON TABLE a TO \"o\"\"ps\""]
        );
    }
}
