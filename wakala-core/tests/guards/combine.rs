//! Several guards as one, and guards on trial.

use std::sync::Arc;

use async_trait::async_trait;
use wakala_core::testing::{Answer, FakeTarget};
use wakala_core::{
    CombinedGuard, ErrorKind, Guard, GuardId, Permission, ReadyGuard, RunContext, Verdict, guard,
};

use crate::{MINUTE, SECOND, World};

/// Says always the same; `!` is a guard that never answers.
#[derive(Clone, Debug)]
struct Says(&'static str, char);

#[async_trait]
impl Guard for Says {
    fn id(&self) -> GuardId {
        self.0.into()
    }

    fn condition(&self) -> String {
        format!("{} is fine", self.0)
    }

    async fn evaluate(&self, _: &RunContext) -> Verdict {
        match self.1 {
            'P' => Verdict::Pass("fine".into()),
            'F' => Verdict::Fail("broken".into()),
            '?' => Verdict::Inconclusive("no data".into()),
            'E' => Verdict::SourceError("refused".into()),
            _ => std::future::pending().await,
        }
    }
}

fn of(combined: CombinedGuard, verdicts: &str) -> CombinedGuard {
    let names = ["a", "b", "c"];
    verdicts.chars().zip(names).fold(combined, |all, (verdict, name)| all.with_guard(Says(name, verdict)))
}

fn letter(verdict: &Verdict) -> char {
    match verdict {
        Verdict::Pass(_) => 'P',
        Verdict::Fail(_) => 'F',
        Verdict::Inconclusive(_) => '?',
        _ => 'E',
    }
}

#[tokio::test]
async fn four_values_combine_by_the_table() {
    let world = World::new();
    for (members, all, any, proof_of_all, proof_of_any) in [
        ("P", 'P', 'P', 'P', 'P'),
        ("F", 'F', 'F', 'F', 'F'),
        ("?", '?', '?', '?', '?'),
        ("E", 'E', 'E', 'E', 'E'),
        ("PP", 'P', 'P', 'P', 'P'),
        ("FF", 'F', 'F', 'F', 'F'),
        ("PF", 'F', 'P', 'F', 'P'),
        ("P?", '?', 'P', '?', '?'),
        ("PE", 'E', 'P', 'E', 'E'),
        ("F?", 'F', '?', '?', '?'),
        ("FE", 'F', 'E', 'E', 'E'),
        ("?E", 'E', 'E', 'E', 'E'),
        ("PF?", 'F', 'P', '?', '?'),
        ("FFE", 'F', 'E', 'E', 'E'),
        ("PPE", 'E', 'P', 'E', 'E'),
    ] {
        // In any order.
        for members in [members.to_owned(), members.chars().rev().collect()] {
            let (of_all, of_any) = (of(guard::all("g"), &members), of(guard::any("g"), &members));
            let cx = world.cx();
            assert_eq!(letter(&of_all.evaluate(&cx).await), all, "all of {members}");
            assert_eq!(letter(&of_any.evaluate(&cx).await), any, "any of {members}");
            assert_eq!(letter(&of_all.prove(&cx).await), proof_of_all, "proof of all of {members}");
            assert_eq!(letter(&of_any.prove(&cx).await), proof_of_any, "proof of any of {members}");
        }
    }
    let text = world.says(&of(guard::all("g"), "PFE")).await;
    assert_eq!(text, "FAIL: b: FAIL: broken");
    assert_eq!(
        world.says(&of(guard::all("g"), "PE?")).await,
        "source error: b: source error: refused, c: no verdict: no data"
    );
    assert_eq!(world.says(&of(guard::all("g"), "PP")).await, "pass: a: pass: fine, b: pass: fine");
    let nested = guard::all("g").with_guard(of(guard::any("either"), "FP")).with_guard(Says("c", 'P'));
    assert_eq!(world.says(&nested).await, "pass: either: pass: b: pass: fine, c: pass: fine");
    assert_eq!(nested.condition(), "all of (any of (a is fine; b is fine); c is fine)");
}

#[tokio::test]
async fn a_member_that_hangs_silences_no_other() {
    let world = World::new();
    for (combined, expected) in [
        (of(guard::any("g"), "!P"), "pass: b: pass: fine"),
        (of(guard::all("g"), "!F"), "FAIL: b: FAIL: broken"),
        (of(guard::all("g"), "!P"), "source error: a: source error: no answer: "),
    ] {
        let cx = world.cx().with_deadline(SECOND * 10);
        // As the engine asks: within a deadline of its own.
        let text = world.clock.run(cx.until(combined.evaluate(&cx))).await.unwrap().to_string();
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn a_combination_is_checked_with_its_members() {
    let world = World::new();
    for (combined, expected) in [
        (guard::all("g"), "it has no members, so that it could never fail"),
        (of(guard::any("g"), "P").with_guard(Says("a", 'F')), "the name a is used twice"),
        (
            guard::any("g").with_guard(world.metric("m").below(f64::NAN)),
            "check on m: the limit NaN is no number",
        ),
    ] {
        let error = combined.check().unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::InvalidConfig, "g"));
        assert!(error.to_string().contains(expected), "{error}");
    }
    let shared: [Arc<dyn Guard>; 2] = [Arc::new(Says("a", 'P')), Arc::new(Says("b", 'P'))];
    guard::any("g").with_guards(shared).check().unwrap();
}

#[tokio::test]
async fn an_empty_combination_does_not_hold() {
    let world = World::new();
    assert_eq!(world.says(&guard::all("g")).await, "no verdict: it has no members");
    assert_eq!(world.says(&guard::any("g")).await, "no verdict: it has no members");
}

#[tokio::test]
async fn one_member_may_have_a_baseline() {
    let world = World::with([("errors", 0.02), ("latency", 0.3)]);
    let errors = || world.metric("errors").below_baseline_times(1.5);
    let fixed = || world.metric("latency").below(0.5);
    let calibrate = async |combined: CombinedGuard| combined.calibrate(&world.cx()).await;
    assert_eq!(calibrate(guard::all("g").with_guard(fixed())).await.unwrap(), None);
    let found = calibrate(guard::all("g").with_guard(fixed()).with_guard(errors())).await.unwrap().unwrap();
    assert!((found - 0.02).abs() < 1e-9, "{found}");
    let two =
        guard::all("g").with_guard(errors()).with_guard(world.metric("latency").below_baseline_times(2.0));
    let error = calibrate(two).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("several of its members compare with a baseline"), "{error}");
    let none =
        guard::any("g").with_guard(fixed()).with_guard(world.metric("nobody").below_baseline_times(2.0));
    assert!(calibrate(none).await.is_err());
}

