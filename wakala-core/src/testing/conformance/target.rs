//! What every [`ScalableTarget`] must do.

use std::sync::Arc;
use std::time::Duration;

use super::{Common, common_case, must, skip};
use crate::{
    Error, ErrorKind, Floor, Observation, Retry, RunContext, ScalableTarget, ScalableTargetExt, ScaleOptions,
    SharedTarget, Units,
};

/// A target to check, with what the checks need to know.
#[derive(Debug)]
pub struct TargetCase {
    common: Common,
    target: SharedTarget,
    missing: Option<SharedTarget>,
    sizes: Option<[Units; 2]>,
}

common_case!(TargetCase);

impl TargetCase {
    /// Checks `target`, which exists and is settled.
    pub fn new(target: impl ScalableTarget) -> Self {
        Self::shared(Arc::new(target))
    }

    /// Checks a target that others hold too.
    pub fn shared(target: SharedTarget) -> Self {
        Self { common: Common::new(), target, missing: None, sizes: None }
    }

    /// A target of the same sort that does not exist at the provider.
    #[must_use]
    pub fn with_missing(mut self, missing: impl ScalableTarget) -> Self {
        self.missing = Some(Arc::new(missing));
        self
    }

    /// Two sizes that the target can have and has not; as given, the next two above or below its own.
    #[must_use]
    pub fn with_sizes(mut self, one: impl Into<Units>, other: impl Into<Units>) -> Self {
        self.sizes = Some([one.into(), other.into()]);
        self
    }

    async fn observe(&self) -> Observation {
        must(self.target.observe(&self.common.cx).await, "observe")
    }

    async fn set(&self, size: Units, options: ScaleOptions) -> Result<Observation, Error> {
        self.target.set_desired(&self.common.cx, size, options).await
    }

    async fn set_plainly(&self, size: Units) -> Observation {
        must(self.set(size, ScaleOptions::default()).await, "set_desired to a size that it can have")
    }

    /// The size now, and two others that the target can have.
    async fn three_sizes(&self) -> (Observation, Units, Units) {
        let seen = self.observe().await;
        if let Some([one, other]) = self.sizes {
            return (seen, one, other);
        }
        let capability = self.target.capability();
        let fits = |size: Units| {
            capability.sizes.contains(size)
                && seen.bounds.is_none_or(|bounds| bounds.contains(size))
                && seen.owner.as_ref().is_none_or(|owner| owner.bounds.contains(size))
        };
        let now = seen.desired.0;
        for (one, other) in [(Some(now + 1), Some(now + 2)), (now.checked_sub(1), now.checked_sub(2))] {
            if let (Some(one), Some(other)) = (one.map(Units), other.map(Units))
                && fits(one)
                && fits(other)
            {
                return (seen, one, other);
            }
        }
        panic!("the case needs two sizes next to {now} that the target can have; say them with_sizes");
    }

    /// The same, the smallest first.
    async fn sorted_sizes(&self) -> [Units; 3] {
        let (seen, one, other) = self.three_sizes().await;
        let mut sizes = [seen.desired, one, other];
        sizes.sort_unstable();
        sizes
    }

    /// Fails unless the target, at `from`, is not made that small in a run of that `floor`.
    async fn assert_kept(
        &self,
        cx: &RunContext,
        from: Units,
        size: Units,
        floor: Floor,
        kinds: &[ErrorKind],
    ) {
        let Err(error) = self.target.set_desired(cx, size, ScaleOptions::default()).await else {
            panic!(
                "{size} was accepted in a run that keeps the target {floor}; RunContext::permit must be asked before \
                 the write"
            );
        };
        assert!(
            kinds.contains(&error.kind()) && error.retry() != Retry::ObserveFirst,
            "what RunContext::permit refuses must be returned as it is, not as {error:?}"
        );
        assert_eq!(self.observe().await.desired, from, "{size} was refused, and yet the size changed");
    }

    async fn assert_refused(&self, size: Units, options: ScaleOptions, kinds: &[ErrorKind], what: &str) {
        let before = self.observe().await;
        let Err(error) = self.set(size, options).await else {
            panic!("{what} was accepted; it must be refused as {kinds:?}");
        };
        assert!(
            kinds.contains(&error.kind()),
            "{what} must be refused as one of {kinds:?}, not as {error:?}"
        );
        assert_ne!(
            error.retry(),
            Retry::ObserveFirst,
            "{what} has certainly no effect, and the error must say so: {error:?}"
        );
        let after = self.observe().await;
        assert_eq!(after.desired, before.desired, "{what} was refused, and yet the size changed");
    }
}

impl<T: ScalableTarget> From<T> for TargetCase {
    fn from(target: T) -> Self {
        Self::new(target)
    }
}

/// Runs every check of this module, each on a target of its own.
pub async fn all<C: Into<TargetCase>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { target, __conformance_all! [make] }
}

