//! Polls the processes of a run in virtual time, also those that somebody took over from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt as _;

use super::RUN;
use super::drive::{Director, Process};
use super::invariants::{Breach, Law};
use super::points::Signal;
use super::schedule::{Back, Then};
use crate::{Record, Result, RunId, RunReport, Status};

/// How many calls the process that took over makes until the one that it took over from goes on.
const SOON: usize = 6;
/// More polls than any schedule needs: what goes on for longer turns in a circle.
const MOST_POLLS: u64 = 20_000_000;

/// How polling a process ended.
pub(super) enum Turn {
    Ended(Result<RunReport>),
    Crashed(Then),
    Suspended(Back),
}

impl Director<'_> {
    /// Polls a process in virtual time until it ends or something happens to it.
    pub(super) fn turn(&mut self, process: &mut Process) -> Result<Turn, Breach> {
        let clock = self.wire.scene().clock.clone();
        let begun = self.wire.scene().now();
        let calm = self.setting.calm.as_ref().map_or(Duration::from_secs(3600), |calm| calm.took);
        let limit = calm * 8 + Duration::from_secs(12 * 3600);
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        loop {
            flag.0.store(false, Ordering::Relaxed);
            self.wire.enter(process.number);
            let answer = process.future.as_mut().poll(&mut Context::from_waker(&waker));
            let signal = self.wire.take_signal();
            if answer.is_pending() && signal.is_none() {
                self.poll_awake(&waker)?;
            }
            self.wire.look()?;
            if let Poll::Ready(answer) = answer {
                return Ok(Turn::Ended(answer));
            }
            match signal {
                Some(Signal::Crashed(then)) => return Ok(Turn::Crashed(then)),
                Some(Signal::Suspended(back)) => return Ok(Turn::Suspended(back)),
                // It is not the last one, and was to be gone all the same.
                None if self.wire.is_dead(process.number) => return Ok(Turn::Crashed(Then::Resume)),
                None => {}
            }
            for control in self.wire.due_letters() {
                self.wire.note(|| format!("      somebody asks it to {control}"));
                // A run that is not made yet cannot be asked.
                drop(
                    self.onlooker
                        .engine
                        .ask(&RunId::from(RUN), control, "explore", "explored")
                        .now_or_never(),
                );
            }
            self.polls += 1;
            if self.polls > MOST_POLLS {
                return Err(Breach::of(Law::End, "it turns in a circle in which no time passes"));
            }
            if !flag.0.load(Ordering::Relaxed) && !clock.advance_to_next() {
                return Err(Breach::of(Law::End, "it waits for something that never comes"));
            }
            if self.wire.scene().now() > begun + limit {
                let limit = humantime::format_duration(limit);
                return Err(Breach::of(Law::End, format!("it is not at its end after {limit}")));
            }
        }
    }

    /// Those that were suspended go on, and find out. Returns how the run stands after that.
    pub(super) fn finish_suspended(&mut self, report: RunReport) -> Result<RunReport, Breach> {
        let mut report = report;
        for mut process in std::mem::take(&mut self.awake) {
            // Whatever else happens to it matters to nobody.
            if let Turn::Ended(Ok(said)) = self.turn(&mut process)? {
                self.check_stale(process.number, &said)?;
            }
        }
        for mut process in std::mem::take(&mut self.suspended) {
            let number = process.number;
            let stale = self.thaw(number)?;
            let Turn::Ended(Ok(said)) = self.turn(&mut process)? else { continue };
            if stale {
                self.check_stale(number, &said)?;
            } else {
                self.wire.note(|| format!("      p{number} ended as {}: {}", said.status, said.reason));
                let now = self.now();
                self.onlooker.check_end(&said, &now)?;
                report = said;
            }
        }
        Ok(report)
    }

    fn thaw(&mut self, number: usize) -> Result<bool, Breach> {
        let epoch = self.onlooker.head().map_or(0, |head| head.epoch);
        let stale = self.wire.thaw(number, epoch);
        self.wire.note(|| format!("      p{number} goes on, taken over from: {stale}"));
        Ok(stale)
    }

    /// What a process may say that somebody took the run over from.
    fn check_stale(&self, number: usize, said: &RunReport) -> Result<(), Breach> {
        self.wire.note(|| format!("      p{number} ended as {}: {}", said.status, said.reason));
        if said.status == Status::Superseded || has_ended(said) {
            return Ok(());
        }
        let what = format!("a process that was taken over from says {}: {}", said.status, said.reason);
        Err(Breach::of(Law::Stale, what))
    }

    /// Lets those go on that were suspended, once somebody took over from them and is at work, and polls them.
    fn poll_awake(&mut self, waker: &Waker) -> Result<(), Breach> {
        if self.suspended.iter().any(|process| process.back == Back::Soon)
            && self.wire.calls_since_lease().is_some_and(|calls| calls >= SOON)
        {
            for process in std::mem::take(&mut self.suspended) {
                // One that never had the lease is no rival; it goes on at the end.
                if process.back == Back::Soon && self.thaw_if_stale(process.number)? {
                    self.awake.push(process);
                } else {
                    self.suspended.push(process);
                }
            }
        }
        let mut place = 0;
        while place < self.awake.len() {
            let number = self.awake[place].number;
            self.wire.enter(number);
            match self.awake[place].future.as_mut().poll(&mut Context::from_waker(waker)) {
                Poll::Pending if self.wire.is_dead(number) => drop(self.awake.remove(place)),
                Poll::Pending => place += 1,
                Poll::Ready(answer) => {
                    drop(self.awake.remove(place));
                    if let Ok(said) = answer {
                        self.check_stale(number, &said)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn thaw_if_stale(&mut self, number: usize) -> Result<bool, Breach> {
        let epoch = self.onlooker.head().map_or(0, |head| head.epoch);
        Ok(self.wire.is_rival(number, epoch) && self.thaw(number)?)
    }
}

/// Whether the process that says so wrote that the run is at its end, before anybody took over.
fn has_ended(report: &RunReport) -> bool {
    report.journal.last().is_some_and(|last| matches!(last.record, Record::Ended { .. }))
}

/// Whether somebody was woken.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
