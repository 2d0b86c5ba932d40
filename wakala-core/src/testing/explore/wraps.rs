//! Steps, guards and a store whose every call goes through a [`Wire`].

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::calls::Call;
use super::invariants::Half;
use super::points::Wire;
use crate::store::{Lease, LeaseTerms, Letter, Line, NewRun, Release, RunHead, StoredRun, Takeover};
use crate::testing::lock;
use crate::{
    Applied, Guard, GuardId, Observed, Permission, Playbook, PlaybookStep, ResourceKey, Result, RunContext,
    RunId, RunStore, StepId, StepPlan, Undone, Verdict,
};

/// The playbook with each step and guard on the wire.
pub(super) fn wired(playbook: &Playbook, wire: &Wire) -> Playbook {
    // A guard that several places share must stay one: the engine tells them apart by where they are.
    let guards: Mutex<Vec<[Arc<dyn Guard>; 2]>> = Mutex::default();
    let step = |inner: &Arc<dyn PlaybookStep>| -> Arc<dyn PlaybookStep> {
        Arc::new(WiredStep { id: inner.id(), inner: Arc::clone(inner), wire: wire.clone() })
    };
    let guard = |inner: &Arc<dyn Guard>| -> Arc<dyn Guard> {
        let mut guards = lock(&guards);
        if let Some([_, wired]) = guards.iter().find(|[known, _]| Arc::ptr_eq(known, inner)) {
            return Arc::clone(wired);
        }
        let wired: Arc<dyn Guard> =
            Arc::new(WiredGuard { id: inner.id(), inner: Arc::clone(inner), wire: wire.clone() });
        guards.push([Arc::clone(inner), Arc::clone(&wired)]);
        wired
    };
    playbook.rewired(&step, &guard)
}

#[derive(Debug)]
struct WiredStep {
    id: StepId,
    inner: Arc<dyn PlaybookStep>,
    wire: Wire,
}

