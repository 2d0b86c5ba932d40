//! What the writers were told, and what must be in the databases therefore.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

/// A commit that was not waited for is on the disk after three rounds of the log writer, of 0.2 s each.
const ASYNC_WINDOW: Duration = Duration::from_secs(3);
/// So many entries of a tenant are made one, so that a long run stays quick.
const MANY: i64 = 4_000;

/// What a writer knows of the end of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Acked,
    Rejected,
    /// The connection was lost while it was committed.
    Unknown,
}

/// A row of the table `thing`, whose key only one writer uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) revision: i64,
    pub(crate) note: String,
}

/// One transaction of a writer: the entries that it makes, and what becomes of its things.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) id: i64,
    pub(crate) tenant: i64,
    pub(crate) entries: i64,
    pub(crate) sum: i64,
    pub(crate) things: Vec<(i64, Option<Thing>)>,
    pub(crate) what: String,
    /// Where it was written.
    pub(crate) shard: i32,
    pub(crate) asynchronous: bool,
}

#[derive(Debug)]
struct Line {
    op: Op,
    fate: Fate,
    at: Instant,
}

#[derive(Debug, Default)]
struct Book {
    lines: HashMap<i64, BTreeMap<i64, Line>>,
    things: HashMap<i64, BTreeMap<i64, Thing>>,
    /// Things of transactions whose fate is not known.
    doubtful: HashSet<(i64, i64)>,
    /// Which shard served a tenant in which epoch, as rows have it.
    served: HashMap<(i64, i64), i32>,
    errors: Vec<String>,
    acked: u64,
    rejected: u64,
    unknown: u64,
}

/// Independent of the databases; shared by all writers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    last: AtomicI64,
}

impl Ledger {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn next(&self) -> i64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Something happened to a writer that must not.
    pub(crate) fn error(&self, text: String) {
        self.book().errors.push(text);
    }

    pub(crate) fn record(&self, op: Op, fate: Fate) {
        let mut book = self.book();
        match fate {
            Fate::Acked => {
                book.acked += 1;
                apply(&mut book, &op);
            }
            Fate::Rejected => book.rejected += 1,
            Fate::Unknown => {
                book.unknown += 1;
                book.doubtful.extend(op.things.iter().map(|(key, _)| (op.tenant, *key)));
            }
        }
        let line = Line { fate, at: Instant::now(), op };
        book.lines.entry(line.op.tenant).or_default().insert(line.op.id, line);
    }

    /// The things of a tenant in a range of keys that a writer may go on with.
    pub(crate) fn things(&self, tenant: i64, keys: std::ops::Range<i64>) -> Vec<(i64, Option<Thing>)> {
        let book = self.book();
        let of_tenant = book.things.get(&tenant);
        keys.filter(|key| !book.doubtful.contains(&(tenant, *key)))
            .map(|key| (key, of_tenant.and_then(|things| things.get(&key)).cloned()))
            .collect()
    }

    /// A server was killed: commits that nobody waited for may be lost.
    pub(crate) fn crashed(&self, shard: i32, at: Instant) {
        let since = at.checked_sub(ASYNC_WINDOW).unwrap_or(at);
        for line in self.book().lines.values_mut().flat_map(BTreeMap::values_mut) {
            if line.op.asynchronous && line.op.shard == shard && line.at >= since && line.fate == Fate::Acked
            {
                line.fate = Fate::Unknown;
            }
        }
    }

