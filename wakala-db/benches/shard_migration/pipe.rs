//! The least that brings rows from one server to the other: COPY into COPY, table by table.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};

use crate::Result;
use crate::site::{PEER, SHOP, Site, TABLES, WHALE};

/// How long it took, and how many bytes it were. On two connections that are there already; without triggers and foreign
/// keys.
pub(crate) async fn whale(site: &Site) -> Result<(Duration, u64)> {
    let from = site.servers[0].connect(SHOP, "postgres").await?;
    let to = site.servers[1].connect(PEER, "postgres").await?;
    to.batch_execute("SET session_replication_role = replica").await?;
    let begun = Instant::now();
    let mut bytes = 0;
    for table in TABLES {
        let read =
            format!("COPY (SELECT * FROM {table} WHERE tenant_id = {WHALE}) TO STDOUT (FORMAT binary)");
        let out = from.copy_out(&read).await?;
        let sink = to.copy_in::<_, Bytes>(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await?;
        futures::pin_mut!(out, sink);
        while let Some(piece) = out.next().await.transpose()? {
            bytes += u64::try_from(piece.len())?;
            sink.feed(piece).await?;
        }
        sink.finish().await?;
    }
    Ok((begun.elapsed(), bytes))
}
