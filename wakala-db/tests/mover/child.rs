//! A mover in a process of its own, which can be killed and frozen.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::watch;
use tokio_postgres::{Config, NoTls};
use tokio_util::sync::CancellationToken;
use wakala_db::{
    Directory, MoveEvent, MoveId, MoveObserver, MoveOptions, MoveSpec, Mover, SchemaName, ShardAccess,
    TenantId,
};

use crate::rig::shard;

const JOB: &str = "WAKALA_MOVER_JOB";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    Abort,
    Copy,
    Finish,
    Follow,
    HandOver,
    TakeBack,
    Verify,
}

/// What a mover is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) source: i32,
    pub(crate) destination: i32,
    pub(crate) tenants: Vec<i64>,
    pub(crate) steps: Vec<Step>,
    /// The first step that is to be done.
    pub(crate) from: usize,
    /// Of both servers.
    pub(crate) ports: [u16; 2],
    pub(crate) passwords: [String; 2],
    pub(crate) directory_port: u16,
    pub(crate) chunk_bytes: u64,
    /// It dies by its own hand at this event, counted from 1.
    pub(crate) dies_at: Option<usize>,
    /// It waits a moment at this event.
    pub(crate) waits_at: Option<usize>,
}

#[derive(Debug)]
struct Teller {
    events: AtomicUsize,
    dies_at: Option<usize>,
    waits_at: Option<usize>,
}

impl MoveObserver for Teller {
    fn on_event(&self, event: &MoveEvent) {
        let number = self.events.fetch_add(1, Ordering::SeqCst) + 1;
        println!("\nevent {number} {event:?}");
        if self.dies_at == Some(number) {
            std::process::abort();
        }
        if self.waits_at == Some(number) {
            tokio::task::block_in_place(|| std::thread::park_timeout(Duration::from_millis(200)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by other tests, which kill it"]
async fn drives_a_move() {
    let job: Job = serde_json::from_str(&std::env::var(JOB).unwrap()).unwrap();
    match drive(&job).await {
        Ok(()) => println!("\ndone"),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                if let Some(answer) =
                    source.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.as_db_error())
                {
                    text = format!("{text}: {} {answer}", answer.code().code());
                }
                cause = source.source();
            }
            println!("\nfailed {:?} {}", error.kind(), text.replace('\n', " / "));
        }
    }
}

async fn drive(job: &Job) -> wakala_core::Result<()> {
    let config = |number: usize, port: u16| {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).dbname("shop").user("postgres").password(&job.passwords[number]);
        config
    };
    let pool = Pool::builder(Manager::new(config(0, job.directory_port), NoTls)).max_size(2).build().unwrap();
    let directory = Directory::new(pool, SchemaName::default());
    let id: MoveId = job.id.parse()?;
    let tenants: Vec<TenantId> = job.tenants.iter().map(|tenant| TenantId::from(*tenant)).collect();
    let spec = MoveSpec::new(id, shard(job.source), shard(job.destination), tenants.clone())?;
    let access = |number: i32| {
        let place = crate::writers::place(number);
        ShardAccess::without_tls(config(place, job.ports[place]))
    };
    let mut options = MoveOptions::default();
    options.chunk_bytes = job.chunk_bytes;
    // The machine of the tests is shared.
    options.lag_budget = Duration::from_secs(2);
    let teller = Teller { events: AtomicUsize::new(0), dies_at: job.dies_at, waits_at: job.waits_at };
    let mut mover = Mover::open(spec, access(job.source), access(job.destination), directory)
        .await?
        .with_options(options)
        .with_observer(Arc::new(teller));
    for (place, step) in job.steps.iter().enumerate().skip(job.from) {
        match step {
            Step::Copy => mover.copy(&CancellationToken::new()).await?,
            Step::Verify => {
                let found = mover.verify().await?;
                if !found.is_equal() {
                    println!("\nUNEQUAL {found:?}");
                }
            }
            Step::HandOver => {
                for tenant in &tenants {
                    mover.hand_over(tenant).await?;
                }
            }
            Step::TakeBack => {
                for tenant in tenants.iter().rev() {
                    mover.take_back(tenant).await?;
                }
            }
            Step::Follow => {
                let stop = CancellationToken::new();
                let timer = async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    stop.cancel();
                    Ok(())
                };
                futures::try_join!(mover.follow(&stop), timer).map(drop)?;
            }
            Step::Finish => {
                mover.finish().await?;
                println!("\nstep {place}");
                return Ok(());
            }
            Step::Abort => {
                mover.abort().await?;
                println!("\nstep {place}");
                return Ok(());
            }
        }
        println!("\nstep {place}");
    }
    Ok(())
}

