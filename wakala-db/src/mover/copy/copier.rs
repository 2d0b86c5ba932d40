//! Copies chunks.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio_postgres::Client;
use wakala_core::Result;

use super::chunks::{Chunk, Copied};
use super::registry;
use super::session::{Scope, View};
use crate::error::Call;
use crate::mover::holder::Holder;
use crate::mover::snapshot::Snapshot;
use crate::mover::table::Format;

/// The source sends a message a row; the destination gets them in frames of this size.
const FRAME: usize = 128 * 1024;

/// Small chunks share a snapshot and a transaction up to this size and number: commits and round trips cost more than
/// they do.
const GROUP_BYTES: u64 = 8 * 1024 * 1024;
const GROUP_CHUNKS: usize = 64;
/// And where there is much to do, up to this size, as long as each stream gets a few of them: a stream does nothing else
/// while it commits.
const MOST_GROUP_BYTES: u64 = 64 * 1024 * 1024;
const GROUPS_A_STREAM: u64 = 4;

/// Who is asked and told while chunks are copied. Called from within, so it must not block.
pub(crate) trait Watch: Sync {
    /// Whether a copy may be made in this snapshot: [`Chunks::acceptable`](super::Chunks::acceptable).
    fn acceptable(&self, snapshot: &Snapshot) -> bool;
    /// So many bytes more are on their way; how long to wait before the next.
    fn moved(&self, bytes: u64) -> Option<Duration>;
    /// A chunk is durable on the destination.
    fn copied(&self, chunk: &Chunk, copied: &Copied);
}

/// Copies chunks from source to destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copier<'a> {
    pub(crate) holder: &'a Holder,
    pub(crate) scope: Scope<'a>,
}

