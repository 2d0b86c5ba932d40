//! What speaks against a move, as data: everything is collected before a person is told.

use std::fmt;

#[cfg(test)]
use wakala_core::{Error, Result};

/// One reason, in one sentence, with what helps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Which table, column, setting, role; with the side where there are two.
    pub(crate) object: String,
    /// What is the matter with it, and what would come of it.
    pub(crate) what: String,
    /// What to do; SQL where that is enough.
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn new(object: impl fmt::Display, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { object: object.to_string(), what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.what, self.remedy)
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// With one of these nothing begins.
    pub(crate) refusals: Vec<Finding>,
    /// What a person should know before approving.
    pub(crate) warnings: Vec<Finding>,
}

impl Findings {
    pub(super) fn refuse(
        &mut self,
        object: impl fmt::Display,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.refusals.push(Finding::new(object, what, remedy));
    }

    pub(super) fn warn(
        &mut self,
        object: impl fmt::Display,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(Finding::new(object, what, remedy));
    }

    /// Takes over what was found elsewhere.
    pub(crate) fn extend(&mut self, other: Self) {
        self.refusals.extend(other.refusals);
        self.warnings.extend(other.warnings);
    }

    /// The same with the side before each object.
    pub(crate) fn on(self, side: &str) -> Self {
        let put = |list: Vec<Finding>| {
            list.into_iter()
                .map(|finding| Finding { object: format!("{side}: {}", finding.object), ..finding })
                .collect()
        };
        Self { refusals: put(self.refusals), warnings: put(self.warnings) }
    }

    /// Those of two sides, with the side before each object; what both say is said once.
    pub(super) fn of_both(source: Self, destination: Self) -> Self {
        let merge = |ours: Vec<Finding>, theirs: Vec<Finding>| {
            let (both, ours): (Vec<Finding>, Vec<Finding>) =
                ours.into_iter().partition(|finding| theirs.contains(finding));
            let theirs: Vec<Finding> = theirs.into_iter().filter(|finding| !both.contains(finding)).collect();
            (both, ours, theirs)
        };
        let (both, ours, theirs) = merge(source.refusals, destination.refusals);
        let (both_warn, ours_warn, theirs_warn) = merge(source.warnings, destination.warnings);
        let mut all = Self { refusals: both, warnings: both_warn }.on("both sides");
        all.extend(Self { refusals: ours, warnings: ours_warn }.on("source"));
        all.extend(Self { refusals: theirs, warnings: theirs_warn }.on("destination"));
        all
    }

    /// # Errors
    /// `InvalidConfig` with all refusals, a line each, where there is one.
    #[cfg(test)]
    pub(crate) fn accepted(&self) -> Result<()> {
        if self.refusals.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = self.refusals.iter().map(ToString::to_string).collect();
        Err(Error::invalid("preflight", all.join("\n")))
    }
}
