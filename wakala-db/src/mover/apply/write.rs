//! A batch at once.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use tokio_postgres::CopyInSink;
use wakala_core::Result;

use super::coalesce::{self, Changes, Pushed, Stage};
use super::encode::{self, Kind, Param};
use super::flight::{Failure, Flight, Leg};
use super::sql::{self, Deed, Form, MISCOUNT};
use super::statements::Shape;
use super::{AGE_OF_A_PLAN, Applier, Finale, ROWS_OF_A_PLAN, State};
use crate::mover::change::Value;

/// From so many rows on, COPY is worth its round trips.
const ROWS_OF_A_COPY: usize = 50;
/// COPY data is handed to the connection in pieces of about this size.
const COPY_PIECE_BYTES: usize = 64 * 1024;

/// How a part of the changes went.
enum Outcome {
    Done,
    /// Nothing of it is there, and it may be that only the order within it was in the way.
    InTheWay,
}

/// Rows for one statement, or for COPY.
enum Job<'a> {
    Statement { shape: Shape, parameters: Vec<Param> },
    Copy { table: usize, kind: Kind, rows: &'a [Vec<&'a Value>] },
}

impl Applier {
    /// Writes `pushed` and, with a finale, commits. `before` is how the session was left.
    pub(super) async fn write(
        &mut self,
        pushed: &[Pushed],
        before: State,
        finale: Option<Finale<'_>>,
    ) -> Result<()> {
        let mut open = before == State::Open;
        self.planned_rows += pushed.len();
        let tables = self.tables.clone();
        let stages = coalesce::plan(&tables, pushed);
        let last = stages.len().saturating_sub(1);
        for (place, stage) in stages.into_iter().enumerate() {
            let part = match stage {
                Stage::OneByOne { part } => {
                    if !open {
                        self.begin().await?;
                    }
                    part
                }
                Stage::Together { part, changes } => {
                    let Some(jobs) = self.jobs(&changes) else {
                        if !open {
                            self.begin().await?;
                        }
                        open = true;
                        self.replay(&pushed[part]).await?;
                        continue;
                    };
                    let copies = jobs.iter().any(|job| matches!(job, Job::Copy { .. }));
                    // A commit may go along only where all that it would commit is in the same flight: after a failure it
                    // ends the transaction, and with it what the savepoint is to keep.
                    let along = finale.filter(|_| place == last && !open && !copies);
                    match self.together(&jobs, open, along).await? {
                        Outcome::Done if along.is_some() => return Ok(()),
                        Outcome::Done => {
                            open = true;
                            continue;
                        }
                        Outcome::InTheWay if open => self.back_to_savepoint().await?,
                        Outcome::InTheWay => {
                            self.client
                                .batch_execute("ROLLBACK")
                                .await
                                .map_err(|error| self.call(false).failed(error))?;
                            self.begin().await?;
                        }
                    }
                    part
                }
            };
            open = true;
            self.replay(&pushed[part]).await?;
        }
        let call = self.call(finale.is_some());
        let mut flight = Flight::new();
        if !open {
            self.send_begin(&mut flight).await;
        }
        if let Some(finale) = &finale {
            self.send_finale(&mut flight, finale).await;
        }
        flight.land().await.map_err(|(_, failure)| self.failed(failure, &call))
    }

    async fn begin(&self) -> Result<()> {
        let mut flight = Flight::new();
        self.send_begin(&mut flight).await;
        flight.land().await.map_err(|(_, failure)| self.failed(failure, &self.call(false)))
    }

    async fn back_to_savepoint(&self) -> Result<()> {
        let back = "ROLLBACK TO SAVEPOINT wakala; RELEASE SAVEPOINT wakala";
        self.client.batch_execute(back).await.map_err(|error| self.call(false).failed(error))
    }

