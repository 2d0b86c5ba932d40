//! Runs in an SQLite file: the conformance suite, several processes at once, crashes, damage, clocks that jump.

// Helpers unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod clocks;
mod conformance;
mod crashes;
mod damage;
mod opening;
mod processes;
mod rate;
mod support;