/// Name, resource, capability are there and do not change.
pub async fn describes_itself(case: impl Into<TargetCase>) {
    let case = case.into();
    let target = &case.target;
    assert!(!target.id().as_str().is_empty(), "id is empty; a person must know what is meant");
    assert!(!target.resource().as_str().is_empty(), "resource is empty; two runs could not be kept apart");
    let bounds = target.capability().sizes;
    assert!(bounds.min <= bounds.max, "capability allows no size at all: {bounds}");
    assert_eq!(target.id(), target.id(), "id changes");
    assert_eq!(target.resource(), target.resource(), "resource changes");
    assert_eq!(target.capability(), target.capability(), "capability changes");
}

/// Observing changes nothing, and says the same twice.
pub async fn observe_is_read_only(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let (one, two) = (case.observe().await, case.observe().await);
        assert_eq!(one.desired, two.desired, "observe changed the size, or does not answer the same twice");
        assert_eq!(one.bounds, two.bounds, "observe changed the bounds");
        assert_eq!(one.owner, two.owner, "observe changed the owner");
        if one.settled && two.settled {
            assert_eq!(one.version, two.version, "the version of a settled target changed between two reads");
        }
    };
    case.common.drive(check).await;
}

/// A size is absolute: the last one that was set counts, whatever came before.
pub async fn set_desired_is_absolute(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let (_, one, other) = case.three_sizes().await;
        let mut sizes = vec![one, other];
        if case.target.capability().scale_down {
            sizes.push(one);
        } else {
            sizes.sort_unstable();
        }
        for size in sizes {
            let answer = case.set_plainly(size).await;
            assert_eq!(answer.desired, size, "set_desired answers another size than was asked for");
            let seen = case.observe().await;
            assert_eq!(seen.desired, size, "observe does not see the size that was set last");
        }
    };
    case.common.drive(check).await;
}

/// Setting the same size twice is as setting it once.
pub async fn set_desired_is_idempotent(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let (_, size, _) = case.three_sizes().await;
        case.set_plainly(size).await;
        let again = must(
            case.set(size, ScaleOptions::default()).await,
            "set_desired to the size that was just set, which must succeed,",
        );
        assert_eq!(again.desired, size, "setting the same size twice gave another one");
        assert_eq!(case.observe().await.desired, size, "setting the same size twice gave another one");
    };
    case.common.drive(check).await;
}

/// A size that was set becomes ready, and waiting for it ends.
pub async fn becomes_ready(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let (_, size, _) = case.three_sizes().await;
        case.set_plainly(size).await;
        let seen = case.target.wait_ready(&case.common.cx, size, case.common.limit).await;
        let seen = must(seen, "waiting until the target is ready");
        assert!(seen.is_ready(size), "wait_ready returned with {seen:?}");
    };
    case.common.drive(check).await;
}

/// Sizes that the target cannot have are refused and change nothing.
pub async fn out_of_range_is_refused(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let own = case.observe().await.bounds;
        let mut tried = false;
        for bounds in [Some(case.target.capability().sizes), own].into_iter().flatten() {
            let beyond = [bounds.min.0.checked_sub(1), bounds.max.0.checked_add(1)];
            for size in beyond.into_iter().flatten().map(Units) {
                tried = true;
                let what = format!("size {size}, outside of {bounds},");
                case.assert_refused(size, ScaleOptions::default(), &[ErrorKind::InvalidConfig], &what).await;
            }
        }
        if !tried {
            skip("out_of_range_is_refused", "the target says that it takes any size");
        }
    };
    case.common.drive(check).await;
}

/// A target that cannot be made smaller says so where it is tried.
pub async fn scale_down_is_as_declared(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let (seen, one, other) = case.three_sizes().await;
        let (small, large) = (one.min(other).min(seen.desired), one.max(other).max(seen.desired));
        case.set_plainly(large).await;
        if case.target.capability().scale_down {
            assert_eq!(case.set_plainly(small).await.desired, small, "the target was not made smaller");
        } else {
            let kinds = [ErrorKind::Unsupported, ErrorKind::InvalidConfig];
            case.assert_refused(small, ScaleOptions::default(), &kinds, "a smaller size").await;
        }
    };
    case.common.drive(check).await;
}

/// No step takes the target below the floor of its run, and down to the floor it goes.
pub async fn keeps_the_floor(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        if !case.target.capability().scale_down {
            return skip("keeps_the_floor", "the target declares that it cannot be made smaller");
        }
        let [low, middle, high] = case.sorted_sizes().await;
        case.set_plainly(high).await;
        let floor = Floor::at(middle);
        let cx = case.common.cx.clone().with_floor(case.target.resource(), floor);
        case.assert_kept(&cx, high, low, floor, &[ErrorKind::Denied]).await;
        let set = case.target.set_desired(&cx, middle, ScaleOptions::default()).await;
        assert_eq!(must(set, "set_desired to the floor of the run").desired, middle);
    };
    case.common.drive(check).await;
}

