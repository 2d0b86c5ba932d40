//! What is known of tenants, and the questions under way.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use wakala_core::{Error, Result};

use crate::shards::ids::{Epoch, Placement, Shard, ShardId, TenantId};

/// For how long a lapsed route is used by all but the one that asks whether it is still right, and how long that one
/// waits for the answer.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long a tenant is held to be unknown.
const UNKNOWN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    found: Option<Route>,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cached {
    Fresh(Option<Route>),
    /// Lapsed: whoever is told so asks.
    Stale(Route),
    Missing,
}

/// The routes used last.
pub(super) struct Routes(Mutex<LruCache<TenantId, Entry>>);

impl Routes {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(capacity)))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<TenantId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn look(&self, tenant: &TenantId, now: Instant) -> Cached {
        let mut routes = self.lock();
        let Some(entry) = routes.get_mut(tenant) else { return Cached::Missing };
        match entry.found {
            found if now < entry.until => Cached::Fresh(found),
            Some(route) => {
                entry.until = now + GRACE;
                Cached::Stale(route)
            }
            None => Cached::Missing,
        }
    }

    /// Takes the route over if it is of a later owner than the one known; whether it was.
    pub(super) fn learn(&self, tenant: &TenantId, route: Route, until: Instant) -> bool {
        let mut routes = self.lock();
        let known = routes.get(tenant).and_then(|entry| entry.found);
        if known.is_some_and(|known| known.epoch >= route.epoch) {
            return false;
        }
        routes.put(tenant.clone(), Entry { found: Some(route), until });
        true
    }

    /// Keeps what the directory says, or what is known if that is later; which is what counts now.
    pub(super) fn confirm(&self, tenant: &TenantId, route: Route, until: Instant) -> Route {
        let mut routes = self.lock();
        let known = routes.get(tenant).and_then(|entry| entry.found);
        let latest = known.filter(|known| known.epoch > route.epoch).unwrap_or(route);
        routes.put(tenant.clone(), Entry { found: Some(latest), until });
        latest
    }

    pub(super) fn unknown(&self, tenant: &TenantId, now: Instant) {
        self.lock().put(tenant.clone(), Entry { found: None, until: now + UNKNOWN });
    }

    pub(super) fn forget(&self, tenant: &TenantId) {
        self.lock().pop(tenant);
    }
}

type Answer = Option<(Placement, Shard)>;
type Flight = Arc<OnceCell<Result<Answer, Arc<Error>>>>;

/// Questions to the directory: who asks for the same tenant meanwhile waits for the same answer.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<TenantId, Flight>>);

impl Flights {
    pub(super) async fn join<F>(&self, tenant: &TenantId, ask: impl FnOnce() -> F) -> Result<Answer>
    where
        F: Future<Output = Result<Answer>>,
    {
        let flight = Arc::clone(self.lock().entry(tenant.clone()).or_default());
        // Also where this is dropped: who comes later asks anew, who waits already takes over.
        let _landing = Landing { flights: self, tenant, flight: &flight };
        let answer = flight.get_or_init(|| async { ask().await.map_err(Arc::new) }).await;
        answer.clone().map_err(|error| {
            let copy = Error::new(error.kind(), "route", "the directory did not say where it is");
            copy.on(format!("tenant {tenant}")).with_retry(error.retry()).with_source(error)
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Landing<'a> {
    flights: &'a Flights,
    tenant: &'a TenantId,
    flight: &'a Flight,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if flights.get(self.tenant).is_some_and(|flight| Arc::ptr_eq(flight, self.flight)) {
            flights.remove(self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn route(shard: i32, epoch: i64) -> Route {
        Route { shard: ShardId::new(shard).unwrap(), epoch: Epoch::new(epoch).unwrap() }
    }

    #[test]
    fn a_lapsed_route_is_asked_for_by_one_and_used_by_the_others() {
        let (routes, id, start) = (Routes::new(NonZeroUsize::MIN), TenantId::from(1), Instant::now());
        assert_eq!(routes.look(&id, start), Cached::Missing);
        routes.confirm(&id, route(1, 1), start + HOUR);
        assert_eq!(routes.look(&id, start), Cached::Fresh(Some(route(1, 1))));
        let now = start + HOUR;
        assert_eq!(routes.look(&id, now), Cached::Stale(route(1, 1)));
        assert_eq!(routes.look(&id, now), Cached::Fresh(Some(route(1, 1))));
        let now = now + GRACE;
        assert_eq!(routes.look(&id, now), Cached::Stale(route(1, 1)));
        routes.unknown(&id, now);
        assert_eq!(routes.look(&id, now), Cached::Fresh(None));
        assert_eq!(routes.look(&id, now + UNKNOWN), Cached::Missing);
    }

    #[test]
    fn what_is_known_is_never_given_up_for_an_earlier_owner() {
        let (routes, id, now) = (Routes::new(NonZeroUsize::MIN), TenantId::from(1), Instant::now());
        let until = now + HOUR;
        routes.confirm(&id, route(1, 1), until);
        assert!(routes.learn(&id, route(2, 3), until));
        assert!(!routes.learn(&id, route(1, 2), until) && !routes.learn(&id, route(1, 3), until));
        assert_eq!(routes.confirm(&id, route(1, 1), until), route(2, 3));
        assert_eq!(routes.look(&id, now), Cached::Fresh(Some(route(2, 3))));
        assert_eq!(routes.confirm(&id, route(4, 4), until), route(4, 4));
    }

    #[test]
    fn the_one_not_used_for_the_longest_gives_way() {
        let (routes, now) = (Routes::new(NonZeroUsize::new(2).unwrap()), Instant::now());
        let (ids, until) = ([1, 2, 3].map(TenantId::from), now + HOUR);
        routes.confirm(&ids[0], route(1, 1), until);
        routes.confirm(&ids[1], route(1, 1), until);
        routes.look(&ids[0], now);
        routes.confirm(&ids[2], route(1, 1), until);
        assert_eq!(routes.look(&ids[1], now), Cached::Missing);
        assert_eq!(routes.look(&ids[0], now), Cached::Fresh(Some(route(1, 1))));
    }

    #[tokio::test]
    async fn many_questions_are_one_and_the_first_may_go_away() {
        let (flights, id) = (Flights::default(), TenantId::from(1));
        let asked = std::sync::atomic::AtomicU32::new(0);
        let ask = || async {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err(Error::invalid("t", "no"))
        };
        let answers = futures::future::join_all((0..10).map(|_| flights.join(&id, ask))).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);

        let mut first = Box::pin(flights.join(&id, std::future::pending));
        assert!(futures::poll!(&mut first).is_pending());
        let second = flights.join(&id, ask);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_err());
        assert!(flights.lock().is_empty());
    }
}
