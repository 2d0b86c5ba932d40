//! Run stores that are broken in one way each.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use wakala_core::store::{
    Lease, LeaseState, LeaseTerms, Letter, Line, NewRun, Release, RunHead, StoredRun, Takeover,
};
use wakala_core::testing::conformance::{StoreCase, store};
use wakala_core::{Error, ErrorKind, ManualClock, MemoryStore, ResourceKey, Result, RunId, RunStore};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    AcceptsAnyPlace,
    AcquiresAnyLease,
    AcquiresBeforeItClaims,
    AcquiresTwice,
    AppendsUnderAnyLease,
    ClaimsInAddition,
    ClaimsOneByOne,
    ClaimsWithoutNames,
    ComparesKeysAsTexts,
    FencesWhomItRefuses,
    KeepsLapsedLeases,
    KeepsLeases,
    KnowsNoForce,
    LapseFences,
    LapseFrees,
    LeasesForLonger,
    ListsEverybodyFree,
    ListsNewestFirst,
    ListsWithoutCase,
    LoadsNewestFirst,
    LooksBeforeItAcquires,
    LooksBeforeItAppends,
    LooksBeforeItClaims,
    LooksBeforeItCreates,
    LooksBeforeItSends,
    MailRenews,
    NumbersMailFromZero,
    OverwritesRuns,
    RefusesRepeatedClaims,
    ReleasesAll,
    ReleasesEverybody,
    ReleasesOnce,
    ReleasesUnderAnyLease,
    RenewsInAddition,
    RenewsNeverSooner,
    RenewsUnderAnyLease,
    RewritesJson,
    StaysClosed,
    SupersedesFirst,
    SupersedesWithoutFencing,
    UnknownIsEmpty,
}
use Defect::*;

#[derive(Debug)]
struct Broken {
    store: MemoryStore,
    defect: Defect,
    released: Mutex<BTreeSet<(RunId, Release)>>,
}

fn broken(defect: Defect) -> StoreCase {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(std::sync::Arc::new(clock.clone()));
    StoreCase::new(Broken { store, defect, released: Mutex::default() }).on(&clock)
}

fn conflict(message: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, "store", message)
}

fn rewritten(body: &str) -> String {
    serde_json::from_str(body).map_or(body.to_owned(), |json: serde_json::Value| json.to_string())
}

/// Keys whose parts cannot be told apart.
fn texts(resources: &[ResourceKey]) -> Vec<ResourceKey> {
    resources.iter().map(|key| key.as_str().replace('/', "|").into()).collect()
}

impl Broken {
    async fn head(&self, run: &RunId) -> Result<RunHead> {
        self.store.load(run).await.map(|stored| stored.head)
    }
}

