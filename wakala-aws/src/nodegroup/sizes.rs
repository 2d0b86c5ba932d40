//! The three sizes of a node group and the rules between them. No I/O in here.

use std::fmt;

use serde::{Deserialize, Serialize};
use wakala_core::{Bounds, Change, Units};

/// The sizes of a node group, in nodes; as EKS has it, `min <= desired <= max`.
///
/// This is the prior state and the target in the plan of a [`NodeGroupStep`](crate::NodeGroupStep).
#[expect(clippy::exhaustive_structs, reason = "these three are all there is")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeGroupSizes {
    /// What an autoscaler may not go below.
    pub min: Units,
    /// How many nodes there should be.
    pub desired: Units,
    /// What nobody may go above.
    pub max: Units,
}

impl NodeGroupSizes {
    /// The smallest and the largest size.
    pub(crate) fn bounds(self) -> Bounds {
        Bounds { min: self.min, max: self.max }
    }

    /// The sizes with at least `size` nodes, kept by the minimum; the maximum rises only where it has to. Never smaller.
    pub(crate) fn with_at_least(self, size: Units) -> Self {
        Self { min: self.min.max(size), desired: self.desired.max(size), max: self.max.max(size) }
    }

    /// What to write where these sizes are found and `target` was approved: its bounds, and `desired` only up, since
    /// an autoscaler may have gone further meanwhile.
    pub(crate) fn brought_to(self, target: Self) -> Self {
        Self { min: target.min, desired: self.desired.max(target.min), max: target.max }
    }

    /// Whether as many nodes as `target` holds are asked for and kept. Larger is as good.
    pub(crate) fn reach(self, target: Self) -> bool {
        self.min >= target.min && self.desired >= target.min
    }

    /// What differs in `other`, for people.
    pub(crate) fn changes(self, other: Self) -> Vec<Change> {
        let sizes = [
            ("min", self.min, other.min),
            ("desired", self.desired, other.desired),
            ("max", self.max, other.max),
        ];
        let differs = sizes.into_iter().filter(|(_, from, to)| from != to);
        differs
            .map(|(name, from, to)| Change::new(name, Some(from.to_string()), Some(to.to_string())))
            .collect()
    }
}

impl fmt::Display for NodeGroupSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "min {}, desired {}, max {}", self.min, self.desired, self.max)
    }
}

/// How far the sizes of a run can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TakeBack {
    /// What to have instead of the present sizes; equal to them where nothing is to be written.
    pub(crate) to: NodeGroupSizes,
    pub(crate) rest: Rest,
}

/// What is not as it was, once that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    /// Ours, and it stays for now.
    Ours(String),
    /// Somebody else's since.
    Theirs(String),
}