/// Such a process.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    id: String,
    pub(crate) said: Arc<Said>,
    reader: tokio::task::JoinHandle<()>,
}

/// What it said so far.
#[derive(Debug)]
pub(crate) struct Said {
    /// Where the next one begins.
    next_step: AtomicUsize,
    heard: AtomicUsize,
    events: watch::Sender<usize>,
    done: std::sync::atomic::AtomicBool,
    failed: Mutex<Option<String>>,
    timeline: Arc<Timeline>,
}

impl Said {
    pub(crate) fn next_step(&self) -> usize {
        self.next_step.load(Ordering::SeqCst)
    }

    /// How many events it told.
    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap().clone()
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.events.borrow() == usize::MAX
    }
}

/// What happened in a move, for whoever has to understand a failure.
#[derive(Debug)]
pub(crate) struct Timeline {
    begun: Instant,
    lines: Mutex<Vec<String>>,
}

impl Timeline {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), lines: Mutex::default() })
    }

    pub(crate) fn add(&self, text: impl std::fmt::Display) {
        let line = format!("{:8.3} {text}", self.begun.elapsed().as_secs_f64());
        self.lines.lock().unwrap().push(line);
    }

    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl Child {
    pub(crate) fn start(job: &Job, name: &str, timeline: &Arc<Timeline>) -> Self {
        let mut process = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::drives_a_move", "--ignored", "--nocapture"])
            .env(JOB, serde_json::to_string(job).unwrap())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let id = process.id().unwrap().to_string();
        let said = Arc::new(Said {
            next_step: AtomicUsize::new(job.from),
            heard: AtomicUsize::new(0),
            events: watch::Sender::new(0),
            done: false.into(),
            failed: Mutex::default(),
            timeline: Arc::clone(timeline),
        });
        timeline.add(format!("{name} (process {id}) begins at step {}", job.from));
        let (out, err) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let (of_out, of_err) = (Arc::clone(&said), Arc::clone(&said));
        let (name, name_err) = (name.to_owned(), name.to_owned());
        let reader = tokio::spawn(async move {
            tokio::join!(read(out, &name, of_out), read(err, &name_err, of_err));
        });
        Self { process, id, said, reader }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let _ = std::process::Command::new("kill").args([signal, &self.id]).stderr(Stdio::null()).status();
    }

    /// Until it has said so many events, or is over.
    pub(crate) async fn wait_event(&self, number: usize) {
        let mut events = self.said.events.subscribe();
        let _ = events.wait_for(|events| *events >= number).await;
    }

    /// Waits for its end, and kills it where it takes too long; whether it did all.
    pub(crate) async fn end(mut self, limit: Duration) -> bool {
        if tokio::time::timeout(limit, self.process.wait()).await.is_err() {
            self.said.timeline.add(format!("process {} takes more than {limit:?}", self.id));
            self.signal("-KILL");
            let _ = self.process.wait().await;
        }
        let _ = (&mut self.reader).await;
        self.said.timeline.add(format!("process {} is over", self.id));
        self.said.done.load(Ordering::SeqCst)
    }
}

async fn read(from: impl AsyncRead + Unpin, name: &str, said: Arc<Said>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.is_empty() || line.starts_with("running 1 test") || line.starts_with("test ") {
            continue;
        }
        said.timeline.add(format!("{name}: {line}"));
        if let Some(number) = line.strip_prefix("event ").and_then(|rest| rest.split(' ').next()) {
            let number = number.parse().unwrap();
            said.heard.store(number, Ordering::SeqCst);
            said.events.send_replace(number);
        } else if let Some(step) = line.strip_prefix("step ") {
            said.next_step.store(step.parse::<usize>().unwrap() + 1, Ordering::SeqCst);
        } else if line == "done" {
            said.done.store(true, Ordering::SeqCst);
        } else if line.starts_with("failed") || line.starts_with("UNEQUAL") || line.contains("panicked") {
            said.failed.lock().unwrap().get_or_insert(line);
        }
    }
    said.events.send_replace(usize::MAX);
}
