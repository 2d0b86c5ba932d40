//! Taking a run over: when, from whom, with which resources.

use futures::future::join_all;

use super::{LONG, StoreCase, conflicts, conflicts_with, held, keys, winners};
use crate::store::{Release, Takeover};
use crate::testing::conformance::must;

/// A lease that has lapsed can be taken.
pub async fn lapsed_lease_is_taken(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        case.create_lapsed("a", &["x"]).await;
        let lease = must(case.acquire("a", &["x"], "second", Takeover::Lapsed).await, "take a lapsed lease");
        assert_eq!(lease.epoch, 2);
        assert_eq!(case.standing("a").await.lease, held("second"));
        conflicts(case.append("a", 1, 1).await, "a line by the owner whose lease had lapsed");
        conflicts(case.renew("a", 1, LONG).await, "a renewal by the owner whose lease had lapsed");
        must(case.append("a", 2, 1).await, "append by the new owner");
    };
    case.common.drive(check).await;
}

/// A lease that is held can be taken by force only.
pub async fn held_lease_is_taken_by_force(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        conflicts(case.acquire("a", &["x"], "second", Takeover::Lapsed).await, "taking a lease that is held");
        let lease = must(case.acquire("a", &["x"], "second", Takeover::Forced).await, "take by force");
        assert_eq!(lease.epoch, 2);
        assert_eq!(case.standing("a").await.lease, held("second"));
        must(case.append("a", 2, 1).await, "append by the new owner");
    };
    case.common.drive(check).await;
}

/// Whoever was an owner before can neither write, renew nor release, and what they try changes nothing.
pub async fn former_owners_are_fenced(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        for owner in ["second", "third"] {
            must(case.acquire("a", &["x"], owner, Takeover::Forced).await, "acquire");
        }
        let before = case.standing("a").await;
        for epoch in [1, 2] {
            conflicts(case.append("a", epoch, 1).await, &format!("a line under lease {epoch} of 3"));
            conflicts(case.renew("a", epoch, LONG).await, &format!("a renewal of lease {epoch} of 3"));
            let released = case.release("a", epoch, Release::Closed).await;
            conflicts(released, &format!("a release of lease {epoch} of 3"));
        }
        assert_eq!(case.standing("a").await, before, "a former owner changed the run");
        must(case.append("a", 3, 1).await, "append by the owner");
        // It stays so when the last owner has gone.
        must(case.release("a", 3, Release::Closed).await, "release");
        conflicts(case.append("a", 2, 2).await, "a line by a former owner of a run that nobody drives");
        conflicts(case.renew("a", 2, LONG).await, "a renewal by a former owner of a run that nobody drives");
    };
    case.common.drive(check).await;
}

/// Each owner's epoch is one more than that of the owner before, however the lease was taken.
pub async fn epochs_count_owners(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        let next = async |epoch: u64, takeover, what| {
            let lease = must(case.acquire("a", &["x"], "next", takeover).await, what);
            assert_eq!(lease.epoch, epoch, "epochs do not count the owners");
        };
        assert_eq!(must(case.make("a", &["x"], case.brief, &[]).await, "create").epoch, 1);
        case.wait_for_lapse("a").await;
        next(2, Takeover::Lapsed, "take a lapsed lease").await;
        next(3, Takeover::Forced, "take by force").await;
        conflicts(case.acquire("a", &["x"], "no", Takeover::Lapsed).await, "taking a lease that is held");
        must(case.release("a", 3, Release::Lease).await, "release");
        next(4, Takeover::Lapsed, "take a free lease").await;
        must(case.release("a", 4, Release::Closed).await, "release");
        next(5, Takeover::Forced, "take the lease of a closed run").await;
        assert_eq!(case.head("a").await.epoch, 5);
    };
    case.common.drive(check).await;
}