/// Takes back what led from `prior` to `written`, where `current` is found.
///
/// `min` goes back first of all, and `max` as soon as `desired` fits below it. `desired` goes back only where `shrink`
/// asks for it and nobody has moved it since. Right again at every call: what is back already stays so.
pub(crate) fn take_back(
    prior: NodeGroupSizes,
    written: NodeGroupSizes,
    current: NodeGroupSizes,
    shrink: bool,
) -> TakeBack {
    let known = |size, was, wrote| size == was || size == wrote;
    if !known(current.min, prior.min, written.min) || !known(current.max, prior.max, written.max) {
        let rest = Rest::Theirs(format!("it has {current}, the run wrote {written}"));
        return TakeBack { to: current, rest };
    }
    let raised = written.desired > prior.desired;
    let ours = raised && current.desired == written.desired;
    let desired = if ours && shrink { prior.desired } else { current.desired };
    let max = if desired > prior.max { current.max } else { prior.max };
    let to = NodeGroupSizes { min: prior.min, desired, max };
    let mut stays = Vec::new();
    if ours && !shrink {
        stays.push(format!(
            "desired stays {desired} (was {}): left to the Cluster Autoscaler or a drain, since EKS ends nodes after \
             15 minutes whatever a PodDisruptionBudget says",
            prior.desired
        ));
    }
    if max != prior.max {
        stays.push(format!("max stays {max} (was {}) until desired is at most {}", prior.max, prior.max));
    }
    let rest = if !stays.is_empty() {
        Rest::Ours(stays.join("; "))
    } else if raised && desired > prior.desired {
        Rest::Theirs(format!(
            "min and max are back; desired is {desired} by somebody else (it was {}, the run wrote {})",
            prior.desired, written.desired
        ))
    } else {
        Rest::Nothing
    };
    TakeBack { to, rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(min: u32, desired: u32, max: u32) -> NodeGroupSizes {
        NodeGroupSizes { min: Units(min), desired: Units(desired), max: Units(max) }
    }

    #[test]
    fn growing_never_makes_anything_smaller() {
        assert_eq!(sizes(5, 10, 50).with_at_least(Units(30)), sizes(30, 30, 50));
        assert_eq!(sizes(5, 40, 50).with_at_least(Units(30)), sizes(30, 40, 50));
        assert_eq!(sizes(35, 40, 50).with_at_least(Units(30)), sizes(35, 40, 50));
        assert_eq!(sizes(5, 10, 20).with_at_least(Units(30)), sizes(30, 30, 30));
        assert_eq!(sizes(5, 36, 50).brought_to(sizes(30, 30, 50)), sizes(30, 36, 50));
    }

    #[test]
    fn larger_reaches_the_target_too() {
        let target = sizes(30, 30, 50);
        for reached in [target, sizes(30, 36, 50), sizes(32, 32, 60)] {
            assert!(reached.reach(target), "{reached}");
        }
        for short in [sizes(5, 10, 50), sizes(5, 30, 50), sizes(29, 30, 50)] {
            assert!(!short.reach(target), "{short}");
        }
    }

    /// Every case as `(prior, written, current, shrink) -> (to, rest)`, and once more from where it led to.
    #[test]
    fn taking_back_goes_as_far_as_it_does_no_harm() {
        let (prior, written) = (sizes(5, 10, 50), sizes(30, 30, 50));
        let ours = |to| (to, "ours");
        let theirs = |to| (to, "theirs");
        let back = |to| (to, "nothing");
        let low_max = (sizes(5, 10, 20), sizes(30, 30, 30));
        let cases = [
            ((prior, written), written, false, ours(sizes(5, 30, 50))),
            ((prior, written), written, true, back(prior)),
            ((prior, written), prior, false, back(prior)),
            // An autoscaler went on from there, up or down.
            ((prior, written), sizes(30, 36, 50), true, theirs(sizes(5, 36, 50))),
            ((prior, written), sizes(5, 18, 50), false, theirs(sizes(5, 18, 50))),
            ((prior, written), sizes(5, 10, 50), true, back(prior)),
            // Somebody changed a bound.
            ((prior, written), sizes(12, 30, 50), true, theirs(sizes(12, 30, 50))),
            ((prior, written), sizes(30, 30, 60), true, theirs(sizes(30, 30, 60))),
            // Only the minimum was raised.
            ((sizes(5, 40, 50), sizes(30, 40, 50)), sizes(30, 40, 50), false, back(sizes(5, 40, 50))),
            ((sizes(5, 40, 50), sizes(30, 40, 50)), sizes(30, 44, 50), true, back(sizes(5, 44, 50))),
            // The maximum was raised too.
            (low_max, sizes(30, 30, 30), false, ours(sizes(5, 30, 30))),
            (low_max, sizes(30, 30, 30), true, back(sizes(5, 10, 20))),
            (low_max, sizes(5, 25, 30), true, ours(sizes(5, 25, 30))),
            (low_max, sizes(5, 18, 30), false, theirs(sizes(5, 18, 20))),
        ];
        for ((prior, written), current, shrink, (to, rest)) in cases {
            let taken = take_back(prior, written, current, shrink);
            let kind = match &taken.rest {
                Rest::Nothing => "nothing",
                Rest::Ours(_) => "ours",
                Rest::Theirs(_) => "theirs",
            };
            assert_eq!((taken.to, kind), (to, rest), "from {current}, shrink {shrink}: {taken:?}");
            assert!(to.min <= to.desired && to.desired <= to.max, "out of order: {to}");
            assert_eq!(
                take_back(prior, written, to, shrink).to,
                to,
                "not the same when repeated, from {current}"
            );
        }
    }
}
