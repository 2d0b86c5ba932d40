//! Leases: how long they last, what is left when they lapse, and giving them back.

use super::{Driver, LONG, StoreCase, conflicts, conflicts_with, held, keys};
use crate::store::{LeaseState, Release, Takeover};
use crate::testing::conformance::must;

const LEVELS: [Release; 3] = [Release::Lease, Release::Resources, Release::Closed];

/// A lease is held for its time to live and not longer; while it is held nobody else gets it, not even its owner.
pub async fn lease_is_held_for_its_time(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        let LeaseState::Held { owner, left } = case.head("a").await.lease else {
            panic!("the lease of a run that was just made is not held");
        };
        assert_eq!(owner, "maker of a");
        assert!(left <= LONG && left > LONG / 2, "{left:?} are left of a lease of {LONG:?}");
        let before = case.standing("a").await;
        for owner in ["second", "maker of a"] {
            let acquired = case.acquire("a", &["y"], owner, Takeover::Lapsed).await;
            conflicts_with(acquired, "maker of a", "taking a lease that is held");
        }
        assert_eq!(case.standing("a").await, before, "a refused owner changed the run");
        must(case.append("a", 1, 1).await, "append by the owner");

        must(case.make("b", &[], case.brief, &[]).await, "create");
        if let LeaseState::Held { left, .. } = case.head("b").await.lease {
            assert!(left <= case.brief, "{left:?} are left of a lease of {:?}", case.brief);
        }
        case.wait_for_lapse("b").await;
    };
    case.common.drive(check).await;
}

/// A lease that lapsed frees no resource: somebody must decide about its run first.
pub async fn lapsed_lease_frees_nothing(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        case.create_lapsed("lapsed", &["x"]).await;
        assert_eq!(case.standing("lapsed").await.resources, keys(&["x"]), "a lapsed lease freed resources");
        conflicts_with(case.create("b", &["x"]).await, "lapsed", "a claim of what a lapsed run holds");
        must(case.create("c", &[]).await, "create");
        let acquired = case.acquire("c", &["x/1"], "second", Takeover::Forced).await;
        conflicts_with(acquired, "lapsed", "a claim of what a lapsed run holds");
    };
    case.common.drive(check).await;
}

/// As long as nobody took it, a lease that lapsed still writes, is still given back, and lasts on when renewed.
pub async fn lapsed_lease_still_writes(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        case.create_lapsed("a", &["x"]).await;
        must(case.append("a", 1, 1).await, "append under a lapsed lease that nobody took");
        let lapsed = Driver::Lapsed("maker of a".to_owned());
        assert_eq!(case.standing("a").await.lease, lapsed, "an append renewed the lease");
        must(case.renew("a", 1, LONG).await, "renew a lapsed lease that nobody took");
        assert_eq!(case.standing("a").await.lease, held("maker of a"));
        let acquired = case.acquire("a", &["x"], "second", Takeover::Lapsed).await;
        conflicts(acquired, "taking a lease that was renewed after it had lapsed");

        case.create_lapsed("b", &["y"]).await;
        must(case.release("b", 1, Release::Resources).await, "release of a lapsed lease that nobody took");
        assert_eq!(case.standing("b").await.lease, Driver::Free);
    };
    case.common.drive(check).await;
}

/// A renewal lets the lease last for its time from now, be that later or sooner; owner and epoch stay.
pub async fn renewal_counts_from_now(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.make("longer", &["x"], case.brief, &[]).await, "create");
        must(case.renew("longer", 1, LONG).await, "renew");
        must(case.create("sooner", &["y"]).await, "create");
        must(case.renew("sooner", 1, case.brief).await, "renew");
        case.wait_for_lapse("sooner").await;
        let head = case.head("longer").await;
        let LeaseState::Held { owner, left } = head.lease else {
            panic!("a lease lapsed although it was renewed: {head:?}");
        };
        assert!(left <= LONG && left > LONG / 2, "{left:?} are left of a lease renewed for {LONG:?}");
        assert_eq!((owner.as_str(), head.epoch), ("maker of longer", 1));
        conflicts(case.renew("longer", 2, LONG).await, "a renewal under a lease that nobody was given");
        must(case.release("longer", 1, Release::Lease).await, "release");
        conflicts(case.renew("longer", 1, LONG).await, "a renewal of a lease that was given back");
        assert_eq!(case.standing("longer").await.lease, Driver::Free, "a refused renewal took the lease");
    };
    case.common.drive(check).await;
}

/// A release gives up the lease; from a level on the resources; at the last level the run is closed. The journal stays.
pub async fn release_gives_up_what_it_says(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("other", &["z"]).await, "create");
        for what in LEVELS {
            let (run, resource) = (format!("{what:?}"), format!("r/{what:?}"));
            must(case.create(&run, &[&resource]).await, "create");
            must(case.release(&run, 1, what).await, "release");
            let standing = case.standing(&run).await;
            assert_eq!(standing.lease, Driver::Free, "release of {what:?}");
            assert_eq!(standing.epoch, 1, "release of {what:?} made an epoch");
            assert_eq!(standing.resources.is_empty(), what >= Release::Resources, "release of {what:?}");
            assert_eq!(standing.closed, what == Release::Closed, "release of {what:?}");
            assert_eq!(case.places(&run).await, [0], "release of {what:?} changed the journal");
            let next = case.create(&format!("after {run}"), &[&resource]).await;
            if what == Release::Lease {
                conflicts_with(next, &run, "a claim of what a run keeps that gave its lease back");
            } else {
                must(next, "create with resources that were given back");
            }
        }
        assert_eq!(case.standing("other").await.resources, keys(&["z"]), "a release freed another run's");
        must(case.append("other", 1, 1).await, "append by the owner of another run");
    };
    case.common.drive(check).await;
}

/// A release may be repeated, also for more than before, and takes nothing from whoever claimed since.
pub async fn release_repeats(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        for what in LEVELS {
            for _ in 0..2 {
                must(case.release("a", 1, what).await, &format!("another release, of {what:?}"));
            }
            let standing = case.standing("a").await;
            assert_eq!(standing.resources.is_empty(), what >= Release::Resources, "release of {what:?}");
            assert_eq!(standing.closed, what == Release::Closed, "release of {what:?}");
        }
        must(case.release("a", 1, Release::Lease).await, "a release of less than before");
        assert!(case.standing("a").await.closed, "a release of less than before opened the run");
        must(case.create("b", &["x"]).await, "create with resources that were given back");
        must(case.release("a", 1, Release::Closed).await, "a late release by the former holder");
        conflicts_with(case.create("c", &["x"]).await, "b", "a claim of what was claimed since");
    };
    case.common.drive(check).await;
}

/// A release under a former lease is a conflict and changes nothing.
pub async fn release_is_for_the_latest_lease(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.acquire("a", &["x"], "second", Takeover::Forced).await, "acquire");
        let before = case.standing("a").await;
        for what in LEVELS {
            conflicts(case.release("a", 1, what).await, "a release by an owner that was fenced");
            conflicts(case.release("a", 3, what).await, "a release of a lease that nobody was given");
        }
        assert_eq!(case.standing("a").await, before, "a refused release changed the run");
        must(case.append("a", 2, 1).await, "append by the owner");
    };
    case.common.drive(check).await;
}
