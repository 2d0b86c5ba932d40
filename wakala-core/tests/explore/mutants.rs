//! Steps, guards and engines that are broken on purpose: exploring must find each of them out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::json;
use wakala_core::testing::FakeTarget;
use wakala_core::testing::explore::{Exploration, Explore, Law, Scene};
use wakala_core::{
    Applied, Floor, Guard, GuardId, ManualClock, Observed, OnFailure, Playbook, PlaybookStep, Result,
    RunContext, ScalableTarget, ScaleOptions, StepId, StepPlan, Undone, Units, Verdict, step,
};

use super::stores::{Flaw, FlawedStore};
use super::world::World;

/// Explores a broken world, and checks that what is broken about it is found, and shown as it should be.
fn finds(law: Law, make: impl Fn() -> Scene + Sync) -> Exploration {
    let explore = Explore::new(make).with_random(50);
    let found = explore.run();
    let Some(violation) = found.violations.iter().find(|violation| violation.law == law) else {
        panic!("nothing breaks {law}: {found}");
    };
    println!("{law}: {} [{}]", violation.what, violation.schedule);
    assert!(violation.schedule.troubles().len() <= 1, "not as small as it can be: {violation}");
    // What is shown can be played again.
    let again = explore.replay(&violation.schedule.to_string());
    assert!(again.violations.iter().any(|again| again.law == law), "{again}");
    found
}

/// A step of which one method is broken.
#[derive(Debug)]
struct Broken {
    inner: Arc<dyn PlaybookStep>,
    api: FakeTarget,
    how: How,
    /// Of the world, and not of the process.
    lost: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// It adds what is missing to what is there, and takes what is ready for what is there.
    Delta,
    /// Undo restores what it finds.
    RestoresCurrent,
    /// It says that it had no effect where it had.
    SaysNever,
    /// It panics in its second attempt.
    Panics,
    /// Its second attempt does something else.
    SecondBest,
    /// Once a call was lost it can never tell again where it stands.
    Lost,
}

impl Broken {
    fn shared(world: &World, inner: Arc<dyn PlaybookStep>, how: How) -> Arc<dyn PlaybookStep> {
        Arc::new(Self { inner, api: world.api.clone(), how, lost: Arc::clone(&world.lost) })
    }
}

#[async_trait]
impl PlaybookStep for Broken {
    fn id(&self) -> StepId {
        self.inner.id()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        self.inner.plan(cx).await
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        match self.how {
            How::Delta => {
                let seen = self.api.observe(cx).await?;
                let more = Units(seen.desired.0 + 40);
                self.api.set_desired(cx, more, ScaleOptions::default()).await?;
                Ok(Applied::Changed)
            }
            How::SaysNever => {
                self.inner.apply(cx, plan).await?;
                Ok(Applied::NoChange)
            }
            How::Panics if cx.attempt() > 1 => panic!("a step that panics"),
            How::SecondBest if cx.attempt() > 1 => {
                self.api.set_desired(cx, Units(55), ScaleOptions::default()).await?;
                Ok(Applied::Changed)
            }
            _ => self.inner.apply(cx, plan).await,
        }
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        if self.how == How::Delta {
            let ready = self.api.observe(cx).await?.ready;
            return Ok(if ready >= Units(50) { Observed::AtTarget } else { Observed::AtPrior });
        }
        let observed = self.inner.observe(cx, plan).await?;
        if self.how == How::Lost && cx.attempt() > 1 {
            self.lost.store(true, Ordering::Relaxed);
        }
        if self.lost.load(Ordering::Relaxed) {
            return Ok(Observed::CannotTell("it forgot".to_owned()));
        }
        Ok(observed)
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.inner.settle(cx, plan).await
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        if self.how == How::RestoresCurrent {
            let found = self.api.observe(cx).await?.desired;
            self.api.set_desired(cx, found, ScaleOptions::default()).await?;
            return Ok(Undone::Restored);
        }
        self.inner.undo(cx, plan).await
    }
}

