//! The steps: each asks the shards how the move stands, and lets the host do what is missing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use wakala_core::{
    Applied, Change, Error, ErrorKind, Observed, PlaybookStep, Result, Reversibility, RunContext, StepId,
    StepPlan, Undone,
};
use wakala_db::{MoveFacts, MoveHost, MoveJob, MovePreview, MoveSpec, TenantFacts, TenantId, TenantPlace};

use super::preview::{Previews, size_of};
use super::texts;
use super::throttle::Throttle;

/// How often progress is told, and the rate adjusted.
const TICK: Duration = Duration::from_secs(1);

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Prepare,
    Copy,
    Verify(&'static str),
    HandOver(TenantId),
    Cleanup,
}

#[derive(Debug)]
pub(super) struct MoveStep {
    work: Work,
    previews: Arc<Previews>,
    throttle: Throttle,
}

impl MoveStep {
    pub(super) fn new(work: Work, previews: Arc<Previews>, throttle: Throttle) -> Self {
        Self { work, previews, throttle }
    }

    fn host(&self) -> &MoveHost {
        self.previews.host()
    }

    fn spec(&self) -> &MoveSpec {
        self.host().spec()
    }

    fn job(&self) -> MoveJob {
        match &self.work {
            Work::Prepare => MoveJob::Prepare,
            Work::Copy => MoveJob::Copy,
            Work::Verify(pass) => MoveJob::Verify((*pass).to_owned()),
            Work::HandOver(tenant) => MoveJob::HandOver(tenant.clone()),
            Work::Cleanup => MoveJob::Finish,
        }
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, message: String) -> Error {
        Error::new(kind, operation, message).on(format!("move {}", self.spec().id))
    }

    /// One plan of work: what it is called, what changes, how long it takes.
    fn planned(&self, preview: &MovePreview) -> StepPlan {
        let spec = self.spec();
        let (source, destination) = (spec.source, spec.destination);
        let plan = |summary: String, changes: Vec<Change>| {
            let (prior, target) = (json!({ "done": false }), json!({ "done": true }));
            let mut plan = StepPlan::new(self.id(), summary, prior, target);
            plan.changes = changes;
            plan
        };
        let change = |path: String, to: String| Change::new(path, None, Some(to));
        let mut plan = match &self.work {
            Work::Prepare => {
                let mut plan = plan(
                    format!(
                        "prepare to move from shard {source} ({}) to shard {destination} ({})",
                        self.host().source(),
                        self.host().destination()
                    ),
                    vec![
                        change("both.guards".into(), texts::counted(preview.tables.len(), "table")),
                        change(format!("shard_{source}.slot"), format!("wakala_{}", spec.id)),
                        change(format!("shard_{source}.publication"), format!("wakala_{}", spec.id)),
                    ],
                );
                plan.reversibility = Reversibility::Compensatable(
                    "abort the move; guards stay, which keep a tenant's rows on one shard".into(),
                );
                plan.expected = Duration::from_secs(10);
                plan.permissions = texts::permissions(spec);
                plan.resources = texts::everything(spec);
                plan
            }
            Work::Copy => {
                let mut plan = plan(
                    format!("copy {} rows, about {}", preview.rows(), texts::bytes(preview.bytes())),
                    vec![change(format!("shard_{destination}.rows"), format!("about {}", preview.rows()))],
                );
                plan.reversibility =
                    Reversibility::Compensatable("the rows go when the preparation is taken back".into());
                plan.expected = self.previews.copying(preview);
                plan
            }
            Work::Verify(pass) => {
                let mut plan = plan(
                    format!("compare every row on both shards, {pass} the hand-over, while writers go on"),
                    vec![change(format!("check.{pass}"), "all the same".into())],
                );
                plan.expected = self.previews.verifying(preview);
                plan
            }
            Work::HandOver(tenant) => {
                let size = size_of(preview, tenant);
                let size = size.map(|size| format!(" ({} rows, {})", size.rows, texts::bytes(size.bytes)));
                let mut plan = plan(
                    format!(
                        "hand tenant {tenant}{} over; its writers wait for some milliseconds, at most {} a try",
                        size.unwrap_or_default(),
                        humantime::format_duration(self.host().options().fence_patience)
                    ),
                    vec![Change::new(
                        format!("tenant.{tenant}"),
                        Some(format!("shard {source}")),
                        Some(format!("shard {destination}")),
                    )],
                );
                plan.expected = Duration::from_secs(1);
                plan.resources = vec![texts::key_of(tenant)];
                plan
            }
            Work::Cleanup => {
                let mut plan = plan(
                    format!("delete the rows on shard {source}, and all that the move made"),
                    vec![Change::new(
                        format!("shard_{source}.rows"),
                        Some(format!("about {}", preview.rows())),
                        None,
                    )],
                );
                plan.reversibility = Reversibility::Irreversible;
                plan.warnings = vec![format!(
                    "there is no way back behind it: to have the tenants on shard {source} again is a move of its own"
                )];
                plan.expected = self.previews.copying(preview);
                plan.resources = texts::everything(spec);
                plan
            }
        };
        if plan.resources.is_empty() {
            plan.resources = vec![texts::slot_of(source), texts::slot_of(destination)];
        }
        plan
    }

