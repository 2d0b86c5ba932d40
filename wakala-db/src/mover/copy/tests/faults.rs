//! Connections that break, servers that die, movers that were replaced.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Client;
use wakala_testbed::{PostgresServer, wait_until};

use super::rig::{
    Counter, DESTINATION, MINUTE, SOURCE, Shard, chunks, describe, holder, rows, server, shard, start,
    tenants,
};
use crate::mover::copy::{Chunk, Copier, Scope, Watch, for_reading, for_writing, load, save, wipe};
use crate::mover::holder::Holder;
use crate::mover::table::{Format, Table};
use crate::mover::tenant::Tenants;

const ITEMS: &str = "CREATE TABLE item (tenant_id integer NOT NULL, id bigint NOT NULL, v text,
    PRIMARY KEY (tenant_id, id))";
/// Several frames a chunk.
const ROWS: &str = "INSERT INTO item SELECT 1, n, repeat('v', 1000) FROM generate_series(0, 1999) AS n";

struct Move {
    source: Shard,
    destination: Shard,
    tables: [Table; 1],
    tenants: Tenants,
    chunks: Vec<Chunk>,
}

impl Move {
    async fn new(source: &PostgresServer, destination: &PostgresServer) -> Self {
        let source = shard(source, SOURCE, ITEMS).await;
        let destination = shard(destination, DESTINATION, ITEMS).await;
        source.execute(ROWS).await;
        let (tables, tenants) = ([describe(&source, "item", Format::Binary).await], tenants(&["1"]));
        let scope = Scope { tables: &tables, tenants: &tenants };
        let mut chunks = chunks(scope, &[700, 1400]);
        chunks.iter_mut().for_each(|chunk| chunk.estimate = u64::MAX);
        save(&destination.writer().await, &holder(), scope, &chunks).await.unwrap();
        Self { source, destination, tables, tenants, chunks }
    }

    fn scope(&self) -> Scope<'_> {
        Scope { tables: &self.tables, tenants: &self.tenants }
    }

    async fn copy(
        &self,
        source: &Client,
        destination: &Client,
        watch: &dyn Watch,
    ) -> wakala_core::Result<()> {
        let loaded = load(&self.destination.client().await, "m", self.scope()).await?;
        let missing: Vec<Chunk> = loaded.into_iter().filter(|chunk| chunk.copied.is_none()).collect();
        let holder = holder();
        let copier = Copier { holder: &holder, scope: self.scope() };
        copier.copy(&[(source, destination)], &missing, watch).await.map(drop)
    }

    /// Each chunk is whole, where the registry says so, and else is not there at all.
    async fn whole_or_nothing(&self) -> usize {
        let loaded = load(&self.destination.client().await, "m", self.scope()).await.unwrap();
        let mut count = 0;
        for chunk in &loaded {
            let sql = format!("SELECT count(*) FROM public.item WHERE {}", self.scope().rows_of(chunk));
            let there: u64 = self.destination.value(&sql).await.parse().unwrap();
            let expected: u64 = self.source.value(&sql).await.parse().unwrap();
            match &chunk.copied {
                Some(copied) => assert_eq!((there, copied.rows), (expected, expected), "{chunk:?}"),
                None => assert_eq!(there, 0, "{chunk:?}"),
            }
            count += usize::from(chunk.copied.is_some());
        }
        count
    }

    async fn resume(&self) {
        let (source, destination) = (self.source.reader().await, self.destination.writer().await);
        self.copy(&source, &destination, &Counter::default()).await.unwrap();
        assert_eq!(self.whole_or_nothing().await, self.chunks.len());
        assert_eq!(rows(&self.destination, "item", "1").await, rows(&self.source, "item", "1").await);
    }
}

/// Two chunks have arrived, and the first frames of the third: the rest would take a minute.
async fn in_the_middle(counter: &Counter) {
    wait_until("the copy to come to the middle of a chunk", MINUTE, || async {
        let bytes = counter.bytes.load(Ordering::Relaxed);
        if bytes > 300_000 { Ok(()) } else { Err(format!("{bytes} bytes").into()) }
    })
    .await
    .unwrap();
}

fn slow() -> Counter {
    Counter { pause: Some(Duration::from_millis(150)), ..Counter::default() }
}

#[tokio::test]
async fn a_cut_on_either_side_leaves_whole_chunks() {
    let server = server().await;
    for cut_source in [true, false] {
        let moved = Move::new(server, server).await;
        let link = server.link().unwrap();
        let through = server.at_port(link.port());
        let (source, destination) = if cut_source {
            (moved.source.at(&through).await, moved.destination.client().await)
        } else {
            (moved.source.client().await, moved.destination.at(&through).await)
        };
        for_reading(&source).await.unwrap();
        for_writing(&destination).await.unwrap();
        let counter = slow();
        let cut = async {
            in_the_middle(&counter).await;
            link.cut().await.unwrap();
        };
        let (result, ()) = tokio::join!(moved.copy(&source, &destination, &counter), cut);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), wakala_core::ErrorKind::Unavailable, "{error}");
        drop((source, destination));
        assert!(moved.whole_or_nothing().await < 3);
        moved.resume().await;
    }
}

