//! What is refused, and leaves nothing.

use std::sync::Arc;

use wakala_core::{Approval, Event, Observer, Record, RunHandle, RunInfo, Status};
use wakala_db::{MoveMethod, MoveOptions};
use wakala_playbooks::shard_migration::MoveSite;
use wakala_testbed::PostgresAccess;

use crate::rig::{Rig, Start, quick};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_refused_makes_nothing() {
    let rig = Rig::new(2, 10).await;
    let host = rig.host("refused", &[2, 1], MoveOptions::default());
    let process = rig.process(MoveSite::new(host.clone()), &host);
    let plan = process.engine.plan(&process.playbook).await.unwrap();
    assert!(plan.to_string().contains("from small to large, which would be 1, 2"), "{plan}");
    rig.servers[1].execute("shop", "ALTER TABLE entry ADD COLUMN extra text").await.unwrap();
    let plan = process.engine.plan(&process.playbook).await.unwrap();
    let refusals: Vec<_> = plan.refusals().map(|finding| finding.text.clone()).collect();
    assert!(refusals.iter().any(|text| text.contains("extra")), "{refusals:?}");
    let run = RunHandle::generate();
    let refused = process.engine.run(&process.playbook, &plan, &Approval::of(&plan, "ana"), &run).await;
    assert!(refused.unwrap_err().to_string().contains("preflight refused it"));
    for number in [1, 2] {
        let made = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'wakala_shard')
            + (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
        assert_eq!(rig.value(number, made).await, "0", "shard {number}");
    }

    let mut frozen = MoveOptions::default();
    frozen.method = MoveMethod::Frozen;
    let refused = quick().playbook(&MoveSite::new(rig.host("frozen", &[1], frozen))).unwrap_err();
    assert!(refused.to_string().contains("no way back"), "{refused}");
}

/// Changes a row of the copy behind everybody's back, as soon as the copy is complete.
#[derive(Debug)]
struct Vandal(PostgresAccess);

impl Observer for Vandal {
    fn on_event(&self, _: &RunInfo, event: &Event) {
        if !matches!(event.record(), Some(Record::Verified { step }) if step.as_str() == "copy") {
            return;
        }
        let access = self.0.clone();
        let vandalise = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = access.connect("shop", "postgres").await.unwrap();
                let sql = "ALTER TABLE account DISABLE TRIGGER USER; UPDATE account SET owner = 'x' WHERE ctid IN
                    (SELECT ctid FROM account WHERE tenant_id = 1 LIMIT 1); ALTER TABLE account ENABLE TRIGGER USER";
                client.batch_execute(sql).await.unwrap();
            });
        };
        std::thread::spawn(vandalise).join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_differ_end_the_run_before_any_hand_over() {
    let rig = Rig::new(1, 50).await;
    let host = rig.host("differs", &[1], MoveOptions::default());
    let mut process = rig.process(MoveSite::new(host.clone()), &host);
    process.engine = process.engine.with_observer(Arc::new(Vandal((*rig.servers[1]).clone())));
    let run = RunHandle::new("differs");
    let report = process.drives(Start::Anew(&run), true, async || panic!("it came to the gate")).await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert!(report.reason.contains("rows differ on the two shards"), "{}", report.reason);
    assert_eq!(rig.shard_of(1).await, 1);
    rig.app(1).await.batch_execute("UPDATE account SET balance = 6").await.unwrap();
}
