//! What is there to move, and whether it can be: reads both sides, changes nothing.
//!
//! [`discover`] reads one side, [`preflight`] both and all that speaks against a move between them.

mod compare;
mod describe;
mod finding;
mod order;
mod read;
mod relations;
mod rows;
mod server;
mod sizes;
mod tables;
#[cfg(test)]
mod tests;
mod types;

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use wakala_core::Result;

pub(crate) use finding::{Finding, Findings};
pub(crate) use relations::{Reference, Sequence};
pub(crate) use server::{Room, ServerFacts, refusals_of};
pub(crate) use sizes::Size;

use super::table::Table;
use super::tenant::{TenantType, Tenants};

/// Which tables are those of tenants: the ones with the tenant column, in the given schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// As it is, without quotation marks.
    pub(crate) tenant_column: String,
    /// All where there is none. Never the server's own, nor `wakala_shard`.
    pub(crate) schemas: Vec<String>,
    /// Not these: one in which a directory of tenants lives, for instance.
    pub(crate) without: Vec<String>,
}

impl Scope {
    /// All tables that have this column.
    #[cfg(test)]
    pub(crate) fn new(tenant_column: impl Into<String>) -> Self {
        Self { tenant_column: tenant_column.into(), schemas: Vec::new(), without: Vec::new() }
    }
}

/// The tables of tenants of one database.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    /// Parents before children, as far as foreign keys have no circles. A partitioned table is one table. Complete only
    /// where there is no refusal.
    pub(crate) tables: Vec<Table>,
    /// Of the tenant column in all tables; without meaning where there is a refusal.
    pub(crate) tenant_type: TenantType,
    /// SHA-256 in hexadecimal over names, columns in order with types, collations, nullability, identity and generated
    /// expressions, keys, and own types down to the labels of enums. The same on two servers if and only if rows can go
    /// from one to the other as they are.
    pub(crate) fingerprint: String,
    /// Those that feed columns of the tables.
    pub(crate) sequences: Vec<Sequence>,
    /// Tables without the tenant column to which foreign keys of the tables refer.
    pub(crate) references: Vec<Reference>,
    /// What this side alone says against a move.
    pub(crate) findings: Findings,
    facts: read::Facts,
}

/// Reads the tables of tenants, in one transaction of its own, which ends with it: the client must not be in one.
///
/// Takes a few dozen milliseconds. A role without any rights can do it: the system catalogs are everybody's to read, and
/// what the role lacks for a move is among the refusals.
///
/// # Errors
/// Those of the connection; what is the matter with the schema is data, in [`Catalog::findings`].
pub(crate) async fn discover(client: &Client, scope: &Scope) -> Result<Catalog> {
    begin(client).await?;
    let read = async {
        let facts = read::facts(client, scope).await?;
        let text = describe::describe(&facts, &scope.tenant_column);
        let digest = "SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex')";
        let digest = read::rows(client, "discover", digest, &[(&text, Type::TEXT)]).await?;
        Ok((facts, digest.first().map(|row| row.get(0)).unwrap_or_default()))
    }
    .await;
    end(client, read).await.map(|(facts, fingerprint)| catalog(facts, scope, fingerprint))
}

/// A read-only transaction in which names are as whole as they can be, and texts the same on every server.
async fn begin(client: &Client) -> Result<()> {
    let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off; SET LOCAL jit = off;
        SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'iso_8601'; SET LOCAL TimeZone = 'UTC';
        SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'";
    read::run(client, "discover", sql).await
}

async fn end<T>(client: &Client, answer: Result<T>) -> Result<T> {
    let ended = read::run(client, "discover", "ROLLBACK").await;
    let answer = answer?;
    ended.map(|()| answer)
}