#[tokio::test]
async fn a_copy_that_is_dropped_leaves_whole_chunks() {
    let server = server().await;
    let moved = Move::new(server, server).await;
    let (source, destination) = (moved.source.reader().await, moved.destination.writer().await);
    let counter = slow();
    tokio::select! {
        result = moved.copy(&source, &destination, &counter) => panic!("{result:?}"),
        () = in_the_middle(&counter) => {}
    }
    drop((source, destination));
    assert!(moved.whole_or_nothing().await < 3);
    moved.resume().await;
}

#[tokio::test]
async fn a_lost_answer_to_the_commit_is_known_from_the_registry() {
    let server = server().await;
    let moved = Move::new(server, server).await;
    let link = server.link().unwrap();
    let destination = moved.destination.at(&server.at_port(link.port())).await;
    for_writing(&destination).await.unwrap();
    link.lose_reply_to("COMMIT");
    let error =
        moved.copy(&moved.source.reader().await, &destination, &Counter::default()).await.unwrap_err();
    assert_eq!(error.retry(), wakala_core::Retry::ObserveFirst, "{error}");
    drop(destination);
    wait_until("the commit to be seen", MINUTE, || async {
        let count = moved.whole_or_nothing().await;
        if count == 1 { Ok(()) } else { Err(format!("{count} chunks").into()) }
    })
    .await
    .unwrap();
    moved.resume().await;
}

#[tokio::test]
async fn who_was_replaced_writes_nothing_more() {
    let server = server().await;
    let moved = Move::new(server, server).await;
    moved.destination.execute("UPDATE wakala_shard.move SET lease = 2").await;
    let (source, destination) = (moved.source.reader().await, moved.destination.writer().await);
    let error = moved.copy(&source, &destination, &Counter::default()).await.unwrap_err();
    assert!(error.to_string().contains("WK003"), "{error}");
    assert_eq!(moved.whole_or_nothing().await, 0);
    moved.destination.execute("INSERT INTO item VALUES (1, 1, 'kept')").await;
    let writer = moved.destination.writer().await;
    assert!(wipe(&writer, &holder(), moved.scope(), &|_, _, _| {}).await.is_err());
    assert_eq!(rows(&moved.destination, "item", "1").await, "(1,1,kept)");
    let error = save(&moved.destination.writer().await, &holder(), moved.scope(), &[]).await.unwrap_err();
    assert!(error.to_string().contains("WK003"), "{error}");
    // Whoever has the lease now goes on; and nobody takes it over in the middle of a chunk.
    let newer = Holder { lease: 2, ..holder() };
    moved.destination.execute("DELETE FROM item").await;
    let (source, destination) = (moved.source.reader().await, moved.destination.writer().await);
    let copier = Copier { holder: &newer, scope: moved.scope() };
    let counter = slow();
    let streams = [(&source, &destination)];
    let take_over = async {
        in_the_middle(&counter).await;
        let client = moved.destination.client().await;
        client.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
        client.batch_execute("UPDATE wakala_shard.move SET lease = 3").await.unwrap_err()
    };
    let (copies, refused) = tokio::join!(copier.copy(&streams, &moved.chunks, &counter), take_over);
    assert_eq!(refused.code().unwrap().code(), "55P03");
    assert_eq!(copies.unwrap().len(), 3);
}

/// A writer that does not wait for the disk, on a server that takes its time with it.
async fn careless(server: &PostgresServer, moved: &Move) {
    let slow = "ALTER SYSTEM SET wal_writer_delay = '10s'; ALTER SYSTEM SET wal_writer_flush_after = 0";
    for statement in slow.split(';') {
        server.execute("postgres", statement).await.unwrap();
    }
    server.execute("postgres", "SELECT pg_reload_conf()").await.unwrap();
    let insert = "SET synchronous_commit = off; INSERT INTO item SELECT 1, n, 'late' FROM generate_series(5000, 5009) AS n";
    moved.source.execute(insert).await;
}

#[tokio::test]
async fn no_row_is_copied_that_a_crash_of_the_source_could_take_back() {
    let (first, second) = (start().await, start().await);
    let moved = Move::new(&first, &second).await;
    careless(&first, &moved).await;
    let (source, destination) = (moved.source.reader().await, moved.destination.writer().await);
    moved.copy(&source, &destination, &Counter::default()).await.unwrap();
    first.kill().await.unwrap();
    first.start().await.unwrap();
    let there = rows(&moved.destination, "item", "1").await;
    assert_eq!(there.matches("late").count(), 10);
    assert_eq!(there, rows(&moved.source, "item", "1").await);
}

#[tokio::test]
async fn a_source_that_dies_under_a_copy_leaves_nothing_of_it() {
    let (first, second) = (start().await, start().await);
    let moved = Move::new(&first, &second).await;
    careless(&first, &moved).await;
    let (source, destination) = (moved.source.reader().await, moved.destination.writer().await);
    let counter = slow();
    let kill = async {
        in_the_middle(&counter).await;
        first.kill().await.unwrap();
    };
    let (result, ()) = tokio::join!(moved.copy(&source, &destination, &counter), kill);
    assert!(result.is_err());
    drop((source, destination));
    first.start().await.unwrap();
    moved.whole_or_nothing().await;
    moved.resume().await;
}
