//! A small model of two shards: whatever transactions, snapshots and the stream do, both sides end with the same rows.
//!
//! The source has rows of two tenants (and of a third that is not moved) in chunks by key. A transaction writes rows,
//! holding each from then on; its commit goes into the stream first, and it is seen by snapshots (and lets go of its
//! rows) some time later. The mover copies a chunk in a snapshot, or takes the next transaction of the stream.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::chunks::{Action, Chunk, Chunks, Copied};
use super::key::ChunkKey;
use crate::mover::change::{Op, Row, Value};
use crate::mover::snapshot::Snapshot;
use crate::mover::table::{ChunkType, Column, Format, Table};
use crate::mover::tenant::{TenantType, Tenants};

/// What a mover may get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The number of a transaction is one too low, or too high.
    Before,
    After,
    /// Snapshots need not see what was dropped.
    Impatient,
    /// It starts again, knowing only what is stored, and stores how far it came without regard to what is unsettled.
    Forgetful,
    /// Updates that change the key are judged by the new row alone.
    JudgedOnce,
    /// A value that the stream does not carry is taken for null.
    Toast,
    /// A chunk that is copied again still counts as copied in between.
    StillCopied,
}

/// Tenant and key.
type Key = (i32, i64);
/// The small value is in every change; the large one only where it is set.
type Cells = (i64, i64);

#[derive(Clone, Debug)]
enum Write {
    Insert(Key, Cells),
    Delete(Key),
    /// The large value stays where it is `None`.
    Update(Key, Key, i64, Option<i64>),
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let length = u64::try_from(from.len()).unwrap();
        (length > 0).then(|| from[usize::try_from(self.below(length)).unwrap()])
    }

    fn key(&mut self) -> Key {
        (i32::try_from(self.below(3)).unwrap(), i64::try_from(self.below(6)).unwrap())
    }

    fn number(&mut self) -> i64 {
        i64::try_from(self.below(1000)).unwrap()
    }
}

type Rows = BTreeMap<Key, Cells>;

fn apply(rows: &mut Rows, write: &Write) {
    match *write {
        Write::Insert(key, cells) => assert_eq!(rows.insert(key, cells), None),
        Write::Delete(key) => assert!(rows.remove(&key).is_some()),
        Write::Update(from, to, small, large) => {
            let (_, kept) = rows.remove(&from).unwrap();
            assert_eq!(rows.insert(to, (small, large.unwrap_or(kept))), None);
        }
    }
}

#[derive(Default)]
struct Source {
    next: u64,
    /// Writing: by number, what they wrote.
    open: BTreeMap<u64, Vec<Write>>,
    /// In the log, and not yet seen.
    ending: BTreeSet<u64>,
    log: Vec<(u64, Vec<Write>)>,
}

impl Source {
    /// The rows as the log has them up to here, but for what is not seen.
    fn rows(&self, unseen: &BTreeSet<u64>) -> Rows {
        let mut rows = Rows::new();
        for (_, writes) in self.log.iter().filter(|(xid, _)| !unseen.contains(xid)) {
            writes.iter().for_each(|write| apply(&mut rows, write));
        }
        rows
    }

    fn snapshot(&self) -> (Snapshot, Rows) {
        let running: BTreeSet<u64> = self.open.keys().chain(&self.ending).copied().collect();
        let xmin = running.first().copied().unwrap_or(self.next);
        let list: Vec<String> = running.iter().map(ToString::to_string).collect();
        let text = format!("{xmin}:{}:{}", self.next, list.join(","));
        (text.parse().unwrap(), self.rows(&self.ending))
    }

    fn held(&self) -> BTreeSet<Key> {
        let open = self.open.values().flatten();
        let ending =
            self.log.iter().filter(|(xid, _)| self.ending.contains(xid)).flat_map(|(_, writes)| writes);
        let keys = |write: &Write| match *write {
            Write::Insert(key, _) | Write::Delete(key) => [key, key],
            Write::Update(from, to, ..) => [from, to],
        };
        open.chain(ending).flat_map(keys).collect()
    }

