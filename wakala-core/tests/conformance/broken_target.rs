//! Targets that are broken in one way each.

use async_trait::async_trait;
use wakala_core::testing::FakeTarget;
use wakala_core::testing::conformance::{TargetCase, target};
use wakala_core::{
    Capability, Error, ErrorKind, ManualClock, Observation, Permission, ResourceKey, Result, Retry,
    RunContext, ScalableTarget, ScaleOptions, TargetId, Units,
};

use super::bounds;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    AcceptsEverySize,
    AcceptsStaleVersions,
    AddsToTheSize,
    AnswersLate,
    DryRunWrites,
    FailsTheSecondTime,
    ForgetsTheRate,
    IgnoresFloors,
    IgnoresOptions,
    NameChanges,
    NeverReady,
    NoVersion,
    ObserveScales,
    ScalesDownNevertheless,
    UncertainRefusal,
    UnknownIsEmpty,
}

#[derive(Debug)]
struct Broken {
    target: FakeTarget,
    defect: Defect,
}

fn broken(defect: Defect) -> TargetCase {
    let capability = Capability::new(bounds(0, 10));
    let target = FakeTarget::new("t", 3);
    let target = match defect {
        Defect::IgnoresOptions => target.with_capability(capability),
        Defect::ScalesDownNevertheless => target.with_capability(capability.without_scale_down()),
        Defect::NeverReady => target.with_ready_limit(3, "no nodes"),
        _ => target.with_capability(capability.with_dry_run().with_preconditions()),
    };
    TargetCase::new(Broken { target: target.clone(), defect })
        .with_missing(Broken { target: FakeTarget::missing("gone"), defect })
        .on(&ManualClock::default())
}

#[async_trait]
impl ScalableTarget for Broken {
    fn id(&self) -> TargetId {
        if self.defect == Defect::NameChanges {
            return wakala_core::RunId::generate().as_str().into();
        }
        self.target.id()
    }

    fn resource(&self) -> ResourceKey {
        self.target.resource()
    }

    fn capability(&self) -> Capability {
        self.target.capability()
    }

    fn permissions(&self) -> Vec<Permission> {
        self.target.permissions()
    }

    async fn observe(&self, cx: &RunContext) -> Result<Observation> {
        if self.defect == Defect::UnknownIsEmpty && self.target.id().as_str() == "gone" {
            return Ok(Observation::new(0, 0));
        }
        if self.defect == Defect::ObserveScales {
            self.target.meddle(self.target.size().0 + 1);
        }
        let mut seen = self.target.observe(cx).await?;
        if self.defect == Defect::NoVersion {
            seen.version = None;
        }
        Ok(seen)
    }

    async fn set_desired(
        &self,
        cx: &RunContext,
        desired: Units,
        options: ScaleOptions,
    ) -> Result<Observation> {
        let target = &self.target;
        match self.defect {
            Defect::AcceptsEverySize if desired > Units(10) => {
                target.meddle(desired);
                target.observe(cx).await
            }
            Defect::AcceptsStaleVersions => target.set_desired(cx, desired, ScaleOptions::default()).await,
            Defect::AddsToTheSize => {
                target.set_desired(cx, Units(target.size().0 + desired.0), ScaleOptions::default()).await
            }
            Defect::AnswersLate => {
                let before = target.observe(cx).await?;
                target.set_desired(cx, desired, options).await?;
                Ok(before)
            }
            Defect::DryRunWrites if options.dry_run => {
                target.set_desired(cx, desired, ScaleOptions::default()).await
            }
            Defect::FailsTheSecondTime if desired == target.size() => {
                Err(Error::new(ErrorKind::Conflict, "set_desired", "it has that size already"))
            }
            Defect::ForgetsTheRate if cx.floor(&self.resource()).is_some_and(|floor| desired < floor.min) => {
                Err(Error::new(ErrorKind::Denied, "set_desired", "below the floor"))
            }
            Defect::ForgetsTheRate | Defect::IgnoresFloors => {
                target.set_desired(&RunContext::detached(), desired, options).await
            }
            Defect::IgnoresOptions => target.set_desired(cx, desired, ScaleOptions::default()).await,
            Defect::ScalesDownNevertheless => {
                target.meddle(desired);
                target.observe(cx).await
            }
            Defect::UncertainRefusal => target
                .set_desired(cx, desired, options)
                .await
                .map_err(|error| error.with_retry(Retry::ObserveFirst)),
            _ => target.set_desired(cx, desired, options).await,
        }
    }
}

fails!(changing_name, target::describes_itself, broken(Defect::NameChanges), "id changes");
fails!(
    scaling_observe,
    target::observe_is_read_only,
    broken(Defect::ObserveScales),
    "observe changed the size"
);
fails!(delta_instead_of_size, target::set_desired_is_absolute, broken(Defect::AddsToTheSize), "another size");
fails!(late_answer, target::set_desired_is_absolute, broken(Defect::AnswersLate), "answers another size");
fails!(
    failing_second_time,
    target::set_desired_is_idempotent,
    broken(Defect::FailsTheSecondTime),
    "the size that was just set, which must succeed, failed"
);
fails!(never_ready, target::becomes_ready, broken(Defect::NeverReady), "3 of 4 ready after 2m: no nodes");
fails!(
    any_size,
    target::out_of_range_is_refused,
    broken(Defect::AcceptsEverySize),
    "size 11, outside of 0..10, was accepted"
);
fails!(
    uncertain_refusal,
    target::out_of_range_is_refused,
    broken(Defect::UncertainRefusal),
    "has certainly no effect, and the error must say so"
);
fails!(
    undeclared_scale_down,
    target::scale_down_is_as_declared,
    broken(Defect::ScalesDownNevertheless),
    "a smaller size was accepted"
);
fails!(
    ignored_floor,
    target::keeps_the_floor,
    broken(Defect::IgnoresFloors),
    "3 was accepted in a run that keeps the target never below 4; RunContext::permit must be asked"
);
fails!(
    uncertain_floor,
    target::keeps_the_floor,
    broken(Defect::UncertainRefusal),
    "what RunContext::permit refuses must be returned as it is"
);
fails!(
    forgotten_rate,
    target::keeps_the_rate,
    broken(Defect::ForgetsTheRate),
    "3 was accepted in a run that keeps the target never below 0, at most 1 fewer in 1h"
);
fails!(
    no_version,
    target::present_version_is_accepted,
    broken(Defect::NoVersion),
    "observe gives no version"
);
fails!(
    stale_version,
    target::stale_version_conflicts,
    broken(Defect::AcceptsStaleVersions),
    "a write with a stale version was accepted"
);
fails!(
    writing_dry_run,
    target::dry_run_changes_nothing,
    broken(Defect::DryRunWrites),
    "a dry run changed the size"
);
fails!(
    ignored_options,
    target::options_beyond_capability_are_refused,
    broken(Defect::IgnoresOptions),
    "an undeclared dry run was accepted"
);
fails!(
    unknown_is_empty,
    target::unknown_target_is_not_found,
    broken(Defect::UnknownIsEmpty),
    "observe of a target that does not exist succeeded"
);
