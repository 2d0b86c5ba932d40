//! What every [`PlaybookStep`] must do.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{Common, Meddle, World, common_case, must, skip};
use crate::{
    Applied, ErrorKind, Observed, Phase, PlaybookStep, Retry, Reversibility, RunContext, StepPlan, Undone,
};

/// A step to check, with what the checks need to know. It must have something to do when a check begins.
pub struct StepCase {
    common: Common,
    step: Arc<dyn PlaybookStep>,
    world: Option<World>,
    meddle: Option<Meddle>,
    observable: bool,
}

common_case!(StepCase);

impl StepCase {
    /// Checks `step`.
    pub fn new(step: impl PlaybookStep) -> Self {
        Self::shared(Arc::new(step))
    }

    /// Checks a step that others hold too.
    pub fn shared(step: Arc<dyn PlaybookStep>) -> Self {
        Self { common: Common::new(), step, world: None, meddle: None, observable: true }
    }

    /// Reads the part of the world that the step changes, past the step: for checks that nothing changed, or that all
    /// is back.
    #[must_use]
    pub fn with_world<F>(mut self, world: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Value> + Send + 'static,
    {
        self.world = Some(Arc::new(move || Box::pin(world())));
        self
    }

    /// Changes what the step changes, as somebody else would, to something that neither the prior state nor the target
    /// is.
    #[must_use]
    pub fn with_meddler<F>(mut self, meddle: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.meddle = Some(Arc::new(move || Box::pin(meddle())));
        self
    }

    /// The effect cannot be read back, as that of a message.
    #[must_use]
    pub fn without_observable_effect(mut self) -> Self {
        self.observable = false;
        self
    }

    fn cx(&self, phase: Phase) -> RunContext {
        self.common.cx.for_step(&self.step.id(), phase, 1).with_deadline(self.common.limit)
    }

    async fn plan(&self) -> StepPlan {
        let plan = must(self.step.plan(&self.cx(Phase::Plan)).await, "plan");
        assert!(!plan.is_no_change(), "the case must begin where the step has something to do: {plan:?}");
        plan
    }

    async fn apply(&self, plan: &StepPlan) -> Applied {
        let cx = self.cx(Phase::Apply);
        let applied = must(self.step.apply(&cx, plan).await, "apply");
        let handle = match &applied {
            Applied::Started(handle) => Some(handle.as_str().into()),
            _ => None,
        };
        let settled = must(self.step.settle(&cx.with_handle(handle), plan).await, "settle");
        assert_eq!(settled, Observed::AtTarget, "the step was applied and does not come to its target");
        applied
    }

    async fn observe(&self, plan: &StepPlan) -> Observed {
        must(self.step.observe(&self.cx(Phase::Apply), plan).await, "observe")
    }

    async fn undo(&self, plan: &StepPlan) -> Undone {
        must(self.step.undo(&self.cx(Phase::Undo), plan).await, "undo")
    }

    async fn world(&self) -> Option<Value> {
        match &self.world {
            Some(world) => Some(world().await),
            None => None,
        }
    }
}

impl fmt::Debug for StepCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepCase")
            .field("common", &self.common)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl<S: PlaybookStep> From<S> for StepCase {
    fn from(step: S) -> Self {
        Self::new(step)
    }
}

/// Runs every check of this module, each on a step of its own.
pub async fn all<C: Into<StepCase>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { step, __conformance_all! [make] }
}

/// The step has a name that does not change, and plans under it.
pub async fn names_itself(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let id = case.step.id();
        assert!(!id.as_str().is_empty(), "the step has no name");
        assert_eq!(id, case.step.id(), "the step's name changes");
        let plan = case.plan().await;
        assert_eq!(plan.id, id, "the step plans under another name");
        assert!(!plan.summary.is_empty(), "the plan has no summary; a person approves it");
        assert!(
            !plan.resources.is_empty() || !case.observable,
            "the plan names no resource, so another run could work on the same thing"
        );
    };
    case.common.drive(check).await;
}

/// Planning changes nothing, and plans the same twice.
pub async fn plans_read_only(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let before = case.world().await;
        let one = case.plan().await;
        assert_eq!(case.world().await, before, "planning changed the world");
        let two = case.plan().await;
        for (what, one, two) in
            [("prior state", &one.prior, &two.prior), ("target", &one.target, &two.target)]
        {
            assert_eq!(one, two, "planning twice gave another {what}; planning changes something");
        }
        assert_eq!(one.changes, two.changes, "planning twice gave other changes");
        if case.observable {
            assert_eq!(
                case.observe(&one).await,
                Observed::AtPrior,
                "planning moved the world off its prior state"
            );
        }
    };
    case.common.drive(check).await;
}

