//! Floors: how small, and how fast smaller, a run may make things. Enforced below the steps.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, ResourceKey, Result, Retry, Units};

/// How small, and how fast smaller, a run may make a thing, whichever step does it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The smallest size that a run may ask for.
    pub min: Units,
    /// How much may be taken away within a time.
    pub removal: Option<Removal>,
}

/// How much may be taken away within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// At most so much,
    pub units: Units,
    /// in any span of this length.
    #[serde(with = "humantime_serde")]
    pub per: Duration,
}

impl Floor {
    /// Never below `min`.
    pub fn at(min: impl Into<Units>) -> Self {
        Self { min: min.into(), removal: None }
    }

    /// Takes away at most `units` in any span of the length `per`.
    #[must_use]
    pub fn with_removal(mut self, units: impl Into<Units>, per: Duration) -> Self {
        self.removal = Some(Removal { units: units.into(), per });
        self
    }

    /// What both allow.
    pub(crate) fn and(self, other: Self) -> Self {
        let slower = |a: Removal, b: Removal| {
            let rate = |r: Removal| f64::from(r.units.0) / r.per.as_secs_f64().max(f64::MIN_POSITIVE);
            if rate(b) < rate(a) { b } else { a }
        };
        let removal = match (self.removal, other.removal) {
            (Some(a), Some(b)) => Some(slower(a, b)),
            (a, b) => a.or(b),
        };
        Self { min: self.min.max(other.min), removal }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "never below {}", self.min)?;
        self.removal.map_or(Ok(()), |Removal { units, per }| {
            write!(f, ", at most {units} fewer in {}", humantime::format_duration(per))
        })
    }
}

/// The floors of a run, and what it took away lately.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    floors: BTreeMap<ResourceKey, Floor>,
    removed: Mutex<BTreeMap<ResourceKey, Vec<(Duration, u32)>>>,
}

impl Limits {
    pub(crate) fn new(floors: BTreeMap<ResourceKey, Floor>) -> Self {
        Self { floors, removed: Mutex::default() }
    }

    /// What an earlier process took away lately is not known to the second, so all of it counts as taken just now.
    pub(crate) fn used_up(floors: BTreeMap<ResourceKey, Floor>, now: Duration) -> Self {
        let removed = floors
            .iter()
            .filter_map(|(key, floor)| Some((key.clone(), vec![(now, floor.removal?.units.0)])))
            .collect();
        Self { floors, removed: Mutex::new(removed) }
    }

    pub(crate) fn floor(&self, resource: &ResourceKey) -> Option<Floor> {
        self.floors.get(resource).copied()
    }

    /// Whether `resource` may go `from` one size `to` another now; what may counts as taken away.
    pub(crate) fn permit(&self, resource: &ResourceKey, from: Units, to: Units, now: Duration) -> Result<()> {
        let Some(floor) = self.floor(resource).filter(|_| to < from) else { return Ok(()) };
        let refuse = |kind, message: String| Error::new(kind, "scale", message).on(resource);
        if to < floor.min {
            let message =
                format!("{to} is below its floor of {}; choose more, or lower the floor", floor.min);
            return Err(refuse(ErrorKind::Denied, message));
        }
        let Some(Removal { units, per }) = floor.removal else { return Ok(()) };
        let wanted = from.0 - to.0;
        let span = humantime::format_duration(per);
        if wanted > units.0 {
            let message = format!("{wanted} fewer at once, and at most {units} in {span} are allowed");
            return Err(refuse(ErrorKind::Denied, message));
        }
        // Nothing panics while the lock is held, so the data is whole even where the flag says otherwise.
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = removed.entry(resource.clone()).or_default();
        lately.retain(|(at, _)| now.saturating_sub(*at) < per);
        let mut taken: u32 = lately.iter().map(|(_, count)| count).sum();
        if taken + wanted <= units.0 {
            lately.push((now, wanted));
            return Ok(());
        }
        let mut after = per;
        for (at, count) in lately.iter() {
            taken -= count;
            if taken + wanted <= units.0 {
                after = (*at + per).saturating_sub(now);
                break;
            }
        }
        let message = format!("{wanted} fewer now would be more than {units} in {span}");
        Err(refuse(ErrorKind::RateLimited, message).with_retry(Retry::Safe { after: Some(after) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn limits(floor: Floor) -> (ResourceKey, Limits) {
        let key = ResourceKey::from("fake/api");
        (key.clone(), Limits::new(BTreeMap::from([(key, floor)])))
    }

    #[test]
    fn nothing_goes_below_the_floor_and_everything_may_grow() {
        let (key, limits) = limits(Floor::at(5));
        let ask = |from: u32, to: u32| limits.permit(&key, from.into(), to.into(), Duration::ZERO);
        assert!(ask(50, 5).is_ok() && ask(2, 4).is_ok() && ask(3, 3).is_ok());
        let error = ask(5, 4).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never));
        assert!(limits.permit(&"other".into(), 5.into(), 0.into(), Duration::ZERO).is_ok());
    }

    #[test]
    fn the_rate_holds_in_every_span() {
        let (key, limits) = limits(Floor::at(1).with_removal(10, MINUTE));
        let ask = |at: u64, from: u32, to: u32| {
            limits.permit(&key, from.into(), to.into(), Duration::from_secs(at))
        };
        assert!(ask(0, 50, 44).is_ok() && ask(30, 44, 40).is_ok());
        let retry = |error: Error| error.retry();
        let after = |seconds| Retry::Safe { after: Some(Duration::from_secs(seconds)) };
        assert_eq!(ask(40, 40, 39).map_err(retry), Err(after(20)));
        assert_eq!(ask(40, 40, 33).map_err(retry), Err(after(50)));
        assert!(ask(60, 40, 34).is_ok());
        assert_eq!(ask(61, 34, 23).map_err(retry), Err(Retry::Never), "never possible at once");
    }

    #[test]
    fn two_floors_are_both_kept() {
        let both = Floor::at(3).with_removal(10, MINUTE).and(Floor::at(5).with_removal(10, MINUTE * 2));
        assert_eq!(both, Floor::at(5).with_removal(10, MINUTE * 2));
    }
}
