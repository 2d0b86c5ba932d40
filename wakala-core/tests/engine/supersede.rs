//! An emergency takes over from a routine run.

use wakala_core::testing::FakeTarget;
use wakala_core::{
    Approval, Clock as _, ErrorKind, Playbook, Record, RunCondition, RunHandle, ScaleUp, Status, Urgency,
    step,
};

use crate::common::{Bench, MINUTE, SECOND, node, setting};

#[tokio::test]
async fn an_emergency_takes_over_and_the_routine_run_stops() {
    let bench = Bench::with_virtual_store();
    let limit = setting("limit").with_lead_time(MINUTE * 10);
    let other = setting("other");
    let routine =
        Playbook::builder("descent").then(node(&limit, "limit")).then(node(&other, "other")).build().unwrap();
    let emergency = Playbook::builder("spike")
        .then(step(limit.wanting(5).step("limit")))
        .with_urgency(Urgency::Emergency)
        .build()
        .unwrap();
    let plan = bench.plan(&routine).await.unwrap();
    let first = RunHandle::new("run-1");
    let approval = Approval::of(&plan, "ana");
    let spike = async {
        bench.clock.sleep(MINUTE).await;
        let plan = bench.engine.plan(&emergency).await.unwrap();
        let approval = Approval::of(&plan, "bo");
        // Not without being told to.
        let polite = RunHandle::new("run-2").by("bo");
        let refused = bench.engine.run(&emergency, &plan, &approval, &polite).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        bench.engine.run(&emergency, &plan, &approval, &polite.superseding()).await.unwrap()
    };
    let both = async { tokio::join!(bench.engine.run(&routine, &plan, &approval, &first), spike) };
    let (old, new) = bench.drive(both).await;
    let old = old.unwrap();
    assert_eq!((old.status, new.status), (Status::Superseded, Status::Succeeded), "{old}\n{new}");
    assert_eq!((limit.value(), other.effects()), (5, 0));
    let kept = bench.engine.report(&"run-1".into()).await.unwrap();
    assert_eq!(kept.status, Status::Superseded);
    assert_eq!(kept.reason, "run run-2 took over what it held, and the sizes that it began with");
    assert!(
        matches!(&new.journal[0].record, Record::Created { supersedes: Some(old), .. } if old.as_str() == "run-1"),
    );
    let summary = bench.engine.summary(&"run-1".into()).await.unwrap();
    assert_eq!(summary.condition, RunCondition::Ended(Status::Superseded));
}

#[tokio::test]
async fn nobody_takes_over_from_an_equal() {
    let bench = Bench::with_virtual_store();
    let limit = setting("limit").with_lead_time(MINUTE * 10);
    for urgency in [Urgency::Routine, Urgency::Emergency] {
        limit.meddle(1);
        let playbook = |name: &str| {
            Playbook::builder(name).then(node(&limit, "limit")).with_urgency(urgency).build().unwrap()
        };
        let (one, two) = (playbook("one"), playbook("two"));
        let name = format!("{urgency:?}");
        let plan = bench.plan(&one).await.unwrap();
        let (run, approval) = (RunHandle::new(name.as_str()), Approval::of(&plan, "ana"));
        let second = async {
            bench.clock.sleep(SECOND).await;
            let plan = bench.engine.plan(&two).await.unwrap();
            let run = RunHandle::generate().by("bo").superseding();
            bench.engine.run(&two, &plan, &Approval::of(&plan, "bo"), &run).await.unwrap_err()
        };
        let both = async { tokio::join!(bench.engine.run(&one, &plan, &approval, &run), second) };
        let (first, refused) = bench.drive(both).await;
        assert_eq!(first.unwrap().status, Status::Succeeded);
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
    }
}

/// What the routine run found before it began is what the emergency puts back, and what its plan says.
#[tokio::test]
async fn the_sizes_before_are_inherited() {
    let bench = Bench::with_virtual_store();
    let target = FakeTarget::new("api", 50).with_lead_time(MINUTE * 10);
    let up = |size: u32| {
        step(ScaleUp::to(std::sync::Arc::new(target.clone()), size).step("api")).with_limit(MINUTE * 30)
    };
    let routine = Playbook::builder("descent").then(up(60)).build().unwrap();
    let emergency = Playbook::builder("spike").then(up(80)).with_urgency(Urgency::Emergency).build().unwrap();
    let plan = bench.plan(&routine).await.unwrap();
    let (first, approval) = (RunHandle::new("run-1"), Approval::of(&plan, "ana"));
    let spike = async {
        bench.clock.sleep(MINUTE).await;
        let plan = bench.engine.plan(&emergency).await.unwrap();
        let before: Vec<_> = plan.sizes_before().into_values().collect();
        assert_eq!(before, [50.into()], "the size in between was taken for the original");
        let run = RunHandle::new("run-2").by("bo").superseding();
        bench.engine.run(&emergency, &plan, &Approval::of(&plan, "bo"), &run).await.unwrap()
    };
    let both = async { tokio::join!(bench.engine.run(&routine, &plan, &approval, &first), spike) };
    let (_, new) = bench.drive(both).await;
    assert_eq!((new.status, target.size()), (Status::Succeeded, 80.into()), "{new}");
}
