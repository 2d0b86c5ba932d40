//! Watches guards until samples cover a soak's whole duration.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tracing::Instrument as _;

use super::interpreter::{End, Halt, Interpreter};
use super::watch::{Answers, Round, Seen, Tally};
use crate::event::Notice;
use crate::playbook::Soak;
use crate::store::Record;
use crate::{GuardId, Result, Verdict};

/// How much newly covered time is worth a record.
const RECORD_EVERY: u32 = 4;

impl Interpreter<'_> {
    pub(super) async fn soak(&self, soak: &Soak) -> Result<End> {
        let before = self.journal.read(|state| state.soaks.get(&soak.id).cloned()).await.unwrap_or_default();
        if before.passed {
            return Ok(End::Done);
        }
        self.soaking.send_modify(|soaks| *soaks += 1);
        let span = tracing::info_span!("wakala.soak", wakala.soak.id = %soak.id);
        let end = self.watch_soak(soak, before.open).instrument(span).await;
        self.soaking.send_modify(|soaks| *soaks -= 1);
        end
    }

    async fn watch_soak(&self, soak: &Soak, before: Option<(Duration, SystemTime)>) -> Result<End> {
        let mut guards = soak.guards.clone();
        for guard in self.playbook.watch().into_iter().flat_map(|watch| &watch.guards) {
            if !guards.iter().any(|own| Arc::ptr_eq(own, guard)) {
                guards.push(Arc::clone(guard));
            }
        }
        let mut round = Round::new(self, soak.id.clone(), guards, soak.timing.limits);
        let mut watch = Watched { soak, covered: Duration::ZERO, tally: Tally::default() };
        let duration = soak.timing.duration;
        if let Some((covered, at)) = before {
            watch.covered = covered;
            if let Err(why) = watch.resume(&round, at).await {
                return self.close(&watch, Some(why)).await;
            }
            let (soak, covered) = (soak.id.clone(), watch.covered);
            self.journal.write(Record::SoakProgress { soak, covered }).await?;
        } else {
            self.journal.write(Record::SoakOpened { soak: soak.id.clone(), duration }).await?;
        }
        // Metrics of a time that an earlier process watched for a while are those of after the change.
        let grace = if watch.covered.is_zero() { soak.timing.grace } else { Duration::ZERO };
        let (clock, interval) = (Arc::clone(round.cx.clock()), soak.timing.limits.interval);
        let start = clock.monotonic();
        let (mut last, mut recorded) = (start, watch.covered);
        let mut blind_since = None;
        loop {
            let Answers { verdicts, at: now, wall } = match round.ask().await {
                Ok(answers) => answers,
                Err(error) if self.halted().is_none() => return Err(error),
                Err(_) => return self.close(&watch, None).await,
            };
            // A gap longer than two rounds is time that nobody watched.
            let span = (now - last).min(interval * 2);
            last = now;
            match watch.count(&verdicts, span, now - start < grace) {
                Seen::Over(why) => return self.close(&watch, Some(why)).await,
                Seen::Blind => drop(blind_since.get_or_insert(wall - span)),
                Seen::Fail => blind_since = None,
                Seen::Pass => {
                    // What the sources did not tell then, those with a history may tell now.
                    if let Some(since) = blind_since.take()
                        && let Err(why) = watch.fill(&round, since, wall - span).await
                    {
                        return self.close(&watch, Some(why)).await;
                    }
                }
            }
            let covered = watch.covered.min(duration);
            round.cx.notice(Notice::Soaking { soak: soak.id.clone(), covered, of: duration });
            if covered == duration {
                let record = Record::SoakClosed { soak: soak.id.clone(), covered, failure: None };
                self.journal.write(record).await?;
                return Ok(End::Done);
            }
            if now - start >= soak.timing.at_most {
                let limit = humantime::format_duration(soak.timing.at_most);
                let why = format!("only {} covered after {limit}", humantime::format_duration(covered));
                return self.close(&watch, Some(why)).await;
            }
            if covered < recorded || covered >= recorded + interval * RECORD_EVERY {
                recorded = covered;
                self.journal.write(Record::SoakProgress { soak: soak.id.clone(), covered }).await?;
            }
            if round.cx.sleep(interval).await.is_err() {
                return self.close(&watch, None).await;
            }
        }
    }

    /// Ends a soak that did not pass; without a failure it was stopped.
    async fn close(&self, watch: &Watched<'_>, failure: Option<String>) -> Result<End> {
        let end = if failure.is_some() { End::Failed } else { End::Stopped };
        let why = failure.unwrap_or_else(|| match self.halted() {
            Some(Halt::Guard(why)) => why,
            Some(Halt::Abandon(..)) => "abandoned".to_owned(),
            Some(Halt::Stop(..)) | None => "stopped as asked".to_owned(),
        });
        let (soak, covered) = (watch.soak.id.clone(), watch.covered);
        self.journal
            .write(Record::SoakClosed { soak: soak.clone(), covered, failure: Some(why.clone()) })
            .await?;
        if end == End::Failed {
            self.reasons.lock().await.push(format!("soak {soak} did not pass ({why})"));
        }
        Ok(end)
    }
}