impl WiredStep {
    fn at(&self, method: &'static str) -> Call<'_> {
        Call::Step(method, &self.id)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl PlaybookStep for WiredStep {
    fn id(&self) -> StepId {
        self.id.clone()
    }

    async fn plan(&self, cx: &RunContext) -> Result<StepPlan> {
        self.wire.call(self.at("plan"), self.inner.plan(cx)).await
    }

    async fn apply(&self, cx: &RunContext, plan: &StepPlan) -> Result<Applied> {
        let call = self.wire.watched(&self.id, Half::Do, self.inner.apply(cx, plan));
        self.wire.call(self.at("apply"), call).await
    }

    async fn observe(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.wire.call(self.at("observe"), self.inner.observe(cx, plan)).await
    }

    async fn settle(&self, cx: &RunContext, plan: &StepPlan) -> Result<Observed> {
        self.wire.call(self.at("settle"), self.inner.settle(cx, plan)).await
    }

    async fn undo(&self, cx: &RunContext, plan: &StepPlan) -> Result<Undone> {
        let call = self.wire.watched(&self.id, Half::Undo, self.inner.undo(cx, plan));
        self.wire.call(self.at("undo"), call).await
    }
}

#[derive(Debug)]
struct WiredGuard {
    id: GuardId,
    inner: Arc<dyn Guard>,
    wire: Wire,
}

impl WiredGuard {
    fn at(&self, method: &'static str) -> Call<'_> {
        Call::Guard(method, &self.id)
    }

    /// Asks the guard, unless nobody can; notes where it passes although its source told it nothing.
    async fn judge(&self, verdict: impl Future<Output = Verdict> + Send) -> Verdict {
        if self.wire.is_dark() {
            return Verdict::SourceError("injected: the source cannot be asked".to_owned());
        }
        let mut verdict = std::pin::pin!(verdict);
        let mut refused = 0;
        let verdict = poll_fn(|cx| {
            let before = self.wire.refused();
            let verdict = verdict.as_mut().poll(cx);
            refused += self.wire.refused() - before;
            verdict
        })
        .await;
        if refused > 0 && verdict.is_pass() {
            self.wire.with_books(|books| books.passed_blindly(&self.id, &verdict));
        }
        verdict
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Guard for WiredGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        self.inner.condition()
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        let verdict = self.wire.call(self.at("evaluate"), self.judge(self.inner.evaluate(cx))).await;
        let now = cx.clock().monotonic();
        self.wire.with_books(|books| books.judged(&self.id, now, &verdict));
        verdict
    }

    fn permissions(&self) -> Vec<Permission> {
        self.inner.permissions()
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }

    async fn prove(&self, cx: &RunContext) -> Verdict {
        self.wire.call(self.at("prove"), self.judge(self.inner.prove(cx))).await
    }

    async fn calibrate(&self, cx: &RunContext) -> Result<Option<f64>> {
        self.wire.call(self.at("calibrate"), self.inner.calibrate(cx)).await
    }

    async fn history(&self, cx: &RunContext, window: Duration) -> Option<Vec<(SystemTime, Verdict)>> {
        let asked = async { if self.wire.is_dark() { None } else { self.inner.history(cx, window).await } };
        let history = self.wire.call(self.at("history"), asked).await;
        let (now, wall) = (cx.clock().monotonic(), cx.clock().now());
        for (at, verdict) in history.iter().flatten() {
            let ago = wall.duration_since(*at).unwrap_or_default();
            self.wire.with_books(|books| books.remembered(&self.id, now.saturating_sub(ago), verdict));
        }
        history
    }
}

/// A store on the wire.
#[derive(Debug)]
pub(super) struct WiredStore {
    pub(super) inner: Arc<dyn RunStore>,
    pub(super) wire: Wire,
}

impl WiredStore {
    /// Notes what lease a process was given, also where it never learns of it.
    async fn leased(&self, call: impl Future<Output = Result<Lease>> + Send) -> Result<Lease> {
        let process = self.wire.polled();
        let lease = call.await?;
        self.wire.leased(process, lease.epoch);
        Ok(lease)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RunStore for WiredStore {
    async fn create(&self, new: NewRun) -> Result<Lease> {
        self.wire.call(Call::Store("create"), self.leased(self.inner.create(new))).await
    }

    async fn acquire(
        &self,
        run: &RunId,
        resources: &[ResourceKey],
        terms: &LeaseTerms,
        takeover: Takeover,
    ) -> Result<Lease> {
        let call = self.inner.acquire(run, resources, terms, takeover);
        self.wire.call(Call::Store("acquire"), self.leased(call)).await
    }

    async fn renew(&self, run: &RunId, epoch: u64, ttl: Duration) -> Result<()> {
        self.wire.call(Call::Store("renew"), self.inner.renew(run, epoch, ttl)).await
    }

    async fn release(&self, run: &RunId, epoch: u64, what: Release) -> Result<()> {
        self.wire.call(Call::Store("release"), self.inner.release(run, epoch, what)).await
    }

    async fn append(&self, run: &RunId, epoch: u64, line: Line) -> Result<()> {
        let (seq, body) = (line.seq, line.body.clone());
        let call = async {
            let process = self.wire.polled();
            let answer = self.inner.append(run, epoch, line).await;
            if answer.is_ok() {
                self.wire.written(process, seq, &body);
            }
            answer
        };
        self.wire.call(Call::Store("append"), call).await
    }

    async fn load(&self, run: &RunId) -> Result<StoredRun> {
        self.wire.call(Call::Store("load"), self.inner.load(run)).await
    }

    async fn list(&self) -> Result<Vec<RunHead>> {
        self.wire.call(Call::Store("list"), self.inner.list()).await
    }

    async fn send(&self, run: &RunId, body: String) -> Result<u64> {
        self.wire.call(Call::Store("send"), self.inner.send(run, body)).await
    }

    async fn mail(&self, run: &RunId, after: u64) -> Result<Vec<Letter>> {
        self.wire.call(Call::Store("mail"), self.inner.mail(run, after)).await
    }
}
