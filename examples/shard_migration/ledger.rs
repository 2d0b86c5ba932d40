//! Writers, and what was acknowledged to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;
use wakala_core::{Result, Retry};
use wakala_db::{Router, TenantId};

use super::shards::{Shards, TENANTS, failed};

/// Between two transactions of a writer.
const BREATH: Duration = Duration::from_millis(4);

/// One writer for each tenant, and what it knows.
#[derive(Debug)]
pub(crate) struct Ledger {
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<Book>>,
}

/// What one writer was told.
#[derive(Debug, Default)]
struct Book {
    tenant: i64,
    acknowledged: BTreeMap<Uuid, i64>,
    /// Nobody knows whether it is there: the connection was lost at the commit.
    unknown: BTreeSet<Uuid>,
    refused: u64,
    slowest: Duration,
}

/// What the shards have of it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    acknowledged: u64,
    unknown: u64,
    refused: u64,
    lost: u64,
    duplicated: u64,
    /// Accounts whose balance is not the sum of their entries, and entries nobody wrote.
    odd: u64,
    slowest: Duration,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.acknowledged > 0 && self.lost + self.duplicated + self.odd + self.refused == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged writes: lost {}, duplicated {}, wrong sums or strangers {}; {} failed, {} of unknown fate; \
             the slowest took {:.1} ms",
            self.acknowledged,
            self.lost,
            self.duplicated,
            self.odd,
            self.refused,
            self.unknown,
            self.slowest.as_secs_f64() * 1e3
        )
    }
}

impl Ledger {
    pub(crate) fn begin(shards: &Shards, seed: u64) -> Self {
        let stop = watch::Sender::new(false);
        let router = shards.router();
        let writers = (1..=TENANTS).map(|tenant| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(tenant.unsigned_abs());
            tokio::spawn(write(router.clone(), tenant, random, stop.subscribe()))
        });
        Self { writers: writers.collect(), stop }
    }

    /// Ends the writers, and looks everything up.
    pub(crate) async fn end(self, shards: &Shards) -> Result<Verdict> {
        self.stop.send_replace(true);
        let sessions = [shards.connect(1).await?, shards.connect(2).await?];
        let mut verdict = Verdict::default();
        for writer in self.writers {
            let book = writer.await.map_err(failed)?;
            verdict.acknowledged += book.acknowledged.len() as u64;
            verdict.unknown += book.unknown.len() as u64;
            verdict.refused += book.refused;
            verdict.slowest = verdict.slowest.max(book.slowest);
            let home = shards.place(book.tenant).await?;
            let mut found: BTreeMap<Uuid, i64> = BTreeMap::new();
            for (number, session) in (1..).zip(&sessions) {
                let sql = "SELECT id::text, amount FROM entry WHERE tenant_id = $1";
                for row in session.query(sql, &[&book.tenant]).await.map_err(failed)? {
                    let id: String = row.try_get(0).map_err(failed)?;
                    let id = id.parse().map_err(failed)?;
                    let amount = row.try_get(1).map_err(failed)?;
                    // What is on two shards, or on the wrong one, is there once too often.
                    if found.insert(id, amount).is_some() || number != home {
                        verdict.duplicated += 1;
                    }
                }
                let sql = "SELECT count(*) FROM account AS a WHERE tenant_id = $1 AND balance <> (SELECT coalesce(sum(amount), 0)
                     FROM entry AS e WHERE e.tenant_id = a.tenant_id AND e.account = a.id)";
                let row = session.query_one(sql, &[&book.tenant]).await.map_err(failed)?;
                verdict.odd += row.try_get::<_, i64>(0).map_err(failed)?.unsigned_abs();
            }
            verdict.lost +=
                book.acknowledged.iter().filter(|(id, amount)| found.get(id) != Some(*amount)).count() as u64;
            let known = |id: &Uuid| book.acknowledged.contains_key(id) || book.unknown.contains(id);
            verdict.odd += found.keys().filter(|id| !known(id)).count() as u64;
        }
        Ok(verdict)
    }
}

/// Books an amount to one of the first accounts, again and again: a row of its own, and the balance that sums them up.
async fn write(router: Router, tenant: i64, mut random: ChaCha8Rng, mut stop: watch::Receiver<bool>) -> Book {
    let mut book = Book { tenant, ..Book::default() };
    let id_of_tenant = TenantId::from(tenant);
    while !*stop.borrow_and_update() {
        let id = Uuid::from_u64_pair(random.next_u64(), random.next_u64());
        let (account, amount) = (i64::from(random.next_u32() % 50) + 1, i64::from(random.next_u32() % 1000));
        let begun = Instant::now();
        let text = id.to_string();
        let text = &text;
        let written = router.run(&id_of_tenant, async move |work| {
            let sql =
                "INSERT INTO entry (tenant_id, id, account, amount) VALUES ($1, $2::text::uuid, $3, $4)";
            work.execute(sql, &[&tenant, text, &account, &amount]).await?;
            let sql = "UPDATE account SET balance = balance + $3 WHERE tenant_id = $1 AND id = $2";
            work.execute(sql, &[&tenant, &account, &amount]).await?;
            Ok(())
        });
        match written.await {
            Ok(()) => drop(book.acknowledged.insert(id, amount)),
            Err(error) if error.retry() == Retry::ObserveFirst => drop(book.unknown.insert(id)),
            Err(error) => {
                eprintln!("a write of tenant {tenant} failed: {}", error.chain());
                book.refused += 1;
            }
        }
        book.slowest = book.slowest.max(begun.elapsed());
        tokio::select! {
            () = tokio::time::sleep(BREATH) => {}
            _ = stop.changed() => {}
        }
    }
    book
}