    fn judge(&self, facts: &MoveFacts) -> Observed {
        let spec = self.spec();
        let working = self.host().status().job == Some(self.job());
        let on_its_way = |text: String| Observed::InProgress(text);
        let begun = || {
            let change = Change::new(format!("move {}", spec.id), Some("begun".into()), Some("ended".into()));
            Observed::Drifted(vec![change])
        };
        match &self.work {
            Work::Prepare if facts.prepared => Observed::AtTarget,
            Work::Prepare if facts.begun => {
                on_its_way("the move is known, and not all that it needs is there".into())
            }
            Work::Prepare if facts.all_at(TenantPlace::Source) => Observed::AtPrior,
            Work::Prepare => {
                Observed::Drifted(facts.tenants.iter().filter_map(|facts| self.strayed(facts)).collect())
            }
            Work::Copy if facts.is_copied() && !working => Observed::AtTarget,
            Work::Verify(pass) if facts.checks.get(*pass) == Some(&true) && !working => Observed::AtTarget,
            Work::Cleanup if !facts.begun => Observed::AtTarget,
            Work::HandOver(tenant) => match facts.tenant(tenant) {
                Some(TenantFacts { place: TenantPlace::Destination, directory, .. }) => {
                    if *directory == Some(spec.destination) {
                        Observed::AtTarget
                    } else {
                        on_its_way(format!(
                            "shard {} serves it, and the directory does not know yet",
                            spec.destination
                        ))
                    }
                }
                Some(TenantFacts { place: TenantPlace::ToDestination, .. }) => {
                    on_its_way("nobody serves the tenant; its token is on its way".into())
                }
                _ if !facts.begun => begun(),
                _ if working => on_its_way("it is handed over".into()),
                _ => Observed::AtPrior,
            },
            _ if !facts.begun => begun(),
            Work::Copy if working || facts.chunks > 0 => {
                on_its_way(format!("{} of {} chunks are copied", facts.chunks, facts.chunks_total))
            }
            _ if working => on_its_way(format!("{} goes on", self.job())),
            _ => Observed::AtPrior,
        }
    }

    fn strayed(&self, facts: &TenantFacts) -> Option<Change> {
        let spec = self.spec();
        (facts.place != TenantPlace::Source).then(|| {
            let (from, to) = (format!("shard {}", spec.source), format!("shard {}", spec.destination));
            Change::new(format!("tenant.{}", facts.tenant), Some(from), Some(to))
        })
    }

