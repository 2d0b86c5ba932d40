//! Cuts tables into chunks.

use tokio_postgres::{Client, SimpleQueryMessage};
use wakala_core::Result;

use super::chunks::{Chunk, Copied};
use super::key::ChunkKey;
use super::session::{Scope, View};
use crate::error::Call;
use crate::mover::table::ChunkType;

/// A bound is taken of so many that are looked at, so that the size of the last chunk is known about as well.
const SAMPLES: u64 = 8;

/// Cuts the rows of all tenants into chunks of about `bytes` each, read on a connection [for reading](super::for_reading)
/// in one snapshot.
///
/// Reads the index of the chunk column of each table once, as far as the tenants' rows go; that takes a few hundredths of
/// the time of the copy. What has no rows counts as copied in this snapshot, and needs no copy. A table that has no chunk
/// column is one chunk for each tenant.
///
/// # Errors
/// `Unavailable` where the connection is lost; the connection is of no use after an error.
pub(crate) async fn plan(source: &Client, scope: Scope<'_>, bytes: u64) -> Result<Vec<Chunk>> {
    let view = View::open(source, |_| true).await?;
    let mut chunks = Vec::new();
    for place in 0..scope.tables.len() {
        for piece in pieces(source, scope, place, bytes.max(1)).await? {
            let empty = Copied { snapshot: view.snapshot.clone(), rows: 0, bytes: 0 };
            let id = i32::try_from(chunks.len()).unwrap_or(i32::MAX);
            chunks.push(Chunk {
                id,
                table: place,
                tenant: piece.tenant,
                lower: piece.lower,
                upper: piece.upper,
                estimate: piece.bytes,
                copied: (piece.rows == 0).then_some(empty),
            });
        }
    }
    view.close(source).await?;
    Ok(chunks)
}

struct Piece {
    tenant: usize,
    lower: Option<ChunkKey>,
    upper: Option<ChunkKey>,
    rows: u64,
    bytes: u64,
}

/// The chunks of one table.
async fn pieces(source: &Client, scope: Scope<'_>, place: usize, bytes: u64) -> Result<Vec<Piece>> {
    let table = &scope.tables[place];
    let call = Call { operation: "plan", subject: format!("table {table}"), writes: false };
    let width = row_bytes(source, &table.quoted(), &call).await?;
    let column = |place: usize| crate::config::quoted(&table.columns[place].name);
    let (name, tenant) = (table.quoted(), column(table.tenant));
    let each = (bytes / width).max(SAMPLES);
    let step = each / SAMPLES;
    let literals: Vec<String> =
        (0..scope.tenants.ids().len()).map(|tenant| scope.tenants.literal(tenant)).collect();
    let tenants = format!("unnest(ARRAY[{}]) WITH ORDINALITY AS w (id, place)", literals.join(", "));
    // By tenant and key: every so many rows the key, and at which row of the tenant's it stands.
    let sql = match table.chunk_by {
        Some((by, _)) => {
            let key = column(by);
            format!(
                "SELECT w.place - 1, r.key, r.n FROM {tenants} CROSS JOIN LATERAL
                    (SELECT {key} AS key, row_number() OVER (ORDER BY {key}) - 1 AS n
                     FROM {name} WHERE {tenant} = w.id) AS r
                 WHERE r.n % {step} = 0 ORDER BY 1, 3"
            )
        }
        None => format!(
            "SELECT w.place - 1, NULL, r.n FROM {tenants} CROSS JOIN LATERAL
                (SELECT count(*) AS n FROM {name} WHERE {tenant} = w.id) AS r ORDER BY 1"
        ),
    };
    let mut cutter = Cutter { kind: table.chunk_by.map(|(_, kind)| kind), step, width, pieces: Vec::new() };
    for tenant in 0..scope.tenants.ids().len() {
        cutter.pieces.push(Piece { tenant, lower: None, upper: None, rows: 0, bytes: 0 });
    }
    let stream = source.simple_query_raw(&sql).await.map_err(|error| call.failed(error))?;
    futures::pin_mut!(stream);
    while let Some(message) =
        futures::TryStreamExt::try_next(&mut stream).await.map_err(|error| call.failed(error))?
    {
        if let SimpleQueryMessage::Row(row) = message {
            let number = |column: usize| row.get(column).and_then(|text| text.parse::<u64>().ok());
            let (Some(tenant), Some(n)) = (number(0), number(2)) else {
                return Err(call.odd_answer("no numbers"));
            };
            cutter.take(usize::try_from(tenant).unwrap_or(usize::MAX), row.get(1), n)?;
        }
    }
    Ok(cutter.pieces)
}

struct Cutter {
    kind: Option<ChunkType>,
    step: u64,
    width: u64,
    /// By tenant and key. Each tenant begins with one of all keys, the last of which is cut.
    pieces: Vec<Piece>,
}

impl Cutter {
    /// The tenant has a row with this key, after `n` others.
    fn take(&mut self, tenant: usize, key: Option<&str>, n: u64) -> Result<()> {
        let place = self.pieces.partition_point(|piece| piece.tenant <= tenant) - 1;
        let (key, rows) = match (key, self.kind) {
            (Some(key), Some(kind)) => (Some(ChunkKey::parse(key, kind)?), self.step),
            // Of a table without a chunk column, all at once.
            _ => (None, n),
        };
        let last = &mut self.pieces[place];
        let cut = n > 0 && n.is_multiple_of(self.step * SAMPLES) && key.is_some() && last.lower != key;
        let here = if cut {
            last.upper = key;
            let next = Piece { tenant, lower: key, upper: None, rows: 0, bytes: 0 };
            self.pieces.insert(place + 1, next);
            &mut self.pieces[place + 1]
        } else {
            last
        };
        here.rows += rows;
        here.bytes = here.rows.saturating_mul(self.width);
        Ok(())
    }
}

/// About how many bytes of disk a row takes, by what the planner makes of the size of the table.
async fn row_bytes(source: &Client, name: &str, call: &Call) -> Result<u64> {
    let sql = format!(
        "SELECT coalesce((SELECT sum(pg_table_size(relid)) FROM pg_partition_tree({0}::regclass) WHERE isleaf),
            pg_table_size({0}::regclass));
         EXPLAIN (FORMAT JSON) SELECT FROM {name}",
        crate::mover::tenant::literal(name)
    );
    let answer = source.simple_query(&sql).await.map_err(|error| call.failed(error))?;
    let mut texts = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let size: Option<u64> = texts.next().and_then(|text| text.parse().ok());
    let rows = texts.next().and_then(|plan| {
        let after = plan.split("\"Plan Rows\":").nth(1)?;
        after.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    });
    match (size, rows) {
        (Some(size), Some(rows)) => Ok((size / rows.max(1)).clamp(32, 1 << 30)),
        _ => Err(call.odd_answer("no size")),
    }
}
