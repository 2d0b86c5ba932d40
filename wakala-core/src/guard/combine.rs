//! Several guards as one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::future::join_all;

use super::{Guard, Verdict, patient};
use crate::{Error, GuardId, Permission, Result, RunContext};

/// Several guards as one, from [`all`](super::all) or [`any`](super::any).
///
/// | members | all | any |
/// |---|---|---|
/// | all pass | pass | pass |
/// | all fail | fail | fail |
/// | some pass, the others fail | fail | pass |
/// | one fails, another is without verdict | fail | without verdict |
/// | one passes, another is without verdict | without verdict | pass |
///
/// Without verdict is a source error where a member has one, and inconclusive otherwise. All members are asked at the
/// same time; one that hangs is a source error shortly before the deadline, so that it does not silence the others.
///
/// Before a run each member must be [able to guard](Guard::prove) by itself, also those of `any`. At most one may
/// compare with a baseline, since the run keeps one for each guard: those of `all` may as well be guards of their own.
#[derive(Clone, Debug)]
pub struct CombinedGuard {
    id: GuardId,
    rule: Rule,
    members: Vec<Arc<dyn Guard>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    All,
    Any,
}

/// For how long a member's verdict of the past stands for it, until it says something else.
const STANDS_FOR: Duration = Duration::from_secs(60);

impl CombinedGuard {
    pub(super) fn all(id: GuardId) -> Self {
        Self { id, rule: Rule::All, members: Vec::new() }
    }

    pub(super) fn any(id: GuardId) -> Self {
        Self { id, rule: Rule::Any, members: Vec::new() }
    }

    /// Adds a member.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Guard) -> Self {
        self.members.push(Arc::new(guard));
        self
    }

    /// Adds members that are shared.
    #[must_use]
    pub fn with_guards(mut self, guards: impl IntoIterator<Item = Arc<dyn Guard>>) -> Self {
        self.members.extend(guards);
        self
    }

    fn told(&self, verdicts: Vec<Result<Verdict>>) -> Vec<(GuardId, Verdict)> {
        let verdicts = verdicts.into_iter().map(|verdict| {
            verdict.unwrap_or_else(|late| Verdict::SourceError(format!("no answer: {}", late.chain())))
        });
        self.members.iter().map(|member| member.id()).zip(verdicts).collect()
    }
}

impl Rule {
    /// What the members' verdicts come to.
    fn combine(self, verdicts: &[(GuardId, Verdict)]) -> Verdict {
        let lines = |wanted: fn(&Verdict) -> bool| {
            let lines: Vec<_> = verdicts
                .iter()
                .filter(|(_, verdict)| wanted(verdict))
                .map(|(id, verdict)| format!("{id}: {verdict}"))
                .collect();
            (!lines.is_empty()).then(|| lines.join(", "))
        };
        let passing = lines(Verdict::is_pass);
        let failing = lines(|verdict| matches!(verdict, Verdict::Fail(_)));
        match (self, passing, failing) {
            (Self::All, _, Some(failing)) => return Verdict::Fail(failing),
            (Self::Any, Some(passing), _) => return Verdict::Pass(passing),
            _ => {}
        }
        if let Some(blind) = blind(verdicts) {
            return blind;
        }
        match lines(|_| true) {
            None => Verdict::Inconclusive("it has no members".to_owned()),
            Some(text) if self == Self::All => Verdict::Pass(text),
            Some(text) => Verdict::Fail(text),
        }
    }
}

/// Of members without verdict what they say.
fn blind(verdicts: &[(GuardId, Verdict)]) -> Option<Verdict> {
    let blind: Vec<_> = verdicts.iter().filter(|(_, verdict)| !verdict.is_alive()).collect();
    let text: Vec<_> = blind.iter().map(|(id, verdict)| format!("{id}: {verdict}")).collect();
    let text = (!text.is_empty()).then(|| text.join(", "))?;
    let unasked = blind.iter().any(|(_, verdict)| matches!(verdict, Verdict::SourceError(_)));
    Some(if unasked { Verdict::SourceError(text) } else { Verdict::Inconclusive(text) })
}

