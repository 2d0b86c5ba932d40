//! What befalls a mover, or the servers below it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use crate::child::{Child, Job, Timeline};
use crate::site::Site;
use crate::writers::place;

/// How long a mover that was disturbed may go on.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a move takes to which nothing happens, and how many events it has; both are learnt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual {
    time: Duration,
    events: f64,
}

impl Default for Usual {
    fn default() -> Self {
        Self { time: Duration::from_millis(1_500), events: 24.0 }
    }
}

impl Usual {
    pub(crate) fn learn(&mut self, time: Duration, events: usize) {
        self.time = self.time.mul_f64(0.9) + time.mul_f64(0.1);
        self.events = self.events * 0.9 + events as f64 * 0.1;
    }

    fn event(self, chance: &mut ChaCha8Rng) -> usize {
        let most = (1..).take_while(|event| f64::from(*event) < self.events).last().unwrap_or(1_u32);
        1 + usize::try_from(below(chance, most.into())).unwrap()
    }
}

/// What came of a mover that something was to befall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// It did all the same what it was to do.
    pub(crate) done: bool,
    /// It was at work when it befell it.
    pub(crate) struck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    After(Duration),
    /// While the mover waits within this event.
    Event(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The directory does not answer.
    Directory(When, Duration),
    /// It dies by its own hand at this event.
    Dies(usize),
    /// Held still; another one goes on, and the first comes back then.
    Freeze(When, Duration),
    Kill(When),
    /// All connections to a server break.
    Cut(When, i32, Duration),
    /// A server is killed, or both (0).
    Server(When, i32),
    /// The slot of the way there is dropped while nobody reads it, before a tenant was handed over.
    SlotDropped,
    /// The same, by the server's own fuse.
    SlotInvalidated,
    /// One of its sessions is ended, or the one that sends the stream.
    Terminate(When, i32, bool),
}

pub(crate) fn below(chance: &mut ChaCha8Rng, limit: u64) -> u64 {
    u64::from(chance.next_u32()) % limit
}

fn millis(chance: &mut ChaCha8Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + below(chance, to - from))
}

impl Fault {
    /// One of them.
    pub(crate) fn any(chance: &mut ChaCha8Rng, usual: Usual) -> Self {
        let when = if below(chance, 2) == 0 {
            When::After(usual.time.mul_f64(below(chance, 1_000) as f64 / 1_000.0))
        } else {
            When::Event(usual.event(chance))
        };
        let server = 1 + i32::try_from(below(chance, 2)).unwrap();
        match below(chance, 100) {
            0..22 => Self::Dies(usual.event(chance)),
            22..40 => Self::Kill(when),
            40..52 => Self::Freeze(when, millis(chance, 100, 1_200)),
            52..62 => Self::Cut(when, server, millis(chance, 10, 300)),
            62..76 => Self::Terminate(when, server, below(chance, 2) == 0),
            76..82 => Self::Directory(when, millis(chance, 50, 500)),
            82..94 => Self::Server(when, i32::try_from(below(chance, 3)).unwrap()),
            94..98 => Self::SlotDropped,
            _ => Self::SlotInvalidated,
        }
    }

    fn when(self) -> Option<When> {
        match self {
            Self::Cut(when, ..)
            | Self::Directory(when, _)
            | Self::Freeze(when, _)
            | Self::Kill(when)
            | Self::Server(when, _)
            | Self::Terminate(when, ..) => Some(when),
            Self::Dies(_) | Self::SlotDropped | Self::SlotInvalidated => None,
        }
    }
}

