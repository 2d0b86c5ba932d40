//! What rows come to.

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use wakala_core::Result;

use crate::error::Call;
use crate::mover::copy::{ChunkKey, Scope};
use crate::mover::table::{Column, Table};

/// The rows of a tenant in a table, or those of them from `lower` on and before `upper` by the chunk column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) table: usize,
    pub(crate) tenant: usize,
    pub(crate) lower: Option<ChunkKey>,
    pub(crate) upper: Option<ChunkKey>,
}

/// Of equal rows equal, in whatever order they lie. The two hashes are of different seeds; the exclusive or alone would
/// miss what is there twice, the sum keeps all its digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: i64,
    pub(crate) xor: i64,
    pub(crate) sum: i128,
}

/// The seeds are any two numbers.
const SEEDS: [i64; 2] = [0, 7_710_162_562_058_289_152];

/// Reads the rows of some tenants in a table, and says what those of each come to, in the order of `tenants`. On a
/// connection [for reading](crate::mover::copy::for_reading), in the snapshot of its transaction where it is in one.
///
/// The hashes are those of the server's: compare only servers of one major version.
///
/// # Errors
/// `Unavailable` where the connection is lost.
pub(crate) async fn digests(
    client: &Client,
    scope: Scope<'_>,
    table: usize,
    tenants: &[usize],
) -> Result<Vec<Digest>> {
    let subject = format!("table {}", scope.tables[table]);
    let call = Call { operation: "digest", subject, writes: false };
    let column = crate::config::quoted(&scope.tables[table].columns[scope.tables[table].tenant].name);
    let literals: Vec<String> = tenants.iter().map(|tenant| scope.tenants.literal(*tenant)).collect();
    let rows = format!("{column} IN ({}) GROUP BY 4", literals.join(", "));
    let found = match tenants {
        [] => Vec::new(),
        _ => read(client, &scope.tables[table], &rows, &format!("{column}::text"), &call).await?,
    };
    let of = |tenant: &usize| found.iter().find(|(id, _)| *id == scope.tenants.ids()[*tenant]);
    Ok(tenants.iter().map(|tenant| of(tenant).map(|(_, digest)| *digest).unwrap_or_default()).collect())
}

/// The same for a range.
pub(super) async fn digest(client: &Client, scope: Scope<'_>, range: Range) -> Result<Digest> {
    let call = Call { operation: "digest", subject: subject(scope, range), writes: false };
    let found = read(client, &scope.tables[range.table], &rows_of(scope, range), "''", &call).await?;
    Ok(found.first().map(|(_, digest)| *digest).unwrap_or_default())
}

async fn read(
    client: &Client,
    table: &Table,
    rows: &str,
    by: &str,
    call: &Call,
) -> Result<Vec<(String, Digest)>> {
    let row = row_of(table);
    let sql = format!(
        "SELECT count(*), coalesce(bit_xor(hash_record_extended({row}, {})), 0),
            coalesce(sum(hash_record_extended({row}, {})), 0), {by} FROM {} WHERE {rows}",
        SEEDS[0],
        SEEDS[1],
        table.quoted(),
    );
    let answer = client.simple_query(&sql).await.map_err(|error| call.failed(error))?;
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let parse = |row: &SimpleQueryRow| {
        let [rows, xor, sum, by] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        let digest = Digest { rows: rows.parse().ok()?, xor: xor.parse().ok()?, sum: sum.parse().ok()? };
        Some((by.to_owned(), digest))
    };
    rows.map(|row| parse(row).ok_or_else(|| call.odd_answer("no numbers"))).collect()
}

pub(super) fn subject(scope: Scope<'_>, range: Range) -> String {
    format!("tenant {}, table {}", scope.tenants.ids()[range.tenant], scope.tables[range.table])
}

pub(super) fn rows_of(scope: Scope<'_>, range: Range) -> String {
    scope.rows(range.table, range.tenant, range.lower, range.upper)
}

/// The hash that tells one row from another.
pub(super) fn hash_of(table: &Table) -> String {
    format!("hash_record_extended({}, {})", row_of(table), SEEDS[0])
}

fn row_of(table: &Table) -> String {
    format!("ROW({})", table.columns.iter().map(hashed).collect::<Vec<_>>().join(", "))
}

/// Hashes go with equality, which for many types is not identity: 1.0 and 1.00, 0 and -0, a month and 30 days, and
/// whatever a collation or an extension takes for the same. There, the text is compared.
fn hashed(column: &Column) -> String {
    const EXACT: [&str; 9] =
        ["bigint", "boolean", "bytea", "date", "integer", "smallint", "uuid", "\"char\"", "oid"];
    let name = crate::config::quoted(&column.name);
    let kind = column.type_name.as_str();
    if !column.hash_as_text
        && (EXACT.contains(&kind) || kind.starts_with("timestamp"))
        && !kind.ends_with(']')
    {
        name
    } else {
        format!("{name}::text COLLATE \"C\"")
    }
}
