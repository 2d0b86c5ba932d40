//! Playbooks: steps, sequences, side-by-side groups, soaks.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Error, Guard, Permission, PlaybookStep, Result, RunContext, StepId, StepPlan};

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
}

/// What is found before a run.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How grave it is.
    pub level: FindingLevel,
    /// What was found, and what to do.
    pub text: String,
}

/// How grave a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingLevel {
    /// As it should be.
    Ok,
    /// The person who approves should know.
    Warning,
    /// The plan cannot be run.
    Refusal,
}

impl Finding {
    /// As it should be.
    pub fn ok(text: impl Into<String>) -> Self {
        Self { level: FindingLevel::Ok, text: text.into() }
    }

    /// The person who approves should know.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { level: FindingLevel::Warning, text: text.into() }
    }

    /// The plan cannot be run.
    pub fn refusal(text: impl Into<String>) -> Self {
        Self { level: FindingLevel::Refusal, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            FindingLevel::Ok => "ok       ",
            FindingLevel::Warning => "WARNING  ",
            FindingLevel::Refusal => "REFUSED  ",
        })?;
        f.write_str(&self.text)
    }
}

/// A check of the whole plan before anything is touched. Reads only.
#[async_trait]
pub trait Preflight: Debug + Send + Sync + 'static {
    /// Looks at the planned steps and at the world.
    ///
    /// # Errors
    /// Where the world could not be asked; the plan then fails.
    async fn check(&self, cx: &RunContext, steps: &[StepPlan]) -> Result<Vec<Finding>>;

    /// What the providers must allow for the check. As given: nothing.
    fn permissions(&self) -> Vec<Permission> {
        Vec::new()
    }
}

/// A time to watch after a change: guards are asked again and again until samples cover the whole duration.
///
/// Only time for which all guards passed counts. A broken guard ends it once it failed too often in a row; guards
/// without data do not count against the change, but only for so long.
#[derive(Clone, Debug)]
pub struct Soak {
    pub(crate) id: StepId,
    pub(crate) guards: Vec<Arc<dyn Guard>>,
    pub(crate) timing: SoakTiming,
}

/// The times and limits of a [`Soak`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoakTiming {
    /// The time to cover.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// How often the guards are asked.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long after the change failures do not count, since metrics still show the time before it.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How many failures in a row end the soak.
    pub fail_limit: u32,
    /// How long guards may be without verdict, in all.
    #[serde(with = "humantime_serde")]
    pub blind_limit: Duration,
}

impl Soak {
    /// Covers `duration`; asks every 15 seconds, gives a minute of grace, ends at 3 failures in a row, or at 5
    /// minutes without verdict.
    pub fn new(id: impl Into<StepId>, duration: Duration) -> Self {
        Self {
            id: id.into(),
            guards: Vec::new(),
            timing: SoakTiming {
                duration,
                interval: Duration::from_secs(15),
                grace: Duration::from_secs(60),
                fail_limit: 3,
                blind_limit: Duration::from_secs(300),
            },
        }
    }

    /// Adds a guard.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Guard) -> Self {
        self.guards.push(Arc::new(guard));
        self
    }

    /// Adds guards that are shared.
    #[must_use]
    pub fn with_guards(mut self, guards: impl IntoIterator<Item = Arc<dyn Guard>>) -> Self {
        self.guards.extend(guards);
        self
    }

    /// How often the guards are asked.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.timing.interval = interval;
        self
    }

    /// How long failures do not count.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.timing.grace = grace;
        self
    }

    /// How many failures in a row end the soak.
    #[must_use]
    pub fn with_fail_limit(mut self, fail_limit: u32) -> Self {
        self.timing.fail_limit = fail_limit;
        self
    }

    /// How long guards may be without verdict, in all.
    #[must_use]
    pub fn with_blind_limit(mut self, blind_limit: Duration) -> Self {
        self.timing.blind_limit = blind_limit;
        self
    }
}

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

/// A part of a playbook: [`step`], [`sequence`], [`together`] or a [`Soak`].
#[derive(Clone, Debug)]
pub struct Part(pub(crate) Node);

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Step(StepNode),
    Sequence(Vec<Part>),
    Together(Vec<Part>),
    Soak(Soak),
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

impl Part {
    fn visit<'a>(&'a self, visitor: &mut impl FnMut(&'a Part)) {
        visitor(self);
        if let Node::Sequence(parts) | Node::Together(parts) = &self.0 {
            for part in parts {
                part.visit(visitor);
            }
        }
    }
}

/// The longest time that a playbook may name: beyond it clocks and calendars end.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Builds a [`Playbook`].
#[derive(Debug)]
pub struct PlaybookBuilder {
    name: String,
    description: String,
    parts: Vec<Part>,
    preflight: Vec<Arc<dyn Preflight>>,
    on_failure: OnFailure,
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

    /// The playbook.
    ///
    /// # Errors
    /// `InvalidConfig` for a playbook without steps, for a name that is empty or used twice, for a soak that asks
    /// never or no guard, for a time of more than ten years.
    pub fn build(self) -> Result<Playbook> {
        let Self { name, description, parts, preflight, on_failure } = self;
        let subject = format!("playbook {name}");
        let refuse = |message: String| Err(Error::invalid("build", message).on(&subject));
        let playbook = Playbook { name, description, root: sequence(parts), preflight, on_failure };
        let steps = playbook.steps();
        if steps.is_empty() {
            return refuse("it has no steps; add one".to_owned());
        }
        let mut names = BTreeSet::new();
        let soaks = playbook.soaks();
        for id in steps.iter().map(|node| node.step.id()).chain(soaks.iter().map(|soak| soak.id.clone())) {
            if id.as_str().is_empty() {
                return refuse("a step or soak has no name; name it".to_owned());
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
        for soak in soaks {
            let SoakTiming { duration, interval, grace, blind_limit, .. } = soak.timing;
            if too_long(&[duration, interval, grace, blind_limit]) {
                return refuse(format!("soak {} has a time of more than ten years; choose less", soak.id));
            }
            if soak.guards.is_empty() {
                return refuse(format!("soak {} has no guard, so it would watch nothing; add one", soak.id));
            }
            if soak.timing.interval.is_zero() || soak.timing.duration.is_zero() || soak.timing.fail_limit == 0
            {
                return refuse(format!(
                    "soak {} needs a duration, an interval and a fail limit above 0",
                    soak.id
                ));
            }
        }
        Ok(playbook)
    }
}
