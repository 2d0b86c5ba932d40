//! Watches guards until samples cover a soak's whole duration.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use super::interpreter::{End, Interpreter};
use crate::event::Notice;
use crate::playbook::Soak;
use crate::store::Record;
use crate::{GuardId, Phase, Result, RunContext, Verdict};

impl Interpreter<'_> {
    pub(super) async fn soak(&self, soak: &Soak) -> Result<End> {
        let duration = soak.timing.duration;
        self.journal.write(Record::SoakOpened { soak: soak.id.clone(), duration }).await?;
        let mut watch =
            Watch { soak, cx: self.cx.for_step(&soak.id, Phase::Apply, 1), tally: Tally::default() };
        let mut known = BTreeMap::new();
        let start = watch.cx.clock().monotonic();
        let mut last = start;
        loop {
            let Ok(verdicts) = watch.ask().await else { return self.close(&watch, None).await };
            for (guard, verdict) in &verdicts {
                let turned = known.insert(guard.clone(), std::mem::discriminant(verdict));
                if turned != Some(std::mem::discriminant(verdict)) {
                    let (soak, guard, verdict) = (soak.id.clone(), guard.clone(), verdict.clone());
                    self.journal.write(Record::GuardTurned { soak, guard, verdict }).await?;
                }
            }
            let now = watch.cx.clock().monotonic();
            // A gap longer than two rounds is time that nobody watched.
            let span = (now - last).min(soak.timing.limits.interval * 2);
            last = now;
            let in_grace = now - start < soak.timing.grace;
            if let Some(failure) = watch.tally.count(soak, &verdicts, span, in_grace) {
                return self.close(&watch, Some(failure)).await;
            }
            let covered = watch.tally.covered.min(duration);
            watch.cx.notice(Notice::Soaking { soak: soak.id.clone(), covered, of: duration });
            if covered == duration {
                self.journal
                    .write(Record::SoakClosed { soak: soak.id.clone(), covered, failure: None })
                    .await?;
                return Ok(End::Done);
            }
            if watch.cx.sleep(soak.timing.limits.interval).await.is_err() {
                return self.close(&watch, None).await;
            }
        }
    }

    /// Ends a soak that did not pass; without a failure it was stopped.
    async fn close(&self, watch: &Watch<'_>, failure: Option<String>) -> Result<End> {
        let end = if failure.is_some() { End::Failed } else { End::Stopped };
        let why = failure.unwrap_or_else(|| "stopped as asked".to_owned());
        let (soak, covered) = (watch.soak.id.clone(), watch.tally.covered);
        self.journal
            .write(Record::SoakClosed { soak: soak.clone(), covered, failure: Some(why.clone()) })
            .await?;
        self.reasons.lock().await.push(format!("soak {soak} did not pass ({why})"));
        Ok(end)
    }
}

struct Watch<'s> {
    soak: &'s Soak,
    cx: RunContext,
    tally: Tally,
}

impl Watch<'_> {
    async fn ask(&self) -> Result<Vec<(GuardId, Verdict)>> {
        let round = join_all(self.soak.guards.iter().map(|guard| async {
            let cx = self.cx.clone().with_deadline(self.soak.timing.limits.interval);
            let verdict = match cx.until(guard.evaluate(&cx)).await {
                Ok(verdict) => verdict,
                Err(late) => Verdict::SourceError(format!("no answer within one round: {}", late.chain())),
            };
            let notice =
                Notice::Guard { soak: self.soak.id.clone(), guard: guard.id(), verdict: verdict.clone() };
            self.cx.notice(notice);
            (guard.id(), verdict)
        }));
        let verdicts = round.await;
        self.cx.check()?;
        Ok(verdicts)
    }
}

/// How a soak stands.
#[derive(Debug, Default)]
struct Tally {
    covered: Duration,
    blind: Duration,
    failures: u32,
    rounds: u32,
}

impl Tally {
    /// Counts one round that stands for `span` of time; says why the soak is over where it is.
    fn count(
        &mut self,
        soak: &Soak,
        verdicts: &[(GuardId, Verdict)],
        span: Duration,
        in_grace: bool,
    ) -> Option<String> {
        let first = self.rounds == 0;
        self.rounds += 1;
        let list = |wanted: fn(&Verdict) -> bool| {
            let lines: Vec<_> = verdicts
                .iter()
                .filter(|(_, v)| wanted(v))
                .map(|(guard, v)| format!("{guard}: {v}"))
                .collect();
            (!lines.is_empty()).then(|| lines.join(", "))
        };
        if let Some(failing) = list(|verdict| matches!(verdict, Verdict::Fail(_))) {
            self.failures = if in_grace { 0 } else { self.failures + 1 };
            return (self.failures >= soak.timing.limits.fail_limit)
                .then(|| format!("{failing}, {} times in a row", self.failures));
        }
        self.failures = 0;
        if let Some(blind) = list(|verdict| !verdict.is_pass()) {
            // The first round has no span of its own, yet a source that never answers must come to an end.
            self.blind += if first { Duration::ZERO } else { span };
            return (self.blind >= soak.timing.limits.inconclusive_limit)
                .then(|| format!("{blind}; without verdict for {}", humantime::format_duration(self.blind)));
        }
        self.covered += if first { Duration::ZERO } else { span };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(15);

    fn soak() -> Soak {
        Soak::new("soak", Duration::from_secs(600)).with_blind_limit(ROUND * 2)
    }

    fn one(verdict: Verdict) -> Vec<(GuardId, Verdict)> {
        vec![("g".into(), verdict)]
    }

    #[test]
    fn only_passing_time_is_covered() {
        let (soak, mut tally) = (soak(), Tally::default());
        let script = [Verdict::Pass, Verdict::Pass, Verdict::Fail, Verdict::Inconclusive, Verdict::Pass];
        for verdict in script {
            assert_eq!(tally.count(&soak, &one(verdict(String::new())), ROUND, false), None);
        }
        assert_eq!((tally.covered, tally.blind), (ROUND * 2, ROUND));
    }

    #[test]
    fn failures_in_a_row_end_it_but_not_in_the_grace_time() {
        let (soak, mut tally) = (soak(), Tally::default());
        let fail = one(Verdict::Fail("error_rate is 0.2".into()));
        for _ in 0..10 {
            assert_eq!(tally.count(&soak, &fail, ROUND, true), None);
        }
        assert_eq!(tally.count(&soak, &fail, ROUND, false), None);
        assert_eq!(tally.count(&soak, &fail, ROUND, false), None);
        let why = tally.count(&soak, &fail, ROUND, false).unwrap();
        assert_eq!(why, "g: FAIL: error_rate is 0.2, 3 times in a row");
    }

    #[test]
    fn blindness_has_a_limit_in_all() {
        let (soak, mut tally) = (soak(), Tally::default());
        let blind = one(Verdict::SourceError("refused".into()));
        assert_eq!(tally.count(&soak, &blind, ROUND, false), None);
        assert_eq!(tally.count(&soak, &blind, ROUND, false), None);
        assert_eq!(tally.count(&soak, &one(Verdict::Pass(String::new())), ROUND, false), None);
        assert!(tally.count(&soak, &blind, ROUND, false).unwrap().contains("without verdict for 30s"));
    }
}