    /// The job to its end.
    async fn work(&self) -> Result<()> {
        let Work::Verify(pass) = &self.work else { return self.host().run(self.job()).await };
        let found = self.host().verify(pass).await?;
        if found.is_equal() {
            return Ok(());
        }
        let differences: Vec<_> = found
            .tables
            .iter()
            .flat_map(|table| table.differences.iter().map(move |text| format!("{}: {text}", table.table)))
            .collect();
        let message = format!(
            "rows differ on the two shards ({}); do not go on: find out who changed them, and take the move back",
            differences.join("; ")
        );
        Err(self.error(ErrorKind::Conflict, "verify", message))
    }

    /// Tells how far it is, as long as it is asked.
    async fn tells(&self, cx: &RunContext) {
        loop {
            cx.clock().sleep(TICK).await;
            let status = self.host().status();
            let mut held = None;
            if self.work == Work::Copy && !status.paused && !self.throttle.guards().is_empty() {
                held = self.throttle.adjust(cx).await;
            }
            let mut note = match status.progress {
                Some(progress) if self.work == Work::Copy => {
                    cx.progress(progress.bytes, progress.bytes_total, progress.to_string());
                    String::new()
                }
                _ => self.job().to_string(),
            };
            if status.paused && self.work == Work::Copy {
                note = "the copy is paused; changes flow".to_owned();
            }
            for note in [note, held.unwrap_or_default()] {
                if !note.is_empty() {
                    cx.progress(0, 0, note);
                }
            }
        }
    }

    async fn take_back(&self, tenant: &TenantId, facts: &MoveFacts) -> Result<Undone> {
        let spec = self.spec();
        let Some(found) = facts.tenant(tenant) else { return Ok(Undone::Nothing) };
        let here = found.place == TenantPlace::Source;
        if here && found.directory != Some(spec.destination) {
            return Ok(Undone::Nothing);
        }
        if !facts.begun {
            let message = format!(
                "the move is finished, and with it the way back of tenant {tenant}; move it to shard {} by a move of its own",
                spec.source
            );
            return Err(self.error(ErrorKind::Unsupported, "take_back", message));
        }
        if found.place == TenantPlace::ToDestination {
            // Its token must arrive before it can be sent back.
            self.host().hand_over(tenant).await?;
        }
        self.host().take_back(tenant).await?;
        Ok(Undone::Restored)
    }
}

#[async_trait]
impl PlaybookStep for MoveStep {
    fn id(&self) -> StepId {
        match &self.work {
            Work::Prepare => "prepare".into(),
            Work::Copy => "copy".into(),
            Work::Verify(pass) => format!("verify-{pass}").into(),
            Work::HandOver(tenant) => format!("hand-over:{tenant}").into(),
            Work::Cleanup => "cleanup".into(),
        }
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        Ok(self.planned(&self.previews.get(cx).await?))
    }

    async fn apply(&self, _: &RunContext, _: &StepPlan) -> Result<Applied> {
        let job = self.job();
        let handle = format!("move {}: {job}", self.spec().id);
        self.host().begin(job);
        Ok(Applied::Started(handle))
    }

    async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        Ok(self.judge(&self.host().facts().await?))
    }

    /// Also goes on with what another process began and is no more there to end: that was decided on when it began.
    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        match self.observe(cx, plan).await? {
            Observed::AtPrior | Observed::InProgress(_) => {}
            decided => return Ok(decided),
        }
        tokio::select! {
            biased;
            done = self.work() => done?,
            () = self.tells(cx) => {}
        }
        self.observe(cx, plan).await
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
        let facts = self.host().facts().await?;
        match &self.work {
            Work::Copy | Work::Verify(_) => Ok(Undone::Nothing),
            Work::Prepare if !facts.begun => Ok(Undone::Nothing),
            Work::Prepare => self.host().abort().await.map(|_| Undone::Restored),
            Work::HandOver(tenant) => self.take_back(tenant, &facts).await,
            Work::Cleanup if facts.begun => Ok(Undone::Nothing),
            Work::Cleanup => {
                let message =
                    "the rows on the source are deleted; move the tenants back by a move of its own";
                Err(self.error(ErrorKind::Unsupported, "undo", message.to_owned()))
            }
        }
    }
}
