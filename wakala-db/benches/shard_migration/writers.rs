//! Writers at a pace, and what was acknowledged to them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::site::{ACCOUNTS, SHOP, Site, TENANTS};

/// Payments of writers are numbered from here on.
const FIRST: i64 = 1_000_000_000;
/// The numbers of others begin here.
pub(crate) const BEYOND: i64 = 2_000_000_000;
const TASKS: u32 = 4;

/// What became of all transactions of all writers.
#[derive(Debug, Default)]
struct Book {
    next: AtomicI64,
    acknowledged: Mutex<Vec<i64>>,
    /// Sent, and neither acknowledged nor refused.
    unknown: AtomicU64,
    /// On which server the writers last found a tenant.
    places: Vec<AtomicUsize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Book>);

impl Default for Ledger {
    fn default() -> Self {
        let places = (0..=TENANTS).map(|_| AtomicUsize::new(0)).collect();
        Self(Arc::new(Book { places, ..Book::default() }))
    }
}

/// What the shards have of what was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) writes: usize,
    pub(crate) lost: i64,
    pub(crate) duplicated: i64,
}

impl Ledger {
    /// Looks for each acknowledged payment where its tenant is served now, and for each one's unit in the balances.
    pub(crate) async fn count(&self, site: &Site) -> Result<Kept> {
        let acknowledged = self.0.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut there, mut units, mut rows) = (HashSet::new(), 0, 0);
        for server in 0..2 {
            let client = site.servers[server].connect(SHOP, "postgres").await?;
            let served = "NOT EXISTS (SELECT FROM wakala_shard.owner o \
                WHERE o.tenant_id = t.tenant_id::text AND o.state <> 'owned')";
            let payments =
                format!("SELECT id FROM payments t WHERE id >= {FIRST} AND id < {BEYOND} AND {served}");
            for row in client.query(&payments, &[]).await? {
                rows += 1;
                there.insert(row.try_get::<_, i64>(0)?);
            }
            let balances = format!("SELECT coalesce(sum(balance), 0)::bigint FROM accounts t WHERE {served}");
            units += site.number(server, SHOP, &balances).await?;
        }
        let unknown = self.0.unknown.load(Ordering::Relaxed).cast_signed();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let writes = count(acknowledged.len());
        let missing = count(acknowledged.iter().filter(|id| !there.contains(id)).count());
        Ok(Kept {
            writes: acknowledged.len(),
            lost: missing.max(writes - units),
            duplicated: (rows - count(there.len())).max(units - writes - unknown).max(0),
        })
    }
}

/// What one transaction was like for its client, from its first attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) tenant: i64,
    pub(crate) ended: Instant,
    pub(crate) took: Duration,
}

/// What writers saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) samples: Vec<Sample>,
    pub(crate) errors: u64,
    /// Transactions a second.
    pub(crate) rate: f64,
}

/// Writers that are at work.
#[derive(Debug)]
pub(crate) struct Writers {
    begun: Instant,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<Seen>>>,
}

impl Writers {
    /// So many transactions a second, of an insert and an update each, in turn of these tenants.
    pub(crate) async fn start(site: &Site, ledger: &Ledger, tenants: &[i64], rate: u32) -> Result<Self> {
        let tenants: Vec<_> = tenants.iter().map(|tenant| Arc::new(AtomicI64::new(*tenant))).collect();
        Self::of(site, ledger, tenants, rate, TASKS).await
    }

    /// One writer, on the tenant that is named at the time.
    pub(crate) async fn follow(
        site: &Site,
        ledger: &Ledger,
        tenant: Arc<AtomicI64>,
        rate: u32,
    ) -> Result<Self> {
        Self::of(site, ledger, vec![tenant], rate, 1).await
    }