#[async_trait]
impl RunStore for Broken {
    async fn create(&self, mut new: NewRun) -> Result<Lease> {
        match self.defect {
            OverwritesRuns if self.head(&new.run).await.is_ok() => return Ok(Lease { epoch: 1 }),
            ClaimsOneByOne => {
                let NewRun { run, resources, terms, .. } = new.clone();
                new.resources.clear();
                let lease = self.store.create(new).await?;
                for end in 1..=resources.len() {
                    self.store.acquire(&run, &resources[..end], &terms, Takeover::Forced).await?;
                }
                return Ok(lease);
            }
            ClaimsWithoutNames => {
                return self.store.create(new).await.map_err(|_| conflict("somebody else holds it"));
            }
            ComparesKeysAsTexts => new.resources = texts(&new.resources),
            LapseFrees => {
                for head in self.store.list().await? {
                    if matches!(head.lease, LeaseState::Lapsed { .. }) {
                        self.store.release(&head.run, head.epoch, Release::Resources).await?;
                    }
                }
            }
            LeasesForLonger => new.terms.ttl *= 60,
            LooksBeforeItCreates => {
                let free = self.store.list().await?.is_empty();
                tokio::task::yield_now().await;
                if free {
                    new.resources.clear();
                }
            }
            RefusesRepeatedClaims
                if new.resources.iter().collect::<BTreeSet<_>>().len() < new.resources.len() =>
            {
                return Err(Error::new(ErrorKind::Unexpected, "create", "UNIQUE constraint failed"));
            }
            SupersedesFirst | SupersedesWithoutFencing => {
                for old in std::mem::take(&mut new.supersedes) {
                    let terms = LeaseTerms { owner: "somebody".to_owned(), ttl: Duration::from_secs(3600) };
                    self.store.acquire(&old, &[], &terms, Takeover::Forced).await?;
                }
            }
            _ => {}
        }
        self.store.create(new).await
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        mut takeover: Takeover,
    ) -> Result<Lease> {
        let mut resources = resources.to_vec();
        let head = self.head(run).await?;
        let held = matches!(head.lease, LeaseState::Held { .. });
        match self.defect {
            AcquiresAnyLease => takeover = Takeover::Forced,
            AcquiresBeforeItClaims => {
                self.store.acquire(run, &head.resources, terms, takeover).await?;
                takeover = Takeover::Forced;
            }
            AcquiresTwice => {
                self.store.acquire(run, &resources, terms, takeover).await?;
                takeover = Takeover::Forced;
            }
            ComparesKeysAsTexts => resources = texts(&resources),
            ClaimsInAddition => resources.extend(head.resources),
            FencesWhomItRefuses if held && takeover == Takeover::Lapsed => {
                self.store.acquire(run, &head.resources, terms, Takeover::Forced).await?;
                return Err(conflict("maker of a drives it"));
            }
            KeepsLapsedLeases if matches!(head.lease, LeaseState::Lapsed { .. }) => {
                return Err(conflict("its owner may come back"));
            }
            KnowsNoForce => takeover = Takeover::Lapsed,
            LooksBeforeItAcquires => {
                tokio::task::yield_now().await;
                if !held {
                    takeover = Takeover::Forced;
                }
            }
            LooksBeforeItClaims => {
                let taken = self.store.list().await?.iter().any(|head| !head.resources.is_empty());
                tokio::task::yield_now().await;
                if !taken {
                    resources.clear();
                }
            }
            _ => {}
        }
        self.store.acquire(run, &resources, terms, takeover).await
    }

    async fn renew(&self, run: &RunId, mut epoch: u64, mut ttl: Duration) -> Result<()> {
        let head = self.head(run).await?;
        let left = if let LeaseState::Held { left, .. } = head.lease { left } else { Duration::ZERO };
        match self.defect {
            RenewsInAddition => ttl += left,
            RenewsNeverSooner => ttl = ttl.max(left),
            RenewsUnderAnyLease => epoch = head.epoch,
            _ => {}
        }
        self.store.renew(run, epoch, ttl).await
    }

    async fn release(&self, run: &RunId, mut epoch: u64, mut what: Release) -> Result<()> {
        match self.defect {
            KeepsLeases => return Ok(()),
            ReleasesAll => what = Release::Closed,
            ReleasesEverybody => {
                for head in self.store.list().await? {
                    self.store.release(&head.run, head.epoch, what).await?;
                }
            }
            ReleasesOnce if !self.released.lock().unwrap().insert((run.clone(), what)) => {
                return Err(conflict("it was given back"));
            }
            ReleasesUnderAnyLease => epoch = self.head(run).await?.epoch,
            StaysClosed => drop(self.released.lock().unwrap().insert((run.clone(), what))),
            _ => {}
        }
        self.store.release(run, epoch, what).await
    }

