//! Runs recorded in Postgres.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use wakala_core::store::{
    self, Lease, LeaseTerms, Letter, Line, NewRun, Release, RunHead, RunStore, StoredRun, Takeover,
};
use wakala_core::{ResourceKey, Result, RunId};

use crate::client::{Client, Value};
use crate::config::SchemaName;
use crate::error::Call;
use crate::schema::Migrations;
use rows::{Columns, head_columns, key_texts, number, place, read_head};

mod rows;

const MIGRATIONS: Migrations =
    Migrations { versions: "schema_version", scripts: &[include_str!("migrations/0001_runs.sql")] };

/// As long as a call may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(10);
/// Longer leases are cut to that; a timestamp has an end.
const LONGEST_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Keeps runs in a Postgres database that several hosts share.
///
/// Each call is one statement and so one transaction: it works directly and through a PgBouncer in transaction mode,
/// and no client can keep others waiting by being slow, or gone, in the middle. Leases are measured by the clock of the
/// database server. What was written is on its disk when a call returns, also where the role or the database has
/// `synchronous_commit` off.
///
/// Works with PostgreSQL 12 and later, in the isolation level `read committed`, which is the default. Clones share the
/// pool.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    client: Client,
    schema: SchemaName,
    /// The schema as SQL has it.
    name: String,
    checked: Arc<OnceCell<()>>,
}

impl PostgresStore {
    /// A store in the schema `wakala` of the pool's database; nothing is asked of the server yet.
    ///
    /// TLS, credentials and the number of connections are the pool's. Two connections are enough for one run.
    pub fn new(pool: Pool) -> Self {
        let schema = SchemaName::default();
        let name = schema.quoted();
        Self { client: Client { pool, limit: LIMIT }, schema, name, checked: Arc::default() }
    }

    /// In another schema: teams that share a database need not share their runs.
    #[must_use]
    pub fn with_schema(mut self, schema: SchemaName) -> Self {
        self.name = schema.quoted();
        self.schema = schema;
        self.checked = Arc::default();
        self
    }

    /// The schema that it keeps the runs in.
    pub fn schema(&self) -> &SchemaName {
        &self.schema
    }

    /// How long one call may take, the wait for a connection included; 10 s unless said otherwise.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.client.limit = limit;
        self
    }

    /// Makes the schema and its tables, or brings them up to date; nothing to do where they are. All or nothing.
    ///
    /// Whoever calls it owns what it makes. Others, who need less, call [`store_permissions`](crate::store_permissions).
    /// The SQL is in the folder `src/store/migrations` of this crate, for those who rather apply it themselves.
    ///
    /// # Errors
    /// `Denied` where the role may not create them; `Unsupported` where a later version of this crate has made them.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATIONS.migrate(&self.client, &self.schema).await
    }

    /// Looks whether the schema is there, and of the version that this crate needs. The first call to the store does
    /// the same.
    ///
    /// # Errors
    /// `InvalidConfig` where [`migrate`](Self::migrate) must be called first; `Unsupported` where a later version of this
    /// crate has made the schema; `Denied` where the role may not read it.
    pub async fn check(&self) -> Result<()> {
        self.checked.get_or_try_init(|| MIGRATIONS.check(&self.client, &self.schema)).await.copied()
    }

    /// Calls a function of the schema, which answers by one row.
    async fn ask(&self, call: &Call, function: &str, values: &[Value<'_>]) -> Result<Columns> {
        self.check().await?;
        let places: Vec<String> = (1..=values.len()).map(|place| format!("${place}")).collect();
        let sql = format!("SELECT * FROM {}.{function}({})", self.name, places.join(", "));
        let row = self.client.row(call, &sql, values).await?;
        Ok(Columns::new(call.clone(), row))
    }

    async fn read(&self, call: &Call, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        self.check().await?;
        self.client.rows(call, sql, values).await
    }
}

fn write(operation: &'static str, run: &RunId) -> Call {
    Call { operation, subject: format!("run {run}"), writes: true }
}

fn read(operation: &'static str, run: &RunId) -> Call {
    Call { operation, subject: format!("run {run}"), writes: false }
}

fn microseconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.min(LONGEST_LEASE).as_micros()).expect("a hundred years have 3e15 microseconds")
}

/// What those calls have in common that are for the holder of a lease.
fn not_done(call: &Call, run: &RunId, epoch: u64, answer: &Columns, outcome: &str) -> wakala_core::Error {
    match outcome {
        "unknown" => store::unknown(call.operation, run),
        "fenced" => match answer.count("number") {
            Ok(latest) => store::fenced(call.operation, run, epoch, latest),
            Err(error) => error,
        },
        "given back" => store::given_back(call.operation, run, epoch),
        other => call.odd_answer(other),
    }
}

