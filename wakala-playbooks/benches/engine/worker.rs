//! One process of the crash test: begins the run, or goes on with it where it exists.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use wakala_core::{
    Approval, Engine, ErrorKind, Event, Observer, Record, RunHandle, RunInfo, RunStore as _, SqliteStore,
};

use crate::{Result, site};

/// Says when the run was taken over, counted from the start of the process: from here on it looks at the world.
#[derive(Debug)]
struct Stopwatch(Instant);

impl Observer for Stopwatch {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        if let Some(Record::TakenOver { .. }) = event.record() {
            println!("resumed {}", self.0.elapsed().as_secs_f64() * 1e3);
            let _ = std::io::stdout().flush();
        }
    }
}

pub(crate) async fn work(folder: &Path, run: &str) -> Result<()> {
    let stopwatch = Stopwatch(Instant::now());
    let store = SqliteStore::open(folder.join(site::STORE)).await?;
    let playbook = site::playbook(folder).await?;
    let run = RunHandle::new(run).by("the crash test");
    let begun = match store.load(run.id()).await {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error.into()),
    };
    let engine = Engine::new().with_store(Arc::new(store)).with_observer(Arc::new(stopwatch));
    let report = if begun {
        engine.resume(&playbook, &run).await?
    } else {
        let plan = engine.plan(&playbook).await?;
        engine.run(&playbook, &plan, &Approval::of(&plan, "the crash test"), &run).await?
    };
    println!("ended {}", report.status);
    Ok(())
}
