//! What every [`RunStore`] must do.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::{Common, common_case, must};
use crate::testing::FakeSetting;
use crate::{
    Engine, Entry, Error, ErrorKind, Playbook, Record, ResourceKey, Result, RunId, RunStore, StepId, step,
};

/// A store to check. It must be empty when a check begins.
#[derive(Debug)]
pub struct StoreCase {
    common: Common,
    store: Arc<dyn RunStore>,
}

common_case!(StoreCase);

impl StoreCase {
    /// Checks `store`.
    pub fn new(store: impl RunStore) -> Self {
        Self::shared(Arc::new(store))
    }

    /// Checks a store that others hold too.
    pub fn shared(store: Arc<dyn RunStore>) -> Self {
        Self { common: Common::new(), store }
    }

    async fn create(&self, run: &str, resources: &[&str]) -> Result<()> {
        let first = Entry::new(0, self.common.cx.clock().now(), created().await);
        self.store.create(&run.into(), &keys(resources), first).await
    }

    async fn append(&self, run: &str, seq: u64) -> Result<()> {
        self.store.append(&run.into(), self.entry(seq)).await
    }

    fn entry(&self, seq: u64) -> Entry {
        let record = Record::Intent { step: StepId::from(format!("step-{seq}")), attempt: 1 };
        Entry::new(seq, self.common.cx.clock().now(), record)
    }

    async fn places(&self, run: &str) -> Vec<u64> {
        let entries = must(self.store.load(&run.into()).await, "load");
        entries.iter().map(|entry| entry.seq).collect()
    }

    async fn runs(&self) -> Vec<RunId> {
        must(self.store.list().await, "list")
    }
}

impl<S: RunStore> From<S> for StoreCase {
    fn from(store: S) -> Self {
        Self::new(store)
    }
}

fn keys(resources: &[&str]) -> Vec<ResourceKey> {
    resources.iter().copied().map(ResourceKey::from).collect()
}

/// The first record of a real run, plan and all.
async fn created() -> Record {
    let setting = FakeSetting::new("rate-limit", 100, 10_000);
    let playbook = Playbook::builder("conformance").then(step(setting.step("raise \"limit\""))).build();
    let plan = Engine::new().plan(&playbook.expect("a playbook of one step")).await;
    Record::Created { plan: Box::new(plan.expect("a fake can be planned")), approved_by: "Zoë".to_owned() }
}

#[track_caller]
fn refused(answer: Result<()>, kind: ErrorKind, what: &str) -> Error {
    let Err(error) = answer else { panic!("{what} was accepted; it must be {kind:?}") };
    assert_eq!(error.kind(), kind, "{what} must be {kind:?}: {error:?}");
    error
}

/// Runs every check of this module, each on a store of its own.
pub async fn all<C: Into<StoreCase>>(make: impl AsyncFn() -> C) {
    crate::__conformance! { store, __conformance_all! [make] }
}

/// Entries are loaded as they were written, in order; loading changes nothing.
pub async fn keeps_entries_in_order(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        let first = Entry::new(0, case.common.cx.clock().now(), created().await);
        must(case.store.create(&"a".into(), &keys(&["x"]), first.clone()).await, "create");
        let mut written = vec![first];
        for seq in 1..=20 {
            let entry = case.entry(seq);
            must(case.store.append(&"a".into(), entry.clone()).await, "append");
            written.push(entry);
        }
        for _ in 0..2 {
            let read = must(case.store.load(&"a".into()).await, "load");
            assert_eq!(read.len(), written.len(), "entries are lost or invented");
            for (read, written) in read.iter().zip(&written) {
                assert_eq!((read.seq, &read.record), (written.seq, &written.record), "an entry changed");
                let apart =
                    read.at.max(written.at).duration_since(read.at.min(written.at)).unwrap_or_default();
                assert!(apart < Duration::from_secs(1), "an entry's time changed by {apart:?}");
            }
        }
    };
    case.common.drive(check).await;
}

/// An entry at a place that is taken, or beyond the next one, is a conflict and is not kept.
pub async fn wrong_place_conflicts(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.append("a", 1).await, "append at the next place");
        for seq in [0, 1, 3, u64::MAX] {
            refused(
                case.append("a", seq).await,
                ErrorKind::Conflict,
                &format!("an entry at {seq} where 2 is next"),
            );
        }
        assert_eq!(case.places("a").await, [0, 1], "a refused entry was kept");
        must(case.append("a", 2).await, "append at the next place after refusals");
    };
    case.common.drive(check).await;
}

/// Of several writers at the same place one wins.
pub async fn concurrent_appends_have_one_winner(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        for seq in 1..=5 {
            let answers = join_all((0..4).map(|_| case.append("a", seq))).await;
            let winners = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!(winners, 1, "{winners} of 4 writers got place {seq}");
            for answer in answers.into_iter().filter(Result::is_err) {
                refused(answer, ErrorKind::Conflict, "the entry of a writer that came too late");
            }
        }
        assert_eq!(case.places("a").await, [0, 1, 2, 3, 4, 5]);
    };
    case.common.drive(check).await;
}

