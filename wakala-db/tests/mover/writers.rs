//! Applications that write while their tenants are moved.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tokio::sync::{Mutex, RwLock, watch};
use tokio_postgres::Client;
use wakala_testbed::{PostgresAccess, TestbedError};

use crate::ledger::{Fate, Ledger, Op, Thing};

/// Each writer has its own range of keys of things.
const KEYS: i64 = 20;
/// Accounts of a tenant from the beginning.
pub(crate) const ACCOUNTS: u64 = 8;
/// What a value must have to be stored apart from its row.
const LONG: usize = 3_000;
/// A prepared transaction that is as old is nobody's any more.
const IN_DOUBT: &str = "1 s";

/// What writers and their judge share.
#[derive(Debug)]
pub(crate) struct Shared {
    servers: [PostgresAccess; 2],
    admins: [Mutex<Option<Arc<Client>>>; 2],
    pub(crate) ledger: Ledger,
    /// Shared by each transaction; whoever holds it alone, looks at databases that nobody writes to.
    pub(crate) gate: RwLock<()>,
    /// Somebody waits for the gate: transactions that are held open are ended.
    pub(crate) hurry: watch::Sender<bool>,
    pub(crate) stop: AtomicBool,
    /// A server was killed, so that connections break.
    pub(crate) disturbed: [AtomicBool; 2],
}

impl Shared {
    pub(crate) fn new(servers: [PostgresAccess; 2]) -> Self {
        Self {
            servers,
            admins: Default::default(),
            ledger: Ledger::default(),
            gate: RwLock::new(()),
            hurry: watch::Sender::new(false),
            stop: AtomicBool::new(false),
            disturbed: Default::default(),
        }
    }

    /// A session of the superuser on a shard, which is kept.
    pub(crate) async fn admin(&self, shard: i32) -> Result<Arc<Client>, TestbedError> {
        let mut admin = self.admins[place(shard)].lock().await;
        match admin.as_ref().filter(|client| !client.is_closed()) {
            Some(client) => Ok(Arc::clone(client)),
            None => {
                let client = Arc::new(self.servers[place(shard)].connect("shop", "postgres").await?);
                *admin = Some(Arc::clone(&client));
                Ok(client)
            }
        }
    }

    /// Keeps a transaction open.
    async fn hold(&self, time: Duration) {
        let mut hurry = self.hurry.subscribe();
        let _ = tokio::time::timeout(time, hurry.wait_for(|hurry| *hurry)).await;
    }

    fn is_disturbed(&self, shard: i32) -> bool {
        self.disturbed[place(shard)].load(Ordering::SeqCst)
    }
}

pub(crate) fn place(shard: i32) -> usize {
    usize::try_from(shard - 1).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Async,
    Bulk,
    Held,
    KeyChange,
    NewAccount,
    Post,
    Prepared,
    Reinsert,
    Savepoint,
    Several,
    ThingDelete,
    ThingInsert,
    ThingNote,
    ThingTouch,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) number: i64,
    pub(crate) tenant: i64,
    /// Where it believes its tenant to be.
    pub(crate) shard: i32,
    epoch: Option<i64>,
    /// Always goes to the other shard first.
    pub(crate) stale: bool,
    /// Calls `wakala_shard.enter`, and does not rely on the guards.
    pub(crate) enters: bool,
    /// Its tenant is never moved.
    pub(crate) stays: bool,
    pub(crate) bulk: bool,
    clients: [Option<Client>; 2],
    chance: ChaCha8Rng,
}

/// Why a statement of a transaction failed.
enum Trouble {
    Again,
    Elsewhere { shard: i32, epoch: i64 },
    Lost,
    Other(String),
}

