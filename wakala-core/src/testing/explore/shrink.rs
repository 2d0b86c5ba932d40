//! Makes a schedule that fails smaller.

use super::drive::{Played, Setting, play};
use super::invariants::Law;
use super::scene::Scene;
use super::schedule::Schedule;

/// How many schedules are tried at the most.
const MOST: usize = 300;

/// The smallest schedule found that breaks the same law, with what comes of it.
pub(super) fn shrink(
    setting: &Setting,
    make: &(dyn Fn() -> Scene + Sync),
    schedule: &Schedule,
    law: Law,
) -> (Schedule, Played) {
    let breaks = |candidate: &Schedule| {
        play(setting, &make(), candidate, false).breach.is_some_and(|breach| breach.law == law)
    };
    let mut smallest = schedule.clone();
    let mut tried = 0;
    'smaller: loop {
        for candidate in smallest.smaller() {
            tried += 1;
            if tried > MOST {
                break 'smaller;
            }
            if breaks(&candidate) {
                smallest = candidate;
                continue 'smaller;
            }
        }
        break;
    }
    let played = play(setting, &make(), &smallest, true);
    (smallest, played)
}