    /// A write of a transaction, to rows that no other holds.
    fn write(&mut self, xid: u64, random: &mut Random) {
        let mut rows = self.rows(&BTreeSet::new());
        let own = self.open[&xid].clone();
        let mut held = self.held();
        for write in &own {
            apply(&mut rows, write);
            match *write {
                Write::Insert(key, _) | Write::Delete(key) => drop(held.remove(&key)),
                Write::Update(from, to, ..) => drop((held.remove(&from), held.remove(&to))),
            }
        }
        let key = random.key();
        if held.contains(&key) {
            return;
        }
        let write = if !rows.contains_key(&key) {
            Write::Insert(key, (random.number(), random.number()))
        } else {
            let to = random.key();
            let large = (random.below(2) == 0).then(|| random.number());
            match random.below(4) {
                0 => Write::Delete(key),
                1 if !held.contains(&to) && !rows.contains_key(&to) => {
                    Write::Update(key, to, random.number(), large)
                }
                _ => Write::Update(key, key, random.number(), large),
            }
        };
        self.open.get_mut(&xid).unwrap().push(write);
    }
}

/// Where a server names 64 bits, the stream names 32; they wrap around in some of the scenes.
fn short(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).unwrap()
}

fn value(number: i64) -> Value {
    Value::Text(Bytes::from(number.to_string()))
}

fn row(key: Key, small: i64, large: Option<i64>) -> Row {
    vec![value(key.0.into()), value(key.1), value(small), large.map_or(Value::Unchanged, value)]
}

fn op(write: &Write) -> Op {
    let key_of = |key: Key| vec![value(key.0.into()), value(key.1), Value::Null, Value::Null];
    match *write {
        Write::Insert(key, (small, large)) => Op::Insert(row(key, small, Some(large))),
        Write::Delete(key) => Op::Delete(key_of(key)),
        Write::Update(from, to, small, large) => {
            Op::Update { old: (from != to).then(|| key_of(from)), new: row(to, small, large) }
        }
    }
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Text(bytes) => Some(std::str::from_utf8(bytes).unwrap().parse().unwrap()),
        _ => None,
    }
}

fn key(row: &Row) -> Key {
    (i32::try_from(number(&row[0]).unwrap()).unwrap(), number(&row[1]).unwrap())
}

pub(super) fn table() -> Table {
    let column = |name: &str, type_name: &str| Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        identity_always: false,
        hash_as_text: false,
    };
    Table {
        schema: "public".to_owned(),
        name: "item".to_owned(),
        columns: vec![
            column("tenant", "integer"),
            column("id", "bigint"),
            column("small", "bigint"),
            column("large", "bigint"),
        ],
        tenant: 0,
        key: vec![0, 1],
        chunk_by: Some((1, ChunkType::Integer)),
        format: Format::Binary,
    }
}

fn chunk(id: i32, tenant: usize, lower: Option<i64>, upper: Option<i64>) -> Chunk {
    let bound = |bound: Option<i64>| bound.map(ChunkKey::Integer);
    Chunk { id, table: 0, tenant, lower: bound(lower), upper: bound(upper), estimate: 0, copied: None }
}

fn plan() -> Vec<Chunk> {
    vec![
        chunk(0, 0, None, Some(2)),
        chunk(1, 0, Some(2), Some(4)),
        chunk(2, 0, Some(4), None),
        chunk(3, 1, None, None),
    ]
}

fn tenants() -> Tenants {
    Tenants::new(TenantType::Integer, &["0".to_owned(), "1".to_owned()]).unwrap()
}

/// What a destination and its registry have, and how far the stream was applied.
#[derive(Clone)]
struct Stored {
    rows: Rows,
    chunks: Vec<Chunk>,
    applied: usize,
}

struct Mover {
    chunks: Chunks,
    stored: Stored,
    /// What was done since; it is stored as one.
    working: Stored,
    mistake: Mistake,
}

fn within(chunk: &Chunk, key: Key) -> bool {
    let place = ChunkKey::Integer(key.1);
    usize::try_from(key.0).unwrap() == chunk.tenant
        && chunk.lower.is_none_or(|lower| lower <= place)
        && chunk.upper.is_none_or(|upper| place < upper)
}