impl Writer {
    pub(crate) fn new(number: i64, tenant: i64, shard: i32, seed: u64) -> Self {
        let own = seed.wrapping_mul(1_000).wrapping_add(number.unsigned_abs());
        Self {
            number,
            tenant,
            shard,
            epoch: None,
            stale: false,
            enters: false,
            stays: false,
            bulk: false,
            clients: [None, None],
            chance: ChaCha8Rng::seed_from_u64(own),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        u64::from(self.chance.next_u32()) % limit
    }

    pub(crate) async fn run(mut self, shared: Arc<Shared>) {
        while !shared.stop.load(Ordering::SeqCst) {
            let pause = Duration::from_millis(if self.bulk { 500 } else { 20 + self.below(60) });
            let kind = self.choose();
            if self.stale {
                self.shard = 3 - self.shard;
            }
            // A few times, as applications do.
            for _ in 0..20 {
                let done = {
                    let _gate = shared.gate.read().await;
                    self.attempt(&shared, kind).await
                };
                if done || shared.stop.load(Ordering::SeqCst) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn choose(&mut self) -> Kind {
        if self.bulk {
            return Kind::Bulk;
        }
        match self.below(100) {
            0..18 => Kind::Post,
            18..29 => Kind::Several,
            29..39 => Kind::Async,
            39..46 => Kind::Savepoint,
            46..49 => Kind::Held,
            49..53 => Kind::Prepared,
            53..56 => Kind::NewAccount,
            56..68 => Kind::ThingTouch,
            68..75 => Kind::ThingNote,
            75..86 => Kind::KeyChange,
            86..91 => Kind::Reinsert,
            91..98 => Kind::ThingInsert,
            _ => Kind::ThingDelete,
        }
    }

    async fn client(&mut self, shared: &Shared) -> Option<&Client> {
        let place = place(self.shard);
        if self.clients[place].as_ref().is_none_or(Client::is_closed) {
            let connecting = shared.servers[place].connect("shop", "app");
            match tokio::time::timeout(Duration::from_secs(10), connecting).await {
                Ok(Ok(client)) => self.clients[place] = Some(client),
                other => {
                    if !shared.is_disturbed(self.shard) {
                        let other = other.map(|found| found.map(drop));
                        shared.ledger.error(format!("writer {} cannot connect: {other:?}", self.number));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return None;
                }
            }
        }
        self.clients[place].as_ref()
    }

    /// One transaction; whether it is over and done with.
    async fn attempt(&mut self, shared: &Shared, kind: Kind) -> bool {
        let isolation = match self.below(10) {
            0..6 => "READ COMMITTED",
            6..8 => "REPEATABLE READ",
            _ => "SERIALIZABLE",
        };
        let id = shared.ledger.next();
        let (mut op, statements) = self.plan(shared, kind, id);
        write!(op.what, ", {isolation}, {}", if self.enters { "enters" } else { "guarded" }).unwrap();
        let hold = Duration::from_millis(match kind {
            Kind::Held => 50 + self.below(400),
            Kind::Prepared => self.below(150),
            _ => 0,
        });
        let (number, tenant, epoch) = (self.number, self.tenant, self.epoch);
        let enter = self.enters.then(|| {
            let epoch = epoch.map_or("NULL".to_owned(), |epoch| epoch.to_string());
            format!("SELECT wakala_shard.enter('{tenant}', {epoch})")
        });
        let roll_back = self.below(5) == 0;
        let shard = self.shard;
        let Some(client) = self.client(shared).await else { return false };
        let mut failed = None;
        let begin = [format!("BEGIN ISOLATION LEVEL {isolation}")];
        for sql in begin.iter().chain(&enter).chain(&statements) {
            if let Err(error) = client.batch_execute(sql).await {
                failed = Some(trouble(&error, sql));
                break;
            }
        }
        if let Some(failed) = failed {
            let _ = client.batch_execute("ROLLBACK").await;
            shared.ledger.record(op, Fate::Rejected);
            return self.after(shared, shard, failed).await;
        }
        let ended = if kind == Kind::Prepared {
            let name = format!("op {id} of {number}");
            match client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await {
                Ok(()) => {
                    shared.hold(hold).await;
                    let end = if roll_back { "ROLLBACK" } else { "COMMIT" };
                    let ended = client.batch_execute(&format!("{end} PREPARED '{name}'")).await;
                    match ended {
                        Ok(()) => Ok(if roll_back { Fate::Rejected } else { Fate::Acked }),
                        // Somebody was quicker, or nobody knows.
                        Err(error) => Err((Fate::Unknown, Some(error))),
                    }
                }
                Err(error) => Err((fate(&error), Some(error))),
            }
        } else {
            shared.hold(hold).await;
            client
                .batch_execute("COMMIT")
                .await
                .map(|()| Fate::Acked)
                .map_err(|error| (fate(&error), Some(error)))
        };
        match ended {
            Ok(fate) => {
                shared.ledger.record(op, fate);
                true
            }
            Err((fate, error)) => {
                shared.ledger.record(op, fate);
                match error.map(|error| trouble(&error, "the commit")) {
                    Some(Trouble::Other(_)) if kind == Kind::Prepared => true,
                    Some(failed) => self.after(shared, shard, failed).await,
                    None => true,
                }
            }
        }
    }

    /// What a writer makes of an error; whether it gives up.
    async fn after(&mut self, shared: &Shared, shard: i32, failed: Trouble) -> bool {
        match failed {
            Trouble::Again => {}
            Trouble::Elsewhere { shard: other, epoch } => {
                if self.stays {
                    shared.ledger.error(format!("tenant {} is not moved, and was sent away", self.tenant));
                }
                self.shard = other;
                self.epoch = Some(epoch);
            }
            Trouble::Lost => {
                self.clients[place(shard)] = None;
                if !shared.is_disturbed(shard) {
                    shared
                        .ledger
                        .error(format!("writer {} lost its connection to shard {shard}", self.number));
                }
            }
            Trouble::Other(text) => {
                shared.ledger.error(format!("writer {} of tenant {}: {text}", self.number, self.tenant));
                return true;
            }
        }
        false
    }

    fn plan(&mut self, shared: &Shared, kind: Kind, id: i64) -> (Op, Vec<String>) {
        let tenant = self.tenant;
        let mut op = Op {
            id,
            tenant,
            entries: 0,
            sum: 0,
            things: Vec::new(),
            what: format!("{kind:?} by {}", self.number),
            shard: self.shard,
            asynchronous: false,
        };
        let mut sql = Vec::new();
        let from = self.number * 1_000;
        let keys = shared.ledger.things(tenant, from..from + KEYS);
        let (present, absent): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(_, thing)| thing.is_some());
        let count = match kind {
            Kind::Several => 3,
            Kind::Bulk => 100,
            _ => 1,
        };
        if kind == Kind::Async {
            op.asynchronous = true;
            sql.push("SET LOCAL synchronous_commit = off".to_owned());
        }
        if kind == Kind::Savepoint {
            sql.push(format!(
                "SAVEPOINT s; {}; ROLLBACK TO SAVEPOINT s",
                post(&mut op.clone(), 1, 1_000_000, 1)
            ));
        }
        if kind == Kind::NewAccount {
            let amount = 1 + i64::try_from(self.below(50)).unwrap();
            op.entries = 1;
            op.sum = amount;
            sql.push(format!(
                "WITH made AS (INSERT INTO account (tenant_id, owner, balance, version)
                     VALUES ({tenant}, 'later', {amount}, 1) RETURNING id)
                 INSERT INTO entry (tenant_id, account, amount, op) SELECT {tenant}, id, {amount}, {id} FROM made"
            ));
        } else {
            let mut accounts: Vec<u64> = (0..count.min(3)).map(|_| 1 + self.below(ACCOUNTS)).collect();
            accounts.sort_unstable();
            accounts.dedup();
            for account in accounts {
                let amount = 1 + i64::try_from(self.below(100)).unwrap();
                let rows = if kind == Kind::Bulk { count } else { 1 };
                sql.push(post(&mut op, account, amount, rows));
            }
        }
        let pick = |from: &[(i64, Option<Thing>)], chance: u64| {
            (!from.is_empty()).then(|| from[usize::try_from(chance % from.len() as u64).unwrap()].clone())
        };
        let (one, other) = (pick(&present, self.below(1_000)), pick(&absent, self.below(1_000)));
        // Somewhere has to be free for keys that change.
        let kind = if kind == Kind::ThingInsert && absent.len() < 4 { Kind::ThingDelete } else { kind };
        self.with_thing(kind, &mut op, &mut sql, one, other);
        (op, sql)
    }

    fn with_thing(
        &mut self,
        kind: Kind,
        op: &mut Op,
        sql: &mut Vec<String>,
        one: Option<(i64, Option<Thing>)>,
        absent: Option<(i64, Option<Thing>)>,
    ) {
        let (tenant, id) = (op.tenant, op.id);
        let at = |key: i64| format!("WHERE tenant_id = {tenant} AND id = {key}");
        let insert = |key: i64, thing: &Thing| {
            format!(
                "INSERT INTO thing (tenant_id, id, revision, note) VALUES ({tenant}, {key}, {}, '{}')",
                thing.revision, thing.note
            )
        };
        let is_thing = matches!(
            kind,
            Kind::KeyChange
                | Kind::Reinsert
                | Kind::ThingDelete
                | Kind::ThingInsert
                | Kind::ThingNote
                | Kind::ThingTouch
        );
        match (kind, one, absent) {
            (Kind::ThingTouch, Some((key, Some(thing))), _) => {
                sql.push(exactly_one(&format!("UPDATE thing SET revision = {id} {}", at(key))));
                op.things.push((key, Some(Thing { revision: id, ..thing })));
            }
            (Kind::ThingNote, Some((key, Some(_))), _) => {
                let thing = Thing { revision: id, note: self.long() };
                let set = format!("UPDATE thing SET revision = {id}, note = '{}' {}", thing.note, at(key));
                sql.push(exactly_one(&set));
                op.things.push((key, Some(thing)));
            }
            (Kind::KeyChange, Some((key, Some(thing))), Some((free, _))) => {
                let set = format!("UPDATE thing SET id = {free}, revision = {id} {}", at(key));
                sql.push(exactly_one(&set));
                op.things.push((key, None));
                op.things.push((free, Some(Thing { revision: id, ..thing })));
            }
            (Kind::Reinsert, Some((key, Some(thing))), _) => {
                let thing = Thing { revision: id, ..thing };
                sql.push(exactly_one(&format!("DELETE FROM thing {}", at(key))));
                sql.push(insert(key, &thing));
                op.things.push((key, Some(thing)));
            }
            (Kind::ThingDelete, Some((key, _)), _) => {
                sql.push(exactly_one(&format!("DELETE FROM thing {}", at(key))));
                op.things.push((key, None));
            }
            (_, _, Some((free, _))) if is_thing => {
                let thing = Thing { revision: id, note: self.long() };
                sql.push(insert(free, &thing));
                op.things.push((free, Some(thing)));
            }
            _ => {}
        }
    }

    /// A text that does not get shorter by compression.
    fn long(&mut self) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = vec![0; LONG];
        self.chance.fill_bytes(&mut bytes);
        bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect()
    }
}

/// Entries of an account, and its balance.
fn post(op: &mut Op, account: u64, amount: i64, rows: i64) -> String {
    op.entries += rows;
    op.sum += rows * amount;
    let (tenant, id, total) = (op.tenant, op.id, rows * amount);
    let update = format!(
        "UPDATE account SET balance = balance + {total}, version = version + {rows} \
         WHERE tenant_id = {tenant} AND id = {account}"
    );
    format!(
        "INSERT INTO entry (tenant_id, account, amount, op) SELECT {tenant}, {account}, {amount}, {id} \
         FROM generate_series(1, {rows}); {}",
        exactly_one(&update)
    )
}

/// Fails unless the statement is about one row.
fn exactly_one(sql: &str) -> String {
    format!(
        "DO $$ DECLARE n bigint; BEGIN {sql}; GET DIAGNOSTICS n = ROW_COUNT;
         IF n <> 1 THEN RAISE EXCEPTION '% rows', n USING ERRCODE = 'XX999'; END IF; END $$"
    )
}

fn trouble(error: &tokio_postgres::Error, sql: &str) -> Trouble {
    let Some(answer) = error.as_db_error() else { return Trouble::Lost };
    match answer.code().code() {
        "40001" | "40P01" => Trouble::Again,
        "WK001" => {
            let detail = answer.detail().unwrap_or_default();
            let number =
                |name: &str| detail.split(' ').find_map(|part| part.strip_prefix(name)?.parse::<i64>().ok());
            match (number("shard="), number("epoch=")) {
                (Some(shard), Some(epoch)) => {
                    Trouble::Elsewhere { shard: i32::try_from(shard).unwrap(), epoch }
                }
                _ => Trouble::Other(format!("a detail that says nothing: {detail:?}")),
            }
        }
        "57P01" | "57P02" | "57P03" => Trouble::Lost,
        code => Trouble::Other(format!("{code} {answer}, after {sql:.200}")),
    }
}

/// What is known of a commit that failed: a refusal is one, an ended session says nothing.
fn fate(error: &tokio_postgres::Error) -> Fate {
    match error.code().map(|code| code.code()) {
        None | Some("57P01" | "57P02" | "57P03") => Fate::Unknown,
        Some(_) => Fate::Rejected,
    }
}

/// Commits prepared transactions that nobody cares for any more, as a transaction manager does.
pub(crate) async fn end_doubt(shared: Arc<Shared>) {
    while !shared.stop.load(Ordering::SeqCst) {
        commit_prepared(&shared, IN_DOUBT).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

pub(crate) async fn commit_prepared(shared: &Shared, age: &str) {
    for number in [1, 2] {
        let Ok(client) = shared.admin(number).await else { continue };
        let sql = format!("SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - interval '{age}'");
        let Ok(rows) = client.query(&sql, &[]).await else { continue };
        for row in rows {
            let name: String = row.get(0);
            let _ = client.batch_execute(&format!("COMMIT PREPARED '{name}'")).await;
        }
    }
}
