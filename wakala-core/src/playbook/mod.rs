//! Playbooks: steps, sequences, side-by-side groups, soaks, gates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "testing")]
use crate::PlaybookStep;
use crate::{Error, Floor, Guard, ResourceKey, Result, StepId};

mod part;
mod preflight;
mod soak;

pub(crate) use part::Node;
pub use part::{Gate, Part, StepNode, StepPolicy, gate, sequence, shared_step, step, together};
pub use preflight::{Finding, FindingLevel, Preflight};
pub use soak::{GuardLimits, Soak, SoakTiming, Watch};

/// What a run does once a step has failed for good.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Keeps what it got and holds: right for a scale-up, where less capacity is never the answer.
    #[default]
    KeepAndHold,
    /// Takes back all it did, last step first.
    TakeBack,
    /// Takes back what it did since the last soak that passed, and stops there: right for a scale-down, where the size
    /// before is the safe one.
    BackToHealthy,
}

/// Which of two playbooks goes first where both want the same thing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// It waits for others, and an emergency may [take over](crate::RunHandle::superseding) from it.
    #[default]
    Routine,
    /// It may take over from routine runs.
    Emergency,
}

/// An ordered composition of steps, guards and soaks.
///
/// ```
/// use std::sync::Arc;
/// use wakala_core::{LogNotifier, Notification, NotifyStep, Playbook, Severity, step};
///
/// let alert = NotifyStep::new("alert", Arc::new(LogNotifier), Notification::new(Severity::High, "spike"));
/// let playbook = Playbook::builder("hello").then(step(alert).best_effort()).build()?;
/// assert_eq!(playbook.name(), "hello");
/// # Ok::<(), wakala_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Playbook {
    name: String,
    description: String,
    root: Part,
    preflight: Vec<Arc<dyn Preflight>>,
    on_failure: OnFailure,
    urgency: Urgency,
    watch: Option<Watch>,
    floors: BTreeMap<ResourceKey, Floor>,
}

impl Playbook {
    /// Begins a playbook.
    pub fn builder(name: impl Into<String>) -> PlaybookBuilder {
        PlaybookBuilder {
            name: name.into(),
            description: String::new(),
            parts: Vec::new(),
            preflight: Vec::new(),
            on_failure: OnFailure::default(),
            urgency: Urgency::default(),
            watch: None,
            floors: BTreeMap::new(),
        }
    }

    /// The playbook's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One line about it.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What a run does once a step has failed for good.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// Whether it goes before others that want the same thing.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    pub(crate) fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    pub(crate) fn floors(&self) -> &BTreeMap<ResourceKey, Floor> {
        &self.floors
    }

    pub(crate) fn root(&self) -> &Part {
        &self.root
    }

    pub(crate) fn preflight(&self) -> &[Arc<dyn Preflight>] {
        &self.preflight
    }

    /// All steps, in the order in which they are written.
    pub(crate) fn steps(&self) -> Vec<&StepNode> {
        let mut steps = Vec::new();
        self.root.visit(&mut |part| {
            if let Node::Step(node) = &part.0 {
                steps.push(node);
            }
        });
        steps
    }

    /// The same playbook with every step and guard replaced, a shared one by the same replacement each time it is asked for:
    /// for test kits that look at each call.
    #[cfg(feature = "testing")]
    pub(crate) fn rewired(
        &self,
        step: &part::Replace<'_, dyn PlaybookStep>,
        guard: &part::Replace<'_, dyn Guard>,
    ) -> Self {
        let mut playbook = self.clone();
        playbook.root.rewire(step, guard);
        if let Some(watch) = &mut playbook.watch {
            watch.guards = watch.guards.iter().map(guard).collect();
        }
        playbook
    }

    /// The names of all steps, soaks and gates.
    fn names(&self) -> Vec<StepId> {
        let mut names = Vec::new();
        self.root.visit(&mut |part| match &part.0 {
            Node::Step(node) => names.push(node.step.id()),
            Node::Soak(soak) => names.push(soak.id.clone()),
            Node::Gate(gate) => names.push(gate.id.clone()),
            Node::Sequence(_) | Node::Together(_) => {}
        });
        names
    }

    /// All guards, those of the whole run first; one that several soaks share comes for each of them.
    pub(crate) fn guards(&self) -> impl Iterator<Item = &Arc<dyn Guard>> {
        let soaks = self.soaks().into_iter().flat_map(|soak| &soak.guards);
        self.watch.iter().flat_map(|watch| &watch.guards).chain(soaks)
    }

    /// All soaks, in the order in which they are written.
    pub(crate) fn soaks(&self) -> Vec<&Soak> {
        let mut soaks = Vec::new();
        self.root.visit(&mut |part| {
            if let Node::Soak(soak) = &part.0 {
                soaks.push(soak);
            }
        });
        soaks
    }
}