impl Mover {
    fn new(mistake: Mistake) -> Self {
        let stored = Stored { rows: Rows::new(), chunks: plan(), applied: 0 };
        let chunks = Chunks::new(tenants(), plan()).unwrap();
        Self { chunks, working: stored.clone(), stored, mistake }
    }

    /// The process is gone, and with it what was not stored.
    fn restart(&mut self) {
        self.working = self.stored.clone();
        self.chunks = Chunks::new(tenants(), self.stored.chunks.clone()).unwrap();
    }

    fn store(&mut self, source: &Source) {
        self.chunks.settled(&source.snapshot().0);
        if self.chunks.is_settled() || self.mistake == Mistake::Forgetful {
            self.stored = self.working.clone();
        }
    }

    fn copy(&mut self, source: &Source, random: &mut Random) -> Result<(), String> {
        let missing: Vec<i32> = self.chunks.missing().map(|chunk| chunk.id).collect();
        let Some(id) = random.pick(&missing) else { return Ok(()) };
        let (snapshot, rows) = source.snapshot();
        let acceptable = self.chunks.acceptable(&snapshot);
        if !acceptable && self.mistake != Mistake::Impatient {
            return Ok(());
        }
        let place = self.working.chunks.iter().position(|chunk| chunk.id == id).unwrap();
        let chunk = &mut self.working.chunks[place];
        let mine: Rows = rows.into_iter().filter(|(key, _)| within(chunk, *key)).collect();
        let copied = Copied { snapshot, rows: 0, bytes: 0 };
        chunk.copied = Some(copied.clone());
        self.working.rows.retain(|key, _| !within(chunk, *key));
        self.working.rows.extend(mine);
        if !acceptable {
            self.chunks.settled(&"9999999999999:9999999999999:".parse().unwrap());
        }
        self.chunks.set_copied(id, copied).map_err(|error| error.to_string())?;
        // A copy is a transaction of its own, which is on top of what was stored.
        self.store(source);
        Ok(())
    }

    fn consume(&mut self, source: &Source) -> Result<(), String> {
        let Some((xid, writes)) = source.log.get(self.working.applied) else { return Ok(()) };
        let xid = match self.mistake {
            Mistake::Before => xid - 1,
            Mistake::After => xid + 1,
            _ => *xid,
        };
        for write in writes {
            let mut op = op(write);
            let whole = op.clone();
            if let (Op::Update { old, .. }, Mistake::JudgedOnce) = (&mut op, self.mistake) {
                *old = None;
            }
            let before: Vec<Chunk> = self.chunks.all().to_vec();
            match self.chunks.judge(&table(), 0, op, short(xid)).map_err(|error| error.to_string())? {
                Action::Drop => {}
                Action::Apply(_) if self.mistake == Mistake::JudgedOnce => self.change(&whole)?,
                Action::Apply(op) => self.change(&op)?,
                Action::Recopy(id) if self.mistake == Mistake::Toast => {
                    let was = before.iter().find(|chunk| chunk.id == id).unwrap().copied.clone().unwrap();
                    self.chunks.settled(&"9999999999999:9999999999999:".parse().unwrap());
                    self.chunks.set_copied(id, was).unwrap();
                    let Op::Update { new, .. } = whole else { unreachable!() };
                    self.working.rows.insert(key(&new), (number(&new[2]).unwrap(), 0));
                }
                Action::Recopy(id) => {
                    let place = self.working.chunks.iter().position(|chunk| chunk.id == id).unwrap();
                    if self.mistake != Mistake::StillCopied {
                        self.working.chunks[place].copied = None;
                    }
                }
            }
        }
        self.working.applied += 1;
        Ok(())
    }

    /// Exactly, as the applier does: what it does not find is an error.
    fn change(&mut self, op: &Op) -> Result<(), String> {
        let rows = &mut self.working.rows;
        match op {
            Op::Insert(row) => {
                let large = number(&row[3]).ok_or("an insert without a value")?;
                if rows.insert(key(row), (number(&row[2]).unwrap(), large)).is_some() {
                    return Err(format!("{:?} is there already", key(row)));
                }
            }
            Op::Delete(old) => {
                rows.remove(&key(old)).ok_or_else(|| format!("{:?} to delete is missing", key(old)))?;
            }
            Op::Update { old, new } => {
                let from = old.as_ref().map_or_else(|| key(new), key);
                let (_, kept) = rows.remove(&from).ok_or_else(|| format!("{from:?} to update is missing"))?;
                rows.insert(key(new), (number(&new[2]).unwrap(), number(&new[3]).unwrap_or(kept)));
            }
        }
        Ok(())
    }
}