    async fn of(
        site: &Site,
        ledger: &Ledger,
        tenants: Vec<Arc<AtomicI64>>,
        rate: u32,
        tasks: u32,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let mut handles = Vec::new();
        for task in 0..tasks {
            let writer = Writer {
                shards: [Session::open(site.app(0).await?).await?, Session::open(site.app(1).await?).await?],
                book: Arc::clone(&ledger.0),
                tenants: tenants.clone(),
                seen: Seen::default(),
            };
            let (stop, pace) = (stop.clone(), Duration::from_secs(1) * tasks / rate);
            handles.push(tokio::spawn(writer.work(usize::try_from(task)?, pace, stop)));
        }
        Ok(Self { begun: Instant::now(), stop, tasks: handles })
    }

    pub(crate) async fn stop(self) -> Result<Seen> {
        self.stop.cancel();
        let mut all = Seen::default();
        for task in self.tasks {
            let seen = task.await??;
            all.errors += seen.errors;
            all.samples.extend(seen.samples);
        }
        all.samples.sort_by_key(|sample| sample.ended);
        all.rate = all.samples.len() as f64 / self.begun.elapsed().as_secs_f64();
        Ok(all)
    }
}

#[derive(Debug)]
struct Session {
    client: Client,
    insert: Statement,
    update: Statement,
}

impl Session {
    async fn open(client: Client) -> Result<Self> {
        let insert = client.prepare("INSERT INTO payments VALUES ($1, $2, $3, 1, 'new', NULL)").await?;
        let update = client
            .prepare("UPDATE accounts SET balance = balance + 1 WHERE tenant_id = $1 AND id = $2")
            .await?;
        Ok(Self { client, insert, update })
    }

    async fn write(&self, tenant: i64, id: i64) -> std::result::Result<(), tokio_postgres::Error> {
        let account = 1 + id % ACCOUNTS;
        self.client.batch_execute("BEGIN").await?;
        let rows = async {
            self.client.execute(&self.insert, &[&tenant, &id, &account]).await?;
            self.client.execute(&self.update, &[&tenant, &account]).await
        };
        match rows.await {
            Ok(_) => self.client.batch_execute("COMMIT").await,
            Err(error) => {
                self.client.batch_execute("ROLLBACK").await?;
                Err(error)
            }
        }
    }
}

struct Writer {
    shards: [Session; 2],
    book: Arc<Book>,
    tenants: Vec<Arc<AtomicI64>>,
    seen: Seen,
}

impl Writer {
    async fn work(mut self, from: usize, pace: Duration, stop: CancellationToken) -> Result<Seen> {
        let mut tick = tokio::time::interval(pace);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut turn = from;
        let mut acknowledged = Vec::new();
        while !stop.is_cancelled() {
            tick.tick().await;
            let tenant = self.tenants[turn % self.tenants.len()].load(Ordering::Relaxed);
            turn += 1;
            let id = FIRST + self.book.next.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            if self.until_acknowledged(tenant, id).await? {
                acknowledged.push(id);
                self.seen.samples.push(Sample { tenant, ended: Instant::now(), took: begun.elapsed() });
            } else {
                self.seen.errors += 1;
                self.book.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.book.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).extend(acknowledged);
        Ok(self.seen)
    }

    /// Goes where it is sent; false where nobody knows what became of it.
    async fn until_acknowledged(&self, tenant: i64, id: i64) -> Result<bool> {
        let place = &self.book.places[usize::try_from(tenant)?];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            let at = place.load(Ordering::Relaxed);
            match self.shards[at].write(tenant, id).await {
                Ok(()) => return Ok(true),
                Err(error) if error.code().is_some_and(|code| code.code() == "WK001") => {
                    let detail = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
                    let to = if detail.starts_with("shard=2 ") { 1 } else { 0 };
                    if to == at {
                        // Not open yet.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    place.store(to, Ordering::Relaxed);
                }
                Err(error) => {
                    eprintln!("a writer of tenant {tenant}: {error:?}");
                    return Ok(false);
                }
            }
        }
        eprintln!("a writer of tenant {tenant} found nobody who serves it for 10 s");
        Ok(false)
    }
}
