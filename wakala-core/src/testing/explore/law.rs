//! The laws that hold in every schedule.

use std::fmt;

/// What was broken.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Law {
    /// A run that was asked to stop, or to leave everything as it is, begins no further effect.
    AskedToStop,
    /// A guard whose source told it nothing does not pass.
    BlindGuard,
    /// The run without any trouble succeeds, and can be taken back.
    CalmRun,
    /// What the scene itself checks.
    Check,
    /// What nobody drives is seen by everybody who looks, and keeps what it holds.
    Condition,
    /// Once nothing goes wrong any more, the run comes to its end.
    End,
    /// A run that is at its end changes nothing more, unless it is taken back.
    Ended,
    /// Every end has its reason.
    Explained,
    /// No target goes below its floor.
    Floor,
    /// Every effect is preceded by its intent, durable in the store.
    IntentFirst,
    /// The journal is whole and only grows.
    Journal,
    /// Nothing is held longer than it must be, and everything can be given back.
    Lease,
    /// Every effect happens once.
    Once,
    /// What is temporary and still there is owed.
    Owed,
    /// Nothing panics.
    Panic,
    /// A run that is paused begins no further effect.
    Paused,
    /// Planning changes nothing.
    PlanReadsOnly,
    /// No target gets smaller faster than it may.
    Rate,
    /// A call at which something was to go wrong was made.
    Reached,
    /// The report lists whatever differs from before, and what it is certain of does differ.
    Residuals,
    /// A run that succeeds leaves the world as a run without trouble does.
    SameEnd,
    /// A soak passes only where passing verdicts cover it.
    Soak,
    /// A process that somebody took the run over from writes nothing and changes nothing.
    Stale,
    /// What is taken back is as it was, but for what the report lists; taking it back again changes nothing.
    Undo,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AskedToStop => "asked to stop",
            Self::BlindGuard => "blind guard",
            Self::CalmRun => "calm run",
            Self::Check => "check",
            Self::Condition => "condition",
            Self::End => "end",
            Self::Ended => "ended",
            Self::Explained => "explained",
            Self::Floor => "floor",
            Self::IntentFirst => "intent first",
            Self::Journal => "journal",
            Self::Lease => "lease",
            Self::Once => "once",
            Self::Owed => "owed",
            Self::Panic => "panic",
            Self::Paused => "paused",
            Self::PlanReadsOnly => "plan reads only",
            Self::Rate => "rate",
            Self::Reached => "reached",
            Self::Residuals => "residuals",
            Self::SameEnd => "same end",
            Self::Soak => "soak",
            Self::Stale => "stale",
            Self::Undo => "undo",
        })
    }
}