#[async_trait]
impl Guard for CombinedGuard {
    fn id(&self) -> GuardId {
        self.id.clone()
    }

    fn condition(&self) -> String {
        let conditions: Vec<_> = self.members.iter().map(|member| member.condition()).collect();
        let word = if self.rule == Rule::All { "all" } else { "any" };
        format!("{word} of ({})", conditions.join("; "))
    }

    async fn evaluate(&self, cx: &RunContext) -> Verdict {
        let cx = patient(cx);
        let verdicts = join_all(self.members.iter().map(|member| cx.until(member.evaluate(&cx)))).await;
        self.rule.combine(&self.told(verdicts))
    }

    fn permissions(&self) -> Vec<Permission> {
        let mut permissions = Vec::new();
        for permission in self.members.iter().flat_map(|member| member.permissions()) {
            if !permissions.contains(&permission) {
                permissions.push(permission);
            }
        }
        permissions
    }

    fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::invalid("check", message).on(&self.id));
        if self.members.is_empty() {
            return refuse("it has no members, so that it could never fail; add one".to_owned());
        }
        let mut names = BTreeSet::new();
        for member in &self.members {
            if !names.insert(member.id()) {
                return refuse(format!("the name {} is used twice; rename a member", member.id()));
            }
            if let Err(error) = member.check() {
                return refuse(format!("its member cannot guard: {}", error.chain()));
            }
        }
        Ok(())
    }

    async fn prove(&self, cx: &RunContext) -> Verdict {
        let cx = patient(cx);
        let verdicts = join_all(self.members.iter().map(|member| cx.until(member.prove(&cx)))).await;
        let verdicts = self.told(verdicts);
        blind(&verdicts).unwrap_or_else(|| self.rule.combine(&verdicts))
    }

    async fn calibrate(&self, cx: &RunContext) -> Result<Option<f64>> {
        let (cx, mut baselines) = (patient(cx), Vec::new());
        for found in join_all(self.members.iter().map(|member| cx.until(member.calibrate(&cx)))).await {
            baselines.extend(found.and_then(|found| found)?);
        }
        if baselines.len() > 1 {
            let message = "several of its members compare with a baseline, and a guard has one; let all but one of them \
                           be guards of their own";
            return Err(Error::invalid("calibrate", message).on(&self.id));
        }
        Ok(baselines.pop())
    }

    /// At each time at which a member has a verdict: what all come to, each by its last verdict until then. `None` where
    /// one knows nothing of the past; times that only lack a member's data are absent.
    async fn history(&self, cx: &RunContext, window: Duration) -> Option<Vec<(SystemTime, Verdict)>> {
        let (cx, mut histories) = (patient(cx), Vec::new());
        for told in join_all(self.members.iter().map(|member| cx.until(member.history(&cx, window)))).await {
            histories.push(told.ok()??);
        }
        let times: BTreeSet<SystemTime> = histories.iter().flatten().map(|(time, _)| *time).collect();
        let joined = times.into_iter().filter_map(|time| {
            let mut has_gap = false;
            let verdicts = self.members.iter().zip(&histories).map(|(member, history)| {
                let until = &history[..history.partition_point(|(told, _)| *told <= time)];
                let standing = until
                    .last()
                    .filter(|(told, _)| time.duration_since(*told).is_ok_and(|age| age <= STANDS_FOR));
                has_gap |= standing.is_none();
                let absent = || Verdict::Inconclusive("no data then".to_owned());
                (member.id(), standing.map_or_else(absent, |(_, verdict)| verdict.clone()))
            });
            let verdict = self.rule.combine(&verdicts.collect::<Vec<_>>());
            (verdict.is_alive() || !has_gap).then_some((time, verdict))
        });
        Some(joined.collect())
    }
}
