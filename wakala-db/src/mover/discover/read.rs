//! What the system catalogs say, as it is. Read in one transaction, with names made whole by its search path.

use std::collections::HashMap;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use wakala_core::Result;

use super::Scope;
use super::types::{Kind, OwnType, Types};
use crate::error::Call;

/// A table, or a leaf of a partitioned one.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) name: String,
    /// As `pg_class` has it: r, p, f.
    pub(super) kind: String,
    pub(super) persistence: String,
    pub(super) replica_identity: String,
    pub(super) inherits: bool,
    pub(super) row_security: bool,
    pub(super) owner: String,
    pub(super) is_owner: bool,
    pub(super) schema_usage: bool,
    pub(super) missing_privileges: Vec<String>,
}

/// A partition that has rows.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) root: i64,
    pub(super) relation: i64,
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) persistence: String,
    pub(super) replica_identity: String,
    pub(super) bound: String,
}

#[derive(Clone, Debug)]
pub(super) struct ColumnFacts {
    pub(super) name: String,
    pub(super) type_name: String,
    pub(super) type_oid: i64,
    pub(super) not_null: bool,
    /// a (always), d (by default), or empty.
    pub(super) identity: String,
    /// s (stored), v (virtual), or empty.
    pub(super) generated: String,
    /// Of its own or its type's; `None` where the type has no collation.
    pub(super) collation: Option<String>,
    pub(super) deterministic: bool,
    /// The default, or what a generated column is made from.
    pub(super) expression: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct IndexFacts {
    pub(super) name: String,
    pub(super) primary: bool,
    pub(super) replica: bool,
    pub(super) unique: bool,
    pub(super) immediate: bool,
    pub(super) valid: bool,
    pub(super) exclusion: bool,
    pub(super) partial: bool,
    pub(super) expressions: bool,
    /// The key columns in order; empty for an expression.
    pub(super) columns: Vec<String>,
    pub(super) definition: String,
}

#[derive(Clone, Debug)]
pub(super) struct ForeignKey {
    pub(super) name: String,
    pub(super) child: i64,
    pub(super) child_name: (String, String),
    pub(super) parent: i64,
    pub(super) parent_name: (String, String),
    pub(super) child_columns: Vec<String>,
    pub(super) parent_columns: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct SequenceFacts {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) relation: i64,
    pub(super) column: String,
    pub(super) increment: i64,
    pub(super) last_value: Option<i64>,
}

/// A trigger or rule that also fires for what is applied.
#[derive(Clone, Debug)]
pub(super) struct Firing {
    pub(super) relation: i64,
    pub(super) name: String,
    pub(super) rule: bool,
    pub(super) always: bool,
}

/// All of one database.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) role: String,
    pub(super) relations: Vec<Relation>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) columns: HashMap<i64, Vec<ColumnFacts>>,
    pub(super) indexes: HashMap<i64, Vec<IndexFacts>>,
    /// Of each table its check constraints.
    pub(super) checks: HashMap<i64, Vec<String>>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) sequences: Vec<SequenceFacts>,
    pub(super) firing: Vec<Firing>,
    pub(super) types: Types,
    pub(super) large_objects: bool,
    pub(super) event_triggers: Vec<String>,
    /// A subscription, and the table that it writes.
    pub(super) subscribed: Vec<(String, i64)>,
    /// Other roles (or "all") whose sessions here are in the replica role from the start, so that no guard fires.
    pub(super) unguarded: Vec<String>,
    /// The transaction's name, and the table.
    pub(super) prepared: Vec<(String, i64)>,
    /// The table, and the mode in which another session holds or awaits its lock.
    pub(super) locked: Vec<(i64, String)>,
}

impl Facts {
    pub(super) fn columns_of(&self, relation: i64) -> &[ColumnFacts] {
        self.columns.get(&relation).map_or(&[], Vec::as_slice)
    }

    pub(super) fn indexes_of(&self, relation: i64) -> &[IndexFacts] {
        self.indexes.get(&relation).map_or(&[], Vec::as_slice)
    }

    pub(super) fn relation(&self, oid: i64) -> Option<&Relation> {
        self.relations.iter().find(|relation| relation.oid == oid)
    }
}

/// One statement with typed parameters, which goes through every kind of pool.
pub(super) async fn rows(
    client: &Client,
    operation: &'static str,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>> {
    let call = Call { operation, subject: "database".to_owned(), writes: false };
    client.query_typed(sql, parameters).await.map_err(|error| call.failed(error))
}

/// Statements without an answer.
pub(super) async fn run(client: &Client, operation: &'static str, sql: &str) -> Result<()> {
    let call = Call { operation, subject: "database".to_owned(), writes: false };
    client.batch_execute(sql).await.map_err(|error| call.failed(error))
}

const OPERATION: &str = "discover";

