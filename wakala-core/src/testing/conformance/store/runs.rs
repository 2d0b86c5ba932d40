//! Making, superseding and listing runs; their claims.

use futures::future::join_all;

use super::{
    Driver, LONG, Standing, StoreCase, conflicts, conflicts_with, held, keys, line, refused, terms, winners,
};
use crate::store::{LeaseState, Release, Takeover};
use crate::testing::conformance::must;
use crate::{ErrorKind, RunId};

/// A run cannot be made twice, and the first one stays as it is, also where nobody drives it and it is closed.
pub async fn existing_run_conflicts(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.append("a", 1, 1).await, "append");
        conflicts(case.create("a", &["y"]).await, "a second run of the same name");
        must(case.release("a", 1, Release::Closed).await, "release");
        conflicts(case.create("a", &["y"]).await, "a second run of the name of one that is closed");
        assert_eq!(case.lines("a").await, [line("a", 0), line("a", 1)], "the first run was written over");
        must(case.create("b", &["y"]).await, "create with a resource that only a refused run asked for");
    };
    case.common.drive(check).await;
}

/// Two runs never hold overlapping resources, and the error names the holder.
pub async fn overlapping_claims_conflict_by_name(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("holder-1", &["k8s/prod/api", "k8s/100%_\\"]).await, "create");
        case.create_free("other", &[]).await;
        for resource in ["k8s/prod/api", "k8s/prod", "k8s", "k8s/prod/api/env", "k8s/100%_\\/a"] {
            let what = format!("a claim of {resource} beside k8s/prod/api and k8s/100%_\\");
            conflicts_with(case.create("third", &[resource]).await, "holder-1", &what);
            let acquired = case.acquire("other", &[resource], "other", Takeover::Lapsed).await;
            conflicts_with(acquired, "holder-1", &what);
        }
        let alike =
            ["k8s/prod/api-2", "k8s/prod/ap", "k8s/prod/API", "k8s/staging", "k", "k8s/100", "k8s/100xy"];
        must(case.create("third", &alike).await, "create with resources that only look alike");
    };
    case.common.drive(check).await;
}

/// A run may claim a thing twice, and parts of what it claims.
pub async fn resources_are_a_set(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        let claims = ["b", "a/b", "a", "a"];
        must(case.create("a", &claims).await, "create with resources that overlap each other");
        assert_eq!(case.standing("a").await.resources, keys(&["a", "a/b", "b"]));
        must(case.acquire("a", &claims, "second", Takeover::Forced).await, "acquire what the run holds");
        assert_eq!(case.standing("a").await.resources, keys(&["a", "a/b", "b"]));
        must(case.release("a", 2, Release::Resources).await, "release");
        must(case.create("b", &["a", "b"]).await, "create with resources that were released");
    };
    case.common.drive(check).await;
}

/// Where one of several resources is taken, or a run to supersede is unknown, no run is made and none is claimed.
pub async fn refused_creates_leave_nothing(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        conflicts(case.create("b", &["free", "x", "free-too"]).await, "a claim in part taken");
        let answer = case.make("b-2", &["free"], LONG, &["a", "nobody"]).await;
        refused(answer, ErrorKind::NotFound, "superseding an unknown run");
        assert_eq!(case.runs().await, ["a".into()], "a run was made although it was refused");
        refused(case.store().load(&"b".into()).await, ErrorKind::NotFound, "loading a refused run");
        assert_eq!(case.standing("a").await.resources, keys(&["x"]), "a refused run superseded another");
        must(case.append("a", 1, 1).await, "append of a run that was not superseded");
        must(case.create("c", &["free", "free-too"]).await, "create with what a refused run asked for");
    };
    case.common.drive(check).await;
}

/// Of several runs that want the same resource, or the same name, at the same time one gets it.
pub async fn concurrent_creates_have_one_winner(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        // The overlap is of unlike keys, so that no unique index finds it.
        let claims = [("a", "x"), ("b", "x/y"), ("c", "x/y/z"), ("d", "x")];
        let answers = join_all(claims.iter().map(async |(run, key)| case.create(run, &[key]).await)).await;
        let count = winners(answers, "the claim of a run that came too late");
        assert_eq!(count, 1, "{count} of 4 runs got overlapping resources");
        assert_eq!(case.runs().await.len(), 1, "a run that lost was made");

        let claims = ["p", "q", "r", "s"];
        let answers = join_all(claims.iter().map(async |key| case.create("same", &[key]).await)).await;
        let count = winners(answers, "a run whose name was taken first");
        assert_eq!(count, 1, "{count} of 4 runs got the same name");
    };
    case.common.drive(check).await;
}

/// A run that supersedes others gets what they held in the same moment; they lose their claims, their owners can do
/// nothing more, and their journals stay.
pub async fn supersedes_and_fences(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("old-1", &["x", "y"]).await, "create");
        must(case.create("old-2", &["z"]).await, "create");
        must(case.create("bystander", &["w"]).await, "create");
        let made = case.make("new", &["x", "z/1"], LONG, &["old-1", "old-2"]).await;
        assert_eq!(must(made, "create with what superseded runs hold").epoch, 1);
        assert_eq!(case.standing("new").await.resources, keys(&["x", "z/1"]));
        for old in ["old-1", "old-2"] {
            let standing = case.standing(old).await;
            assert_eq!(standing.resources, keys(&[]), "superseded {old} still holds resources");
            assert_eq!(standing.lease, Driver::Free, "superseded {old} is still driven");
            assert!(standing.epoch > 1, "the owner of superseded {old} was not fenced");
            assert!(!standing.closed, "whether {old} is closed is for its owner to say");
            conflicts(case.append(old, 1, 1).await, "a line by the owner of a superseded run");
            conflicts(case.renew(old, 1, LONG).await, "a renewal by the owner of a superseded run");
            conflicts(
                case.release(old, 1, Release::Closed).await,
                "a release by the owner of a superseded run",
            );
            assert_eq!(case.lines(old).await, [line(old, 0)], "superseding {old} changed its journal");
            let again = must(case.acquire(old, &[], "second", Takeover::Lapsed).await, "acquire");
            assert_eq!(again.epoch, standing.epoch + 1);
            must(
                case.append(old, again.epoch, 1).await,
                "append to a superseded run under a lease of its own",
            );
        }
        must(case.append("bystander", 1, 1).await, "append to a run that was not superseded");
        conflicts_with(case.create("late", &["x"]).await, "new", "a claim of what was taken over");
        must(case.create("other", &["y", "z/2"]).await, "create with what a superseded run alone held");
    };
    case.common.drive(check).await;
}

