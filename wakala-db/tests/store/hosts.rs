//! Two hosts of a team: one dies in the middle of a run, the other sees it and carries on.

use std::sync::Arc;
use std::time::Duration;

use wakala_core::store::LeaseState;
use wakala_core::testing::FakeSetting;
use wakala_core::{Approval, Engine, ErrorKind, Playbook, RunHandle, RunStore, Status, step};
use wakala_testbed::wait_until;

use crate::rig::{MINUTE, bouncer, fresh, line, same, server};

#[tokio::test]
async fn a_run_of_a_dead_host_is_carried_on_by_another_once_its_lease_has_lapsed() {
    let store = fresh(server().await, 2).await;
    let peer = same(&store, bouncer().await, 2);
    let lease = Duration::from_secs(3);
    let host =
        |name: &str, store| Engine::new().with_owner(name).with_lease(lease).with_store(Arc::new(store));
    let (first, second) = (host("host-1", store), host("host-2", peer.clone()));

    let slow = FakeSetting::new("slow", 1, 2).with_lead_time(Duration::from_secs(5));
    let quick = FakeSetting::new("quick", 1, 2);
    let playbook = Playbook::builder("two")
        .then(step(slow.step("slow")))
        .then(step(quick.step("quick")))
        .build()
        .unwrap();
    let plan = first.plan(&playbook).await.unwrap();
    let approval = Approval::of(&plan, "ana");
    let run = RunHandle::new("run-1");
    let dies = wait_until("an effect", MINUTE, || async {
        if slow.effects() == 1 { Ok(()) } else { Err("none yet".into()) }
    });
    tokio::select! {
        report = first.run(&playbook, &plan, &approval, &run) => panic!("it came to its end: {report:?}"),
        died = dies => died.unwrap(),
    }

    let carry_on = RunHandle::new("run-1").by("ben");
    let error = second.resume(&playbook, &carry_on).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.chain().contains("host-1"), "{error}");
    wait_until("the end of the lease", MINUTE, || async {
        match &peer.list().await?[0].lease {
            LeaseState::Lapsed { owner } if owner == "host-1" => Ok(()),
            lease => Err(format!("{lease:?}").into()),
        }
    })
    .await
    .unwrap();

    let report = second.resume(&playbook, &carry_on).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!((slow.effects(), quick.effects()), (1, 1), "{report}");
    let head = peer.load(&"run-1".into()).await.unwrap().head;
    assert_eq!((head.epoch, head.lease), (2, LeaseState::Free));
    let late = peer.append(&"run-1".into(), 1, line("run-1", head.length)).await.unwrap_err();
    assert!(late.to_string().contains("fenced by lease 2"), "{late}");
}