#[async_trait]
impl RunStore for PostgresStore {
    async fn create(&self, new: NewRun) -> Result<Lease> {
        let NewRun { run, resources, terms, first, supersedes } = new;
        let call = write("create", &run);
        if first.seq != 0 {
            return Err(store::out_of_place(call.operation, &run, first.seq, 0));
        }
        let superseded: Vec<&str> = supersedes.iter().map(RunId::as_str).collect();
        let values: [Value<'_>; 7] = [
            (&run.as_str(), Type::TEXT),
            (&terms.owner, Type::TEXT),
            (&microseconds(terms.ttl), Type::INT8),
            (&first.body, Type::TEXT),
            (&first.hash, Type::TEXT),
            (&key_texts(&resources), Type::TEXT_ARRAY),
            (&superseded, Type::TEXT_ARRAY),
        ];
        let answer = self.ask(&call, "create_run", &values).await?;
        match answer.text("outcome")? {
            "done" => Ok(Lease { epoch: 1 }),
            "exists" => Err(store::exists(call.operation, &run)),
            "unknown" => Err(store::unknown(call.operation, &answer.text("name")?.into())),
            "taken" => Err(answer.taken()?),
            other => Err(call.odd_answer(other)),
        }
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease> {
        let call = write("acquire", run);
        let values: [Value<'_>; 5] = [
            (&run.as_str(), Type::TEXT),
            (&terms.owner, Type::TEXT),
            (&microseconds(terms.ttl), Type::INT8),
            (&key_texts(resources), Type::TEXT_ARRAY),
            (&(takeover == Takeover::Forced), Type::BOOL),
        ];
        let answer = self.ask(&call, "acquire", &values).await?;
        match answer.text("outcome")? {
            "done" => Ok(Lease { epoch: answer.count("epoch")? }),
            "unknown" => Err(store::unknown(call.operation, run)),
            "driven" => {
                let left = Duration::from_micros(answer.count("time_left")?);
                Err(store::driven(call.operation, run, answer.text("holder")?, left))
            }
            "taken" => Err(answer.taken()?),
            other => Err(call.odd_answer(other)),
        }
    }

    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()> {
        let call = write("renew", run);
        let values: [Value<'_>; 3] =
            [(&run.as_str(), Type::TEXT), (&place(epoch), Type::INT8), (&microseconds(ttl), Type::INT8)];
        let answer = self.ask(&call, "renew", &values).await?;
        match answer.text("outcome")? {
            "done" => Ok(()),
            other => Err(not_done(&call, run, epoch, &answer, other)),
        }
    }

    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        let call = write("release", run);
        let values: [Value<'_>; 4] = [
            (&run.as_str(), Type::TEXT),
            (&place(epoch), Type::INT8),
            (&(what >= Release::Resources), Type::BOOL),
            (&(what == Release::Closed), Type::BOOL),
        ];
        let answer = self.ask(&call, "release", &values).await?;
        match answer.text("outcome")? {
            "done" => Ok(()),
            other => Err(not_done(&call, run, epoch, &answer, other)),
        }
    }

    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()> {
        let call = write("append", run);
        let values: [Value<'_>; 5] = [
            (&run.as_str(), Type::TEXT),
            (&place(epoch), Type::INT8),
            (&place(line.seq), Type::INT8),
            (&line.body, Type::TEXT),
            (&line.hash, Type::TEXT),
        ];
        let answer = self.ask(&call, "append", &values).await?;
        match answer.text("outcome")? {
            "done" => Ok(()),
            "out of place" => {
                Err(store::out_of_place(call.operation, run, line.seq, answer.count("number")?))
            }
            other => Err(not_done(&call, run, epoch, &answer, other)),
        }
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        let call = read("load", run);
        let name = &self.name;
        let line = |column| {
            format!(
                "ARRAY(SELECT {column} FROM {name}.line WHERE line.run = run.run ORDER BY seq) AS {column}"
            )
        };
        let sql = format!(
            "SELECT {}, {}, {}, {} FROM {name}.run WHERE run = $1",
            head_columns(name),
            line("seq"),
            line("body"),
            line("hash")
        );
        let mut rows = self.read(&call, &sql, &[(&run.as_str(), Type::TEXT)]).await?;
        let row = rows.pop().ok_or_else(|| store::unknown(call.operation, run))?;
        let columns = Columns::new(call, row);
        let head = read_head(&columns)?;
        let (places, bodies, hashes): (Vec<i64>, Vec<String>, Vec<String>) =
            (columns.get("seq")?, columns.get("body")?, columns.get("hash")?);
        let lines = places
            .into_iter()
            .zip(bodies)
            .zip(hashes)
            .map(|((seq, body), hash)| Ok(Line { seq: number(&columns, seq)?, body, hash }));
        Ok(StoredRun { head, lines: lines.collect::<Result<_>>()? })
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        let call = Call { operation: "list", subject: format!("schema {}", self.schema), writes: false };
        let name = &self.name;
        let sql = format!("SELECT {} FROM {name}.run ORDER BY run", head_columns(name));
        let rows = self.read(&call, &sql, &[]).await?;
        rows.into_iter().map(|row| read_head(&Columns::new(call.clone(), row))).collect()
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        let call = write("send", run);
        let answer = self.ask(&call, "send", &[(&run.as_str(), Type::TEXT), (&body, Type::TEXT)]).await?;
        match answer.text("outcome")? {
            "done" => answer.count("number"),
            "unknown" => Err(store::unknown(call.operation, run)),
            other => Err(call.odd_answer(other)),
        }
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        let call = read("mail", run);
        let name = &self.name;
        // A run without new letters has one row, of NULLs.
        let sql = format!(
            "SELECT letter.number, letter.body FROM {name}.run \
             LEFT JOIN {name}.letter ON letter.run = run.run AND letter.number > $2 \
             WHERE run.run = $1 ORDER BY letter.number"
        );
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let values: [Value<'_>; 2] = [(&run.as_str(), Type::TEXT), (&after, Type::INT8)];
        let rows = self.read(&call, &sql, &values).await?;
        if rows.is_empty() {
            return Err(store::unknown(call.operation, run));
        }
        let mut letters = Vec::with_capacity(rows.len());
        for row in rows {
            let columns = Columns::new(call.clone(), row);
            if let (Some(at), Some(body)) = (columns.get::<Option<i64>>("number")?, columns.get("body")?) {
                letters.push(Letter { number: number(&columns, at)?, body });
            }
        }
        Ok(letters)
    }
}