pub(super) async fn facts(client: &Client, scope: &Scope) -> Result<Facts> {
    let relations = relations(client, scope).await?;
    let tables: Vec<i64> = relations.iter().map(|relation| relation.oid).collect();
    let leaves = leaves(client, &tables).await?;
    let foreign_keys = foreign_keys(client, &tables).await?;
    let with_columns: Vec<i64> =
        tables.iter().copied().chain(foreign_keys.iter().map(|key| key.parent)).collect();
    let columns = columns(client, &with_columns).await?;
    let with_indexes: Vec<i64> =
        tables.iter().copied().chain(leaves.iter().map(|leaf| leaf.relation)).collect();
    let mut used: Vec<i64> = columns.values().flatten().map(|column| column.type_oid).collect();
    used.sort_unstable();
    used.dedup();
    let one = rows(
        client,
        OPERATION,
        "SELECT current_user::text, EXISTS (SELECT FROM pg_largeobject_metadata),
            ARRAY(SELECT evtname::text FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1),
            ARRAY(SELECT coalesce(quote_ident(r.rolname), 'ALL') FROM pg_db_role_setting s
                LEFT JOIN pg_roles r ON r.oid = s.setrole
                WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                    AND 'session_replication_role=replica' = ANY (s.setconfig)
                    AND r.rolname IS DISTINCT FROM current_user ORDER BY 1)",
        &[],
    )
    .await?;
    let (role, large_objects, event_triggers, unguarded) = match one.first() {
        Some(row) => (row.get(0), row.get(1), row.get(2), row.get(3)),
        None => (String::new(), false, Vec::new(), Vec::new()),
    };
    Ok(Facts {
        role,
        large_objects,
        event_triggers,
        unguarded,
        subscribed: subscribed(client, &with_indexes).await?,
        indexes: indexes(client, &with_indexes).await?,
        checks: checks(client, &tables).await?,
        sequences: sequences(client, &tables).await?,
        firing: firing(client, &tables).await?,
        types: types(client, &used).await?,
        prepared: prepared(client, &tables).await?,
        locked: locked(client, &tables).await?,
        relations,
        leaves,
        columns,
        foreign_keys,
    })
}

async fn relations(client: &Client, scope: &Scope) -> Result<Vec<Relation>> {
    let sql = "SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
            c.relreplident::text,
            EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR (i.inhparent = c.oid AND c.relkind <> 'p')),
            row_security_active(c.oid), pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'),
            has_schema_privilege(n.oid, 'USAGE'),
            ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
                WHERE NOT has_table_privilege(c.oid, p))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
            AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'wakala_shard')
            AND (cardinality($2) = 0 OR n.nspname = ANY ($2)) AND n.nspname <> ALL ($3)
            AND EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = $1 AND a.attnum > 0 AND NOT a.attisdropped)
        ORDER BY n.nspname, c.relname";
    let found = rows(
        client,
        OPERATION,
        sql,
        &[
            (&scope.tenant_column, Type::TEXT),
            (&scope.schemas, Type::TEXT_ARRAY),
            (&scope.without, Type::TEXT_ARRAY),
        ],
    )
    .await?;
    let relation = |row: &Row| Relation {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        kind: row.get(3),
        persistence: row.get(4),
        replica_identity: row.get(5),
        inherits: row.get(6),
        row_security: row.get(7),
        owner: row.get(8),
        is_owner: row.get(9),
        schema_usage: row.get(10),
        missing_privileges: row.get(11),
    };
    Ok(found.iter().map(relation).collect())
}

/// Rows about the given relations, the first column of which is the relation.
async fn about(client: &Client, sql: &str, relations: &[i64]) -> Result<Vec<Row>> {
    let relations = relations.to_vec();
    rows(client, OPERATION, sql, &[(&relations, Type::INT8_ARRAY)]).await
}

async fn leaves(client: &Client, tables: &[i64]) -> Result<Vec<Leaf>> {
    let sql = "SELECT c.oid::int8, l.oid::int8, n.nspname::text, l.relname::text, l.relkind::text,
            l.relpersistence::text, l.relreplident::text, coalesce(pg_get_expr(l.relpartbound, l.oid), '')
        FROM pg_class c CROSS JOIN LATERAL pg_partition_tree(c.oid) AS t
            JOIN pg_class l ON l.oid = t.relid JOIN pg_namespace n ON n.oid = l.relnamespace
        WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'p' AND t.isleaf
        ORDER BY 1, n.nspname, l.relname";
    let leaf = |row: &Row| Leaf {
        root: row.get(0),
        relation: row.get(1),
        schema: row.get(2),
        name: row.get(3),
        kind: row.get(4),
        persistence: row.get(5),
        replica_identity: row.get(6),
        bound: row.get(7),
    };
    Ok(about(client, sql, tables).await?.iter().map(leaf).collect())
}

