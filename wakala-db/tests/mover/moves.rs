//! Many moves, each with something that befalls it, under writers; a ledger says what must be there afterwards.
//!
//! The tests make as many as fit into a minute. A long run, in one line:
//!
//! ```text
//! WAKALA_MOVES=2000 cargo test --release -p wakala-db --all-features --test mover -- --nocapture moves::
//! ```
//!
//! `WAKALA_SITES` has as many pairs of shards at work side by side. `WAKALA_SAY=1` has every move told. `WAKALA_SEED` has
//! another run made; which one it was, and what happened in the last move, is printed with a failure. The seed gives the
//! faults and the writers their choices, and not the order in which processes get the processor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::task::JoinSet;

use crate::child::{Child, Job, Step, Timeline};
use crate::faults::{Fault, Usual, befall, below};
use crate::site::{MOVED, Site};

const SEED: u64 = 20_261_124;
const MOVES: u64 = 20;
const SITES: u64 = 1;
/// A mover that nothing befalls.
const LIMIT: Duration = Duration::from_secs(60);
/// How many of them a move may take; the first may find a server that comes up just now.
const ATTEMPTS: u32 = 5;
/// For the whole of it.
const WHOLE: Duration = Duration::from_secs(400);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// What is to be done, and whether the tenants are on the other shard then.
fn steps(chance: &mut ChaCha8Rng) -> (Vec<Step>, bool) {
    use Step::{Abort, Copy, Finish, Follow, HandOver, TakeBack, Verify};
    match below(chance, 10) {
        0..4 => (vec![Copy, HandOver, Finish], true),
        4..6 => (vec![Copy, Verify, HandOver, Verify, Finish], true),
        6..8 => (vec![Copy, HandOver, Follow, TakeBack, Abort], false),
        8 => (vec![Copy, HandOver, Verify, TakeBack, Verify, HandOver, Finish], true),
        _ => (vec![Copy, Follow, Abort], false),
    }
}

/// All sizes from 1 KiB to 8 MiB, half of them below 8 KiB: there a table has many chunks.
fn chunk_bytes(chance: &mut ChaCha8Rng) -> u64 {
    1 << if below(chance, 2) == 0 { 10 + below(chance, 3) } else { 10 + below(chance, 14) }
}

/// What came of a run.
#[derive(Debug)]
struct Tally {
    begun: Instant,
    wanted: u64,
    /// Moves that something befell.
    faulted: AtomicU64,
    /// All moves.
    moves: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    faults: u32,
    kinds: BTreeMap<String, u32>,
    /// Of movers that nothing befell.
    unexplained: BTreeMap<String, u32>,
    /// Acknowledged, refused, unknown, by site.
    transactions: BTreeMap<u64, (u64, u64, u64)>,
}