/// A plan that went through JSON is the same plan, and is as good to apply.
pub async fn plan_serialises_round_trip(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let plan = case.plan().await;
        let text = serde_json::to_string(&plan).expect("a plan has a JSON form");
        let read: StepPlan = match serde_json::from_str(&text) {
            Ok(read) => read,
            Err(error) => panic!("the plan cannot be read back from JSON ({error}): {text}"),
        };
        assert_eq!(read, plan, "the plan changed on its way through JSON");
        case.apply(&read).await;
    };
    case.common.drive(check).await;
}

/// `observe` answers `AtPrior` before and `AtTarget` after the effect, and changes nothing.
pub async fn observe_answers_at_prior_and_at_target(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        if !case.observable {
            return skip("observe_answers_at_prior_and_at_target", "the effect cannot be read back");
        }
        let before = case.world().await;
        let plan = case.plan().await;
        assert_eq!(case.observe(&plan).await, Observed::AtPrior, "observe before the effect");
        assert_eq!(case.world().await, before, "observe changed the world");
        case.apply(&plan).await;
        let after = case.world().await;
        assert_eq!(case.observe(&plan).await, Observed::AtTarget, "observe after the effect");
        assert_eq!(case.world().await, after, "observe changed the world");
    };
    case.common.drive(check).await;
}

/// Applying twice is as applying once.
pub async fn runs_twice(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let plan = case.plan().await;
        case.apply(&plan).await;
        let once = case.world().await;
        let again = case.apply(&plan).await;
        if !case.observable {
            return skip(
                "runs_twice",
                "the effect cannot be read back; only that a second call succeeds is checked",
            );
        }
        assert_eq!(again, Applied::NoChange, "the second apply says that it did something");
        assert_eq!(case.world().await, once, "the second apply changed the world again");
        assert_eq!(case.observe(&plan).await, Observed::AtTarget, "observe after a second apply");
    };
    case.common.drive(check).await;
}

/// Undo brings the prior state back.
pub async fn undo_restores_prior(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let before = case.world().await;
        let plan = case.plan().await;
        if plan.reversibility != Reversibility::Exact {
            let why = format!("the step does not promise an exact undo but: {}", plan.reversibility);
            return skip("undo_restores_prior", &why);
        }
        case.apply(&plan).await;
        assert_eq!(case.undo(&plan).await, Undone::Restored, "undo after apply");
        assert_eq!(case.world().await, before, "undo says Restored, and the world is not as it was");
        assert_eq!(case.observe(&plan).await, Observed::AtPrior, "observe after undo");
    };
    case.common.drive(check).await;
}

/// Undoing twice is as undoing once.
pub async fn undoes_twice(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let plan = case.plan().await;
        case.apply(&plan).await;
        case.undo(&plan).await;
        let once = case.world().await;
        let again = case.undo(&plan).await;
        assert_eq!(again, Undone::Nothing, "the second undo says that it did something");
        assert_eq!(case.world().await, once, "the second undo changed the world again");
    };
    case.common.drive(check).await;
}

/// Undo where nothing was done does nothing and says so.
pub async fn undo_without_apply_does_nothing(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let before = case.world().await;
        let plan = case.plan().await;
        assert_eq!(case.undo(&plan).await, Undone::Nothing, "undo where nothing was done");
        assert_eq!(case.world().await, before, "undo changed a world to which nothing was done");
    };
    case.common.drive(check).await;
}

/// What somebody else changed since the plan is seen, and not written over.
pub async fn drift_is_seen_and_left_alone(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let Some(meddle) = &case.meddle else {
            return skip("drift_is_seen_and_left_alone", "the case has no meddler");
        };
        let plan = case.plan().await;
        meddle().await;
        let theirs = case.world().await;
        let seen = case.observe(&plan).await;
        assert!(matches!(seen, Observed::Drifted(_)), "observe must answer Drifted, not {seen:?}");
        let Err(error) = case.step.apply(&case.cx(Phase::Apply), &plan).await else {
            panic!("apply wrote over what somebody else changed since the plan");
        };
        assert_eq!(error.kind(), ErrorKind::Conflict, "apply after a drift must be a conflict: {error:?}");
        assert_ne!(error.retry(), Retry::ObserveFirst, "apply had certainly no effect: {error:?}");
        assert_eq!(case.world().await, theirs, "apply failed and wrote over somebody else's change");
    };
    case.common.drive(check).await;
}

/// What somebody else changed since apply is not undone.
pub async fn undo_leaves_others_alone(case: impl Into<StepCase>) {
    let case = case.into();
    let check = async {
        let Some(meddle) = &case.meddle else {
            return skip("undo_leaves_others_alone", "the case has no meddler");
        };
        let plan = case.plan().await;
        case.apply(&plan).await;
        meddle().await;
        let theirs = case.world().await;
        let undone = case.undo(&plan).await;
        assert!(matches!(undone, Undone::NotOurs(_)), "undo must answer NotOurs, not {undone:?}");
        assert_eq!(case.world().await, theirs, "undo wrote over somebody else's change");
    };
    case.common.drive(check).await;
}
