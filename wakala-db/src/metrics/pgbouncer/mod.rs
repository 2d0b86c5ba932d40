//! Metrics of PgBouncer instances, as a source.

mod console;
mod instance;
mod metric;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::ConfigConnectImpl;
use futures::future::join_all;
use tokio::time::Instant;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};
use wakala_core::{
    Error, ErrorKind, Fresh, Look, Looks, MetricQuery, MetricsSource, Permission, Result, Retry, RunContext,
    Sample,
};

use self::console::Console;
use self::instance::Instance;
use self::metric::Asked;

/// The commands of a look.
const SHOWN: [&str; 4] = ["DATABASES", "POOLS", "STATS", "USERS"];
const SUBJECT: &str = "pgbouncer";
/// As long as one instance may take unless said otherwise.
const LIMIT: Duration = Duration::from_secs(5);
/// Growth is measured from a look that is at most so old, or four windows.
const OLDEST_BASE: Duration = Duration::from_secs(60);

/// Metrics of PgBouncer instances that together serve the same clients, read from their admin consoles, as a
/// [`MetricsSource`](wakala_core::MetricsSource). Cheap to clone; clones share what was seen.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use wakala_core::guard;
/// # use wakala_db::PgBouncerMetrics;
/// # fn example(first: tokio_postgres::Config, second: tokio_postgres::Config) {
/// let source = PgBouncerMetrics::new().with_instance("pgbouncer-0", first).with_instance("pgbouncer-1", second);
/// let guard = guard::metric(Arc::new(source), "pgbouncer.max_wait_seconds").below(1.0).with_min_coverage(1.0);
/// # }
/// ```
///
/// # Metrics
///
/// | name | unit | what |
/// |---|---|---|
/// | `pgbouncer.clients_active` | count | clients that have a server connection, or are idle in between |
/// | `pgbouncer.clients_waiting` | count | clients that wait for a server connection |
/// | `pgbouncer.max_wait_seconds` | s | how long the client that has waited longest waits now |
/// | `pgbouncer.mean_query_seconds` | s | time of a query, growth |
/// | `pgbouncer.mean_transaction_seconds` | s | time of a transaction, growth |
/// | `pgbouncer.mean_wait_seconds` | s | time that clients waited for each transaction, growth |
/// | `pgbouncer.pool_used_ratio` | ratio | of the fullest pool: server connections in use of its size; above 1 with its reserve |
/// | `pgbouncer.queries_per_second` | /s | growth |
/// | `pgbouncer.servers` | count | server connections, in whatever state |
/// | `pgbouncer.servers_active` | count | those that clients have |
/// | `pgbouncer.servers_idle` | count | those ready for the next client |
/// | `pgbouncer.servers_used` | count | those that were idle for so long that they are tested before their next use |
/// | `pgbouncer.transactions_per_second` | /s | growth |
///
/// All take the labels `database` (by the name that clients use) and `instance`; those that are no growth, `user` too. The
/// console itself is not counted.
///
/// # What is counted
///
/// Sums, and the largest, are over all instances. The sample's [coverage](wakala_core::Coverage) tells how many it is
/// made of: those that answered, that know the database asked for and have a pool of the user asked for. None of them is
/// no sample, and never a zero; that no instance at all answers is an error that says why. Why some did not is told by
/// [`unanswered`](Self::unanswered).
///
/// Growth is measured between two looks at least [a window](Self::with_window) apart, over instances that kept the
/// connection between them: the counters of one that was restarted, or cut off, are not compared with those before.
/// Where there is no earlier look of the last minute (nor of four windows), as at the first call, the call makes one,
/// sleeps for what is left of a window and makes another. A mean without anything to divide by has no sample.
///
/// Each process needs an address of its own: of several that listen at one port (`so_reuseport`), a connection reaches
/// any.
///
/// # What it costs
///
/// Four `SHOW` commands to each instance, all instances at the same time, over one connection each that is kept; each
/// instance has [5 seconds](Self::with_limit). A connection that was lost since the last look is made anew, once;
/// nothing else is repeated. All that ask while a look is under way, or within a second [after it](Self::with_reuse),
/// share it, and its error. The last 720 looks, of at most an hour, are kept in memory for
/// [`range`](wakala_core::MetricsSource::range).
///
/// # Errors
///
/// `InvalidConfig` for a name, a label or an instance that there is none of, with those that there are, and where there
/// are no instances. What is wrong with all instances asked, where that is the same (`Denied` by a user who is in neither
/// `stats_users` nor `admin_users`), and `Unavailable` otherwise.
#[derive(Clone, Debug)]
pub struct PgBouncerMetrics {
    consoles: Vec<Arc<Console>>,
    limit: Duration,
    reuse: Duration,
    window: Duration,
    looks: Looks<View>,
}

