//! What must hold in every schedule, as far as it can be seen while the run goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;

use super::RUN;
pub(super) use super::law::Law;
use super::scene::Scene;
use crate::store::Record;
use crate::{
    Control, Entry, Floor, GuardId, Plan, Removal, ResourceKey, RunId, RunStore, Status, StepId, Units,
    Verdict,
};

/// What was found to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) law: Law,
    pub(super) what: String,
}

impl Breach {
    pub(super) fn of(law: Law, what: impl Into<String>) -> Self {
        Self { law, what: what.into() }
    }
}

/// Which half of a step changes the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    Do,
    Undo,
}

/// Which steps change what.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    steps: Vec<(StepId, Vec<ResourceKey>)>,
}

impl Owners {
    pub(super) fn of(plan: &Plan) -> Self {
        let steps =
            plan.steps().iter().map(|planned| (planned.step.id.clone(), planned.step.resources.clone()));
        Self { steps: steps.collect() }
    }

    /// The steps that may change what a key of a snapshot stands for.
    pub(super) fn steps<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a StepId> {
        let owned = move |(step, resources): &&(StepId, Vec<ResourceKey>)| {
            let rest = key.strip_prefix(step.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                || resources.iter().any(|resource| resource.as_str() == key)
        };
        self.steps.iter().filter(owned).map(|(step, _)| step)
    }

    /// Whether a step may change what a key of a snapshot stands for.
    pub(super) fn is_of(&self, step: &StepId, key: &str) -> bool {
        self.steps(key).any(|owner| owner == step)
    }
}

/// One verdict of a guard, as a soak may count it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    from: Duration,
    to: Duration,
}

#[derive(Debug)]
struct Watched {
    soak: StepId,
    duration: Duration,
    interval: Duration,
    guards: BTreeSet<GuardId>,
    opened: Option<Duration>,
}

/// Keeps count of what a run does.
pub(super) struct Books {
    /// Where to look whether an intent is really there; `None` where the store's word is taken.
    store: Option<Arc<dyn RunStore>>,
    floors: BTreeMap<ResourceKey, Floor>,
    plan_hash: String,
    sizes: BTreeMap<ResourceKey, Units>,
    removed: BTreeMap<ResourceKey, Vec<(Duration, u32)>>,
    /// Steps whose effect is there.
    in_force: BTreeSet<StepId>,
    /// The last line about each step, and which half it is the intent of.
    last: BTreeMap<StepId, (u64, Option<Half>)>,
    /// The line of the last intent that an effect followed.
    used: BTreeMap<(StepId, Half), u64>,
    /// Processes that began an effect.
    active: BTreeSet<usize>,
    paused_at: Option<u64>,
    stopped_at: Option<(u64, Control)>,
    ended: Option<Status>,
    soaks: Vec<Watched>,
    passes: BTreeMap<GuardId, Vec<Seen>>,
    last_fail: BTreeMap<GuardId, Duration>,
    longest_interval: Duration,
    breach: Option<Breach>,
}

impl Books {
    pub(super) fn new(scene: &Scene, plan: Option<(&Plan, &str)>, thorough: bool) -> Self {
        let run_wide: Vec<_> = scene
            .playbook
            .watch()
            .into_iter()
            .flat_map(|watch| &watch.guards)
            .map(|guard| guard.id())
            .collect();
        let soaks: Vec<_> = scene
            .playbook
            .soaks()
            .into_iter()
            .map(|soak| Watched {
                soak: soak.id.clone(),
                duration: soak.timing.duration,
                interval: soak.timing.limits.interval,
                guards: soak.guards.iter().map(|guard| guard.id()).chain(run_wide.clone()).collect(),
                opened: None,
            })
            .collect();
        Self {
            store: thorough.then(|| Arc::clone(&scene.store)),
            floors: plan.map(|(plan, _)| plan.floors().clone()).unwrap_or_default(),
            plan_hash: plan.map(|(_, hash)| hash.to_owned()).unwrap_or_default(),
            sizes: BTreeMap::new(),
            removed: BTreeMap::new(),
            in_force: BTreeSet::new(),
            last: BTreeMap::new(),
            used: BTreeMap::new(),
            active: BTreeSet::new(),
            paused_at: None,
            stopped_at: None,
            ended: None,
            longest_interval: soaks.iter().map(|soak| soak.interval).max().unwrap_or_default(),
            soaks,
            passes: BTreeMap::new(),
            last_fail: BTreeMap::new(),
            breach: None,
        }
    }

    /// The first thing that was found counts; what follows from it need not be told.
    pub(super) fn breach(&mut self, law: Law, what: impl Into<String>) {
        self.breach.get_or_insert(Breach::of(law, what));
    }

    pub(super) fn found(&self) -> Result<(), Breach> {
        self.breach.clone().map_or(Ok(()), Err)
    }

    /// Whether a process began an effect.
    pub(super) fn is_active(&self, process: usize) -> bool {
        self.active.contains(&process)
    }

