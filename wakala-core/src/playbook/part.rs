//! The parts of a playbook: steps, groups, soaks, gates.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Soak;
use crate::{PlaybookStep, StepId};

/// A step with what the playbook says about it.
#[derive(Clone, Debug)]
pub struct StepNode {
    pub(crate) step: Arc<dyn PlaybookStep>,
    pub(crate) policy: StepPolicy,
}

/// What a playbook says about one of its steps.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPolicy {
    /// Whether a failure is only noted.
    pub best_effort: bool,
    /// For a temporary change: when it should be taken back, counted from the run's start.
    #[serde(with = "humantime_serde", default)]
    pub temporary: Option<Duration>,
    /// How long applying and verifying may take in all; as given, thrice what the step expects and at least a minute.
    #[serde(with = "humantime_serde", default)]
    pub limit: Option<Duration>,
    /// How often the effect is tried.
    pub attempts: u32,
}

impl Default for StepPolicy {
    fn default() -> Self {
        Self { best_effort: false, temporary: None, limit: None, attempts: 5 }
    }
}

/// A point at which a person decides whether the run goes on. Guards go on meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub(crate) id: StepId,
    pub(crate) question: String,
    #[serde(with = "humantime_serde")]
    pub(crate) within: Duration,
}

/// A gate with its question, to be decided within an hour; no decision is a rejection.
///
/// See [`Control::Approve`](crate::Control::Approve).
pub fn gate(id: impl Into<StepId>, question: impl Into<String>) -> Gate {
    Gate { id: id.into(), question: question.into(), within: Duration::from_secs(3600) }
}

impl Gate {
    /// How long the decision may take.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }
}

/// A part of a playbook: [`step`], [`sequence`], [`together`], [`gate`] or a [`Soak`].
#[derive(Clone, Debug)]
pub struct Part(pub(crate) Node);

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Step(StepNode),
    Sequence(Vec<Part>),
    Together(Vec<Part>),
    Soak(Soak),
    Gate(Gate),
}

impl From<Gate> for Part {
    fn from(gate: Gate) -> Self {
        Self(Node::Gate(gate))
    }
}

impl From<Soak> for Part {
    fn from(soak: Soak) -> Self {
        Self(Node::Soak(soak))
    }
}

impl From<StepNode> for Part {
    fn from(node: StepNode) -> Self {
        Self(Node::Step(node))
    }
}

/// A step of a playbook.
pub fn step(step: impl PlaybookStep) -> StepNode {
    shared_step(Arc::new(step))
}

/// A step of a playbook that others hold too.
pub fn shared_step(step: Arc<dyn PlaybookStep>) -> StepNode {
    StepNode { step, policy: StepPolicy::default() }
}

/// Parts one after the other; one that fails keeps the later ones from starting.
pub fn sequence(parts: impl IntoIterator<Item = Part>) -> Part {
    Part(Node::Sequence(parts.into_iter().collect()))
}

/// Parts side by side; one that fails lets the others go on to their end.
pub fn together(parts: impl IntoIterator<Item = Part>) -> Part {
    Part(Node::Together(parts.into_iter().collect()))
}

impl StepNode {
    /// A failure of this step is noted and the run goes on.
    #[must_use]
    pub fn best_effort(mut self) -> Self {
        self.policy.best_effort = true;
        self
    }

    /// The change is to be taken back within `deadline` of the run's start, and is owed until then.
    #[must_use]
    pub fn temporary(mut self, deadline: Duration) -> Self {
        self.policy.temporary = Some(deadline);
        self
    }

    /// Applying and verifying take at most `limit` in all.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.policy.limit = Some(limit);
        self
    }

    /// The effect is tried at most `attempts` times; at least once.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.policy.attempts = attempts.max(1);
        self
    }
}

impl Part {
    pub(super) fn visit<'a>(&'a self, visitor: &mut impl FnMut(&'a Part)) {
        visitor(self);
        if let Node::Sequence(parts) | Node::Together(parts) = &self.0 {
            for part in parts {
                part.visit(visitor);
            }
        }
    }
}

/// Gives something in place of something shared.
#[cfg(feature = "testing")]
pub(crate) type Replace<'a, T> = dyn Fn(&Arc<T>) -> Arc<T> + 'a;

#[cfg(feature = "testing")]
impl Part {
    pub(super) fn rewire(&mut self, step: &Replace<'_, dyn PlaybookStep>, guard: &Replace<dyn crate::Guard>) {
        match &mut self.0 {
            Node::Step(node) => node.step = step(&node.step),
            Node::Soak(soak) => soak.guards = soak.guards.iter().map(guard).collect(),
            Node::Gate(_) => {}
            Node::Sequence(parts) | Node::Together(parts) => {
                parts.iter_mut().for_each(|part| part.rewire(step, guard));
            }
        }
    }
}