fn catalog(facts: read::Facts, scope: &Scope, fingerprint: String) -> Catalog {
    let tenant = &scope.tenant_column;
    let mut findings = Findings::default();
    let common = tables::common_tenant_type(&facts, tenant);
    if facts.relations.is_empty() {
        let within =
            if scope.schemas.is_empty() { "any schema".to_owned() } else { scope.schemas.join(", ") };
        findings.refuse(
            crate::config::quoted(tenant),
            format!("no table of {within} has a column of this name, exactly as it is written"),
            "correct the name of the tenant column or the schemas of the scope",
        );
    }
    let tenant_type = common.unwrap_or(TenantType::Text);
    let found: Vec<(i64, Option<Table>)> = facts
        .relations
        .iter()
        .map(|relation| (relation.oid, tables::table(&facts, relation, tenant, tenant_type, &mut findings)))
        .collect();
    let place = |oid: i64| found.iter().position(|(other, _)| *other == oid);
    let edges: Vec<(usize, usize)> =
        facts.foreign_keys.iter().filter_map(|key| Some((place(key.child)?, place(key.parent)?))).collect();
    let order = order::parents_first(found.len(), &edges);
    let tables: Vec<Table> = order.iter().filter_map(|place| found[*place].1.clone()).collect();
    relations::judge(&facts, tenant, &mut findings);
    let sequences = relations::sequences(&facts, &tables, &mut findings);
    let references = relations::references(&facts);
    Catalog { tables, tenant_type, fingerprint, sequences, references, findings, facts }
}

/// Both sides, and all that speaks against a move between them.
#[derive(Clone, Debug)]
pub(crate) struct Preflight {
    #[cfg(test)]
    pub(crate) source: Catalog,
    #[cfg(test)]
    pub(crate) destination: Catalog,
    /// Of the tenants on the source; empty where the schema is refused.
    pub(crate) sizes: Vec<Size>,
    /// Of both sides and between them, the side before each object.
    pub(crate) findings: Findings,
}

/// What a preflight is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) tenants: &'a [String],
    /// What is free; how much is to move is found out.
    pub(crate) room: Room,
    /// How long rows may be looked at, beside the count of them. What is not known by then is a warning.
    pub(crate) limit: Duration,
    /// Whether changes come by a stream.
    pub(crate) stream: bool,
}

/// Looks at everything that could stop a move before anything is made; changes nothing on either side. Neither client
/// may be in a transaction.
///
/// Rows are looked at only where schemas and servers are not refused: the fix may change them.
///
/// # Errors
/// `InvalidConfig` for a tenant that cannot be one of the tenant column's type; those of the connections. What is the
/// matter with the shards is data, in [`Preflight::findings`].
pub(crate) async fn preflight(
    source: &Client,
    destination: &Client,
    question: &Question<'_>,
) -> Result<Preflight> {
    let ours = discover(source, question.scope).await?;
    let theirs = discover(destination, question.scope).await?;
    let source_server = ServerFacts::read(source).await?;
    let destination_server = ServerFacts::read(destination).await?;
    let mut findings = Findings::of_both(ours.findings.clone(), theirs.findings.clone());
    compare::compare(&ours.facts, &theirs.facts, &mut findings);
    let mut sizes = Vec::new();
    let mut room = question.room;
    if findings.refusals.is_empty() {
        let tenants = Tenants::new(ours.tenant_type, question.tenants)?;
        sizes = self::sizes::sizes(source, &ours.tables, &tenants).await?;
        room.move_bytes = sizes.iter().map(|size| size.bytes).sum();
        let sides = rows::Sides {
            source,
            destination,
            catalog: &ours,
            other: &theirs,
            tenants: &tenants,
            tenant_column: &question.scope.tenant_column,
            until: Instant::now() + question.limit,
        };
        sides.check(&mut findings).await?;
    }
    findings.extend(refusals_of(&source_server, &destination_server, &room, question.stream));
    Ok(Preflight {
        #[cfg(test)]
        source: ours,
        #[cfg(test)]
        destination: theirs,
        sizes,
        findings,
    })
}