    /// How many transactions were acknowledged, refused, lost from sight.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let book = self.book();
        (book.acked, book.rejected, book.unknown)
    }

    pub(crate) fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut self.book().errors)
    }

    /// Compares what is known of a tenant with its shard while nobody writes; every difference is a line.
    pub(crate) async fn check(&self, client: &Client, tenant: i64, shard: i32) -> Vec<String> {
        let mut wrong = self.take_errors();
        let sql = format!(
            "SELECT op, count(*), sum(amount)::bigint, min(shard), max(shard), min(epoch), max(epoch)
             FROM entry WHERE tenant_id = {tenant} AND op > 0 GROUP BY op"
        );
        let rows = client.query(&sql, &[]).await.unwrap();
        let found: HashMap<i64, (i64, i64)> =
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        let mut book = self.book();
        for row in &rows {
            let (op, low, high): (i64, Option<i32>, Option<i32>) = (row.get(0), row.get(3), row.get(4));
            let (first, last): (Option<i64>, Option<i64>) = (row.get(5), row.get(6));
            let (Some(low), Some(high), Some(first), Some(last)) = (low, high, first, last) else {
                wrong.push(format!("tenant {tenant}: transaction {op} has no shard or epoch"));
                continue;
            };
            if (low, first) != (high, last) {
                wrong.push(format!("tenant {tenant}: transaction {op} is of two shards or epochs"));
            }
            let served = *book.served.entry((tenant, first)).or_insert(low);
            if served != low {
                wrong.push(format!(
                    "tenant {tenant}: transaction {op} was written on shard {low} in epoch {first}, which was shard {served}'s"
                ));
            }
        }
        let lines = book.lines.remove(&tenant).unwrap_or_default();
        for op in found.keys().filter(|op| !lines.contains_key(op)) {
            wrong.push(format!("tenant {tenant}: nobody wrote transaction {op}"));
        }
        let mut kept = BTreeMap::new();
        for (id, mut line) in lines {
            let rows = found.get(&id);
            let whole = rows == Some(&(line.op.entries, line.op.sum));
            match (line.fate, rows) {
                (Fate::Acked, _) if whole => {}
                (Fate::Rejected | Fate::Unknown, None) => {}
                (Fate::Unknown, _) if whole => apply(&mut book, &line.op),
                (fate, rows) => wrong.push(format!(
                    "tenant {tenant}: {fate:?} transaction {id} ({}, on shard {}) should have {} entries of {}, has {rows:?}",
                    line.op.what, line.op.shard, line.op.entries, line.op.sum
                )),
            }
            if rows.is_some() {
                line.fate = Fate::Acked;
                kept.insert(id, line);
            }
        }
        let many = kept.values().map(|line| line.op.entries).sum::<i64>() > MANY;
        if !many {
            book.lines.insert(tenant, kept);
        }
        book.doubtful.retain(|(of, _)| *of != tenant);
        let things = book.things.get(&tenant).cloned().unwrap_or_default();
        drop(book);
        wrong.extend(check_things(client, tenant, &things).await);
        wrong.extend(check_accounts(client, tenant).await);
        if many && wrong.is_empty() {
            compact(client, tenant).await;
        }
        for line in &mut wrong {
            line.push_str(&format!(" (on shard {shard})"));
        }
        wrong
    }
}

fn apply(book: &mut Book, op: &Op) {
    let things = book.things.entry(op.tenant).or_default();
    for (key, thing) in &op.things {
        match thing {
            Some(thing) => things.insert(*key, thing.clone()),
            None => things.remove(key),
        };
    }
}

async fn check_things(client: &Client, tenant: i64, things: &BTreeMap<i64, Thing>) -> Vec<String> {
    let sql = format!("SELECT id, revision, note FROM thing WHERE tenant_id = {tenant}");
    let rows = client.query(&sql, &[]).await.unwrap();
    let found: BTreeMap<i64, Thing> =
        rows.iter().map(|row| (row.get(0), Thing { revision: row.get(1), note: row.get(2) })).collect();
    let mut wrong = Vec::new();
    if found.len() != rows.len() {
        wrong.push(format!("tenant {tenant}: {} things, and {} keys", rows.len(), found.len()));
    }
    let keys: HashSet<&i64> = found.keys().chain(things.keys()).collect();
    let brief = |thing: Option<&Thing>| {
        thing.map(|thing| format!("revision {}, note {:.8}…", thing.revision, thing.note))
    };
    for key in keys.into_iter().filter(|key| found.get(key) != things.get(key)) {
        wrong.push(format!(
            "tenant {tenant}: thing {key} should be {:?}, is {:?}",
            brief(things.get(key)),
            brief(found.get(key))
        ));
    }
    wrong
}

/// The balance of an account is the sum of its entries, and its version their number.
async fn check_accounts(client: &Client, tenant: i64) -> Vec<String> {
    let sql = format!(
        "SELECT a.id, a.balance, a.version, coalesce(e.sum, 0), coalesce(e.number, 0)
         FROM (SELECT * FROM account WHERE tenant_id = {tenant}) AS a FULL JOIN
             (SELECT account, sum(amount)::bigint AS sum, sum(weight)::bigint AS number
              FROM entry WHERE tenant_id = {tenant} GROUP BY account) AS e ON e.account = a.id
         WHERE (a.balance, a.version) IS DISTINCT FROM (coalesce(e.sum, 0), coalesce(e.number, 0))"
    );
    let rows = client.query(&sql, &[]).await.unwrap();
    rows.iter()
        .map(|row| {
            let (id, balance, version): (Option<i64>, Option<i64>, Option<i64>) =
                (row.get(0), row.get(1), row.get(2));
            let (sum, number): (i64, i64) = (row.get(3), row.get(4));
            format!(
                "tenant {tenant}: account {id:?} has balance {balance:?} and version {version:?}, its {number} entries \
                 come to {sum}"
            )
        })
        .collect()
}

/// All entries of an account become one.
async fn compact(client: &Client, tenant: i64) {
    let sql = format!(
        "WITH gone AS (DELETE FROM entry WHERE tenant_id = {tenant} RETURNING account, amount, weight)
         INSERT INTO entry (tenant_id, account, amount, weight, op)
             SELECT {tenant}, account, sum(amount), sum(weight), 0 FROM gone GROUP BY account"
    );
    client.batch_execute(&sql).await.unwrap();
}