async fn columns(client: &Client, tables: &[i64]) -> Result<HashMap<i64, Vec<ColumnFacts>>> {
    let sql =
        "SELECT a.attrelid::int8, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::int8,
            a.attnotnull, a.attidentity::text, a.attgenerated::text,
            CASE WHEN o.oid IS NOT NULL THEN quote_ident(n.nspname) || '.' || quote_ident(o.collname) END,
            coalesce(o.collisdeterministic, true), pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            LEFT JOIN pg_collation o ON o.oid = a.attcollation
            LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
        WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attrelid, a.attnum";
    let mut columns: HashMap<i64, Vec<ColumnFacts>> = HashMap::new();
    for row in about(client, sql, tables).await? {
        columns.entry(row.get(0)).or_default().push(ColumnFacts {
            name: row.get(1),
            type_name: row.get(2),
            type_oid: row.get(3),
            not_null: row.get(4),
            identity: row.get(5),
            generated: row.get(6),
            collation: row.get(7),
            deterministic: row.get(8),
            expression: row.get(9),
        });
    }
    Ok(columns)
}

async fn indexes(client: &Client, relations: &[i64]) -> Result<HashMap<i64, Vec<IndexFacts>>> {
    let sql = "SELECT i.indrelid::int8, c.relname::text, i.indisprimary, i.indisreplident, i.indisunique,
            i.indimmediate, i.indisvalid, i.indisexclusion, i.indpred IS NOT NULL, i.indexprs IS NOT NULL,
            ARRAY(SELECT coalesce(a.attname::text, '')
                FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
                    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
                WHERE k.place <= i.indnkeyatts ORDER BY k.place),
            pg_get_indexdef(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = ANY ($1::oid[]) AND (i.indisunique OR i.indisexclusion)
        ORDER BY i.indrelid, c.relname";
    let mut indexes: HashMap<i64, Vec<IndexFacts>> = HashMap::new();
    for row in about(client, sql, relations).await? {
        indexes.entry(row.get(0)).or_default().push(IndexFacts {
            name: row.get(1),
            primary: row.get(2),
            replica: row.get(3),
            unique: row.get(4),
            immediate: row.get(5),
            valid: row.get(6),
            exclusion: row.get(7),
            partial: row.get(8),
            expressions: row.get(9),
            columns: row.get(10),
            definition: row.get(11),
        });
    }
    Ok(indexes)
}

async fn checks(client: &Client, tables: &[i64]) -> Result<HashMap<i64, Vec<String>>> {
    let sql = "SELECT k.conrelid::int8, pg_get_constraintdef(k.oid) FROM pg_constraint k
        WHERE k.contype = 'c' AND k.conrelid = ANY ($1::oid[]) ORDER BY 1, 2";
    let mut checks: HashMap<i64, Vec<String>> = HashMap::new();
    for row in about(client, sql, tables).await? {
        checks.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(checks)
}

async fn foreign_keys(client: &Client, tables: &[i64]) -> Result<Vec<ForeignKey>> {
    let sql =
        "SELECT k.conname::text, k.conrelid::int8, cn.nspname::text, c.relname::text, k.confrelid::int8,
            pn.nspname::text, p.relname::text,
            ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place),
            ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place)
        FROM pg_constraint k
            JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
            JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
        WHERE k.contype = 'f' AND k.conparentid = 0
            AND (k.conrelid = ANY ($1::oid[]) OR k.confrelid = ANY ($1::oid[]))
        ORDER BY 3, 4, 1";
    let key = |row: &Row| ForeignKey {
        name: row.get(0),
        child: row.get(1),
        child_name: (row.get(2), row.get(3)),
        parent: row.get(4),
        parent_name: (row.get(5), row.get(6)),
        child_columns: row.get(7),
        parent_columns: row.get(8),
    };
    Ok(about(client, sql, tables).await?.iter().map(key).collect())
}

async fn sequences(client: &Client, tables: &[i64]) -> Result<Vec<SequenceFacts>> {
    // Those that belong to a column, and those that its default takes from.
    let sql = "WITH feeds AS (
            SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS number FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                AND d.deptype IN ('a', 'i') AND d.refobjid = ANY ($1::oid[]) AND d.refobjsubid > 0
            UNION
            SELECT d.refobjid, f.adrelid, f.adnum FROM pg_attrdef f
                JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            WHERE d.refclassid = 'pg_class'::regclass AND f.adrelid = ANY ($1::oid[])
        )
        SELECT n.nspname::text, s.relname::text, f.relation::int8, a.attname::text, q.seqincrement,
            CASE WHEN has_sequence_privilege(s.oid, 'USAGE,SELECT') THEN pg_sequence_last_value(s.oid) END
        FROM feeds f JOIN pg_class s ON s.oid = f.sequence AND s.relkind = 'S'
            JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid
            JOIN pg_attribute a ON a.attrelid = f.relation AND a.attnum = f.number
        ORDER BY 1, 2, 3, a.attnum";
    let sequence = |row: &Row| SequenceFacts {
        schema: row.get(0),
        name: row.get(1),
        relation: row.get(2),
        column: row.get(3),
        increment: row.get(4),
        last_value: row.get(5),
    };
    Ok(about(client, sql, tables).await?.iter().map(sequence).collect())
}