/// One scene; what came about in it, for the test to know that it does.
fn play(seed: u64, mistake: Mistake, seen: &mut BTreeSet<&'static str>) -> Result<(), String> {
    let mut random = Random(seed);
    let first = if random.below(4) == 0 { (3 << 32) - 10 } else { 100 };
    let mut source = Source { next: first, ..Source::default() };
    let mut mover = Mover::new(mistake);
    // Rows from before the slot: the stream does not have them.
    let before: Rows =
        (0..random.below(8)).map(|_| (random.key(), (random.number(), random.number()))).collect();
    source.log.push((source.next, before.iter().map(|(key, cells)| Write::Insert(*key, *cells)).collect()));
    source.next += 1;
    mover.stored.applied = 1;
    mover.working.applied = 1;

    let mut copied_while = false;
    for _ in 0..60 {
        let open: Vec<u64> = source.open.keys().copied().collect();
        let ending: Vec<u64> = source.ending.iter().copied().collect();
        match random.below(12) {
            0 | 1 if open.len() < 3 => {
                drop(source.open.insert(source.next, Vec::new()));
                source.next += 1;
            }
            0..=4 => {
                if let Some(xid) = random.pick(&open) {
                    source.write(xid, &mut random);
                }
            }
            5 => {
                if let Some(xid) = random.pick(&open) {
                    let writes = source.open.remove(&xid).unwrap();
                    // Some are rolled back.
                    if random.below(5) > 0 {
                        source.log.push((xid, writes));
                        source.ending.insert(xid);
                    }
                }
            }
            6 | 7 => {
                if let Some(xid) = random.pick(&ending) {
                    source.ending.remove(&xid);
                }
            }
            8 => mover.copy(&source, &mut random)?,
            9 | 10 => {
                copied_while |= mover.chunks.missing().next().is_some();
                mover.consume(&source)?;
            }
            _ if random.below(3) == 0 => {
                mover.restart();
                seen.insert("restart");
            }
            _ => mover.store(&source),
        }
        if !mover.chunks.is_settled() {
            seen.insert("unsettled");
        }
    }
    if copied_while {
        seen.insert("consumed before all was copied");
    }
    while let Some((xid, writes)) = source.open.pop_first() {
        source.log.push((xid, writes));
    }
    source.ending.clear();
    // The process may also end here, with nothing stored of late.
    if random.below(2) == 0 {
        mover.restart();
    }
    loop {
        while mover.chunks.missing().next().is_some() {
            mover.store(&source);
            mover.copy(&source, &mut random)?;
        }
        if mover.working.applied == source.log.len() {
            break;
        }
        mover.consume(&source)?;
    }
    let mut wanted = source.rows(&BTreeSet::new());
    wanted.retain(|key, _| key.0 < 2);
    (mover.working.rows == wanted)
        .then_some(())
        .ok_or_else(|| format!("{:?} instead of {wanted:?}", mover.working.rows))
}

const SCENES: u64 = 5_000;

#[test]
fn both_sides_end_with_the_same_rows() {
    let mut seen = BTreeSet::new();
    for seed in 0..SCENES {
        if let Err(what) = play(seed, Mistake::None, &mut seen) {
            panic!("scene {seed}: {what}");
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn the_model_finds_every_mistake() {
    use Mistake::{After, Before, Forgetful, Impatient, JudgedOnce, StillCopied, Toast};
    for mistake in [Before, After, Impatient, Forgetful, JudgedOnce, Toast, StillCopied] {
        let found = (0..SCENES).find(|seed| play(*seed, mistake, &mut BTreeSet::new()).is_err());
        assert!(found.is_some(), "{mistake:?}");
    }
}