impl Tally {
    fn add(&self, befell: Befell) -> bool {
        let mut counts = self.counts.lock().unwrap();
        let mut is_faulted = false;
        for Blow { fault, struck, failures } in befell {
            if struck {
                is_faulted = true;
                counts.faults += 1;
                let name: String = format!("{fault:?}").chars().take_while(|c| c.is_alphabetic()).collect();
                *counts.kinds.entry(name).or_default() += 1;
            }
            for failure in failures {
                *counts.unexplained.entry(failure).or_default() += 1;
            }
        }
        self.moves.fetch_add(1, Ordering::SeqCst);
        is_faulted && (self.faulted.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(20)
    }

    fn is_over(&self) -> bool {
        self.faulted.load(Ordering::SeqCst) >= self.wanted
    }

    fn acknowledged(&self) -> u64 {
        self.counts.lock().unwrap().transactions.values().map(|(acked, ..)| acked).sum()
    }

    fn text(&self) -> String {
        let counts = self.counts.lock().unwrap();
        let sum = |of: fn(&(u64, u64, u64)) -> u64| counts.transactions.values().map(of).sum::<u64>();
        let mut text = format!(
            "{} moves, {} of them with {} faults {:?}, in {:.1?}: nothing lost or doubled of {} transactions acknowledged, \
             {} refused, {} unknown",
            self.moves.load(Ordering::SeqCst),
            self.faulted.load(Ordering::SeqCst),
            counts.faults,
            counts.kinds,
            self.begun.elapsed(),
            sum(|t| t.0),
            sum(|t| t.1),
            sum(|t| t.2),
        );
        for (failure, times) in &counts.unexplained {
            write!(text, "\n    {times} times a mover that nothing befell failed at first: {failure}")
                .unwrap();
        }
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_befalls_movers() {
    let (seed, wanted) = (number("WAKALA_SEED", SEED), number("WAKALA_MOVES", MOVES));
    let sites = number("WAKALA_SITES", SITES).max(1);
    println!("{wanted} moves, seed {seed}, {sites} sites");
    let tally = Arc::new(Tally {
        begun: Instant::now(),
        wanted,
        faulted: 0.into(),
        moves: 0.into(),
        counts: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for site in 0..sites {
        tasks.spawn(on_a_site(site, seed.wrapping_add(site), Arc::clone(&tally)));
    }
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(why)) => panic!("{why}\n{}", tally.text()),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    println!("{}", tally.text());
    assert!(tally.acknowledged() > 20 * wanted, "too few transactions");
}

async fn on_a_site(place: u64, seed: u64, tally: Arc<Tally>) -> Result<(), String> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut site = Site::new().await;
    site.write(seed);
    let mut usual = Usual::default();
    for number in 1.. {
        if tally.is_over() {
            break;
        }
        let name = format!("move {number} of site {place}, seed {seed}");
        let timeline = Timeline::new();
        let done = one_move(&site, number, &mut chance, &mut usual, &timeline);
        let befell = match tokio::time::timeout(WHOLE, done).await {
            Ok(Ok(befell)) => befell,
            Ok(Err(why)) => return Err(format!("{name}: {why}\n{}", timeline.text())),
            Err(_) => return Err(format!("{name} does not end\n{}", timeline.text())),
        };
        timeline.add("done");
        let wrong = site.check().await;
        timeline.add("checked");
        if std::env::var_os("WAKALA_SAY").is_some() {
            println!("{name}:\n{}", timeline.text());
        }
        if !wrong.is_empty() {
            return Err(format!("{name}:\n{}\n{}", wrong.join("\n"), timeline.text()));
        }
        tally.counts.lock().unwrap().transactions.insert(place, site.shared.ledger.counts());
        if tally.add(befell) {
            println!("{}", tally.text());
        }
    }
    site.stop().await;
    let wrong = site.check().await;
    if wrong.is_empty() { Ok(()) } else { Err(format!("at the end, seed {seed}: {}", wrong.join("\n"))) }
}

/// One fault of a move.
#[derive(Debug)]
struct Blow {
    fault: Fault,
    /// Whether the mover was still at work then.
    struck: bool,
    /// Of movers that went on later.
    failures: Vec<String>,
}

type Befell = Vec<Blow>;

async fn one_move(
    site: &Site,
    number: u64,
    chance: &mut ChaCha8Rng,
    usual: &mut Usual,
    timeline: &Arc<Timeline>,
) -> Result<Befell, String> {
    // One or two that are on the same shard.
    let owners = site.owners().await;
    let first = MOVED[usize::try_from(below(chance, 4)).unwrap()];
    let source = owners[&first].0;
    let mut tenants = vec![first];
    let other = MOVED[usize::try_from(below(chance, 4)).unwrap()];
    if other != first && owners[&other].0 == source {
        tenants.push(other);
    }
    let (steps, is_moved) = steps(chance);
    let password = |number: usize| {
        let config = site.rig.servers[number].config("shop", "postgres").unwrap();
        String::from_utf8(config.get_password().unwrap().to_vec()).unwrap()
    };
    let mut job = Job {
        id: format!("m{number}"),
        source,
        destination: 3 - source,
        tenants: tenants.clone(),
        steps,
        from: 0,
        ports: [site.links[0].port(), site.links[1].port()],
        passwords: [password(0), password(1)],
        directory_port: site.links[2].port(),
        chunk_bytes: chunk_bytes(chance),
        dies_at: None,
        waits_at: None,
    };
    timeline.add(format!("{job:?}"));
    let mut befell = Vec::new();
    let mut done = false;
    while !done && (befell.is_empty() || (befell.len() < 3 && below(chance, 3) == 0)) {
        let fault = Fault::any(chance, *usual);
        let outcome = befall(site, &mut job, fault, timeline).await;
        done = outcome.done;
        befell.push(Blow { fault, struck: outcome.struck, failures: Vec::new() });
    }
    let mut attempts = 0;
    while !done {
        attempts += 1;
        if attempts > ATTEMPTS {
            return Err(format!("not done by {ATTEMPTS} movers that nothing befell"));
        }
        let begun = Instant::now();
        let child = Child::start(&job, "last mover", timeline);
        let said = Arc::clone(&child.said);
        done = child.end(LIMIT).await;
        if done && job.from == 0 {
            usual.learn(begun.elapsed(), said.heard());
        }
        job.from = said.next_step();
        if let Some(failed) = said.failure() {
            if failed.starts_with("UNEQUAL") || failed.contains("panicked") {
                return Err(failed);
            }
            let last = befell.last_mut().expect("at least one befell it");
            last.failures.push(failed.replace(&job.id, "…"));
        }
    }
    if timeline.text().contains(": UNEQUAL") || timeline.text().contains("panicked") {
        return Err("a mover found a difference, or panicked".to_owned());
    }
    let expected = if is_moved { job.destination } else { job.source };
    let owners = site.owners().await;
    for tenant in tenants {
        let owner = owners[&tenant].0;
        if owner != expected {
            return Err(format!("tenant {tenant} is on shard {owner}, not {expected}"));
        }
    }
    Ok(befell)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_sees_what_is_lost_doubled_and_changed() {
    let mut site = Site::new().await;
    site.write(SEED);
    while site.shared.ledger.counts().0 < 300 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.stop().await;
    assert_eq!(site.check().await, Vec::<String>::new());
    let one =
        |table: &str, tenant: i64| format!("(SELECT min(ctid) FROM {table} WHERE tenant_id = {tenant})");
    for (sql, words) in [
        (format!("DELETE FROM entry WHERE ctid = {}", one("entry", 1)), ["tenant 1: Acked", "tenant 1: account"]),
        (
            format!(
                "INSERT INTO entry (tenant_id, account, amount, op) SELECT tenant_id, account, amount, op FROM entry
                 WHERE ctid = {}",
                one("entry", 2)
            ),
            ["tenant 2: Acked", "tenant 2: account"],
        ),
        (format!("UPDATE thing SET note = 'x' WHERE ctid = {}", one("thing", 3)), ["tenant 3: thing", "note x"]),
        (
            "UPDATE entry SET shard = 2 WHERE tenant_id = 4".to_owned(),
            ["was written on shard 2 in epoch 1", "which was shard 1's"],
        ),
        (
            "INSERT INTO entry (tenant_id, account, amount, op) VALUES (11, 1, 0, 1000000)".to_owned(),
            ["tenant 11: nobody wrote", "tenant 11: account"],
        ),
    ] {
        site.rig.servers[0].execute("shop", &sql).await.unwrap();
        let wrong = site.check().await.join("\n");
        for word in words {
            assert!(wrong.contains(word), "{word:?} after {sql}: {wrong}");
        }
    }
}
