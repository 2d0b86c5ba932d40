//! Transactions on the shard that has the tenant.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Transaction};
use wakala_core::{Error, ErrorKind, Result, Retry};

use super::abort::{Abort, Setback};
use super::{Routed, Router};
use crate::client::{Client, Connection};
use crate::error::Call;
use crate::shards::ids::TenantId;

/// The first wait before another try, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// As many times in a row a later owner is followed at once.
const HOPS: u32 = 3;

#[derive(Clone, Copy, Debug)]
struct Mode {
    operation: &'static str,
    isolation: IsolationLevel,
    read_only: bool,
    enter: bool,
}

impl Router {
    /// Runs `work` in a transaction (`read committed`) on the tenant's shard, and commits it.
    ///
    /// `work` may run several times: after the shard refused the tenant (it was moved, or is at this moment), or another
    /// transaction was in the way (`40001`, `40P01`), everything is rolled back, and after a little while done again on
    /// the shard that is known by then. So it should do nothing outside the transaction that must not be repeated. It is
    /// tried again until [`with_patience`](Router::with_patience) is over.
    ///
    /// Where `work` returns a value though one of its statements failed, nothing can be committed, and that is an error.
    /// Dropping the future before it is ready closes the connection, so the server rolls back, unless the commit was sent
    /// already.
    ///
    /// Beside the statements of `work` there are three round trips. Through a PgBouncer in transaction mode, statements that
    /// are not prepared by name ([`query_typed`](tokio_postgres::Transaction::query_typed)) work always; the others need its
    /// `max_prepared_statements`.
    ///
    /// # Errors
    /// By [`Error::retry`](wakala_core::Error::retry): with `ObserveFirst` the connection was lost at the commit, which
    /// may have taken effect; after all others nothing of it has. `Exhausted` where patience was over, `Safe` where the
    /// connection was lost before the commit. `NotFound` for a tenant that is not registered. What `work` gave up for is the
    /// [`source`](std::error::Error::source) of an `Unexpected` error, or the error itself where it is wakala's.
    pub async fn run<T>(
        &self,
        tenant: &TenantId,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Abort> + Clone,
    ) -> Result<T> {
        self.run_at(tenant, IsolationLevel::ReadCommitted, work).await
    }

    /// As [`run`](Self::run), in another isolation level.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_at<T>(
        &self,
        tenant: &TenantId,
        isolation: IsolationLevel,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Abort> + Clone,
    ) -> Result<T> {
        let mode = Mode { operation: "run", isolation, read_only: false, enter: true };
        self.until_done(tenant, mode, work).await
    }

    /// As [`run`](Self::run), in a transaction that can only read (`read committed`).
    ///
    /// It enters the shard too, so what it reads is the tenant's; see [`with_strict_reads`](Router::with_strict_reads).
    /// For as long as it lasts it holds up the end of a move of that tenant, as writing does.
    ///
    /// # Errors
    /// As [`run`](Self::run); never `ObserveFirst`.
    pub async fn read<T>(
        &self,
        tenant: &TenantId,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Abort> + Clone,
    ) -> Result<T> {
        let (isolation, enter) = (IsolationLevel::ReadCommitted, self.options.strict_reads);
        self.until_done(tenant, Mode { operation: "read", isolation, read_only: true, enter }, work).await
    }

    async fn until_done<T>(
        &self,
        tenant: &TenantId,
        mode: Mode,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Abort> + Clone,
    ) -> Result<T> {
        let mut patience = Patience::new(self.options.patience);
        loop {
            let routed = self.route(tenant).await?;
            let setback = match self.once(tenant, &routed, mode, work.clone()).await {
                Ok(value) => return Ok(value),
                Err(setback) => setback,
            };
            let call = call(mode, tenant, &routed);
            let mut follow = false;
            let error = match setback {
                Setback::Final(error) => return Err(error),
                Setback::NotHere { route, words } => {
                    follow = route.is_some_and(|route| self.learn(tenant, route));
                    let message =
                        "the shard does not have it, nor has another taken it up yet; is a move stuck?";
                    Error::new(ErrorKind::Unavailable, call.operation, message).with_source(words)
                }
                Setback::GaveWay(words) => {
                    let message =
                        "other transactions were in the way again and again; find out which, or try later";
                    Error::new(ErrorKind::Conflict, call.operation, message).with_source(words)
                }
                Setback::NotBegun(error) if matches!(error.retry(), Retry::Safe { .. }) => error,
                Setback::NotBegun(error) => return Err(error),
            };
            let Some(wait) = patience.wait(follow, Instant::now()) else {
                // Who comes next begins with what the directory says.
                self.routes.forget(tenant);
                return Err(error.on(&call.subject).with_retry(Retry::Exhausted));
            };
            tracing::debug!(%tenant, shard = %routed.shard, epoch = %routed.epoch, ?wait, error = %error.chain(), "again");
            if !wait.is_zero() {
                sleep(wait).await;
            }
            if !follow && !matches!(error.kind(), ErrorKind::Conflict) {
                self.ask_again(tenant).await;
            }
        }
    }

    /// Looks whether the directory knows better; where it does not answer, what is known counts.
    async fn ask_again(&self, tenant: &TenantId) {
        if let Ok(Err(error)) = tokio::time::timeout(super::routes::GRACE, self.ask(tenant)).await {
            tracing::warn!(%tenant, error = %error.chain(), "the directory is away; the route is kept");
        }
    }

    async fn once<T>(
        &self,
        tenant: &TenantId,
        routed: &Routed,
        mode: Mode,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Abort> + Clone,
    ) -> Result<T, Setback> {
        let call = call(mode, tenant, routed);
        let limit = self.options.limit;
        let client = Client { pool: routed.pool.clone(), limit };
        let until = Instant::now() + limit;
        let mut connection = client.connection(&call, until).await.map_err(Setback::NotBegun)?;
        let answer = self.within(&mut connection, tenant, routed, mode, work, until).await;
        match answer {
            Ok(value) => {
                connection.give_back();
                Ok(value)
            }
            Err(Left { setback, answered }) => {
                if answered {
                    connection.give_back();
                }
                Err(setback)
            }
        }
    }

    async fn within<T>(
        &self,
        connection: &mut Connection,
        tenant: &TenantId,
        routed: &Routed,
        mode: Mode,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, Abort> + Clone,
        until: Instant,
    ) -> Result<T, Left> {
        let call = call(mode, tenant, routed);
        let limit = self.options.limit;
        let begin = connection.build_transaction().isolation_level(mode.isolation).read_only(mode.read_only);
        let transaction = match timeout_at(until, begin.start()).await {
            Ok(Ok(transaction)) => transaction,
            Ok(Err(error)) => return Err(Left::open(Setback::NotBegun(call.failed(error)))),
            Err(_) => return Err(Left::open(Setback::NotBegun(call.no_answer_within(limit)))),
        };
        if mode.enter {
            let sql = format!("SELECT {}.enter($1, $2)", self.options.schema.quoted());
            let (id, epoch) = (tenant.as_str(), routed.epoch.get());
            let values = [(&id as _, Type::TEXT), (&epoch as _, Type::INT8)];
            match timeout_at(until, transaction.query_typed(&sql, &values)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let setback = match Abort::from(error).setback(&call) {
                        Setback::Final(error) => Setback::NotBegun(error),
                        other => other,
                    };
                    return Err(rolled_back(transaction, setback, limit).await);
                }
                Err(_) => return Err(Left::open(Setback::NotBegun(call.no_answer_within(limit)))),
            }
        }
        let value = match work(&transaction).await {
            Ok(value) => value,
            Err(abort) => return Err(rolled_back(transaction, abort.setback(&call), limit).await),
        };
        let call = Call { writes: !mode.read_only, ..call };
        // A commit after a failed statement is a rollback that reports no error; the statement before it does.
        match timeout_at(Instant::now() + limit, transaction.batch_execute("SELECT 1; COMMIT")).await {
            Ok(Ok(())) => {
                // It is over: its end would send a ROLLBACK.
                std::mem::forget(transaction);
                Ok(value)
            }
            Ok(Err(error)) => Err(Left { setback: not_committed(&call, error), answered: true }),
            Err(_) => Err(Left::open(Setback::Final(call.no_answer_within(limit)))),
        }
    }
}

