//! Metrics of one Postgres server, as a source.

mod metric;
mod server;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use wakala_core::{Fresh, Look, Looks, MetricQuery, MetricsSource, Permission, Result, RunContext, Sample};

use self::metric::Asked;
use self::server::Server;
use crate::error::Call;
use crate::permissions::metrics_permissions;

/// As long as a look may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(5);

/// Metrics of one Postgres server, as a [`MetricsSource`](wakala_core::MetricsSource). Cheap to clone; clones share what
/// was seen.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use wakala_core::{MetricQuery, guard};
/// # use wakala_db::PostgresMetrics;
/// # fn example(pool: deadpool_postgres::Pool) {
/// // A pool of its own, of one connection, to the server itself and not to a PgBouncer.
/// let source = Arc::new(PostgresMetrics::new("orders-primary", pool));
/// let room = guard::metric(source.clone(), "postgres.connections_used_ratio").below(0.8);
/// let waiting = MetricQuery::new("postgres.lock_waiters").with_label("database", "orders");
/// let waiting = guard::metric(source, waiting).below(5.0);
/// # }
/// ```
///
/// # Metrics
///
/// | name | unit | labels | what |
/// |---|---|---|---|
/// | `postgres.connections` | count | `database`, `state`, `wait_class` | client sessions |
/// | `postgres.connections_active` | count | `database`, `wait_class` | those that execute a statement, waits included |
/// | `postgres.connections_free` | count | | places left for roles without privileges |
/// | `postgres.connections_idle` | count | `database` | those outside of a transaction |
/// | `postgres.connections_idle_in_transaction` | count | `database` | those in a transaction, a failed one too, that the client leaves waiting |
/// | `postgres.connections_limit` | count | `database` | `max_connections` less `superuser_reserved_connections` and, since version 16, `reserved_connections`; of a database, its own limit where that is less |
/// | `postgres.connections_used_ratio` | ratio | `database` | connections of the limit; above 1 where superusers use reserved places |
/// | `postgres.lock_waiters` | count | `database` | sessions that wait for a heavyweight lock: a row, a table, an advisory lock |
/// | `postgres.longest_idle_in_transaction_seconds` | s | `database` | since when a client has left a transaction waiting |
/// | `postgres.longest_statement_seconds` | s | `database` | the longest that is being executed |
/// | `postgres.longest_transaction_seconds` | s | `database` | the longest that is open, prepared ones included |
/// | `postgres.prepared_transactions` | count | `database` | of two-phase commit: they hold locks, without a session |
/// | `postgres.replication_lag_bytes` | bytes | `standby` | WAL that the last of the standbys has yet to replay; that a receiver has yet to write |
/// | `postgres.replication_lag_seconds` | s | `standby` | how long ago it was written |
/// | `postgres.slot_retained_bytes` | bytes | `slot` | WAL kept for the slot that is furthest behind |
/// | `postgres.slots_inactive` | count | | slots that nobody reads: their WAL grows until the disk is full |
/// | `postgres.slots_lost` | count | | slots whose WAL was removed: their standbys must be made anew (version 13 and later) |
/// | `postgres.standbys` | count | | connected standbys and other receivers of WAL |
///
/// States: `active`, `disabled`, `fastpath_function_call`, `idle`, `idle_in_transaction`, `idle_in_transaction_aborted`,
/// `starting`. Wait classes are the server's: `Activity`, `BufferPin`, `Client`, `Extension`, `IO`, `IPC`,
/// `InjectionPoint`, `LWLock`, `Lock`, `Timeout`, and `none` for those that wait for nothing.
///
/// # What is counted
///
/// Sessions of clients, in all databases or one. Background workers, autovacuum and WAL senders are not counted, since
/// they have places of their own; nor is the session that asks, so where it is given several connections, or a
/// PgBouncer's, the count is off by the others. A count, or the longest of nothing, can be 0; a database, slot or standby
/// that is not there has no sample, and neither has the lag of a server without standbys.
///
/// Sessions that run with `track_activities` off are in no state that anybody knows. What is told by states (active,
/// idle, longest) then has a [coverage](wakala_core::Coverage) of the others, and no sample where there are no others.
///
/// On a primary the lag is the largest of its standbys'; the coverage says of how many it is known. A standby that has
/// not replied for longer than its interval of 10 seconds lags at least since then. On a standby the lag is its own,
/// unless `standby` names one that it feeds; its age is that of the last transaction replayed, so a primary with hardly
/// any writes makes it look larger for a moment, and before the first it is unknown. Where it receives nothing, its lag
/// in bytes is unknown. A standby that is cut off without being told finds out after `wal_receiver_timeout` only: better
/// ask the primary.
///
/// # What it costs
///
/// One statement that reads views of the server's memory and takes no lock, within
/// [5 seconds](Self::with_limit), the wait for a connection included. All that ask while it is under way, or within a
/// second [after it](Self::with_reuse), share it, and its error. A connection that was lost since the last look is made
/// anew, once; nothing else is repeated. The pool keeps its connection, and so its place where the server has no other
/// left.
///
/// The last 720 looks, of at most an hour, are kept in memory for [`range`](wakala_core::MetricsSource::range): a history
/// of what was asked in this process.
///
/// # Errors
///
/// `Denied` where the role may not see the sessions of others, with what to grant: nothing is told from half the truth.
/// `InvalidConfig` for a name, a label or a state that there is none of, with those that there are. `Unavailable` and
/// `DeadlineExceeded`, safe to retry, where the server does not answer.
#[derive(Clone)]
pub struct PostgresMetrics {
    pool: Pool,
    subject: Arc<str>,
    limit: Duration,
    reuse: Duration,
    replication: bool,
    looks: Looks<Server>,
}

