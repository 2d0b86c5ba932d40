//! Plans: what a playbook would do, as data that a person reads and approves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::playbook::{Node, Part};
use crate::{
    Clock, Effect, Error, ErrorKind, Finding, FindingLevel, Floor, Gate, Guard, GuardId, GuardLimits,
    OnFailure, Permission, Playbook, ResourceKey, Result, SoakTiming, StepId, StepPlan, StepPolicy, Units,
    Urgency, Verdict, Watch,
};

/// The version of the plan's serialised form.
const FORMAT: u32 = 2;

/// What a playbook would do, found by reading only.
///
/// Serialisable; its [`hash`](Self::hash) is what an [`Approval`] binds to; its `Display` is what a person reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    format: u32,
    playbook: String,
    description: String,
    #[serde(with = "humantime_serde")]
    made_at: SystemTime,
    #[serde(with = "humantime_serde")]
    valid_for: Duration,
    on_failure: OnFailure,
    urgency: Urgency,
    outline: Outline,
    watch: Option<PlannedWatch>,
    floors: BTreeMap<ResourceKey, Floor>,
    /// What guards found while the plan was made, to compare with later.
    baselines: BTreeMap<GuardId, f64>,
    steps: Vec<PlannedStep>,
    permissions: BTreeSet<Permission>,
    findings: Vec<Finding>,
}

/// The order of a playbook's steps, as data.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outline {
    /// A step.
    Step(StepId),
    /// One after the other.
    Sequence(Vec<Outline>),
    /// Side by side.
    Together(Vec<Outline>),
    /// A time to watch.
    Soak(PlannedSoak),
    /// A point at which a person decides.
    Gate(Gate),
}

/// The guards of a whole run in a plan.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedWatch {
    /// How much is borne.
    pub limits: GuardLimits,
    /// The conditions.
    pub conditions: Vec<String>,
}

impl PlannedWatch {
    fn of(watch: &Watch) -> Self {
        Self { limits: watch.limits, conditions: conditions(&watch.guards) }
    }
}

fn conditions(guards: &[Arc<dyn Guard>]) -> Vec<String> {
    guards.iter().map(|guard| format!("{}: {}", guard.id(), guard.condition())).collect()
}

/// A soak in a plan.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedSoak {
    /// The soak.
    pub id: StepId,
    /// Its times and limits.
    pub timing: SoakTiming,
    /// The conditions of its guards.
    pub conditions: Vec<String>,
}

/// A step in a plan.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// What the step would do.
    pub step: StepPlan,
    /// What the playbook says about it.
    pub policy: StepPolicy,
}

impl PlannedStep {
    /// How long applying and verifying may take in all.
    pub fn limit(&self) -> Duration {
        self.policy.limit.unwrap_or_else(|| (self.step.expected * 3).max(Duration::from_secs(60)))
    }
}

impl Outline {
    pub(crate) fn of(part: &Part) -> Self {
        match &part.0 {
            Node::Step(node) => Self::Step(node.step.id()),
            Node::Sequence(parts) => Self::Sequence(parts.iter().map(Self::of).collect()),
            Node::Together(parts) => Self::Together(parts.iter().map(Self::of).collect()),
            Node::Soak(soak) => Self::Soak(PlannedSoak {
                id: soak.id.clone(),
                timing: soak.timing,
                conditions: conditions(&soak.guards),
            }),
            Node::Gate(gate) => Self::Gate(gate.clone()),
        }
    }
}

/// What was found by reading while a plan is made.
pub(crate) struct Readings {
    pub(crate) steps: Vec<PlannedStep>,
    pub(crate) floors: BTreeMap<ResourceKey, Floor>,
    pub(crate) baselines: BTreeMap<GuardId, f64>,
    pub(crate) findings: Vec<Finding>,
}

