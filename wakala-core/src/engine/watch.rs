//! Asks guards again and again, and tells when enough is enough.

use std::collections::BTreeMap;
use std::mem::Discriminant;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;

use super::interpreter::{Halt, Interpreter};
use crate::event::Notice;
use crate::playbook::GuardLimits;
use crate::store::Record;
use crate::{Guard, GuardId, Phase, Result, RunContext, StepId, Verdict};

/// What the journal calls the place of the guards of the whole run.
const WHOLE_RUN: &str = "run";

impl Interpreter<'_> {
    /// Asks the guards of the whole run for as long as it is polled, while no soak does so.
    pub(super) async fn watch_over(&self) {
        let Some(watch) = self.playbook.watch() else { return std::future::pending().await };
        let place = StepId::from(WHOLE_RUN);
        let mut round = Round::new(self, place, watch.guards.clone(), watch.limits);
        let mut soaking = self.soaking.subscribe();
        let mut tally = Tally::default();
        loop {
            // A soak asks them itself, and counts for itself.
            if *soaking.borrow_and_update() > 0 {
                tally = Tally::default();
                drop(soaking.wait_for(|soaks| *soaks == 0).await);
            }
            self.engine.clock.sleep(watch.limits.interval).await;
            if *soaking.borrow() > 0 {
                continue;
            }
            let Ok(Answers { verdicts, .. }) = round.ask().await else { continue };
            if let Seen::Over(why) = tally.count(&watch.limits, &verdicts, watch.limits.interval, false) {
                self.halt(Halt::Guard(format!("a guard of the whole run failed ({why})")));
                return std::future::pending().await;
            }
        }
    }
}

/// One round of questions to some guards.
pub(super) struct Round<'s> {
    interpreter: &'s Interpreter<'s>,
    place: StepId,
    pub(super) guards: Vec<Arc<dyn Guard>>,
    limits: GuardLimits,
    pub(super) cx: RunContext,
    known: BTreeMap<GuardId, Discriminant<Verdict>>,
}

impl<'s> Round<'s> {
    pub(super) fn new(
        interpreter: &'s Interpreter<'s>,
        place: StepId,
        guards: Vec<Arc<dyn Guard>>,
        limits: GuardLimits,
    ) -> Self {
        let cx = interpreter.cx.for_step(&place, Phase::Apply, 1);
        Self { interpreter, place, guards, limits, cx, known: BTreeMap::new() }
    }

    /// The context in which one guard is asked.
    pub(super) fn context(&self, guard: &dyn Guard) -> RunContext {
        let baseline = self.interpreter.plan.baseline(&guard.id());
        self.cx.clone().with_deadline(self.limits.interval).with_baseline(baseline)
    }

    /// Asks each guard once; what answers differently than before is recorded.
    pub(super) async fn ask(&mut self) -> Result<Answers> {
        let asked = self.guards.iter().map(|guard| async {
            let cx = self.context(&**guard);
            let verdict = match cx.until(guard.evaluate(&cx)).await {
                Ok(verdict) => verdict,
                Err(late) => Verdict::SourceError(format!("no answer within one round: {}", late.chain())),
            };
            let (soak, verdict_told) = (self.place.clone(), verdict.clone());
            self.cx.notice(Notice::Guard { soak, guard: guard.id(), verdict: verdict_told });
            (guard.id(), verdict)
        });
        let verdicts = join_all(asked).await;
        // Before anything is written: that may take its time, which no verdict stands for.
        let (at, wall) = (self.cx.clock().monotonic(), self.cx.clock().now());
        self.cx.check()?;
        for (guard, verdict) in &verdicts {
            let kind = std::mem::discriminant(verdict);
            if self.known.insert(guard.clone(), kind) != Some(kind) {
                let (soak, guard, verdict) = (self.place.clone(), guard.clone(), verdict.clone());
                self.interpreter.journal.write(Record::GuardTurned { soak, guard, verdict }).await?;
            }
        }
        Ok(Answers { verdicts, at, wall })
    }
}

/// What the guards answered, and when all had.
pub(super) struct Answers {
    pub(super) verdicts: Vec<(GuardId, Verdict)>,
    pub(super) at: Duration,
    pub(super) wall: SystemTime,
}