impl fmt::Debug for PostgresMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresMetrics")
            .field("subject", &self.subject)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl PostgresMetrics {
    /// Metrics of the server that the pool leads to, called `name` in errors. Nothing is sent yet.
    ///
    /// TLS and credentials are the pool's; one connection is enough, to any database. The role needs
    /// [`metrics_permissions`](crate::metrics_permissions).
    pub fn new(name: &str, pool: Pool) -> Self {
        Self {
            pool,
            subject: format!("postgres {name}").into(),
            limit: LIMIT,
            reuse: Duration::from_secs(1),
            replication: true,
            looks: Looks::default(),
        }
    }

    /// How long a look may take, the wait for a connection included; 5 seconds as given.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long a look serves those who ask after its end; a second as given.
    #[must_use]
    pub fn with_reuse(mut self, reuse: Duration) -> Self {
        self.reuse = reuse;
        self
    }

    /// Does not ask about standbys and slots, for servers that refuse to say where their WAL ends, as some that are run
    /// by clouds do. Queries for replication are then `InvalidConfig`.
    #[must_use]
    pub fn without_replication(mut self) -> Self {
        self.replication = false;
        // What was seen with it is no longer shared.
        self.looks = Looks::default();
        self
    }

    async fn look(&self, cx: &RunContext, operation: &'static str) -> Result<Arc<Look<Server>>> {
        let call = Call { operation, subject: self.subject.to_string(), writes: false };
        let look = server::look(&self.pool, &call, self.limit, self.replication);
        self.looks.take(cx, (operation, &self.subject), Fresh::Within(self.reuse), look).await
    }
}

#[async_trait]
impl MetricsSource for PostgresMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        const OPERATION: &str = "latest";
        let asked = Asked::new((OPERATION, &self.subject), query, self.replication)?;
        let look = self.look(cx, OPERATION).await?;
        Ok(asked.sample(&look.seen, look.time))
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        const OPERATION: &str = "range";
        let asked = Asked::new((OPERATION, &self.subject), query, self.replication)?;
        self.look(cx, OPERATION).await?;
        let (looks, begin) = (self.looks.kept(cx).await?, cx.window_begin(window));
        let looks = looks.iter().filter(|look| look.time >= begin);
        Ok(looks.filter_map(|look| asked.sample(&look.seen, look.time)).collect())
    }

    /// [`metrics_permissions`](crate::metrics_permissions).
    fn permissions(&self) -> Vec<Permission> {
        metrics_permissions()
    }
}