async fn firing(client: &Client, tables: &[i64]) -> Result<Vec<Firing>> {
    let sql = "SELECT t.tgrelid::int8, t.tgname::text, false, t.tgenabled = 'A' FROM pg_trigger t
            JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE t.tgrelid = ANY ($1::oid[]) AND t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal
            AND n.nspname <> 'wakala_shard'
        UNION ALL
        SELECT r.ev_class::int8, r.rulename::text, true, r.ev_enabled = 'A' FROM pg_rewrite r
        WHERE r.ev_class = ANY ($1::oid[]) AND r.ev_enabled IN ('A', 'R')
        ORDER BY 1, 3, 2";
    let one =
        |row: &Row| Firing { relation: row.get(0), name: row.get(1), rule: row.get(2), always: row.get(3) };
    Ok(about(client, sql, tables).await?.iter().map(one).collect())
}

/// The given types and all that they are made of.
async fn types(client: &Client, used: &[i64]) -> Result<Types> {
    // Of a type t. Begins at the types that are used: a database can have as many types as tables.
    let parts = "SELECT t.typbasetype AS part WHERE t.typtype = 'd'
            UNION ALL SELECT t.typelem
                WHERE t.typtype = 'b' AND t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc
            UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid
            UNION ALL SELECT a.atttypid FROM pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped";
    let sql = format!(
        "WITH RECURSIVE used (oid) AS (
            SELECT unnest($1::oid[])
            UNION SELECT p.part FROM used JOIN pg_type t ON t.oid = used.oid CROSS JOIN LATERAL ({parts}) AS p
        )
        SELECT t.oid::int8, format_type(t.oid, NULL), t.oid >= 16384, t.typtype::text,
            t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc,
            ARRAY(SELECT p.part::int8 FROM ({parts}) AS p),
            t.typsend <> 0 AND t.typreceive <> 0,
            ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder),
            CASE WHEN t.typtype = 'c' THEN ARRAY(
                SELECT quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
            WHEN t.typtype = 'd' THEN ARRAY[format_type(t.typbasetype, t.typtypmod)]
                || CASE WHEN t.typnotnull THEN ARRAY['NOT NULL'] ELSE ARRAY[]::text[] END
                || ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
                    WHERE k.contypid = t.oid AND k.contype = 'c' ORDER BY 1)
            ELSE ARRAY[]::text[] END
        FROM pg_type t JOIN used ON used.oid = t.oid ORDER BY 2"
    );
    let mut types = Types::default();
    for row in about(client, &sql, used).await? {
        let kind: String = row.get(3);
        let array: bool = row.get(4);
        types.insert(
            row.get(0),
            OwnType {
                name: row.get(1),
                own: row.get(2),
                kind: Kind::from_catalog(&kind, array),
                parts: row.get(5),
                binary: row.get(6),
                labels: row.get(7),
                definition: row.get(8),
            },
        );
    }
    Ok(types)
}

async fn subscribed(client: &Client, relations: &[i64]) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT s.subname::text, r.srrelid::int8 FROM pg_subscription_rel r
            JOIN pg_subscription s ON s.oid = r.srsubid
        WHERE r.srrelid = ANY ($1::oid[]) ORDER BY 1, 2";
    Ok(about(client, sql, relations).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn prepared(client: &Client, tables: &[i64]) -> Result<Vec<(String, i64)>> {
    // Locks of a prepared transaction have no process; that on its own number tells which others are its.
    let sql = "SELECT DISTINCT p.gid, l.relation::int8 FROM pg_prepared_xacts p
            JOIN pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
            JOIN pg_locks l ON l.pid IS NULL AND l.locktype = 'relation'
                AND l.virtualtransaction = x.virtualtransaction
        WHERE p.database = current_database() AND l.relation = ANY ($1::oid[])
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY 1, 2";
    Ok(about(client, sql, tables).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn locked(client: &Client, tables: &[i64]) -> Result<Vec<(i64, String)>> {
    let sql = "SELECT DISTINCT l.relation::int8, l.mode FROM pg_locks l
        WHERE l.locktype = 'relation' AND l.relation = ANY ($1::oid[]) AND l.pid IS DISTINCT FROM pg_backend_pid()
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        ORDER BY 1, 2";
    Ok(about(client, sql, tables).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}
