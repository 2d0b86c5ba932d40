//! Checks of a whole plan before anything is touched.

use std::fmt::{self, Debug};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Permission, Result, RunContext, StepPlan};

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
