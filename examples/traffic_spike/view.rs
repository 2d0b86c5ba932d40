//! What is shown while a run goes on: bars on a terminal, plain lines elsewhere, nothing for JSON.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use wakala_core::sim::World;
use wakala_core::{Clock as _, Event, Notice, Observer, Record, RunInfo};

/// A view of one run. Clones are the same view.
#[derive(Clone, Debug)]
pub(crate) struct View(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Silent,
    Lines { origin: Mutex<Option<SystemTime>> },
    Terminal(Terminal),
}

#[derive(Debug)]
struct Terminal {
    bars: MultiProgress,
    status: ProgressBar,
    steps: Mutex<BTreeMap<String, ProgressBar>>,
    origin: Mutex<Option<SystemTime>>,
}

impl View {
    pub(crate) fn silent() -> Self {
        Self(Arc::new(Kind::Silent))
    }

    /// Bars where somebody looks, lines where the output goes to a file or pipe.
    pub(crate) fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self(Arc::new(Kind::Lines { origin: Mutex::default() }));
        }
        let bars = MultiProgress::new();
        let status = bars.add(ProgressBar::new_spinner());
        let (steps, origin) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Kind::Terminal(Terminal { bars, status, steps, origin })))
    }

    /// The moment from which the times of lines count.
    pub(crate) fn set_origin(&self, at: SystemTime) {
        match &*self.0 {
            Kind::Silent => {}
            Kind::Lines { origin } | Kind::Terminal(Terminal { origin, .. }) => *lock(origin) = Some(at),
        }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &*self.0 {
            Kind::Silent => {}
            Kind::Lines { .. } => println!("{text}"),
            Kind::Terminal(terminal) => {
                // A terminal that is gone is no reason to end a run.
                let _ = terminal.bars.println(text);
            }
        }
    }

    /// The line below the bars; elsewhere it is one among others.
    pub(crate) fn status(&self, text: &str) {
        match &*self.0 {
            Kind::Terminal(terminal) => terminal.status.set_message(text.to_owned()),
            _ => self.line(text),
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        if let Kind::Terminal(terminal) = &*self.0 {
            lock(&terminal.steps).values().for_each(ProgressBar::finish_and_clear);
            terminal.status.finish_and_clear();
        }
    }

    /// Shows a simulated world for as long as it is polled. On a terminal `pace` of simulated time takes a second.
    pub(crate) fn watch(&self, world: &World, pace: Duration) -> impl Future<Output = Infallible> + use<> {
        let (view, world) = (self.clone(), world.clone());
        view.set_origin(world.clock().now());
        let step = match &*view.0 {
            Kind::Terminal(_) => Duration::from_secs(10),
            _ => Duration::from_secs(300),
        };
        async move {
            loop {
                world.clock().sleep(step).await;
                let frame = world.snapshot();
                let (Some(api), Some(nodes)) = (frame.workload("wakala-api"), frame.pool("workers-general"))
                else {
                    continue;
                };
                view.status(&format!(
                    "{} load {:>5.0}/s  capacity {:>5.0}/s  api {:>2} of {:>2}  nodes {:>2} of {:>2}  p95 {:>6.2} s  \
                     errors {:>5.1} %",
                    stamp(world.elapsed()),
                    frame.load,
                    frame.capacity,
                    api.ready,
                    api.desired,
                    nodes.ready,
                    nodes.desired,
                    frame.latency_p95_seconds.unwrap_or_default(),
                    frame.error_rate.unwrap_or_default() * 100.0
                ));
                if let Kind::Terminal(_) = &*view.0 {
                    hold(step.div_duration_f64(pace.max(step)));
                }
            }
        }
    }
}

/// Keeps the simulation from running ahead of the eye. It has this thread for itself, and its time is not ours.
#[allow(clippy::disallowed_methods, reason = "holds the simulation on purpose")]
fn hold(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

impl Observer for View {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        let origin = match &*self.0 {
            Kind::Silent => return,
            Kind::Lines { origin } | Kind::Terminal(Terminal { origin, .. }) => *lock(origin),
        };
        let stamp = |at: SystemTime| stamp(at.duration_since(origin.unwrap_or(at)).unwrap_or_default());
        match event {
            Event::Record(entry) => {
                if let Record::Verified { step } = &entry.record {
                    self.end(step.as_str());
                }
                if let Record::SoakClosed { soak, .. } = &entry.record {
                    self.end(soak.as_str());
                }
                self.line(&format!("{} {}", stamp(entry.at), entry.record));
            }
            Event::Notice { notice: Notice::Progress { step, done, total, note }, .. } if *total > 0 => {
                self.bar(step.as_str(), *done, *total, note);
            }
            Event::Notice { notice: Notice::Soaking { soak, covered, of }, .. } => {
                self.bar(soak.as_str(), covered.as_secs(), of.as_secs(), "seconds covered");
            }
            Event::Notice { at, notice: Notice::Retrying { step, error, after } } => {
                self.line(&format!("{} {step}: {error}; again in {after:?}", stamp(*at)));
            }
            _ => {}
        }
    }
}

impl View {
    fn bar(&self, name: &str, done: u64, total: u64, note: &str) {
        let Kind::Terminal(terminal) = &*self.0 else { return };
        let mut steps = lock(&terminal.steps);
        let bar = steps.entry(name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix:>10} [{bar:40.cyan}] {pos}/{len} {msg}")
                .expect("the template is valid")
                .progress_chars("=> ");
            let bar = terminal.bars.insert_before(&terminal.status, ProgressBar::new(total));
            bar.with_style(style).with_prefix(name.to_owned())
        });
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(note.to_owned());
    }

    fn end(&self, name: &str) {
        if let Kind::Terminal(terminal) = &*self.0
            && let Some(bar) = lock(&terminal.steps).remove(name)
        {
            bar.finish_and_clear();
        }
    }
}

/// Minutes and seconds.
pub(crate) fn stamp(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("[{:>3}:{:02}]", seconds / 60, seconds % 60)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
