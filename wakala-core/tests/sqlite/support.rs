//! Runs with real journals, and other processes.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use wakala_core::store::{Journal, LeaseTerms, Line, NewRun, StoredRun};
use wakala_core::{Entry, Record, RunId, RunStore, SqliteStore};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Appends entries to a run, chained as the engine chains them.
pub(crate) struct Writer<'s> {
    store: &'s SqliteStore,
    run: RunId,
    epoch: u64,
    last: Line,
}

pub(crate) fn entry(run: &RunId, epoch: u64, last: Option<&Line>) -> Line {
    let seq = last.map_or(0, |line| line.seq + 1);
    let record = Record::Verified { step: format!("step-{seq}").into() };
    Entry::new(seq, SystemTime::now(), epoch, record).line(run, last.map(|line| line.hash.as_str()))
}

pub(crate) fn terms(owner: &str, ttl: Duration) -> LeaseTerms {
    LeaseTerms { owner: owner.to_owned(), ttl }
}

impl<'s> Writer<'s> {
    pub(crate) async fn create(store: &'s SqliteStore, run: &str, ttl: Duration) -> Self {
        let run = RunId::from(run);
        let first = entry(&run, 1, None);
        let new = NewRun {
            run: run.clone(),
            resources: vec![format!("held by {run}").as_str().into()],
            terms: terms("somebody", ttl),
            first: first.clone(),
            supersedes: Vec::new(),
        };
        let epoch = store.create(new).await.unwrap().epoch;
        Self { store, run, epoch, last: first }
    }

    /// Adds an entry and says its place.
    pub(crate) async fn append(&mut self) -> wakala_core::Result<u64> {
        let line = entry(&self.run, self.epoch, Some(&self.last));
        self.store.append(&self.run, self.epoch, line.clone()).await?;
        self.last = line;
        Ok(self.last.seq)
    }

    pub(crate) async fn append_many(&mut self, count: u64) {
        for _ in 0..count {
            self.append().await.unwrap();
        }
    }
}

/// How many entries a run has, all of them as they were written.
#[track_caller]
pub(crate) fn whole(stored: &StoredRun) -> u64 {
    let journal = Journal::read(stored);
    assert_eq!(journal.damage, None);
    journal.entries.len() as u64
}

const ROLE: &str = "WAKALA_TEST_SQLITE_ROLE";
const FILE: &str = "WAKALA_TEST_SQLITE_FILE";

/// This test program, to play a role on a file as a process of its own.
pub(crate) fn command(role: &str, file: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "processes::another_process", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FILE, file)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// The role and the file that this process was started for.
pub(crate) fn role() -> (String, String) {
    let variable =
        |name| env::var(name).unwrap_or_else(|_| panic!("{name} is set by the tests that start this"));
    (variable(ROLE), variable(FILE))
}

/// A process that plays a role. Killed when it is dropped.
pub(crate) struct Other {
    pub(crate) child: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next thing that it [says](say); `None` once it has ended.
    pub(crate) fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.said.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness writes to the same place, also in front of it on a line.
            if let (Some((_, said)), true) = (line.split_once("> "), line.ends_with('\n')) {
                return Some(said.trim_end().to_owned());
            }
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, what: &str) {
        assert_eq!(self.next().as_deref(), Some(what));
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the test that started this process.
#[allow(clippy::print_stdout)]
pub(crate) fn say(what: impl std::fmt::Display) {
    println!("> {what}");
}

/// Waits until the test that started this process closes its end.
pub(crate) fn wait_for_end() {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}