impl Plan {
    pub(crate) fn new(
        playbook: &Playbook,
        made_at: SystemTime,
        valid_for: Duration,
        readings: Readings,
    ) -> Self {
        let Readings { steps, floors, baselines, findings } = readings;
        let steps_need = steps.iter().flat_map(|planned| planned.step.permissions.iter().cloned());
        let permissions = steps_need
            .chain(playbook.guards().flat_map(|guard| guard.permissions()))
            .chain(playbook.preflight().iter().flat_map(|check| check.permissions()))
            .collect();
        Self {
            format: FORMAT,
            playbook: playbook.name().to_owned(),
            description: playbook.description().to_owned(),
            made_at,
            valid_for,
            on_failure: playbook.on_failure(),
            urgency: playbook.urgency(),
            outline: Outline::of(playbook.root()),
            watch: playbook.watch().map(PlannedWatch::of),
            floors,
            baselines,
            steps,
            permissions,
            findings,
        }
    }

    /// The playbook's name.
    pub fn playbook(&self) -> &str {
        &self.playbook
    }

    /// When it was made, by the engine's clock.
    pub fn made_at(&self) -> SystemTime {
        self.made_at
    }

    /// How long it may be begun after that.
    pub fn valid_for(&self) -> Duration {
        self.valid_for
    }

    /// The steps, in the order in which the playbook names them.
    pub fn steps(&self) -> &[PlannedStep] {
        &self.steps
    }

    /// One step.
    pub fn step(&self, id: &StepId) -> Option<&PlannedStep> {
        self.steps.iter().find(|planned| planned.step.id == *id)
    }

    /// The order of the steps.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// What the preflight found.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What a run does once a step has failed for good.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// Whether a run goes before others that want the same thing.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// The guards of the whole run.
    pub fn watch(&self) -> Option<&PlannedWatch> {
        self.watch.as_ref()
    }

    /// How small, and how fast smaller, a run may make things.
    pub fn floors(&self) -> &BTreeMap<ResourceKey, Floor> {
        &self.floors
    }

    /// What a guard found while the plan was made.
    pub(crate) fn baseline(&self, guard: &GuardId) -> Option<f64> {
        self.baselines.get(guard).copied()
    }

    /// For each resource whose size a run changes: its size before that.
    pub fn sizes_before(&self) -> BTreeMap<ResourceKey, Units> {
        self.steps.iter().flat_map(|planned| planned.step.baselines.clone()).collect()
    }

    /// Everything that a run takes for itself.
    pub fn resources(&self) -> Vec<ResourceKey> {
        let all: BTreeSet<_> =
            self.steps.iter().flat_map(|planned| planned.step.resources.iter().cloned()).collect();
        all.into_iter().collect()
    }

    /// Everything that the providers must allow for steps, guards and preflight, each once and in order.
    pub fn permissions(&self) -> Vec<Permission> {
        self.permissions.iter().cloned().collect()
    }

