//! Many moves, each with something that befalls it, under writers; a ledger says what must be there afterwards.
//!
//! The tests make as many as fit into about a minute. A long run, in one line:
//!
//! ```text
//! WAKALA_MOVES=2000 cargo test --release -p wakala-db --all-features --test mover -- --nocapture moves::
//! ```
//!
//! `WAKALA_SAY=1` has every move told. `WAKALA_SEED` has another run made; which one it was, and what happened in the last move, is printed with a failure.
//! The seed gives the faults and the writers their choices, and not the order in which processes get the processor.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::child::{Child, Job, Step, Timeline};
use crate::faults::{Fault, befall, below};
use crate::site::{MOVED, Site};
use crate::writers::place;

const SEED: u64 = 20_261_124;
const MOVES: u64 = 14;
/// A mover that nothing befalls.
const LIMIT: Duration = Duration::from_secs(60);
/// How many of them a move may take; the first may find a server that comes up just now.
const ATTEMPTS: u32 = 5;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_befalls_movers() {
    let (seed, moves) = (number("WAKALA_SEED", SEED), number("WAKALA_MOVES", MOVES));
    println!("{moves} moves, seed {seed}");
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut site = Site::new().await;
    site.write(seed);
    let begun = Instant::now();
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    let (mut usual, mut faults) = (Duration::from_millis(1_500), 0);
    let mut unexplained: BTreeMap<String, u32> = BTreeMap::new();
    for place in 1..=moves {
        let timeline = Timeline::new();
        let done = one_move(&site, place, &mut chance, &mut usual, &timeline);
        let befell = match tokio::time::timeout(Duration::from_secs(400), done).await {
            Ok(Ok(befell)) => befell,
            Ok(Err(why)) => panic!("move {place}, seed {seed}: {why}\n{}", timeline.text()),
            Err(_) => panic!("move {place}, seed {seed}, does not end\n{}", timeline.text()),
        };
        for (kind, failures) in befell {
            faults += 1;
            let name: String = format!("{kind:?}").chars().take_while(|c| c.is_alphabetic()).collect();
            *kinds.entry(name).or_default() += 1;
            for failure in failures {
                *unexplained.entry(failure).or_default() += 1;
            }
        }
        if std::env::var_os("WAKALA_SAY").is_some() {
            println!("move {place}:\n{}", timeline.text());
        }
        let wrong = site.check().await;
        assert!(wrong.is_empty(), "move {place}, seed {seed}:\n{}\n{}", wrong.join("\n"), timeline.text());
        if place % 20 == 0 {
            let (acked, rejected, unknown) = site.shared.ledger.counts();
            println!(
                "{place} moves, {faults} faults in {:?}; {acked} transactions acknowledged, {rejected} refused, {unknown} unknown",
                begun.elapsed()
            );
        }
    }
    site.stop().await;
    let wrong = site.check().await;
    assert!(wrong.is_empty(), "at the end, seed {seed}: {}", wrong.join("\n"));
    let (acked, rejected, unknown) = site.shared.ledger.counts();
    println!(
        "{moves} moves with {faults} faults {kinds:?} in {:?}: nothing lost of {acked} transactions acknowledged, {rejected} \
         refused, {unknown} unknown",
        begun.elapsed()
    );
    for (failure, times) in unexplained {
        println!("{times} times a mover that nothing befell failed at first: {failure}");
    }
    assert!(acked > 20 * moves, "only {acked} transactions");
}

type Befell = Vec<(Fault, Vec<String>)>;

async fn one_move(
    site: &Site,
    number: u64,
    chance: &mut ChaCha8Rng,
    usual: &mut Duration,
    timeline: &std::sync::Arc<Timeline>,
) -> Result<Befell, String> {
    // One or two that are on the same shard.
    let first = MOVED[usize::try_from(below(chance, 4)).unwrap()];
    let (source, _) = site.owner(first).await;
    let mut tenants = vec![first];
    let other = MOVED[usize::try_from(below(chance, 4)).unwrap()];
    if other != first && site.owner(other).await.0 == source {
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
        chunk_bytes: 64 << (10 + below(chance, 8)),
        dies_at: None,
        waits_at: None,
    };
    timeline.add(format!("{job:?}"));
    let mut befell = Vec::new();
    let mut done = false;
    while !done && (befell.is_empty() || (befell.len() < 3 && below(chance, 3) == 0)) {
        let fault = Fault::any(chance, *usual);
        done = befall(site, &mut job, fault, timeline).await;
        befell.push((fault, Vec::new()));
    }
    let mut attempts = 0;
    while !done {
        attempts += 1;
        if attempts > ATTEMPTS {
            return Err(format!("not done by {ATTEMPTS} movers that nothing befell"));
        }
        let begun = Instant::now();
        let child = Child::start(&job, "last mover", timeline);
        let said = std::sync::Arc::clone(&child.said);
        done = child.end(LIMIT).await;
        if done && job.from == 0 {
            *usual = usual.mul_f64(0.9) + begun.elapsed().mul_f64(0.1);
        }
        job.from = said.next_step.load(std::sync::atomic::Ordering::SeqCst);
        let failed = said.failed.lock().unwrap().clone();
        if let Some(failed) = failed {
            if failed.starts_with("UNEQUAL") || failed.contains("panicked") {
                return Err(failed);
            }
            let last = befell.last_mut().expect("at least one befell it");
            last.1.push(failed.replace(&job.id, "…"));
        }
    }
    if timeline.text().contains(": UNEQUAL") || timeline.text().contains("panicked") {
        return Err("a mover found a difference, or panicked".to_owned());
    }
    let expected = if is_moved { job.destination } else { job.source };
    for tenant in tenants {
        let (owner, _) = site.owner(tenant).await;
        if owner != expected {
            return Err(format!("tenant {tenant} is on shard {owner}, not {expected}"));
        }
        let _ = place(owner);
    }
    Ok(befell)
}
