//! Which rows differ, for the report of a verification that failed.

use std::fmt;

use futures::TryStreamExt;
use tokio_postgres::{Client, SimpleQueryMessage};
use wakala_core::Result;

use super::digest::{Digest, Range, digest, hash_of, rows_of, subject};
use crate::error::Call;
use crate::mover::copy::{ChunkKey, Scope};

/// A row that is not the same on both sides, by its key as the server writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// The values differ.
    Changed(String),
    /// Only on the destination.
    Extra(String),
    /// Only on the source.
    Missing(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(key) => write!(f, "{key} differs"),
            Self::Extra(key) => write!(f, "{key} is only on the destination"),
            Self::Missing(key) => write!(f, "{key} is only on the source"),
        }
    }
}

/// Below this many rows, they are compared one by one.
const FEW: i64 = 10_000;
/// How many differences are named.
const MOST: usize = 10;

/// Names the first rows that differ, at most ten, all of the first part of the table in which there are any; empty where
/// all are the same. Both connections are as for [`digests`](super::digests), each in its own snapshot. Holds a row of
/// each side at a time; the whole takes about twice the time of a digest.
///
/// # Errors
/// `Unavailable` where a connection is lost.
pub(crate) async fn first_difference(
    source: &Client,
    destination: &Client,
    scope: Scope<'_>,
    table: usize,
    tenant: usize,
) -> Result<String> {
    let whole = Range { table, tenant, lower: None, upper: None };
    let found = differences(source, destination, scope, whole).await?;
    Ok(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

pub(super) async fn differences(
    source: &Client,
    destination: &Client,
    scope: Scope<'_>,
    mut range: Range,
) -> Result<Vec<Difference>> {
    let both =
        |range| futures::future::try_join(digest(source, scope, range), digest(destination, scope, range));
    let (mut here, mut there) = both(range).await?;
    while here != there && here.rows.max(there.rows) > FEW {
        // Cut where more rows are.
        let side = if here.rows >= there.rows { source } else { destination };
        let Some(middle) = middle(side, scope, range, here.rows.max(there.rows) / 2).await? else { break };
        let lower = Range { upper: Some(middle), ..range };
        let first = both(lower).await?;
        if first.0 == first.1 {
            range.lower = Some(middle);
            (here, there) = (rest(here, first.0), rest(there, first.1));
        } else {
            range = lower;
            (here, there) = first;
        }
    }
    if here == there { Ok(Vec::new()) } else { compare(source, destination, scope, range).await }
}

/// What remains of a digest without a part.
fn rest(whole: Digest, part: Digest) -> Digest {
    Digest { rows: whole.rows - part.rows, xor: whole.xor ^ part.xor, sum: whole.sum - part.sum }
}

/// The key in the middle, where that makes two parts.
async fn middle(client: &Client, scope: Scope<'_>, range: Range, half: i64) -> Result<Option<ChunkKey>> {
    let table = &scope.tables[range.table];
    let Some((by, kind)) = table.chunk_by else { return Ok(None) };
    let call = Call { operation: "differences", subject: subject(scope, range), writes: false };
    let (key, name) = (crate::config::quoted(&table.columns[by].name), table.quoted());
    let rows = rows_of(scope, range);
    let sql = format!(
        "SELECT {key}, (SELECT min({key}) FROM {name} WHERE {rows}) FROM {name} WHERE {rows}
         ORDER BY {key} OFFSET {half} LIMIT 1"
    );
    let answer = client.simple_query(&sql).await.map_err(|error| call.failed(error))?;
    let found = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).zip(row.get(1)),
        _ => None,
    });
    match found {
        Some((middle, least)) if middle != least => ChunkKey::parse(middle, kind).map(Some),
        _ => Ok(None),
    }
}

/// Goes through both sides in one order.
async fn compare(
    source: &Client,
    destination: &Client,
    scope: Scope<'_>,
    range: Range,
) -> Result<Vec<Difference>> {
    let table = &scope.tables[range.table];
    let call = Call { operation: "differences", subject: subject(scope, range), writes: false };
    let failed = |error| call.failed(error);
    let names = |places: &[usize]| {
        places
            .iter()
            .map(|place| crate::config::quoted(&table.columns[*place].name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let sql = format!(
        "SELECT ROW({})::text COLLATE \"C\" AS key, {} AS hash FROM {} WHERE {} ORDER BY key, hash",
        names(&table.key),
        hash_of(table),
        table.quoted(),
        rows_of(scope, range),
    );
    let (left, right) = futures::try_join!(source.simple_query_raw(&sql), destination.simple_query_raw(&sql))
        .map_err(failed)?;
    let rows = |stream: tokio_postgres::SimpleQueryStream| {
        stream.try_filter_map(|message| async move {
            Ok(match message {
                SimpleQueryMessage::Row(row) => {
                    row.get(0).zip(row.get(1)).map(|(key, hash)| (key.to_owned(), hash.to_owned()))
                }
                _ => None,
            })
        })
    };
    let (left, right) = (rows(left), rows(right));
    futures::pin_mut!(left, right);
    let mut found = Vec::new();
    let (mut here, mut there) =
        (left.try_next().await.map_err(failed)?, right.try_next().await.map_err(failed)?);
    while found.len() < MOST {
        let order = match (&here, &there) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((here, _)), Some((there, _))) => here.as_bytes().cmp(there.as_bytes()),
        };
        let difference = match order {
            std::cmp::Ordering::Less => here.as_ref().map(|(key, _)| Difference::Missing(key.clone())),
            std::cmp::Ordering::Greater => there.as_ref().map(|(key, _)| Difference::Extra(key.clone())),
            std::cmp::Ordering::Equal if here != there => {
                here.as_ref().map(|(key, _)| Difference::Changed(key.clone()))
            }
            std::cmp::Ordering::Equal => None,
        };
        found.extend(difference);
        if order.is_le() {
            here = left.try_next().await.map_err(failed)?;
        }
        if order.is_ge() {
            there = right.try_next().await.map_err(failed)?;
        }
    }
    Ok(found)
}