    /// Why the plan cannot be run; empty where it can.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level == FindingLevel::Refusal)
    }

    /// The SHA-256 of the plan's JSON with sorted keys, in hexadecimal.
    pub fn hash(&self) -> String {
        let value =
            serde_json::to_value(self).expect("a plan is made of JSON values, strings and numbers only");
        let mut text = String::new();
        canonical(&value, &mut text);
        Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// How `playbook` differs from the one that was planned; `None` where it is the same, built again.
    pub(crate) fn difference(&self, playbook: &Playbook) -> Option<String> {
        if self.playbook != playbook.name() {
            return Some(format!("it is {}, planned was {}", playbook.name(), self.playbook));
        }
        let (planned, built): (BTreeSet<_>, BTreeSet<_>) = (
            self.steps.iter().map(|planned| planned.step.id.clone()).collect(),
            playbook.steps().iter().map(|node| node.step.id()).collect(),
        );
        if let Some(step) = planned.difference(&built).next() {
            return Some(format!("it lacks step {step}"));
        }
        if let Some(step) = built.difference(&planned).next() {
            return Some(format!("step {step} is new"));
        }
        if self.outline != Outline::of(playbook.root()) {
            return Some("its order, a soak, a gate or a guard is another".to_owned());
        }
        if self.watch != playbook.watch().map(PlannedWatch::of) {
            return Some("the guards of the whole run are others".to_owned());
        }
        (self.on_failure != playbook.on_failure()).then(|| "it does something else on failure".to_owned())
    }

    /// Fails where the plan must not be run under `approval`.
    pub(crate) fn check_approval(&self, approval: &Approval) -> Result<()> {
        if approval.plan_hash == self.hash() {
            return Ok(());
        }
        let message = "the approval is for another plan; have this one approved";
        Err(Error::new(ErrorKind::Denied, "run", message).on(format!("plan {}", self.playbook)))
    }

    /// Fails where the plan must not be run.
    pub(crate) fn check(&self, playbook: &Playbook, clock: &dyn Clock) -> Result<()> {
        let refuse = |kind, message: String| {
            Err(Error::new(kind, "run", message).on(format!("plan {}", self.playbook)))
        };
        if self.format != FORMAT {
            return refuse(
                ErrorKind::InvalidConfig,
                format!("made in format {}, this version reads format {FORMAT}; plan again", self.format),
            );
        }
        if let Some(finding) = self.refusals().next() {
            return refuse(ErrorKind::InvalidConfig, format!("preflight refused it: {}", finding.text));
        }
        if let Some(difference) = self.difference(playbook) {
            return refuse(
                ErrorKind::InvalidConfig,
                format!("the playbook is not the one that was planned ({difference}); plan again"),
            );
        }
        let age = clock.now().duration_since(self.made_at).unwrap_or_default();
        if age > self.valid_for {
            return refuse(
                ErrorKind::Conflict,
                format!(
                    "it is {} old and was valid for {}; plan again",
                    humantime::format_duration(Duration::from_secs(age.as_secs())),
                    humantime::format_duration(self.valid_for)
                ),
            );
        }
        Ok(())
    }
}

/// Writes `value` as JSON with the keys of all objects sorted: whether a map keeps its order depends on features
/// that another crate of the build may set, and the hash must not.
fn canonical(value: &serde_json::Value, out: &mut String) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for key in keys {
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                canonical(&map[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        leaf => {
            let _ = write!(out, "{leaf}");
        }
    }
}

/// That somebody approved a plan: exactly this one.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The [`Plan::hash`] that was approved.
    pub plan_hash: String,
    /// Who approved it.
    pub by: String,
}

impl Approval {
    /// `by` approves `plan`.
    pub fn of(plan: &Plan, by: impl Into<String>) -> Self {
        Self { plan_hash: plan.hash(), by: by.into() }
    }

