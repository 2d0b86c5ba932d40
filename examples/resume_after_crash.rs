//! What happens when the process that scales is killed in the middle?
//!
//! ```text
//! cargo run -p wakala-examples --example resume_after_crash
//! ```
//!
//! The program starts itself as a child that runs a playbook and kills itself (SIGKILL) right after its second effect,
//! before it could record that. Then it looks at the run as the person on call would, and goes on with it: the effect is
//! found in place, not repeated, and the rest is done. The production is a folder of files, so that it outlives the child.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use async_trait::async_trait;
use wakala_core::{
    Applied, Approval, Engine, Error, ErrorKind, Event, Observer, Playbook, Result, RunContext, RunHandle,
    RunInfo, Setting, SettingInfo, SettingStep, SqliteStore, Status, Version, Versioned, step,
};

const RUN: &str = "spike-1";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder] = arguments.as_slice()
        && mode == "child"
    {
        return begin(folder.as_ref()).await;
    }
    let folder = std::env::temp_dir().join(format!("wakala-resume-{}", std::process::id()));
    let shown = crash_and_resume(&folder).await;
    fs::remove_dir_all(&folder).map_err(|e| failed("remove", &folder, e))?;
    shown
}

async fn crash_and_resume(folder: &Path) -> Result<ExitCode> {
    fs::create_dir(folder).map_err(|e| failed("create", folder, e))?;
    for (name, replicas) in [("api", 10), ("cache", 2), ("worker", 4)] {
        put(&folder.join(name), replicas)?;
    }

    println!("-- a process begins the run, and is killed right after its second effect");
    let program = std::env::current_exe().map_err(|e| failed("find", folder, e))?;
    let child =
        Command::new(program).arg("child").arg(folder).status().map_err(|e| failed("start", folder, e))?;
    println!("the process ended: {child}\n");

    println!("-- what the person on call sees");
    let engine = engine(folder).await?;
    for run in engine.runs().await? {
        println!("{} {}: {}", run.run_id, run.playbook, run.condition);
    }

    println!("\n-- another process goes on, as ana decides");
    let report = engine.resume(&playbook(folder, None)?, &RunHandle::new(RUN).by("ana")).await?;
    println!("\n{report}");

    println!("-- every write that the production has seen");
    print!("{}", fs::read_to_string(folder.join("writes")).map_err(|e| failed("read", folder, e))?);
    Ok(if report.status == Status::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the child does, until it is killed.
async fn begin(folder: &Path) -> Result<ExitCode> {
    let engine = engine(folder).await?;
    let playbook = playbook(folder, Some("cache"))?;
    let plan = engine.plan(&playbook).await?;
    engine.run(&playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new(RUN)).await?;
    Ok(ExitCode::FAILURE)
}

async fn engine(folder: &Path) -> Result<Engine> {
    let store = SqliteStore::open(folder.join("runs.db")).await?;
    Ok(Engine::new().with_store(Arc::new(store)).with_observer(Arc::new(Lines)))
}

/// Built by both processes alike. Where the first of them dies is none of the playbook's business.
fn playbook(folder: &Path, dies_after: Option<&str>) -> Result<Playbook> {
    let replicas = |name: &str, wanted| {
        let setting = Replicas { file: folder.join(name), wanted, fatal: dies_after == Some(name) };
        step(SettingStep::new(name, setting))
    };
    Playbook::builder("spike")
        .then(replicas("api", 50))
        .then(replicas("cache", 5))
        .then(replicas("worker", 12))
        .build()
}

/// The replicas of something, as a number in a file.
#[derive(Debug)]
struct Replicas {
    file: PathBuf,
    wanted: u32,
    /// Whether the process is killed once the number is written.
    fatal: bool,
}

#[async_trait]
impl Setting for Replicas {
    type Value = u32;

    fn info(&self) -> SettingInfo {
        let file = self.file.display();
        SettingInfo::new(format!("set {file}"), format!("files/{file}").as_str())
    }

    async fn read(&self, _: &RunContext) -> Result<Versioned<u32>> {
        let text = fs::read_to_string(&self.file).map_err(|e| failed("read", &self.file, e))?;
        let number = text.trim().parse().map_err(|e| failed("read", &self.file, e))?;
        Ok(Versioned::new(number))
    }

    async fn write(&self, _: &RunContext, value: &u32, _: Option<&Version>) -> Result<Applied> {
        put(&self.file, *value)?;
        if self.fatal {
            let pid = std::process::id().to_string();
            Command::new("kill").args(["-9", &pid]).status().map_err(|e| failed("kill", &self.file, e))?;
            // The signal is on its way.
            std::future::pending::<()>().await;
        }
        Ok(Applied::Changed)
    }

    fn desired(&self, current: &u32) -> Result<u32> {
        Ok(self.wanted.max(*current))
    }
}

/// Writes the number, and a line about it for the end of the show.
fn put(file: &Path, replicas: u32) -> Result<()> {
    let new = file.with_extension("new");
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let write = || -> std::io::Result<()> {
        fs::write(&new, format!("{replicas}\n"))?;
        fs::rename(&new, file)?;
        let mut writes = OpenOptions::new().create(true).append(true).open(file.with_file_name("writes"))?;
        writeln!(writes, "{name} = {replicas}")
    };
    write().map_err(|e| failed("write", file, e))
}

fn failed(what: &'static str, path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, what, "the file system refused").on(path.display()).with_source(error)
}

/// Shows the journal as it is written.
#[derive(Debug)]
struct Lines;

impl Observer for Lines {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        if let Some(record) = event.record() {
            println!("  {record}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The run is gone on with by the test; the child is the program itself, which a test binary cannot start.
    #[tokio::test]
    async fn an_effect_that_was_not_recorded_is_found_in_place() {
        let folder = std::env::temp_dir().join(format!("wakala-resume-test-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        for (name, replicas) in [("api", 10), ("cache", 2), ("worker", 4)] {
            put(&folder.join(name), replicas).unwrap();
        }
        {
            let engine = engine(&folder).await.unwrap();
            let begun = playbook(&folder, None).unwrap();
            let plan = engine.plan(&begun).await.unwrap();
            let approval = Approval::of(&plan, "ana");
            let run = RunHandle::new(RUN);
            let mut run = Box::pin(engine.run(&begun, &plan, &approval, &run));
            // Dropped in its middle: as good as killed.
            while fs::read_to_string(folder.join("api")).unwrap().trim() == "10" {
                assert!(futures_poll(&mut run).await.is_none(), "it came to its end");
            }
        }
        let engine = engine(&folder).await.unwrap();
        let report =
            engine.resume(&playbook(&folder, None).unwrap(), &RunHandle::new(RUN).by("ana")).await.unwrap();
        assert_eq!(report.status, Status::Succeeded, "{report}");
        let writes = fs::read_to_string(folder.join("writes")).unwrap();
        assert_eq!(writes.lines().skip(3).collect::<Vec<_>>(), ["api = 50", "cache = 5", "worker = 12"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let nap = tokio::time::sleep(std::time::Duration::from_millis(1));
        tokio::select! {
            biased;
            output = future => Some(output),
            () = nap => None,
        }
    }
}