    async fn append(&self, run: &RunId, mut epoch: u64, line: Line) -> Result<()> {
        match self.defect {
            AcceptsAnyPlace => return Ok(()),
            AppendsUnderAnyLease => epoch = self.head(run).await?.epoch,
            LapseFences if matches!(self.head(run).await?.lease, LeaseState::Lapsed { .. }) => {
                return Err(conflict("the lease has lapsed"));
            }
            LooksBeforeItAppends => {
                let next = self.head(run).await?.length;
                tokio::task::yield_now().await;
                if line.seq == next {
                    let _ = self.store.append(run, epoch, line).await;
                    return Ok(());
                }
            }
            _ => {}
        }
        self.store.append(run, epoch, line).await
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        let mut stored = match self.store.load(run).await {
            Err(_) if self.defect == UnknownIsEmpty => {
                let head = RunHead::new(run.clone(), Vec::new(), LeaseState::Free, 0, 0, false);
                StoredRun { head, lines: Vec::new() }
            }
            answer => answer?,
        };
        match self.defect {
            LoadsNewestFirst => stored.lines.reverse(),
            RewritesJson => stored.lines.iter_mut().for_each(|line| line.body = rewritten(&line.body)),
            StaysClosed => {
                let closed = (run.clone(), Release::Closed);
                stored.head.closed |= self.released.lock().unwrap().contains(&closed);
            }
            _ => {}
        }
        Ok(stored)
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        let mut runs = self.store.list().await?;
        match self.defect {
            ListsEverybodyFree => runs.iter_mut().for_each(|head| head.lease = LeaseState::Free),
            ListsNewestFirst => runs.reverse(),
            ListsWithoutCase => runs.sort_by_key(|head| head.run.as_str().to_lowercase()),
            _ => {}
        }
        Ok(runs)
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        match self.defect {
            LooksBeforeItSends => {
                let next = self.store.mail(run, 0).await?.len() as u64 + 1;
                tokio::task::yield_now().await;
                return self.store.send(run, body).await.map(|_| next);
            }
            MailRenews => {
                let epoch = self.head(run).await?.epoch;
                self.store.renew(run, epoch, Duration::from_secs(3600)).await?;
            }
            NumbersMailFromZero => return Ok(self.store.send(run, body).await? - 1),
            _ => {}
        }
        self.store.send(run, body).await
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        let mut letters = self.store.mail(run, after).await?;
        if self.defect == RewritesJson {
            letters.iter_mut().for_each(|letter| letter.body = rewritten(&letter.body));
        }
        Ok(letters)
    }
}

/// One test for each defect: the check, and its words.
macro_rules! defects {
    ($($name:ident: $defect:ident, $check:ident, $words:literal;)*) => {
        $(fails!($name, store::$check, broken($defect), $words);)*
    };
}