/// Runs a mover that this befalls. `job` is then where the next one goes on.
pub(crate) async fn befall(site: &Site, job: &mut Job, fault: Fault, timeline: &Arc<Timeline>) -> Outcome {
    timeline.add(format!("fault: {fault:?}"));
    let mut first = job.clone();
    match fault {
        Fault::Dies(event) => first.dies_at = Some(event),
        // "Taken", "Prepared", and nothing handed over.
        Fault::SlotDropped | Fault::SlotInvalidated => first.dies_at = Some(3),
        _ => {}
    }
    if let Some(When::Event(event)) = fault.when() {
        first.waits_at = Some(event);
    }
    let child = Child::start(&first, "mover", timeline);
    match fault.when() {
        Some(When::After(time)) => {
            let _ = tokio::time::timeout(time, child.wait_event(usize::MAX)).await;
        }
        Some(When::Event(event)) => {
            let _ = tokio::time::timeout(LIMIT, child.wait_event(event)).await;
        }
        None => {}
    }
    let said = Arc::clone(&child.said);
    let mut struck = !said.is_over();
    match fault {
        // It was done before it came to that.
        _ if fault.when().is_some() && !struck => {}
        Fault::Dies(_) => {}
        Fault::Kill(_) => child.signal("-KILL"),
        Fault::Freeze(_, time) => {
            let done = freeze(child, job, time, timeline).await;
            return Outcome { done, struck };
        }
        Fault::Cut(_, server, time) => cut(site, place(server), time, timeline).await,
        Fault::Directory(_, time) => cut(site, 2, time, timeline).await,
        Fault::Terminate(_, server, sender) => {
            let which = if sender { "backend_type = 'walsender'" } else { "backend_type = 'client backend'" };
            let sql = format!(
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity
                 WHERE application_name = 'wakala move {}' AND {which} ORDER BY random() LIMIT 1) AS one) AS done",
                job.id
            );
            let ended = site.rig.value(server, &sql).await;
            struck = ended != "0";
            timeline.add(format!("ended {ended} sessions on shard {server}"));
        }
        Fault::Server(_, which) => kill_servers(site, which, timeline).await,
        Fault::SlotDropped | Fault::SlotInvalidated => {
            let done = child.end(LIMIT).await;
            struck = !done && lose_slot(site, job, fault == Fault::SlotInvalidated, timeline).await;
            job.from = said.next_step();
            return Outcome { done, struck };
        }
    }
    let done = child.end(LIMIT).await;
    job.from = said.next_step();
    struck &= !(done && matches!(fault, Fault::Dies(_)));
    Outcome { done, struck }
}

/// Another mover takes over from one that is held still, and comes back then.
async fn freeze(child: Child, job: &mut Job, time: Duration, timeline: &Arc<Timeline>) -> bool {
    child.signal("-STOP");
    timeline.add("frozen");
    let said = Arc::clone(&child.said);
    let mut second = job.clone();
    second.from = said.next_step();
    let other = Child::start(&second, "other", timeline);
    let _ = tokio::time::timeout(time, other.wait_event(usize::MAX)).await;
    timeline.add("thawed");
    child.signal("-CONT");
    let of_other = Arc::clone(&other.said);
    let (done, _) = tokio::join!(other.end(LIMIT), child.end(LIMIT));
    job.from = of_other.next_step().max(said.next_step());
    done
}

async fn cut(site: &Site, link: usize, time: Duration, timeline: &Timeline) {
    site.links[link].cut().await.unwrap();
    timeline.add(format!("link {link} is cut"));
    tokio::time::sleep(time).await;
    site.links[link].restore().await.unwrap();
    timeline.add(format!("link {link} is restored"));
}

async fn kill_servers(site: &Site, which: i32, timeline: &Timeline) {
    let shards: Vec<i32> = if which == 0 { vec![1, 2] } else { vec![which] };
    for shard in &shards {
        site.shared.disturbed[place(*shard)].store(true, Ordering::SeqCst);
        let at = Instant::now();
        site.rig.servers[place(*shard)].kill().await.unwrap();
        site.shared.ledger.crashed(*shard, at);
        timeline.add(format!("shard {shard} is killed"));
    }
    for shard in &shards {
        site.rig.servers[place(*shard)].start().await.unwrap();
        timeline.add(format!("shard {shard} is up again"));
    }
}

/// What a killed mover was reading goes; false where there was nothing.
async fn lose_slot(site: &Site, job: &Job, by_fuse: bool, timeline: &Timeline) -> bool {
    let name = format!("wakala_{}", job.id);
    let server = &site.rig.servers[place(job.source)];
    let there = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
    if site.rig.value(job.source, &there).await == "0" {
        timeline.add("there is no slot that could be lost");
        return false;
    }
    if !by_fuse {
        let sql = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}';
             DO $$ BEGIN
                 WHILE EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{name}' AND active) LOOP
                     PERFORM pg_sleep(0.01); COMMIT;
                 END LOOP;
                 PERFORM pg_drop_replication_slot('{name}');
             END $$"
        );
        server.execute("shop", &sql).await.unwrap();
        timeline.add(format!("slot {name} is dropped"));
        return true;
    }
    server.execute("shop", "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await.unwrap();
    server.execute("shop", "SELECT pg_reload_conf()").await.unwrap();
    let lost = format!(
        "SELECT coalesce((SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{name}'), 'gone')"
    );
    for _ in 0..20 {
        server
            .execute("shop", "SELECT pg_logical_emit_message(false, 'filler', 'x'), pg_switch_wal()")
            .await
            .unwrap();
        server.execute("shop", "CHECKPOINT").await.unwrap();
        if site.rig.value(job.source, &lost).await == "lost" {
            break;
        }
    }
    timeline.add(format!("slot {name} is {}", site.rig.value(job.source, &lost).await));
    server.execute("shop", "ALTER SYSTEM RESET max_slot_wal_keep_size").await.unwrap();
    server.execute("shop", "SELECT pg_reload_conf()").await.unwrap();
    true
}