/// Where a run that is not superseded holds an overlapping resource, nobody is superseded.
pub async fn supersedes_all_or_nothing(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("old", &["x"]).await, "create");
        must(case.create("in-the-way", &["y/1"]).await, "create");
        let before = case.standing("old").await;
        let refused = case.make("new", &["x", "y"], LONG, &["old"]).await;
        conflicts_with(refused, "in-the-way", "a claim of what a run that is not superseded holds");
        assert_eq!(case.standing("old").await, before, "a refused run superseded another");
        must(case.append("old", 1, 1).await, "append by an owner whom nobody superseded");
        conflicts(case.make("in-the-way", &[], LONG, &["old"]).await, "a run that exists and supersedes");
        must(case.renew("old", 1, LONG).await, "a renewal by an owner whom nobody superseded");
        conflicts_with(case.create("new", &["x"]).await, "old", "a claim of what the run still holds");
    };
    case.common.drive(check).await;
}

/// A run that nobody made cannot be loaded, driven, written or written to.
pub async fn unknown_run_is_not_found(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        let run = &RunId::from("nobody");
        let terms = terms("owner", LONG);
        for takeover in [Takeover::Lapsed, Takeover::Forced] {
            let answer = case.store().acquire(run, &keys(&["x"]), &terms, takeover).await;
            refused(answer, ErrorKind::NotFound, "acquiring an unknown run");
        }
        refused(case.store().load(run).await, ErrorKind::NotFound, "loading an unknown run");
        refused(case.append("nobody", 1, 0).await, ErrorKind::NotFound, "writing an unknown run");
        refused(case.renew("nobody", 1, LONG).await, ErrorKind::NotFound, "renewing an unknown run");
        let released = case.release("nobody", 1, Release::Closed).await;
        refused(released, ErrorKind::NotFound, "releasing an unknown run");
        refused(case.store().send(run, "{}".into()).await, ErrorKind::NotFound, "mail to an unknown run");
        refused(case.store().mail(run, 0).await, ErrorKind::NotFound, "the mail of an unknown run");
        assert_eq!(case.runs().await, [], "an unknown run came into being");
        must(case.create("a", &["x"]).await, "create with what an unknown run asked for");
    };
    case.common.drive(check).await;
}

/// Runs are listed in the order of their names' bytes, ended ones too.
pub async fn lists_runs_by_name(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        assert_eq!(case.runs().await, [], "the case must begin with an empty store");
        let sorted = ["B", "a", "a b", "a-1", "a/2", "aB", "ab", "b", "it's", "zoë", "zoë-1"];
        let shuffled = (0..sorted.len()).map(|i| sorted[(i * 7 + 3) % sorted.len()]);
        for run in shuffled {
            must(case.create(run, &[]).await, "create");
        }
        must(case.release("b", 1, Release::Closed).await, "release");
        assert_eq!(case.runs().await, sorted.map(RunId::from), "runs are not listed by name");
    };
    case.common.drive(check).await;
}

/// A head says what the run holds, who drives it, under which epoch, how long its journal is, and whether it is closed;
/// in a list as with the run.
pub async fn heads_tell_how_runs_stand(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("closed", &["a"]).await, "create");
        must(case.release("closed", 1, Release::Closed).await, "release");
        case.create_free("free", &["b"]).await;
        must(case.create("held", &["d", "c"]).await, "create");
        must(case.acquire("held", &["e", "d"], "zoë's \"host\"/4711", Takeover::Forced).await, "acquire");
        must(case.append("held", 2, 1).await, "append");
        must(case.append("held", 2, 2).await, "append");
        case.create_lapsed("lapsed", &["f"]).await;
        must(case.release("lapsed", 1, Release::Lease).await, "release");
        case.create_lapsed("lapsed-2", &[]).await;

        let standing = |resources: &[&str], lease, epoch, length, closed| Standing {
            resources: keys(resources),
            lease,
            epoch,
            length,
            closed,
        };
        let expected = [
            standing(&[], Driver::Free, 1, 1, true),
            standing(&["b"], Driver::Free, 1, 1, false),
            standing(&["d", "e"], held("zoë's \"host\"/4711"), 2, 3, false),
            standing(&["f"], Driver::Free, 1, 1, false),
            standing(&[], Driver::Lapsed("maker of lapsed-2".to_owned()), 1, 1, false),
        ];
        let heads = case.heads().await;
        assert_eq!(heads.len(), expected.len(), "{heads:?}");
        for (head, expected) in heads.into_iter().zip(expected) {
            let run = head.run.clone();
            if let LeaseState::Held { left, .. } = head.lease {
                assert!(left <= LONG && left > LONG / 2, "of {LONG:?} the lease of {run} has {left:?} left");
            }
            assert_eq!(Standing::of(head), expected, "run {run} in the list");
            assert_eq!(case.standing(run.as_str()).await, expected, "run {run} by itself");
        }
    };
    case.common.drive(check).await;
}