    /// `by` approves the plan of that hash: for an approver in another process who read a copy of it.
    pub fn of_hash(plan_hash: impl Into<String>, by: impl Into<String>) -> Self {
        Self { plan_hash: plan_hash.into(), by: by.into() }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.hash();
        writeln!(f, "Plan of {} (sha256 {})", self.playbook, &hash[..12])?;
        if !self.description.is_empty() {
            writeln!(f, "{}", self.description)?;
        }
        writeln!(
            f,
            "made {}, valid for {}; once a step fails: {}",
            humantime::format_rfc3339_seconds(self.made_at),
            humantime::format_duration(self.valid_for),
            match self.on_failure {
                OnFailure::KeepAndHold => "keep what there is and hold",
                OnFailure::TakeBack => "take everything back",
                OnFailure::BackToHealthy => "go back to where the last soak passed, and stop there",
            }
        )?;
        writeln!(f)?;
        self.write_outline(f, &self.outline, 0)?;
        if let Some(watch) = &self.watch {
            writeln!(f, "\nAll the time")?;
            for condition in &watch.conditions {
                writeln!(f, "  {condition}")?;
            }
        }
        if !self.floors.is_empty() {
            writeln!(f, "\nFloors")?;
            for (resource, floor) in &self.floors {
                writeln!(f, "  {resource}: {floor}")?;
            }
        }
        if !self.findings.is_empty() {
            writeln!(f, "\nPreflight")?;
            for finding in &self.findings {
                writeln!(f, "  {finding}")?;
            }
        }
        if !self.permissions.is_empty() {
            writeln!(f, "\nNeeds permission for")?;
            for permission in &self.permissions {
                writeln!(f, "  {permission}")?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn write_outline(&self, f: &mut fmt::Formatter<'_>, outline: &Outline, depth: usize) -> fmt::Result {
        let indent = depth * 2;
        match outline {
            Outline::Step(id) => self.step(id).map_or(Ok(()), |planned| write_step(f, planned, indent)),
            Outline::Sequence(parts) => {
                // The outermost sequence needs no heading; within a group it tells its members apart.
                let inner = if depth == 0 { 0 } else { depth + 1 };
                if depth > 0 {
                    writeln!(f, "{:indent$}in this order", "")?;
                }
                parts.iter().try_for_each(|part| self.write_outline(f, part, inner))
            }
            Outline::Together(parts) => {
                writeln!(f, "{:indent$}side by side", "")?;
                parts.iter().try_for_each(|part| self.write_outline(f, part, depth + 1))
            }
            Outline::Soak(soak) => {
                let duration = humantime::format_duration(soak.timing.duration);
                writeln!(f, "{:indent$}* {}: watch until {duration} are covered", "", soak.id)?;
                for condition in &soak.conditions {
                    writeln!(f, "{:indent$}      {condition}", "")?;
                }
                Ok(())
            }
            Outline::Gate(gate) => {
                let within = humantime::format_duration(gate.within);
                writeln!(f, "{:indent$}? {}: {} (to be approved within {within})", "", gate.id, gate.question)
            }
        }
    }
}

fn write_step(f: &mut fmt::Formatter<'_>, planned: &PlannedStep, indent: usize) -> fmt::Result {
    let PlannedStep { step, policy } = planned;
    let mark = match step.effect {
        _ if step.is_no_change() => '=',
        Effect::Undetermined => '?',
        _ => '~',
    };
    write!(f, "{:indent$}{mark} {}: {}", "", step.id, step.summary)?;
    if step.is_no_change() {
        writeln!(f, "  [nothing to do]")?;
    } else {
        write!(f, "  [{}", step.reversibility)?;
        if let Some(deadline) = policy.temporary {
            write!(f, ", temporary: back within {}", humantime::format_duration(deadline))?;
        }
        if policy.best_effort {
            f.write_str(", a failure is only noted")?;
        }
        writeln!(f, ", about {}]", humantime::format_duration(step.expected))?;
        let width = step.changes.iter().map(|change| change.path.len()).max().unwrap_or(0);
        for change in &step.changes {
            let show = |side: &Option<String>| side.clone().unwrap_or_else(|| "(none)".to_owned());
            let (from, to) = (show(&change.from), show(&change.to));
            writeln!(f, "{:indent$}      {:width$}  {from} -> {to}", "", change.path)?;
        }
    }
    for warning in &step.warnings {
        writeln!(f, "{:indent$}    ! {warning}", "")?;
    }
    Ok(())
}

/// The finding that a guard's proof of life gives.
pub(crate) fn liveness(place: &str, guard: &GuardId, verdict: &Verdict, must_hold: bool) -> Finding {
    match verdict {
        Verdict::Fail(now) if must_hold => Finding::refusal(format!(
            "guard {guard} of {place} fails before anything is done ({now}); wait until it holds"
        )),
        Verdict::Pass(now) | Verdict::Fail(now) => {
            Finding::ok(format!("guard {guard} of {place} has data; now {now}"))
        }
        blind => Finding::refusal(format!(
            "guard {guard} of {place} cannot guard ({blind}); mend its metric first"
        )),
    }
}