/// What one round showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// All guards pass.
    Pass,
    /// One failed, and that is still borne.
    Fail,
    /// One has no verdict, and that is still borne.
    Blind,
    /// Enough. The text says of what.
    Over(String),
}

/// How much was borne so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    failures: u32,
    inconclusive: Duration,
    source_error: Duration,
}

impl Tally {
    /// Counts one round that stands for `span` of time.
    pub(super) fn count(
        &mut self,
        limits: &GuardLimits,
        verdicts: &[(GuardId, Verdict)],
        span: Duration,
        in_grace: bool,
    ) -> Seen {
        let list = |wanted: fn(&Verdict) -> bool| {
            let lines: Vec<_> = verdicts
                .iter()
                .filter(|(_, verdict)| wanted(verdict))
                .map(|(guard, verdict)| format!("{guard}: {verdict}"))
                .collect();
            (!lines.is_empty()).then(|| lines.join(", "))
        };
        if let Some(failing) = list(|verdict| matches!(verdict, Verdict::Fail(_))) {
            self.failures = if in_grace { 0 } else { self.failures + 1 };
            if self.failures < limits.fail_limit {
                return Seen::Fail;
            }
            return Seen::Over(match self.failures {
                1 => failing,
                times => format!("{failing}, {times} times in a row"),
            });
        }
        self.failures = 0;
        for (blind, limit, seen) in [
            (
                &mut self.source_error,
                limits.source_error_limit,
                list(|v| matches!(v, Verdict::SourceError(_))),
            ),
            (
                &mut self.inconclusive,
                limits.inconclusive_limit,
                list(|v| matches!(v, Verdict::Inconclusive(_))),
            ),
        ] {
            let Some(seen) = seen else { continue };
            *blind += span;
            if *blind < limit {
                return Seen::Blind;
            }
            return Seen::Over(format!("{seen}; without verdict for {}", humantime::format_duration(*blind)));
        }
        Seen::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(15);

    fn one(verdict: Verdict) -> Vec<(GuardId, Verdict)> {
        vec![("g".into(), verdict)]
    }

    fn limits() -> GuardLimits {
        GuardLimits::default().with_inconclusive_limit(ROUND * 2).with_source_error_limit(ROUND * 3)
    }

    #[test]
    fn failures_in_a_row_are_counted_but_not_in_the_grace_time() {
        let mut tally = Tally::default();
        let fail = one(Verdict::Fail("error_rate is 0.2".into()));
        let pass = one(Verdict::Pass(String::new()));
        for _ in 0..10 {
            assert_eq!(tally.count(&limits(), &fail, ROUND, true), Seen::Fail);
        }
        for verdicts in [&fail, &fail, &pass, &fail, &fail] {
            assert!(matches!(tally.count(&limits(), verdicts, ROUND, false), Seen::Fail | Seen::Pass));
        }
        let over = tally.count(&limits(), &fail, ROUND, false);
        assert_eq!(over, Seen::Over("g: FAIL: error_rate is 0.2, 3 times in a row".to_owned()));
    }

    #[test]
    fn missing_data_and_silent_sources_have_limits_of_their_own() {
        let (pass, blind) = (one(Verdict::Pass(String::new())), one(Verdict::Inconclusive("no data".into())));
        let silent = one(Verdict::SourceError("refused".into()));
        let mut tally = Tally::default();
        for (verdicts, seen) in
            [(&blind, Seen::Blind), (&pass, Seen::Pass), (&silent, Seen::Blind), (&silent, Seen::Blind)]
        {
            assert_eq!(tally.count(&limits(), verdicts, ROUND, false), seen);
        }
        for verdicts in [&blind, &silent] {
            let Seen::Over(why) = tally.count(&limits(), verdicts, ROUND, false) else { panic!("goes on") };
            assert!(why.contains("without verdict for"), "{why}");
        }
    }

    #[test]
    fn a_failure_goes_before_a_missing_verdict() {
        let both: Vec<(GuardId, Verdict)> = vec![
            ("blind".into(), Verdict::Inconclusive(String::new())),
            ("broken".into(), Verdict::Fail(String::new())),
        ];
        let limits = limits().with_fail_limit(1);
        assert!(
            matches!(Tally::default().count(&limits, &both, ROUND, false), Seen::Over(why) if why.contains("broken"))
        );
    }
}