/// What all instances showed, in their order.
#[derive(Debug)]
struct View {
    instances: Vec<Result<Instance, Failure>>,
}

#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    retry: Retry,
    text: String,
}

impl PgBouncerMetrics {
    /// Metrics of no instances yet; add them by [`with_instance`](Self::with_instance).
    pub fn new() -> Self {
        Self {
            consoles: Vec::new(),
            limit: LIMIT,
            reuse: Duration::from_secs(1),
            window: Duration::from_secs(5),
            looks: Looks::default(),
        }
    }

    /// Adds the process at the address of `config`, called `name` in errors and by the label `instance`. Nothing is sent
    /// yet. The database of `config` does not matter; its user must be one of PgBouncer's `stats_users` or `admin_users`.
    #[must_use]
    pub fn with_instance(self, name: impl Into<String>, config: Config) -> Self {
        self.with_tls_instance(name, config, NoTls)
    }

    /// The same over TLS.
    #[must_use]
    pub fn with_tls_instance<T>(mut self, name: impl Into<String>, config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.consoles.push(Arc::new(Console::new(name.into(), config, Arc::new(ConfigConnectImpl { tls }))));
        // What was seen without it is no longer shared.
        self.looks = Looks::default();
        self
    }

    /// How long one instance may take, a new connection included; 5 seconds as given.
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