/// What is claimed with a lease takes the place of what the run held; where one of them is taken nothing happens.
pub async fn acquire_replaces_claims_or_nothing(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x", "y"]).await, "create");
        must(case.create("in-the-way", &["z"]).await, "create");
        let before = case.standing("a").await;
        let acquired = case.acquire("a", &["y", "w", "z"], "second", Takeover::Forced).await;
        conflicts_with(acquired, "in-the-way", "a takeover that claims what another run holds");
        assert_eq!(case.standing("a").await, before, "a refused takeover changed the run");
        must(case.append("a", 1, 1).await, "append by an owner whom nobody relieved");
        must(case.create("b", &["w"]).await, "create with what a refused takeover asked for");

        must(case.acquire("a", &["y/1", "v"], "second", Takeover::Forced).await, "acquire");
        assert_eq!(case.standing("a").await.resources, keys(&["v", "y/1"]), "claims were not replaced");
        conflicts_with(case.create("c", &["v"]).await, "a", "a claim of what was claimed with the lease");
        must(case.create("c", &["x", "y/2"]).await, "create with what a takeover let go");

        must(case.acquire("a", &[], "third", Takeover::Forced).await, "acquire without resources");
        must(case.create("d", &["v", "y/1"]).await, "create with what a takeover let go");
    };
    case.common.drive(check).await;
}

/// A run whose lease is taken is no longer closed.
pub async fn acquire_reopens(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.release("a", 1, Release::Closed).await, "release");
        must(case.acquire("a", &["x"], "second", Takeover::Lapsed).await, "take the lease of a closed run");
        assert!(!case.standing("a").await.closed, "a run that is driven again is still closed");
        must(case.append("a", 2, 1).await, "append to a run that was closed");
        must(case.release("a", 2, Release::Lease).await, "release");
        assert!(!case.standing("a").await.closed, "giving the lease back closed the run");
    };
    case.common.drive(check).await;
}

/// Of several that want a lease which is free or has lapsed one gets it; those that take it by force all do, one after
/// another, and the last one drives.
pub async fn concurrent_takeovers_have_one_winner(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        case.create_free("free", &["x"]).await;
        case.create_lapsed("lapsed", &["y"]).await;
        let owners = ["1", "2", "3", "4"];
        for (run, resource) in [("free", "x"), ("lapsed", "y")] {
            let all = owners.map(async |owner| case.acquire(run, &[resource], owner, Takeover::Lapsed).await);
            let count = winners(join_all(all).await, "taking a lease that somebody took first");
            assert_eq!(count, 1, "{count} of 4 owners got a lease that was {run}");
            assert_eq!(case.head(run).await.epoch, 2);
        }
        let all = owners.map(async |owner| case.acquire("free", &["x"], owner, Takeover::Forced).await);
        let leases = join_all(all).await.into_iter().map(|lease| must(lease, "take by force").epoch);
        let mut leases: Vec<u64> = leases.collect();
        leases.sort_unstable();
        assert_eq!(leases, [3, 4, 5, 6], "owners by force share a lease");
        conflicts(case.append("free", 5, 1).await, "a line by an owner that was fenced at once");
        must(case.append("free", 6, 1).await, "append by the last owner");
    };
    case.common.drive(check).await;
}

/// Of several runs that claim the same resource with a lease at the same time one gets it, and the others no lease.
pub async fn concurrent_claims_have_one_winner(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        // The overlap is of unlike keys, so that no unique index finds it.
        let claims = [("a", "x"), ("b", "x/y"), ("c", "x/y/z"), ("d", "x")];
        for (run, _) in claims {
            case.create_free(run, &[]).await;
        }
        let all = claims.map(async |(run, key)| case.acquire(run, &[key], run, Takeover::Lapsed).await);
        let count = winners(join_all(all).await, "a claim that came too late");
        assert_eq!(count, 1, "{count} of 4 runs got overlapping resources");
        let mut epochs: Vec<u64> = case.heads().await.iter().map(|head| head.epoch).collect();
        epochs.sort_unstable();
        assert_eq!(epochs, [1, 1, 1, 2], "a run that lost got a lease");
    };
    case.common.drive(check).await;
}