defects! {
    rewritten_lines: RewritesJson, lines_come_back_as_written, "the body of line 2 changed";
    newest_first: LoadsNewestFirst, keeps_lines_in_order, "the lines of a are not as they were written, in order";
    any_place: AcceptsAnyPlace, wrong_place_conflicts, "a line at 0 where 2 is next was accepted";
    two_writers: LooksBeforeItAppends, concurrent_appends_have_one_winner, "4 of 4 writers got place 1";
    any_writer: AppendsUnderAnyLease, appends_need_the_lease, "a line under a lease that was fenced was accepted";
    unleased_writer: KeepsLeases, appends_need_the_lease, "a line under a lease that was given back was accepted";
    overwriting: OverwritesRuns, existing_run_conflicts, "a second run of the same name was accepted";
    nameless_holder: ClaimsWithoutNames, overlapping_claims_conflict_by_name, "the error must name holder-1";
    part_of_a_claim: ComparesKeysAsTexts, overlapping_claims_conflict_by_name, "a claim of k8s/prod beside k8s/prod/api";
    repeated_claims: RefusesRepeatedClaims, resources_are_a_set, "create with resources that overlap each other failed";
    piecemeal_claims: ClaimsOneByOne, refused_creates_leave_nothing, "a run was made although it was refused";
    piecemeal_supersession: SupersedesFirst, refused_creates_leave_nothing, "a refused run superseded another";
    two_holders: LooksBeforeItCreates, concurrent_creates_have_one_winner, "4 of 4 runs got overlapping resources";
    unfenced_supersession: SupersedesWithoutFencing, supersedes_and_fences, "superseded old-1 is still driven";
    early_supersession: SupersedesFirst, supersedes_all_or_nothing, "a refused run superseded another";
    made_up_run: UnknownIsEmpty, unknown_run_is_not_found, "loading an unknown run was accepted";
    unordered: ListsNewestFirst, lists_runs_by_name, "runs are not listed by name";
    unordered_case: ListsWithoutCase, lists_runs_by_name, "runs are not listed by name";
    nobody_drives: ListsEverybodyFree, heads_tell_how_runs_stand, "run held in the list";
    two_drivers: AcquiresAnyLease, lease_is_held_for_its_time, "taking a lease that is held was accepted";
    fencing_refusal: FencesWhomItRefuses, lease_is_held_for_its_time, "a refused owner changed the run";
    long_lease: LeasesForLonger, lease_is_held_for_its_time, "are left of a lease of 3600s";
    freeing_lapse: LapseFrees, lapsed_lease_frees_nothing, "a claim of what a lapsed run holds was accepted";
    fencing_lapse: LapseFences, lapsed_lease_still_writes, "append under a lapsed lease that nobody took failed";
    renewed_longer: RenewsNeverSooner, renewal_counts_from_now, "a lease of 300ms is Held";
    renewed_twice: RenewsInAddition, renewal_counts_from_now, "a lease of 300ms is Held";
    kept_lease: KeepsLeases, release_gives_up_what_it_says, "release of Lease";
    full_release: ReleasesAll, release_gives_up_what_it_says, "release of Lease";
    generous_release: ReleasesEverybody, release_gives_up_what_it_says, "a release freed another run's";
    one_release: ReleasesOnce, release_repeats, "another release, of Lease failed";
    any_release: ReleasesUnderAnyLease, release_is_for_the_latest_lease, "a release by an owner that was fenced was accepted";
    kept_lapse: KeepsLapsedLeases, lapsed_lease_is_taken, "take a lapsed lease failed";
    forceless: KnowsNoForce, held_lease_is_taken_by_force, "take by force failed";
    former_writer: AppendsUnderAnyLease, former_owners_are_fenced, "a line under lease 1 of 3 was accepted";
    former_renewer: RenewsUnderAnyLease, former_owners_are_fenced, "a renewal of lease 1 of 3 was accepted";
    former_releaser: ReleasesUnderAnyLease, former_owners_are_fenced, "a release of lease 1 of 3 was accepted";
    double_epochs: AcquiresTwice, epochs_count_owners, "epochs do not count the owners";
    kept_claims: ClaimsInAddition, acquire_replaces_claims_or_nothing, "claims were not replaced";
    leased_without_claims: AcquiresBeforeItClaims, acquire_replaces_claims_or_nothing, "a refused takeover changed the run";
    closed_for_good: StaysClosed, acquire_reopens, "a run that is driven again is still closed";
    two_takers: LooksBeforeItAcquires, concurrent_takeovers_have_one_winner, "4 of 4 owners got a lease that was free";
    two_claimers: LooksBeforeItClaims, concurrent_claims_have_one_winner, "4 of 4 runs got overlapping resources";
    mail_from_zero: NumbersMailFromZero, mail_is_numbered_without_gaps, "letters are not numbered from 1 without gaps";
    two_letters: LooksBeforeItSends, concurrent_mail_gets_places_of_its_own, "letters share a place";
    rewritten_mail: RewritesJson, mail_comes_back_as_sent, "the body of letter 2 changed";
    renewing_mail: MailRenews, mail_needs_no_lease, "mail changed the run";
}

fails!(
    unshared_peer,
    store::keeps_lines_in_order,
    StoreCase::new(MemoryStore::new()).with_peer(MemoryStore::new()),
    "append failed"
);