impl Copier<'_> {
    /// Copies chunks in as many streams as there are pairs of connections, of which the first is one
    /// [for reading](super::for_reading) and the second one [for writing](super::for_writing).
    ///
    /// Each chunk is on the destination with its snapshot in one transaction, whole or not at all, also where this is
    /// dropped. After an error or a drop the connections are of no use, and only the registry knows what was copied.
    ///
    /// # Errors
    /// `Conflict` where the move is another process's by now, or where a row meets one that has a unique value of its
    /// own: the copy is of another time than what is there, so it may succeed after the stream was applied.
    pub(crate) async fn copy(
        &self,
        streams: &[(&Client, &Client)],
        chunks: &[Chunk],
        watch: &dyn Watch,
    ) -> Result<Vec<(i32, Copied)>> {
        let groups = Mutex::new(groups(chunks, streams.len()).into_iter());
        let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).next();
        let streams = streams.iter().map(|(source, destination)| async move {
            let mut copies = Vec::new();
            while let Some(group) = next() {
                copies.extend(self.group(source, destination, group, watch).await?);
            }
            Ok(copies)
        });
        Ok(futures::future::try_join_all(streams).await?.concat())
    }

    /// Copies some chunks in one snapshot and one transaction.
    async fn group(
        &self,
        source: &Client,
        destination: &Client,
        chunks: &[Chunk],
        watch: &dyn Watch,
    ) -> Result<Vec<(i32, Copied)>> {
        let open = View::open(source, |snapshot| watch.acceptable(snapshot));
        let (view, mut dirty) = futures::try_join!(open, self.begin(destination, chunks))?;
        let mut copies = Vec::with_capacity(chunks.len());
        for (chunk, dirty) in chunks.iter().zip(dirty.drain(..)) {
            if dirty {
                self.delete(destination, chunk).await?;
            }
            let (rows, bytes) = self.pipe(source, destination, chunk, watch).await?;
            copies.push((chunk.id, Copied { snapshot: view.snapshot.clone(), rows, bytes }));
        }
        let store = registry::store(destination, self.holder, &copies);
        futures::try_join!(view.close(source), store)?;
        let commit = Call { operation: "copy", subject: self.scope.subject(&chunks[0]), writes: true };
        destination.batch_execute("COMMIT").await.map_err(|error| commit.failed(error))?;
        for (chunk, (_, copied)) in chunks.iter().zip(&copies) {
            watch.copied(chunk, copied);
        }
        Ok(copies)
    }

    async fn begin(&self, destination: &Client, chunks: &[Chunk]) -> Result<Vec<bool>> {
        let call = Call { operation: "copy", subject: self.scope.subject(&chunks[0]), writes: false };
        destination.batch_execute("BEGIN").await.map_err(|error| call.failed(error))?;
        self.holder.enter(destination).await?;
        registry::lock(destination, self.holder, chunks).await
    }

    async fn delete(&self, destination: &Client, chunk: &Chunk) -> Result<()> {
        let call = Call { operation: "copy", subject: self.scope.subject(chunk), writes: false };
        let table = self.scope.tables[chunk.table].quoted();
        let sql = format!("DELETE FROM {table} WHERE {}", self.scope.rows_of(chunk));
        destination.batch_execute(&sql).await.map_err(|error| call.failed(error))
    }

    /// Sends the rows through as they are, and says how many they were, in how many bytes.
    async fn pipe(
        &self,
        source: &Client,
        destination: &Client,
        chunk: &Chunk,
        watch: &dyn Watch,
    ) -> Result<(u64, u64)> {
        let call = Call { operation: "copy", subject: self.scope.subject(chunk), writes: false };
        let failed = |error| call.failed(error);
        let table = &self.scope.tables[chunk.table];
        let (name, columns) = (table.quoted(), table.column_list());
        let format = match table.format {
            Format::Binary => "binary",
            Format::Text => "text",
        };
        let rows = self.scope.rows_of(chunk);
        let read = format!("COPY (SELECT {columns} FROM {name} WHERE {rows}) TO STDOUT (FORMAT {format})");
        let write = format!("COPY {name} ({columns}) FROM STDIN (FORMAT {format})");
        let (out, sink) = futures::try_join!(source.copy_out(&read), destination.copy_in::<_, Bytes>(&write))
            .map_err(failed)?;
        futures::pin_mut!(out, sink);
        let mut bytes = 0;
        let mut frame = BytesMut::with_capacity(FRAME);
        loop {
            let piece = out.next().await.transpose().map_err(failed)?;
            let ended = piece.is_none();
            if let Some(piece) = piece {
                frame.extend_from_slice(&piece);
            }
            if frame.len() >= FRAME || (ended && !frame.is_empty()) {
                let full = std::mem::replace(&mut frame, BytesMut::with_capacity(FRAME)).freeze();
                let length = u64::try_from(full.len()).unwrap_or(u64::MAX);
                bytes += length;
                sink.feed(full).await.map_err(failed)?;
                if let Some(pause) = watch.moved(length) {
                    tokio::time::sleep(pause).await;
                }
            }
            if ended {
                break;
            }
        }
        let rows = sink.finish().await.map_err(failed)?;
        Ok((rows, bytes))
    }
}

/// Neighbours that share a transaction.
fn groups(mut chunks: &[Chunk], streams: usize) -> Vec<&[Chunk]> {
    let all = chunks.iter().map(|chunk| chunk.estimate).fold(0, u64::saturating_add);
    // One stream need not be balanced with another.
    let parts = if streams <= 1 { 1 } else { GROUPS_A_STREAM * u64::try_from(streams).unwrap_or(u64::MAX) };
    let most = (all / parts).clamp(GROUP_BYTES, MOST_GROUP_BYTES);
    let mut groups = Vec::new();
    while !chunks.is_empty() {
        let mut bytes = 0_u64;
        let fits = |chunk: &&Chunk| {
            bytes = bytes.saturating_add(chunk.estimate);
            bytes <= most
        };
        let length = chunks.iter().take_while(fits).take(GROUP_CHUNKS).count().max(1);
        let (group, rest) = chunks.split_at(length);
        groups.push(group);
        chunks = rest;
    }
    groups
}