fn broken(id: &'static str, how: How) -> impl Fn() -> Scene + Sync {
    move || {
        let world = World::new(OnFailure::KeepAndHold);
        world.with_step(id, move |world, inner| Broken::shared(world, inner, how)).scene()
    }
}

fn flawed(flaw: Flaw) -> impl Fn() -> Scene + Sync {
    move || {
        let world = World::new(OnFailure::KeepAndHold);
        world.scene().with_store(Arc::new(FlawedStore::new(&world.clock, flaw)))
    }
}

/// A step that adds a line to a list and remembers that it did, instead of looking.
#[derive(Debug)]
struct Remembers {
    lines: Arc<AtomicU32>,
    done: AtomicBool,
}

#[async_trait]
impl PlaybookStep for Remembers {
    fn id(&self) -> StepId {
        "lines".into()
    }

    async fn plan(&self, _: &RunContext) -> Result<StepPlan> {
        let mut plan = StepPlan::new(self.id(), "add a line", json!(0), json!(1));
        plan.resources = vec!["fake/lines".into()];
        Ok(plan)
    }

    async fn apply(&self, _: &RunContext, _: &StepPlan) -> Result<Applied> {
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.done.store(true, Ordering::Relaxed);
        Ok(Applied::Changed)
    }

    async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        Ok(if self.done.load(Ordering::Relaxed) { Observed::AtTarget } else { Observed::AtPrior })
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
        self.lines.store(0, Ordering::Relaxed);
        Ok(Undone::Restored)
    }
}

#[test]
fn a_step_that_applies_twice() {
    finds(Law::Once, || {
        let lines = Arc::new(AtomicU32::new(0));
        let there = Arc::clone(&lines);
        let build = move || {
            let remembers = Remembers { lines: Arc::clone(&lines), done: AtomicBool::new(false) };
            Playbook::builder("lines").then(step(remembers)).build().unwrap()
        };
        let snapshot = move || BTreeMap::from([("lines".to_owned(), json!(there.load(Ordering::Relaxed)))]);
        Scene::new(&ManualClock::default(), build(), snapshot).rebuilt_by(build)
    });
}

#[test]
fn a_step_that_writes_a_delta() {
    finds(Law::Once, broken("scale", How::Delta));
}

#[test]
fn an_undo_that_restores_what_it_finds() {
    finds(Law::Undo, broken("scale", How::RestoresCurrent));
}

#[test]
fn a_step_whose_second_attempt_does_something_else() {
    finds(Law::SameEnd, broken("scale", How::SecondBest));
}

#[test]
fn a_step_that_can_never_tell_again() {
    finds(Law::End, broken("scale", How::Lost));
}

#[test]
fn a_store_that_hides_what_is_owed() {
    finds(Law::Owed, flawed(Flaw::HidesRuns));
}

#[test]
fn a_step_that_denies_its_effect() {
    finds(Law::Residuals, broken("cache", How::SaysNever));
}

#[test]
fn a_step_that_panics() {
    finds(Law::Panic, broken("cache", How::Panics));
}

#[test]
fn an_intent_that_is_written_after_the_effect() {
    finds(Law::IntentFirst, flawed(Flaw::LateIntents));
}

#[test]
fn a_lease_without_an_epoch() {
    finds(Law::Stale, flawed(Flaw::NoEpoch));
}

#[test]
fn a_soak_that_is_counted_in_wall_time() {
    finds(Law::Soak, flawed(Flaw::WallTimeSoaks));
}

#[test]
fn a_store_that_gives_nothing_back() {
    finds(Law::Lease, flawed(Flaw::KeepsAll));
}

#[test]
fn a_journal_that_loses_a_line() {
    finds(Law::Journal, flawed(Flaw::LosesLines));
}

/// A guard that takes no news for good news.
#[derive(Debug)]
struct Blind(Arc<dyn Guard>);

#[async_trait]
impl Guard for Blind {
    fn id(&self) -> GuardId {
        self.0.id()
    }

