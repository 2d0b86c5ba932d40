//! Telling people.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Applied, Observed, PlaybookStep, ResourceKey, Result, Reversibility, RunContext, StepId, StepPlan, Undone,
};

/// How urgent a notification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// Look when there is time.
    Warning,
    /// Look now.
    High,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::High => "high",
        })
    }
}

/// A message for people.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// How urgent it is.
    pub severity: Severity,
    /// The message, in plain text.
    pub text: String,
    /// Further facts by name: the run, the playbook.
    pub fields: BTreeMap<String, String>,
}

impl Notification {
    /// A message without further facts.
    pub fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self { severity, text: text.into(), fields: BTreeMap::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_field(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.insert(name.into(), value.into());
        self
    }
}

/// A way to reach people.
#[async_trait]
pub trait Notifier: Debug + Send + Sync + 'static {
    /// Where the message goes, for the plan; without secrets.
    fn destination(&self) -> String;

    /// Sends one message. May be repeated: two messages do less harm than none.
    ///
    /// # Errors
    /// What the receiver says. The message may have arrived nevertheless.
    async fn notify(&self, cx: &RunContext, notification: &Notification) -> Result<()>;
}

/// Writes notifications to the log of the program, through [`tracing`].
#[derive(Clone, Copy, Debug, Default)]
pub struct LogNotifier;

#[async_trait]
impl Notifier for LogNotifier {
    fn destination(&self) -> String {
        "log".to_owned()
    }

    async fn notify(&self, cx: &RunContext, notification: &Notification) -> Result<()> {
        let Notification { severity, text, fields } = notification;
        match severity {
            Severity::Info => tracing::info!(run = %cx.run_id(), ?fields, "{text}"),
            Severity::Warning => tracing::warn!(run = %cx.run_id(), ?fields, "{text}"),
            Severity::High => tracing::error!(run = %cx.run_id(), ?fields, "{text}"),
        }
        Ok(())
    }
}

/// The step that sends a [`Notification`]. There is nothing to undo about it.
#[derive(Debug)]
pub struct NotifyStep {
    id: StepId,
    notifier: Arc<dyn Notifier>,
    notification: Notification,
}

impl NotifyStep {
    /// The step of that name. The run's name is added to the message's fields.
    pub fn new(id: impl Into<StepId>, notifier: Arc<dyn Notifier>, notification: Notification) -> Self {
        Self { id: id.into(), notifier, notification }
    }
}

#[async_trait]
impl PlaybookStep for NotifyStep {
    fn id(&self) -> StepId {
        self.id.clone()
    }

    async fn plan(&self, _: &RunContext) -> Result<StepPlan> {
        let destination = self.notifier.destination();
        let Notification { severity, text, .. } = &self.notification;
        let target = json!({ "message": text, "severity": severity });
        let mut plan = StepPlan::new(self.id.clone(), format!("notify {destination}"), json!({}), target);
        plan.reversibility = Reversibility::Compensatable("none, a message cannot be taken back".to_owned());
        plan.resources = Vec::<ResourceKey>::new();
        Ok(plan)
    }

    async fn apply(&self, cx: &RunContext, _: &StepPlan) -> Result<Applied> {
        let notification = self.notification.clone().with_field("run", cx.run_id().as_str());
        self.notifier.notify(cx, &notification).await?;
        Ok(Applied::Changed)
    }

    /// Nobody can tell whether people read it, so a message whose fate is unknown counts as not sent.
    async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        Ok(Observed::AtPrior)
    }

    async fn settle(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        Ok(Observed::AtTarget)
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
        Ok(Undone::Nothing)
    }
}