    /// Writes the jobs, in the open transaction behind a savepoint, or in a new one, which `along` ends.
    async fn together(&mut self, jobs: &[Job<'_>], open: bool, along: Option<Finale<'_>>) -> Result<Outcome> {
        let call = self.call(along.is_some());
        let shapes = jobs.iter().filter_map(|job| match job {
            Job::Statement { shape, .. } => Some(shape.clone()),
            Job::Copy { .. } => None,
        });
        let shapes: Vec<Shape> = shapes.collect();
        let tables = self.tables.clone();
        self.statements.prepare(&self.client, &tables, shapes.into_iter(), &self.call(false)).await?;
        let anew = self.planned_rows > ROWS_OF_A_PLAN || self.planned.elapsed() > AGE_OF_A_PLAN;
        if anew {
            self.planned_rows = 0;
            self.planned = Instant::now();
        }
        match self.fly(jobs, open, along.as_ref(), anew).await {
            Ok(()) => Ok(Outcome::Done),
            Err((Leg::Rows(_), Failure::Client(error))) if is_in_the_way(&error) => Ok(Outcome::InTheWay),
            Err((_, failure)) => Err(self.failed(failure, &call)),
        }
    }

    async fn fly(
        &self,
        jobs: &[Job<'_>],
        open: bool,
        along: Option<&Finale<'_>>,
        anew: bool,
    ) -> Result<(), (Leg, Failure)> {
        let mut flight = Flight::new();
        if anew {
            self.send_sql(&mut flight, Leg::Frame, "DISCARD PLANS").await;
        }
        if open {
            self.send_sql(&mut flight, Leg::Frame, "SAVEPOINT wakala").await;
        } else {
            self.send_begin(&mut flight).await;
        }
        for job in jobs {
            match job {
                Job::Statement { shape, parameters } => {
                    let statement = self.statements.of(shape);
                    let request = async move {
                        let sent = self.client.execute_raw(statement, parameters.iter().cloned());
                        sent.await.map(drop).map_err(Failure::Client)
                    };
                    flight.send(Leg::Rows(shape.table), request).await;
                }
                Job::Copy { table, kind, rows } => {
                    flight.land().await?;
                    let copied = self.copy(*table, *kind, rows).await;
                    let failed = |failure| (Leg::Rows(*table), failure);
                    let count = copied.map_err(|error| failed(Failure::Client(error)))?;
                    if usize::try_from(count) != Ok(rows.len()) {
                        return Err(failed(Failure::Count(count)));
                    }
                }
            }
        }
        if open {
            self.send_sql(&mut flight, Leg::Frame, "RELEASE SAVEPOINT wakala").await;
        }
        if let Some(finale) = along {
            self.send_finale(&mut flight, finale).await;
        }
        flight.land().await
    }

    async fn copy(
        &self,
        table: usize,
        kind: Kind,
        rows: &[Vec<&Value>],
    ) -> Result<u64, tokio_postgres::Error> {
        let text = kind == Kind::Text;
        let table = &self.tables[table];
        let format = if text { "text" } else { "binary" };
        let statement =
            format!("COPY {} ({}) FROM STDIN (FORMAT {format})", table.quoted(), table.column_list());
        let sink: CopyInSink<Bytes> = self.client.copy_in(&statement).await?;
        let mut sink = Box::pin(sink);
        let mut data = BytesMut::with_capacity(COPY_PIECE_BYTES);
        if !text {
            data.extend_from_slice(encode::COPY_HEADER);
        }
        for row in rows {
            if text {
                encode::copy_text(row, &mut data)
            } else {
                encode::copy_binary(row, &mut data)
            }
            if data.len() >= COPY_PIECE_BYTES {
                sink.send(data.split().freeze()).await?;
            }
        }
        if !text {
            data.put_slice(&encode::COPY_TRAILER);
        }
        sink.send(data.freeze()).await?;
        sink.as_mut().finish().await
    }

    /// The statements for the changes, in the order in which they are to be executed. `None` where values of one column
    /// are of several forms, which the stream does not do.
    fn jobs<'a>(&self, changes: &'a [Changes<'a>]) -> Option<Vec<Job<'a>>> {
        let mut jobs = Vec::new();
        for of_table in changes {
            self.add(&mut jobs, of_table.table, &Deed::Delete, &of_table.deletes)?;
        }
        for of_table in changes {
            for (known, rows) in &of_table.updates {
                self.add(&mut jobs, of_table.table, &Deed::Update(known.clone()), rows)?;
            }
        }
        for Changes { table, inserts, .. } in changes {
            let kind = Kind::of(inserts.iter().flatten().copied());
            if inserts.len() >= ROWS_OF_A_COPY && kind != Kind::Mixed {
                jobs.push(Job::Copy { table: *table, kind, rows: inserts });
            } else {
                self.add(&mut jobs, *table, &Deed::Insert, inserts)?;
            }
        }
        Some(jobs)
    }

    fn add<'a>(
        &self,
        jobs: &mut Vec<Job<'a>>,
        table: usize,
        deed: &Deed,
        rows: &'a [Vec<&'a Value>],
    ) -> Option<()> {
        if rows.is_empty() {
            return Some(());
        }
        let columns = sql::parameters(&self.tables[table], deed);
        let shape = |form| Shape { table, deed: deed.clone(), form };
        if rows.len() > 1 && self.statements.have_arrays(table, &columns) {
            let array = |(at, column): (usize, &usize)| {
                let typed = self.statements.column(table, *column);
                Param::array(rows.iter().map(move |row| row[at]), typed.oid, typed.delimiter)
            };
            let mut parameters = columns.iter().enumerate().map(array).collect::<Option<Vec<_>>>()?;
            parameters.push(Param::count(rows.len()));
            jobs.push(Job::Statement { shape: shape(Form::Many), parameters });
        } else {
            for row in rows {
                let parameters = row.iter().map(|value| Param::one(value)).collect::<Option<Vec<_>>>()?;
                jobs.push(Job::Statement { shape: shape(Form::One), parameters });
            }
        }
        Some(())
    }
}

/// Whether the order within the batch may be the reason: two rows with one value of a unique column for a moment, or a
/// statement that hit another number of rows.
fn is_in_the_way(error: &tokio_postgres::Error) -> bool {
    let Some(answer) = error.as_db_error() else { return false };
    match answer.code().code() {
        "23505" | "23P01" => true,
        "22P02" => answer.message().contains(MISCOUNT),
        _ => false,
    }
}