    fn condition(&self) -> String {
        self.0.condition()
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        match self.0.evaluate(cx).await {
            Verdict::Inconclusive(_) => Verdict::Pass("no data, no errors".to_owned()),
            verdict => verdict,
        }
    }

    async fn prove(&self, cx: &RunContext) -> Verdict {
        self.0.prove(cx).await
    }

    async fn history(&self, cx: &RunContext, window: Duration) -> Option<Vec<(SystemTime, Verdict)>> {
        self.0.history(cx, window).await
    }
}

#[test]
fn a_guard_that_passes_on_no_data() {
    finds(Law::BlindGuard, || {
        World::new(OnFailure::KeepAndHold).with_guards(|guard| Arc::new(Blind(guard))).scene()
    });
}

/// A step that makes a target smaller behind the back of its floor.
#[derive(Debug)]
struct Below(FakeTarget);

#[async_trait]
impl PlaybookStep for Below {
    fn id(&self) -> StepId {
        "below".into()
    }

    async fn plan(&self, _: &RunContext) -> Result<StepPlan> {
        let mut plan = StepPlan::new(self.id(), "shrink", json!(10), json!(4));
        plan.resources = vec![self.0.resource()];
        Ok(plan)
    }

    async fn apply(&self, _: &RunContext, _: &StepPlan) -> Result<Applied> {
        self.0.meddle(4);
        Ok(Applied::Changed)
    }

    async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
        Ok(if self.0.size() == Units(4) { Observed::AtTarget } else { Observed::AtPrior })
    }

    async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
        self.0.meddle(10);
        Ok(Undone::Restored)
    }
}

fn shrinking(floor: Floor) -> impl Fn() -> Scene + Sync {
    move || {
        let api = FakeTarget::new("api", 10);
        let key = api.resource();
        let playbook =
            Playbook::builder("below").then(step(Below(api.clone()))).with_floor(key.clone(), floor);
        let (also, also_key) = (api.clone(), key.clone());
        Scene::new(&ManualClock::default(), playbook.build().unwrap(), move || {
            BTreeMap::from([(key.as_str().to_owned(), json!(api.size()))])
        })
        .with_sizes(move || BTreeMap::from([(also_key.clone(), also.size())]))
    }
}

#[test]
fn a_step_that_goes_below_the_floor() {
    finds(Law::Floor, shrinking(Floor::at(5)));
}

#[test]
fn a_step_that_takes_away_too_fast() {
    finds(Law::Rate, shrinking(Floor::at(1).with_removal(5, Duration::from_secs(60))));
}

/// A scene whose plan writes.
#[test]
fn a_plan_that_changes_something() {
    finds(Law::PlanReadsOnly, || {
        let touched = Arc::new(AtomicU32::new(0));
        let (there, touch) = (Arc::clone(&touched), touched);
        let api = FakeTarget::new("api", 10);
        #[derive(Debug)]
        struct Touches(FakeTarget, Arc<AtomicU32>);
        #[async_trait]
        impl PlaybookStep for Touches {
            fn id(&self) -> StepId {
                "touches".into()
            }
            async fn plan(&self, _: &RunContext) -> Result<StepPlan> {
                self.1.fetch_add(1, Ordering::Relaxed);
                Ok(StepPlan::new(self.id(), "touch", json!(10), json!(10)))
            }
            async fn apply(&self, _: &RunContext, _: &StepPlan) -> Result<Applied> {
                Ok(Applied::NoChange)
            }
            async fn observe(&self, _: &RunContext, _: &StepPlan) -> Result<Observed> {
                Ok(if self.0.size() == Units(10) { Observed::AtTarget } else { Observed::AtPrior })
            }
            async fn undo(&self, _: &RunContext, _: &StepPlan) -> Result<Undone> {
                Ok(Undone::Nothing)
            }
        }
        let playbook = Playbook::builder("touches").then(step(Touches(api, touch))).build().unwrap();
        Scene::new(&ManualClock::default(), playbook, move || {
            BTreeMap::from([("touched".to_owned(), json!(there.load(Ordering::Relaxed)))])
        })
    });
}
