//! Steps that are broken in one way each.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;
use wakala_core::testing::FakeSetting;
use wakala_core::testing::conformance::{StepCase, step};
use wakala_core::{
    Applied, Error, Observed, PlaybookStep, Result, RunContext, SettingStep, StepId, StepPlan, Undone,
};

use super::setting_step;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    ApplyAlwaysChanges,
    ApplyOverwrites,
    LiesThatItIsBack,
    NeverAtTarget,
    OtherName,
    PlanCountsUp,
    PlanIsNotData,
    PlanWrites,
    UndoOverwrites,
    UndoWritesAlways,
}

#[derive(Debug)]
struct Broken {
    setting: FakeSetting<u32>,
    step: SettingStep<FakeSetting<u32>>,
    defect: Defect,
    plans: AtomicU32,
    planned: AtomicUsize,
}

fn broken(defect: Defect) -> StepCase {
    setting_step::case(|setting| {
        let step = setting.step("limit");
        StepCase::new(Broken {
            setting,
            step,
            defect,
            plans: AtomicU32::new(0),
            planned: AtomicUsize::new(0),
        })
    })
}

#[async_trait]
impl PlaybookStep for Broken {
    fn id(&self) -> StepId {
        self.step.id()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        let mut plan = self.step.plan(cx).await?;
        match self.defect {
            Defect::OtherName => plan.id = "other".into(),
            Defect::PlanWrites => self.setting.meddle(101),
            Defect::PlanCountsUp => {
                plan.target = json!(self.plans.fetch_add(1, Ordering::Relaxed));
            }
            _ => {}
        }
        self.planned.store(plan.summary.as_ptr().addr(), Ordering::Relaxed);
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        match self.defect {
            Defect::PlanIsNotData if plan.summary.as_ptr().addr() != self.planned.load(Ordering::Relaxed) => {
                Err(Error::invalid("apply", "this is not the plan that I made"))
            }
            Defect::ApplyAlwaysChanges => {
                self.setting.meddle(10_000);
                Ok(Applied::Changed)
            }
            Defect::ApplyOverwrites if self.setting.value() == 77 => {
                self.setting.meddle(10_000);
                Ok(Applied::Changed)
            }
            _ => self.step.apply(cx, plan).await,
        }
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        match self.step.observe(cx, plan).await? {
            Observed::AtTarget if self.defect == Defect::NeverAtTarget => {
                Ok(Observed::CannotTell("?".into()))
            }
            observed => Ok(observed),
        }
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.step.settle(cx, plan).await
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        match self.defect {
            Defect::LiesThatItIsBack => Ok(Undone::Restored),
            Defect::UndoOverwrites if self.setting.value() == 77 => {
                self.setting.meddle(100);
                Ok(Undone::Restored)
            }
            Defect::UndoWritesAlways => {
                self.setting.meddle(100);
                Ok(Undone::Restored)
            }
            _ => self.step.undo(cx, plan).await,
        }
    }
}

fails!(other_name, step::names_itself, broken(Defect::OtherName), "plans under another name");
fails!(writing_plan, step::plans_read_only, broken(Defect::PlanWrites), "planning changed the world");
fails!(
    unsteady_plan,
    step::plans_read_only,
    broken(Defect::PlanCountsUp),
    "planning twice gave another target"
);
fails!(plan_without_json, step::plan_serialises_round_trip, broken(Defect::PlanIsNotData), "apply failed");
fails!(
    blind_observe,
    step::observe_answers_at_prior_and_at_target,
    broken(Defect::NeverAtTarget),
    "observe after the effect"
);
fails!(
    apply_again,
    step::runs_twice,
    broken(Defect::ApplyAlwaysChanges),
    "the second apply says that it did something"
);
fails!(lying_undo, step::undo_restores_prior, broken(Defect::LiesThatItIsBack), "the world is not as it was");
fails!(
    undo_again,
    step::undoes_twice,
    broken(Defect::UndoWritesAlways),
    "the second undo says that it did something"
);
fails!(
    undo_of_nothing,
    step::undo_without_apply_does_nothing,
    broken(Defect::UndoWritesAlways),
    "undo where nothing was done"
);
fails!(
    apply_over_others,
    step::drift_is_seen_and_left_alone,
    broken(Defect::ApplyOverwrites),
    "apply wrote over what somebody else changed"
);
fails!(
    undo_over_others,
    step::undo_leaves_others_alone,
    broken(Defect::UndoOverwrites),
    "undo must answer NotOurs"
);