    /// A call that changes the world begins.
    pub(super) fn begun(&mut self, step: &StepId, half: Half, process: usize, stale: bool) {
        self.active.insert(process);
        let verb = if half == Half::Do { "apply" } else { "undo" };
        if stale {
            return self
                .breach(Law::Stale, format!("the process that was taken over from began {step}.{verb}"));
        }
        // Such a name is not written as it is.
        if step.as_str().contains(['"', '\\']) {
            return;
        }
        let last = match &self.store {
            None => self.last.get(step).copied(),
            Some(store) => {
                let stored = store.load(&RunId::from(RUN)).now_or_never().and_then(Result::ok);
                let lines = stored.map(|stored| stored.lines).unwrap_or_default();
                lines.iter().rev().find_map(|line| {
                    let (name, intent) = about(&line.body)?;
                    (name == step.as_str()).then_some((line.seq, intent))
                })
            }
        };
        let Some((seq, _)) = last.filter(|(_, intent)| *intent == Some(half)) else {
            return self
                .breach(Law::IntentFirst, format!("{step}.{verb} began without an intent in the store"));
        };
        if self.used.insert((step.clone(), half), seq) >= Some(seq) {
            return self
                .breach(Law::IntentFirst, format!("{step}.{verb} began again without an intent of its own"));
        }
        if half == Half::Do && self.paused_at.is_some_and(|paused| paused < seq) {
            self.breach(Law::Paused, format!("{step}.{verb} began while the run was paused"));
        }
        if let Some(status) = self.ended.filter(|_| half == Half::Do) {
            self.breach(
                Law::Ended,
                format!("{step}.{verb} began although the run was at its end ({status})"),
            );
        }
        let stopped = self
            .stopped_at
            .as_ref()
            .filter(|(at, control)| *at < seq && (half == Half::Do || *control == Control::Abandon));
        if let Some((_, control)) = stopped {
            let what = format!("{step}.{verb} began although the run was asked to {control}");
            self.breach(Law::AskedToStop, what);
        }
    }

    /// A call changed what belongs to its step.
    pub(super) fn changed(&mut self, step: &StepId, half: Half, process: usize, stale: bool) {
        self.active.insert(process);
        if stale {
            self.breach(Law::Stale, format!("the process that was taken over from changed {step}"));
        }
        match half {
            Half::Undo => drop(self.in_force.remove(step)),
            Half::Do if self.in_force.insert(step.clone()) => {}
            Half::Do => self.breach(Law::Once, format!("{step} had its effect twice")),
        }
    }

    /// The sizes now.
    pub(super) fn sizes(&mut self, sizes: &BTreeMap<ResourceKey, Units>, now: Duration) {
        for (resource, size) in sizes {
            let before = self.sizes.insert(resource.clone(), *size).unwrap_or(*size);
            let Some(floor) = self.floors.get(resource).copied().filter(|_| *size < before) else { continue };
            if *size < floor.min {
                self.breach(
                    Law::Floor,
                    format!("{resource} went from {before} to {size}, its floor is {}", floor.min),
                );
            }
            let Some(Removal { units, per }) = floor.removal else { continue };
            let removed = self.removed.entry(resource.clone()).or_default();
            removed.retain(|(at, _)| now.saturating_sub(*at) < per);
            removed.push((now, before.0 - size.0));
            let lately: u32 = removed.iter().map(|(_, count)| count).sum();
            if lately > units.0 {
                let span = humantime::format_duration(per);
                self.breach(
                    Law::Rate,
                    format!("{resource} lost {lately} within {span}, at most {units} may go"),
                );
            }
        }
    }

    /// A guard passed although its source was dark.
    pub(super) fn passed_blindly(&mut self, guard: &GuardId, verdict: &Verdict) {
        self.breach(
            Law::BlindGuard,
            format!("guard {guard} passes although its source told it nothing ({verdict})"),
        );
    }

    /// A guard's answer reached the engine.
    pub(super) fn judged(&mut self, guard: &GuardId, now: Duration, verdict: &Verdict) {
        match verdict {
            // It stands for the time since the round before, which may have been one round late.
            Verdict::Pass(_) => {
                let from = now.saturating_sub(self.longest_interval * 2);
                self.passes.entry(guard.clone()).or_default().push(Seen { from, to: now });
            }
            Verdict::Fail(_) => drop(self.last_fail.insert(guard.clone(), now)),
            _ => {}
        }
    }

    /// A guard told what it would have answered then.
    pub(super) fn remembered(&mut self, guard: &GuardId, then: Duration, verdict: &Verdict) {
        if verdict.is_pass() {
            let reach = self.longest_interval;
            let seen = Seen { from: then.saturating_sub(reach), to: then + reach };
            self.passes.entry(guard.clone()).or_default().push(seen);
        }
    }