/// How a soak stands.
struct Watched<'s> {
    soak: &'s Soak,
    covered: Duration,
    tally: Tally,
}

impl Watched<'_> {
    fn count(&mut self, verdicts: &[(GuardId, Verdict)], span: Duration, in_grace: bool) -> Seen {
        let seen = self.tally.count(&self.soak.timing.limits, verdicts, span, in_grace);
        match seen {
            Seen::Pass => self.covered += span,
            // It is to hold for the whole duration, and not on and off.
            Seen::Fail => self.covered = Duration::ZERO,
            Seen::Blind | Seen::Over(_) => {}
        }
        seen
    }

    /// Goes on with a soak that an earlier process watched until `at`: what happened since is filled in where all
    /// guards have a history, and otherwise the soak begins anew.
    async fn resume(&mut self, round: &Round<'_>, at: SystemTime) -> Result<(), String> {
        let interval = self.soak.timing.limits.interval;
        let now = round.cx.clock().now();
        match now.duration_since(at) {
            // No longer than until the next record at the latest: what was not recorded is all that is lost.
            Ok(gap) if gap <= interval * (RECORD_EVERY + 2) => Ok(()),
            Ok(_) if self.fill(round, at, now).await? => Ok(()),
            // Nobody knows, or the clock was set back: nothing before this can be counted on.
            _ => {
                self.covered = Duration::ZERO;
                Ok(())
            }
        }
    }

    /// Counts what the guards' histories tell about a time in which nobody could ask; `false` where one has none.
    async fn fill(&mut self, round: &Round<'_>, from: SystemTime, to: SystemTime) -> Result<bool, String> {
        let now = round.cx.clock().now();
        let (Ok(window), Ok(gap)) = (now.duration_since(from), to.duration_since(from)) else {
            return Ok(false);
        };
        let histories = join_all(round.guards.iter().map(|guard| async {
            let cx = round.context(&**guard);
            let history = cx.until(guard.history(&cx, window)).await.ok().flatten();
            history.map(|verdicts| (guard.id(), verdicts))
        }))
        .await;
        let Some(histories) = histories.into_iter().collect::<Option<Vec<_>>>() else { return Ok(false) };
        let interval = self.soak.timing.limits.interval;
        let slots = gap.as_nanos().div_ceil(interval.as_nanos().max(1));
        for slot in 0..u32::try_from(slots).unwrap_or(u32::MAX) {
            let begin = from + interval * slot;
            let end = (begin + interval).min(to);
            let span = end.duration_since(begin).unwrap_or_default();
            let verdicts: Vec<_> =
                histories.iter().map(|(guard, seen)| within_slot(guard, seen, begin, end)).collect();
            match self.count_past(&verdicts, span) {
                Seen::Over(why) => return Err(why),
                Seen::Pass | Seen::Fail | Seen::Blind => {}
            }
        }
        Ok(true)
    }

    /// As [`count`](Self::count), but a slot without data costs no patience: it was paid for when it passed.
    fn count_past(&mut self, verdicts: &[(GuardId, Verdict)], span: Duration) -> Seen {
        if verdicts.iter().any(|(_, verdict)| !verdict.is_alive())
            && !verdicts.iter().any(|(_, v)| matches!(v, Verdict::Fail(_)))
        {
            return Seen::Blind;
        }
        self.count(verdicts, span, false)
    }
}

/// The worst that a guard's history tells of a slot of time.
fn within_slot(
    guard: &GuardId,
    history: &[(SystemTime, Verdict)],
    begin: SystemTime,
    end: SystemTime,
) -> (GuardId, Verdict) {
    let mut seen = history.iter().filter(|(at, _)| *at >= begin && *at < end).map(|(_, verdict)| verdict);
    let worst = seen.clone().find(|verdict| matches!(verdict, Verdict::Fail(_)));
    let verdict = worst.or_else(|| seen.next_back()).cloned();
    (guard.clone(), verdict.unwrap_or_else(|| Verdict::Inconclusive("no data of that time".to_owned())))
}