    /// Over which time growth is measured at least; 5 seconds as given. The first call that asks for growth takes as
    /// long.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window.max(Duration::from_millis(1));
        self
    }

    /// Why instances are missing from the newest look, by their names; `None` where all answered, and before the first
    /// look. Asks nobody.
    pub async fn unanswered(&self) -> Option<String> {
        let looks = self.looks.kept(&RunContext::detached()).await.ok()?;
        let view = &looks.last()?.seen;
        Some(self.describe_failures(view)).filter(|text| !text.is_empty())
    }

    fn describe_failures(&self, view: &View) -> String {
        let outcomes = self.consoles.iter().zip(&view.instances);
        let failures: Vec<_> = outcomes
            .filter_map(|(console, outcome)| {
                Some(format!("{}: {}", console.name, outcome.as_ref().err()?.text))
            })
            .collect();
        failures.join("; ")
    }

    fn asked<'a>(&self, operation: &'static str, query: &'a MetricQuery) -> Result<Asked<'a>> {
        if self.consoles.is_empty() {
            let message = "there are no instances to ask; add them by with_instance";
            return Err(Error::invalid(operation, message).on(SUBJECT));
        }
        let names: Vec<_> = self.consoles.iter().map(|console| console.name.as_str()).collect();
        Asked::new(operation, query, &names)
    }

    async fn look(&self, cx: &RunContext, operation: &'static str, fresh: Fresh) -> Result<Arc<Look<View>>> {
        let look = async {
            let instances = self.consoles.iter().map(async |console| {
                console.look(operation, self.limit).await.map_err(|error| Failure {
                    kind: error.kind(),
                    retry: error.retry(),
                    text: error.chain(),
                })
            });
            Ok(View { instances: join_all(instances).await })
        };
        self.looks.take(cx, (operation, SUBJECT), fresh, look).await
    }

    /// The newest earlier look that growth may be measured from.
    fn base<'a>(&self, looks: &'a [Arc<Look<View>>], look: &Look<View>) -> Option<&'a Look<View>> {
        let most = OLDEST_BASE.max(self.window.saturating_mul(4));
        let age = |base: &Look<View>| look.begun.saturating_duration_since(base.begun);
        let base = looks.iter().rev().find(|base| age(base) >= self.window)?;
        (age(base) <= most).then_some(base.as_ref())
    }

    /// The look that the newest sample is made of, and all before it.
    async fn looks(
        &self,
        cx: &RunContext,
        operation: &'static str,
        asked: &Asked<'_>,
    ) -> Result<(Arc<Look<View>>, Vec<Arc<Look<View>>>)> {
        let mut look = self.look(cx, operation, Fresh::Within(self.reuse)).await?;
        self.answered(operation, asked, &look.seen)?;
        let mut kept = self.looks.kept(cx).await?;
        if asked.needs_two() && self.base(&kept, &look).is_none() {
            // The oldest that will do by then.
            let most = OLDEST_BASE.max(self.window.saturating_mul(4)).saturating_sub(self.window);
            let first = kept.iter().find(|base| look.begun.saturating_duration_since(base.begun) <= most);
            let due = first.map_or(look.begun, |first| first.begun) + self.window;
            cx.sleep(due.saturating_duration_since(Instant::now())).await?;
            look = self.look(cx, operation, Fresh::Since(due)).await?;
            self.answered(operation, asked, &look.seen)?;
            kept = self.looks.kept(cx).await?;
        }
        Ok((look, kept))
    }

    /// Fails where none of those that are asked for answered.
    fn answered(&self, operation: &'static str, asked: &Asked<'_>, view: &View) -> Result<()> {
        let failures: Vec<_> =
            asked.instances(view).filter_map(|(place, _)| view.instances[place].as_ref().err()).collect();
        let [first, others @ ..] = &failures[..] else { return Ok(()) };
        if failures.len() < asked.instances(view).count() {
            return Ok(());
        }
        let same = others.iter().all(|other| other.kind == first.kind);
        let (kind, retry) = if same {
            (first.kind, first.retry)
        } else {
            (ErrorKind::Unavailable, Retry::Safe { after: None })
        };
        let message = format!("no instance answers: {}", self.describe_failures(view));
        Err(Error::new(kind, operation, message).on(SUBJECT).with_retry(retry))
    }
}

impl Default for PgBouncerMetrics {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl MetricsSource for PgBouncerMetrics {
    async fn latest(&self, cx: &RunContext, query: &MetricQuery) -> Result<Option<Sample>> {
        const OPERATION: &str = "latest";
        let asked = self.asked(OPERATION, query)?;
        let (look, kept) = self.looks(cx, OPERATION, &asked).await?;
        Ok(asked.sample(&look.seen, self.base(&kept, &look).map(|base| &base.seen), look.time))
    }

    async fn range(&self, cx: &RunContext, query: &MetricQuery, window: Duration) -> Result<Vec<Sample>> {
        const OPERATION: &str = "range";
        let asked = self.asked(OPERATION, query)?;
        let (_, kept) = self.looks(cx, OPERATION, &asked).await?;
        let begin = cx.window_begin(window);
        let samples = kept.iter().filter(|look| look.time >= begin).filter_map(|look| {
            asked.sample(&look.seen, self.base(&kept, look).map(|base| &base.seen), look.time)
        });
        Ok(samples.collect())
    }

    /// What PgBouncer must show: it does so to its `stats_users` and `admin_users`.
    fn permissions(&self) -> Vec<Permission> {
        SHOWN.iter().map(|what| Permission::new("pgbouncer", "SHOW", *what)).collect()
    }
}