/// What is left of a transaction that was not committed.
struct Left {
    setback: Setback,
    /// Whether all that was sent was answered, so that the connection may be used again.
    answered: bool,
}

impl Left {
    fn open(setback: Setback) -> Self {
        Self { setback, answered: false }
    }
}

async fn rolled_back(transaction: Transaction<'_>, setback: Setback, limit: Duration) -> Left {
    let answer = timeout_at(Instant::now() + limit, transaction.rollback()).await;
    Left { setback, answered: matches!(answer, Ok(Ok(()))) }
}

fn not_committed(call: &Call, error: tokio_postgres::Error) -> Setback {
    match error.code().map(|code| code.code()) {
        Some("25P02") => {
            let message =
                "one of its statements failed, yet it was to be committed; give it up when a statement fails";
            let refused = Error::new(ErrorKind::Unexpected, call.operation, message).on(&call.subject);
            Setback::Final(refused.with_retry(Retry::Never).with_source(error))
        }
        _ => match Abort::from(error).setback(call) {
            Setback::NotBegun(error) => Setback::Final(error),
            other => other,
        },
    }
}

/// Until the commit, what is lost is rolled back.
fn call(mode: Mode, tenant: &TenantId, routed: &Routed) -> Call {
    let subject = format!("tenant {tenant} on shard {} since epoch {}", routed.shard, routed.epoch);
    Call { operation: mode.operation, subject, writes: false }
}

/// How long to go on.
struct Patience {
    total: Duration,
    until: Option<Instant>,
    next: Duration,
    hops: u32,
}

impl Patience {
    fn new(total: Duration) -> Self {
        Self { total, until: None, next: WAIT.0, hops: 0 }
    }

    /// How long to wait before another try; `None` where there is no time left. Who was told of a later owner goes there
    /// at once, a few times in a row.
    fn wait(&mut self, follow: bool, now: Instant) -> Option<Duration> {
        let until = *self.until.get_or_insert(now + self.total);
        if follow && self.hops < HOPS && now < until {
            self.hops += 1;
            return Some(Duration::ZERO);
        }
        self.hops = 0;
        // Between half and the whole of it, so that many who were refused at once do not come back at once.
        let parts = 512 + u32::try_from(RandomState::new().hash_one(0) % 512).expect("less than 512");
        let wait = self.next * parts / 1024;
        self.next = (self.next * 2).min(WAIT.1);
        (now + wait < until).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_has_an_end_whatever_one_is_told() {
        for follow in [false, true] {
            let started = Instant::now();
            let mut patience = Patience::new(Duration::from_secs(2));
            let (mut now, mut tries) = (started, 0);
            while let Some(wait) = patience.wait(follow, now) {
                now += wait;
                tries += 1;
            }
            let (least, most) = (Duration::from_millis(1900), Duration::from_secs(2));
            assert!((least..=most).contains(&(now - started)), "{:?}", now - started);
            assert!((20..=200).contains(&tries), "{tries}");
        }
    }
}