/// A run cannot be made twice, and the first one stays as it is.
pub async fn existing_run_conflicts(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.append("a", 1).await, "append");
        refused(case.create("a", &["y"]).await, ErrorKind::Conflict, "a second run of the same name");
        assert_eq!(case.places("a").await, [0, 1], "the first run was written over");
        must(case.create("b", &["y"]).await, "create with a resource that only a refused run asked for");
    };
    case.common.drive(check).await;
}

/// Two runs never hold overlapping resources, and the error names the holder.
pub async fn overlapping_claims_conflict_by_name(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("holder-1", &["k8s/prod/api"]).await, "create");
        for resource in ["k8s/prod/api", "k8s/prod", "k8s", "k8s/prod/api/env"] {
            let what = format!("a claim of {resource} beside k8s/prod/api");
            let error = refused(case.create("other", &[resource]).await, ErrorKind::Conflict, &what);
            assert!(error.chain().contains("holder-1"), "the error must name the holder: {}", error.chain());
        }
        must(
            case.create("other", &["k8s/prod/api-2", "k8s/staging"]).await,
            "create with resources that only look alike",
        );
    };
    case.common.drive(check).await;
}

/// Where one of several resources is taken, none is claimed and no run is made.
pub async fn failed_claims_leave_nothing(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        refused(
            case.create("b", &["free", "x", "free-too"]).await,
            ErrorKind::Conflict,
            "a claim in part taken",
        );
        assert_eq!(case.runs().await, ["a".into()], "a run was made although its claim was refused");
        refused(case.store.load(&"b".into()).await.map(drop), ErrorKind::NotFound, "loading a refused run");
        must(case.create("c", &["free", "free-too"]).await, "create with what a refused claim asked for");
    };
    case.common.drive(check).await;
}

/// Of several runs that want the same resource at the same time one gets it.
pub async fn concurrent_creates_have_one_winner(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        let names = ["a", "b", "c", "d"];
        let answers = join_all(names.map(|run| case.create(run, &["x"]))).await;
        let winners = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(winners, 1, "{winners} of 4 runs got the same resource");
        assert_eq!(case.runs().await.len(), 1, "a run that lost was made");
    };
    case.common.drive(check).await;
}

/// Release gives all resources of a run back, may be repeated, and leaves other runs and the journal alone.
pub async fn release_frees_and_repeats(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x", "y"]).await, "create");
        must(case.create("b", &["z"]).await, "create");
        must(case.store.release(&"a".into()).await, "release");
        must(case.store.release(&"a".into()).await, "a second release");
        must(case.create("c", &["x", "y"]).await, "create with resources that were released");
        must(case.store.release(&"a".into()).await, "a late release by the former holder");
        refused(case.create("d", &["x"]).await, ErrorKind::Conflict, "a claim of what was claimed since");
        refused(case.create("d", &["z"]).await, ErrorKind::Conflict, "a claim of what another run holds");
        assert_eq!(case.places("a").await, [0], "release changed the journal");
        must(case.append("a", 1).await, "append after release");
    };
    case.common.drive(check).await;
}

/// A run can claim what it gave back, unless somebody else has it by now.
pub async fn claims_again(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        must(case.create("a", &["x"]).await, "create");
        must(case.store.claim(&"a".into(), &keys(&["x"])).await, "a claim of what the run holds already");
        must(case.store.release(&"a".into()).await, "release");
        must(case.store.claim(&"a".into(), &keys(&["x"])).await, "a claim of what was given back");
        refused(case.create("b", &["x"]).await, ErrorKind::Conflict, "a claim of what was claimed again");
        must(case.store.release(&"a".into()).await, "release");
        must(case.create("b", &["x"]).await, "create");
        let late = case.store.claim(&"a".into(), &keys(&["x"])).await;
        let error = refused(late, ErrorKind::Conflict, "a claim of what another run holds by now");
        assert!(error.chain().contains('b'), "the error must name the holder: {}", error.chain());
    };
    case.common.drive(check).await;
}

/// A run that nobody made cannot be loaded, written or given resources.
pub async fn unknown_run_is_not_found(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        let run = RunId::from("nobody");
        refused(case.store.load(&run).await.map(drop), ErrorKind::NotFound, "loading an unknown run");
        refused(case.append("nobody", 0).await, ErrorKind::NotFound, "writing an unknown run");
        let claim = case.store.claim(&run, &keys(&["x"])).await;
        refused(claim, ErrorKind::NotFound, "a claim by an unknown run");
        assert_eq!(case.runs().await, [], "an unknown run came into being");
        must(case.create("a", &["x"]).await, "create with what an unknown run asked for");
    };
    case.common.drive(check).await;
}

/// Runs are listed by name, ended ones too.
pub async fn lists_runs_by_name(case: impl Into<StoreCase>) {
    let case = case.into();
    let check = async {
        assert_eq!(case.runs().await, [], "the case must begin with an empty store");
        for run in ["b", "c", "a"] {
            must(case.create(run, &[run]).await, "create");
        }
        must(case.store.release(&"c".into()).await, "release");
        assert_eq!(case.runs().await, ["a".into(), "b".into(), "c".into()], "runs are not listed by name");
    };
    case.common.drive(check).await;
}