#[test]
fn permissions_are_those_of_all_members_once() {
    let target = Arc::new(FakeTarget::new("t", 3));
    let ready = |id: &str, size: u32| ReadyGuard::new(id, Arc::clone(&target) as _, size);
    let combined = guard::all("g").with_guard(ready("a", 1)).with_guard(ready("b", 2));
    assert_eq!(combined.permissions(), [Permission::new("fake", "observe", "t")]);
    assert_eq!(guard::shadow(ready("a", 1)).permissions(), combined.permissions());
}

#[tokio::test]
async fn histories_are_joined_in_time() {
    let world = World::new();
    let errors = [
        (MINUTE * 60, Answer::Value(0.0)),
        (SECOND * 45, Answer::Value(0.5)),
        (SECOND * 15, Answer::Value(0.0)),
    ];
    world.script("errors", errors);
    world.script("latency", [(MINUTE * 60, Answer::Value(0.1)), (SECOND * 30, Answer::Value(0.9))]);
    let members = |combined: CombinedGuard| {
        combined.with_guard(world.metric("errors").below(0.01)).with_guard(world.metric("latency").below(0.5))
    };
    let all = world.past(&members(guard::all("g")), SECOND * 60).await;
    assert_eq!(all, [(60, 'P'), (45, 'F'), (30, 'F'), (15, 'F'), (0, 'F')]);
    let any = world.past(&members(guard::any("g")), SECOND * 60).await;
    assert_eq!(any, [(60, 'P'), (45, 'P'), (30, 'F'), (15, 'P'), (0, 'P')]);
}

#[tokio::test]
async fn a_gap_of_one_member_is_a_gap_unless_the_others_decide() {
    let world = World::with([("errors", 0.0)]);
    // Two minutes without latency; its last sample before stands for a minute.
    world.script(
        "latency",
        [(MINUTE * 60, Answer::Value(0.1)), (MINUTE * 3, Answer::Absent), (MINUTE, Answer::Value(0.1))],
    );
    let members = |combined: CombinedGuard| {
        combined.with_guard(world.metric("errors").below(0.01)).with_guard(world.metric("latency").below(0.5))
    };
    let all = world.past(&members(guard::all("g")), MINUTE * 4).await;
    assert!(all.iter().all(|(_, verdict)| *verdict == 'P'), "{all:?}");
    let gap: Vec<_> =
        all.windows(2).filter(|two| two[0].0 - two[1].0 > 15).map(|two| (two[0].0, two[1].0)).collect();
    assert_eq!(gap, [(135, 60)]);
    assert_eq!(world.past(&members(guard::any("g")), MINUTE * 4).await.len(), 17);

    let unknown = members(guard::all("g")).with_guard(Says("a", 'P'));
    assert_eq!(unknown.history(&world.cx(), MINUTE).await, None, "a member that knows nothing of the past");
}

#[tokio::test]
async fn a_shadow_tells_and_never_acts() {
    let world = World::with([("errors", 0.2)]);
    let shadow = guard::shadow(world.metric("errors").below(0.01).named("trial"));
    assert_eq!(shadow.id().as_str(), "trial");
    assert_eq!(shadow.condition(), "on trial, never acting: errors below 0.01");
    assert_eq!(world.says(&shadow).await, "pass: shadow: FAIL: errors is 0.2000, must be below 0.01");
    for verdict in ['P', 'F', '?', 'E'] {
        assert!(guard::shadow(Says("a", verdict)).evaluate(&world.cx()).await.is_pass());
        assert!(guard::shadow(Says("a", verdict)).prove(&world.cx()).await.is_pass());
    }
    let hanging = guard::shadow(Says("a", '!'));
    let cx = world.cx().with_deadline(SECOND * 10);
    let text = world.clock.run(cx.until(hanging.evaluate(&cx))).await.unwrap().to_string();
    assert!(text.starts_with("pass: shadow: no answer"), "{text}");

    // A baseline that cannot be had refuses no plan; one that can be had is kept.
    let without = guard::shadow(world.metric("nobody").below_baseline_times(2.0));
    assert_eq!(without.calibrate(&world.cx()).await.unwrap(), None);
    let with = guard::shadow(world.metric("errors").below_baseline_times(2.0));
    assert!(with.calibrate(&world.cx()).await.unwrap().is_some());
    assert!(guard::shadow(world.metric("m").below(f64::NAN)).check().is_err());
}