/// No step makes the target smaller faster than its run may.
pub async fn keeps_the_rate(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        if !case.target.capability().scale_down {
            return skip("keeps_the_rate", "the target declares that it cannot be made smaller");
        }
        let [low, middle, high] = case.sorted_sizes().await;
        case.set_plainly(high).await;
        let floor = Floor::at(0).with_removal(high.0 - middle.0, Duration::from_secs(3600));
        let cx = case.common.cx.clone().with_floor(case.target.resource(), floor);
        let set = case.target.set_desired(&cx, middle, ScaleOptions::default()).await;
        assert_eq!(must(set, "set_desired no faster than the run may").desired, middle);
        case.assert_kept(&cx, middle, low, floor, &[ErrorKind::RateLimited, ErrorKind::Denied]).await;
        // Growing is never too fast.
        let set = case.target.set_desired(&cx, high, ScaleOptions::default()).await;
        assert_eq!(must(set, "set_desired to a larger size").desired, high);
    };
    case.common.drive(check).await;
}

/// A write with the version that was just read goes through.
pub async fn present_version_is_accepted(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        if !case.target.capability().preconditions {
            return skip("present_version_is_accepted", "the target declares no preconditions");
        }
        let (seen, size, _) = case.three_sizes().await;
        assert!(seen.version.is_some(), "the target declares preconditions, and observe gives no version");
        let answer = case.set(size, ScaleOptions::if_version(seen.version)).await;
        assert_eq!(must(answer, "set_desired with the present version").desired, size);
    };
    case.common.drive(check).await;
}

/// A write with a version that no longer holds is a conflict and changes nothing.
pub async fn stale_version_conflicts(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        if !case.target.capability().preconditions {
            return skip("stale_version_conflicts", "the target declares no preconditions");
        }
        let (stale, one, other) = case.three_sizes().await;
        let (one, other) = (one.min(other), one.max(other));
        assert!(stale.version.is_some(), "the target declares preconditions, and observe gives no version");
        case.set_plainly(one).await;
        let options = ScaleOptions::if_version(stale.version);
        case.assert_refused(other, options, &[ErrorKind::Conflict], "a write with a stale version").await;
    };
    case.common.drive(check).await;
}

/// A dry run finds what the provider would refuse, and changes nothing.
pub async fn dry_run_changes_nothing(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        if !case.target.capability().dry_run {
            return skip("dry_run_changes_nothing", "the target declares no dry run");
        }
        let (before, size, _) = case.three_sizes().await;
        must(case.set(size, ScaleOptions::dry_run()).await, "a dry run of a size that the target can have");
        assert_eq!(case.observe().await.desired, before.desired, "a dry run changed the size");
        if let Some(beyond) = case.target.capability().sizes.max.0.checked_add(1).map(Units) {
            let kinds = [ErrorKind::InvalidConfig];
            case.assert_refused(beyond, ScaleOptions::dry_run(), &kinds, "a dry run beyond all sizes").await;
        }
    };
    case.common.drive(check).await;
}

/// Options that the target says it does not know are refused: silence would turn a check into a change.
pub async fn options_beyond_capability_are_refused(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let capability = case.target.capability();
        let (_, size, _) = case.three_sizes().await;
        let kinds = [ErrorKind::Unsupported];
        if !capability.dry_run {
            case.assert_refused(size, ScaleOptions::dry_run(), &kinds, "an undeclared dry run").await;
        }
        if !capability.preconditions {
            let options = ScaleOptions::if_version(Some("1".into()));
            case.assert_refused(size, options, &kinds, "an undeclared precondition").await;
        }
        if capability.dry_run && capability.preconditions {
            skip("options_beyond_capability_are_refused", "the target declares every option");
        }
    };
    case.common.drive(check).await;
}

/// A target that does not exist is `NotFound` to read and to write.
pub async fn unknown_target_is_not_found(case: impl Into<TargetCase>) {
    let case = case.into();
    let check = async {
        let Some(missing) = &case.missing else {
            return skip("unknown_target_is_not_found", "the case names no missing target");
        };
        let size = missing.capability().sizes.min.max(Units(1));
        let set = missing.set_desired(&case.common.cx, size, ScaleOptions::default()).await;
        for (what, answer) in [("observe", missing.observe(&case.common.cx).await), ("set_desired", set)] {
            let Err(error) = answer else { panic!("{what} of a target that does not exist succeeded") };
            assert_eq!(
                error.kind(),
                ErrorKind::NotFound,
                "{what} of a target that does not exist must be NotFound: {error:?}"
            );
            assert_ne!(error.retry(), Retry::ObserveFirst, "{what} had certainly no effect: {error:?}");
        }
    };
    case.common.drive(check).await;
}
