//! Planning: asks every step, guard and check, and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{FutureExt as _, join_all};

use super::interpreter::{backoff, no_answer};
use super::{Engine, PLAN_ATTEMPTS, PLAN_LIMIT};
use crate::clock::within;
use crate::limits::Limits;
use crate::plan::{Readings, liveness};
use crate::store::{self, Entry, Record};
use crate::{
    Error, Finding, Floor, Guard, GuardId, Phase, Plan, PlannedStep, Playbook, ResourceKey, Result, Retry,
    RunContext, RunId, StepNode, StepPlan, Units, Verdict,
};

impl Engine {
    /// Finds out what `playbook` would do. Reads only.
    ///
    /// All steps and guards are asked, side by side, each for a minute at most. What the preflight refuses is in the plan and keeps it from
    /// being run.
    ///
    /// # Errors
    /// Where a step cannot be planned, with the kind of the first such error and the words of all of them.
    pub async fn plan(&self, playbook: &Playbook) -> Result<Plan> {
        let floors = self.floors_with(playbook.floors());
        let cx = RunContext::new(RunId::generate(), Arc::clone(&self.clock))
            .with_limits(Limits::new(floors.clone()))
            .with_inherited(self.sizes_before_unfinished().await?);
        let planned = join_all(playbook.steps().into_iter().map(|node| {
            let cx = cx.for_step(&node.step.id(), Phase::Plan, 1);
            async move {
                let id = node.step.id();
                let planned = within(&*self.clock, PLAN_LIMIT, self.plan_step(node, &cx)).await;
                planned.unwrap_or_else(|| Err(no_answer("plan", PLAN_LIMIT).on(&id))).and_then(|step| {
                    if step.id == id {
                        Ok(PlannedStep { step, policy: node.policy })
                    } else {
                        Err(Error::invalid(
                            "plan",
                            format!("the step planned under another name, {}", step.id),
                        )
                        .on(id))
                    }
                })
            }
        }))
        .await;
        let steps = all_or_errors(planned)?;
        let plans: Vec<StepPlan> = steps.iter().map(|planned| planned.step.clone()).collect();
        let (mut findings, baselines) = self.prove_guards(playbook, &cx).await;
        findings.extend(steps.iter().flat_map(|planned| self.self_harm(planned)));
        let checks = join_all(playbook.preflight().iter().map(|check| {
            let found = within(&*self.clock, PLAN_LIMIT, check.check(&cx, &plans));
            found.map(|found| {
                found.unwrap_or_else(|| Err(no_answer("preflight", PLAN_LIMIT).on(playbook.name())))
            })
        }))
        .await;
        findings.extend(all_or_errors(checks)?.into_iter().flatten());
        let readings = Readings { steps, floors, baselines, findings };
        Ok(Plan::new(playbook, self.clock.now(), self.plan_validity, readings))
    }

    /// Plans one step; asks again where the provider is busy, since reading twice does no harm.
    async fn plan_step(&self, node: &StepNode, cx: &RunContext) -> Result<StepPlan> {
        for attempt in 1..PLAN_ATTEMPTS {
            match node.step.plan(cx).await {
                Err(error) if matches!(error.retry(), Retry::Safe { .. } | Retry::ObserveFirst) => {
                    cx.sleep(backoff(attempt)).await?;
                }
                decided => return decided,
            }
        }
        node.step.plan(cx).await
    }

    /// A guard that has no data before the run would be blind in it too.
    async fn prove_guards(
        &self,
        playbook: &Playbook,
        cx: &RunContext,
    ) -> (Vec<Finding>, BTreeMap<GuardId, f64>) {
        let watched = playbook.watch().into_iter().flat_map(|watch| {
            watch.guards.iter().map(|guard| ("the whole run".to_owned(), guard, watch.must_hold_before))
        });
        let soaked = playbook
            .soaks()
            .into_iter()
            .flat_map(|soak| soak.guards.iter().map(move |guard| (soak.id.to_string(), guard, false)));
        // A guard that several soaks share is asked once.
        let mut guards: Vec<(String, &Arc<dyn Guard>, bool)> = Vec::new();
        for (place, guard, must_hold) in watched.chain(soaked) {
            if !guards.iter().any(|(_, known, _)| Arc::ptr_eq(known, guard)) {
                guards.push((place, guard, must_hold));
            }
        }
        let proofs = join_all(guards.into_iter().map(|(place, guard, must_hold)| async move {
            let proof = async {
                let baseline = guard.calibrate(cx).await;
                let cx = cx.clone().with_baseline(baseline.as_ref().ok().copied().flatten());
                (guard.prove(&cx).await, baseline)
            };
            let (verdict, baseline) = within(&*self.clock, PLAN_LIMIT, proof).await.unwrap_or_else(|| {
                let text = format!("no answer within {}", humantime::format_duration(PLAN_LIMIT));
                (Verdict::SourceError(text), Ok(None))
            });
            let finding = match &baseline {
                Ok(_) => liveness(&place, &guard.id(), &verdict, must_hold),
                Err(error) => Finding::refusal(format!(
                    "guard {} of {place} has nothing to compare with ({})",
                    guard.id(),
                    error.chain()
                )),
            };
            (finding, baseline.ok().flatten().map(|value| (guard.id(), value)))
        }))
        .await;
        let (findings, baselines): (Vec<_>, Vec<_>) = proofs.into_iter().unzip();
        (findings, baselines.into_iter().flatten().collect())
    }

    /// For each resource that an unfinished run works on: the size that it found.
    async fn sizes_before_unfinished(&self) -> Result<BTreeMap<ResourceKey, Units>> {
        let mut sizes = BTreeMap::new();
        for head in self.ask_store("list", None, self.store.list()).await? {
            if head.resources.is_empty() {
                continue;
            }
            let journal = store::Journal::read(&self.load(&head.run).await?);
            if let Some(Entry { record: Record::Created { plan, .. }, .. }) = journal.entries.first() {
                sizes.extend(plan.sizes_before());
            }
        }
        Ok(sizes)
    }

    /// A run must not change what it needs itself: it could neither record nor judge what it does then.
    fn self_harm<'p>(&'p self, planned: &'p PlannedStep) -> impl Iterator<Item = Finding> + 'p {
        let changes = planned.step.resources.iter().filter(|_| !planned.step.is_no_change());
        changes.flat_map(move |resource| {
            let needed = self.dependencies.iter().filter(|needed| needed.overlaps(resource));
            needed.map(move |needed| {
                let id = &planned.step.id;
                Finding::refusal(format!(
                    "step {id} changes {resource}, and the run itself depends on {needed}"
                ))
            })
        })
    }

    /// The floors of a playbook and of the engine: all of them hold.
    pub(super) fn floors_with(&self, floors: &BTreeMap<ResourceKey, Floor>) -> BTreeMap<ResourceKey, Floor> {
        let mut all = floors.clone();
        for (resource, floor) in &self.floors {
            all.entry(resource.clone()).and_modify(|kept| *kept = kept.and(*floor)).or_insert(*floor);
        }
        all
    }
}

fn all_or_errors<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (values, errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let mut errors = errors.into_iter().filter_map(Result::err);
    let Some(first) = errors.next() else {
        return Ok(values.into_iter().filter_map(Result::ok).collect());
    };
    let others: Vec<_> = errors.map(|error| error.chain()).collect();
    if others.is_empty() {
        return Err(first);
    }
    let message = format!("{}; also: {}", first.chain(), others.join("; "));
    // Without a source: the message has all of them, each with its causes.
    Err(Error::new(first.kind(), "plan", message).with_retry(first.retry()))
}