    /// A line that the store has. Returns what is to be asked of the run because of it, and its text for a timeline.
    pub(super) fn written(
        &mut self,
        (seq, body): (u64, &str),
        process: usize,
        stale: bool,
        now: Duration,
        wanted: bool,
    ) -> (Option<Control>, Option<String>) {
        if stale {
            self.breach(
                Law::Stale,
                format!("process {process} wrote although another one drives the run by now"),
            );
        }
        if let Some((step, intent)) = about(body) {
            self.last.insert(step.into(), (seq, intent));
        }
        const TOLD: [&str; 5] =
            ["\"soak_opened\":", "\"soak_closed\":", "\"controlled\":", "\"waiting\":", "\"ended\":"];
        if !wanted && !TOLD.iter().any(|told| body.contains(told)) {
            return (None, None);
        }
        let Ok(entry) = serde_json::from_str::<Entry>(body) else {
            self.breach(Law::Journal, format!("a line cannot be read: {body}"));
            return (None, None);
        };
        let mut approval = None;
        match &entry.record {
            Record::SoakOpened { soak, .. } => {
                if let Some(watched) = self.soaks.iter_mut().find(|watched| watched.soak == *soak) {
                    watched.opened = Some(now);
                }
            }
            Record::SoakClosed { soak, failure: None, .. } => self.soak_passed(soak, now),
            Record::Controlled { control, .. } => match control {
                Control::Pause => drop(self.paused_at.get_or_insert(entry.seq)),
                Control::Resume => self.paused_at = None,
                Control::CancelKeep | Control::CancelRevert | Control::Abandon => {
                    self.stopped_at = Some((entry.seq, control.clone()));
                }
                _ => {}
            },
            Record::Waiting { gate, .. } => {
                approval = Some(Control::Approve { gate: gate.clone(), plan_hash: self.plan_hash.clone() });
            }
            Record::Ended { status, .. } => {
                (self.paused_at, self.stopped_at) = (None, None);
                self.ended = self.ended.or((!status.is_open()).then_some(*status));
            }
            _ => {}
        }
        (approval, wanted.then(|| entry.record.to_string()))
    }

    /// The engine says that a soak passed: there must be verdicts for all of it.
    fn soak_passed(&mut self, soak: &StepId, now: Duration) {
        let Some(watched) = self.soaks.iter().find(|watched| watched.soak == *soak) else { return };
        let Some(opened) = watched.opened else {
            return self.breach(Law::Soak, format!("soak {soak} passed and never began"));
        };
        let mut found = None;
        for guard in &watched.guards {
            let since = self.last_fail.get(guard).copied().unwrap_or_default().max(opened);
            let covered = covered(self.passes.get(guard).map_or(&[], Vec::as_slice), since, now);
            if covered < watched.duration {
                found = Some(format!(
                    "soak {soak} passed after {} in which guard {guard} passed for {}, {} were to be covered",
                    humantime::format_duration(now - opened),
                    humantime::format_duration(covered),
                    humantime::format_duration(watched.duration),
                ));
            }
        }
        if let Some(what) = found {
            self.breach(Law::Soak, what);
        }
    }
}

/// The step that a line is about, and which half it is the intent of.
fn about(body: &str) -> Option<(&str, Option<Half>)> {
    let (before, rest) = body.split_once("\"step\":\"")?;
    // A plan is about all steps.
    if body.contains("\"created\":") {
        return None;
    }
    let (step, _) = rest.split_once('"')?;
    let intent = if before.ends_with("\"intent\":{") {
        Some(Half::Do)
    } else {
        before.ends_with("\"undo_intent\":{").then_some(Half::Undo)
    };
    Some((step, intent))
}

/// How much of the time from `since` to `until` the spans cover.
fn covered(spans: &[Seen], since: Duration, until: Duration) -> Duration {
    let mut spans: Vec<_> = spans
        .iter()
        .map(|seen| (seen.from.max(since), seen.to.min(until)))
        .filter(|(from, to)| from < to)
        .collect();
    spans.sort_unstable();
    let (mut covered, mut end) = (Duration::ZERO, since);
    for (from, to) in spans {
        if to > end {
            covered += to - from.max(end);
            end = to;
        }
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_covered_once() {
        let seconds = Duration::from_secs;
        let seen = |from, to| Seen { from: seconds(from), to: seconds(to) };
        let spans = [seen(0, 20), seen(40, 60), seen(10, 30), seen(55, 90)];
        assert_eq!(covered(&spans, seconds(5), seconds(80)), seconds(25 + 40));
        assert_eq!(covered(&[], seconds(5), seconds(80)), Duration::ZERO);
    }

    #[test]
    fn keys_name_their_steps_or_their_resource() {
        let steps =
            vec![("nodes".into(), vec!["fake/pool".into()]), ("nodes-2".into(), vec!["fake/pool".into()])];
        let owners = Owners { steps };
        let of = |key| owners.steps(key).map(StepId::as_str).collect::<Vec<_>>();
        assert_eq!((of("nodes/min"), of("nodes")), (vec!["nodes"], vec!["nodes"]));
        assert_eq!((of("fake/pool"), of("fake")), (vec!["nodes", "nodes-2"], vec![]));
    }
}