/// The longest time that a playbook may name: beyond it clocks and calendars end.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// What the engine itself calls things in a journal.
const RESERVED: [&str; 2] = ["plan", "run"];

/// Builds a [`Playbook`].
#[derive(Debug)]
pub struct PlaybookBuilder {
    name: String,
    description: String,
    parts: Vec<Part>,
    preflight: Vec<Arc<dyn Preflight>>,
    on_failure: OnFailure,
    urgency: Urgency,
    watch: Option<Watch>,
    floors: BTreeMap<ResourceKey, Floor>,
}

impl PlaybookBuilder {
    /// One line about it.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Adds a part after all others.
    #[must_use]
    pub fn then(mut self, part: impl Into<Part>) -> Self {
        self.parts.push(part.into());
        self
    }

    /// Adds a check of the whole plan.
    #[must_use]
    pub fn with_preflight(self, check: impl Preflight) -> Self {
        self.with_shared_preflight(Arc::new(check))
    }

    /// Adds a check of the whole plan that others hold too.
    #[must_use]
    pub fn with_shared_preflight(mut self, check: Arc<dyn Preflight>) -> Self {
        self.preflight.push(check);
        self
    }

    /// Says what a run does once a step has failed for good.
    #[must_use]
    pub fn with_on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Says whether it goes before others that want the same thing.
    #[must_use]
    pub fn with_urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = urgency;
        self
    }

    /// Watches guards for the whole run.
    #[must_use]
    pub fn guarded_by(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Keeps a target from being made smaller, or faster smaller, than that, whichever step does it. Of several floors
    /// of the same resource all are kept.
    #[must_use]
    pub fn with_floor(mut self, resource: impl Into<ResourceKey>, floor: Floor) -> Self {
        self.floors.entry(resource.into()).and_modify(|kept| *kept = kept.and(floor)).or_insert(floor);
        self
    }

    /// The playbook.
    ///
    /// # Errors
    /// `InvalidConfig` for a playbook without steps, for a name that is empty or used twice, for a soak or watch that
    /// asks never or no guard, for a guard that can never fail, for a time of more than ten years.
    pub fn build(self) -> Result<Playbook> {
        let Self { name, description, parts, preflight, on_failure, urgency, watch, floors } = self;
        let subject = format!("playbook {name}");
        let refuse = |message: String| Err(Error::invalid("build", message).on(&subject));
        let root = sequence(parts);
        let playbook = Playbook { name, description, root, preflight, on_failure, urgency, watch, floors };
        let steps = playbook.steps();
        if steps.is_empty() {
            return refuse("it has no steps; add one".to_owned());
        }
        let soaks = playbook.soaks();
        let mut names = BTreeSet::new();
        for id in playbook.names() {
            if id.as_str().is_empty() {
                return refuse("a step, soak or gate has no name; name it".to_owned());
            }
            if RESERVED.contains(&id.as_str()) {
                return refuse(format!("the name {id} has a meaning of its own; choose another"));
            }
            if !names.insert(id.clone()) {
                return refuse(format!("the name {id} is used twice; rename one"));
            }
        }
        let too_long = |times: &[Duration]| times.iter().any(|time| *time > LONGEST);
        for node in steps {
            let StepPolicy { temporary, limit, .. } = node.policy;
            if too_long(&[temporary.unwrap_or_default(), limit.unwrap_or_default()]) {
                return refuse(format!(
                    "step {} has a limit or deadline of more than ten years; choose less",
                    node.step.id()
                ));
            }
        }
        for Soak { id, guards, timing } in soaks {
            let SoakTiming { duration, grace, at_most, limits } = *timing;
            if too_long(&[
                duration,
                grace,
                limits.interval,
                limits.inconclusive_limit,
                limits.source_error_limit,
            ]) {
                return refuse(format!("soak {id} has a time of more than ten years; choose less"));
            }
            if guards.is_empty() && playbook.watch.is_none() {
                return refuse(format!("soak {id} has no guard, so it would watch nothing; add one"));
            }
            if limits.interval.is_zero() || duration.is_zero() || limits.fail_limit == 0 {
                return refuse(format!("soak {id} needs a duration, an interval and a fail limit above 0"));
            }
            if at_most < duration {
                return refuse(format!("soak {id} may take less in all than it is to cover; allow more"));
            }
        }
        if let Some(Watch { guards, limits, .. }) = &playbook.watch
            && (guards.is_empty() || limits.interval.is_zero() || limits.fail_limit == 0)
        {
            return refuse("its watch needs a guard, an interval and a fail limit above 0".to_owned());
        }
        for guard in playbook.guards() {
            if let Err(error) = guard.check() {
                return refuse(format!("guard {} can guard nothing: {}", guard.id(), error.chain()));
            }
        }
        Ok(playbook)
    }
}
