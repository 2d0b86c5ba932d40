//! Processes that are gone in the middle, and others that go on.

use wakala_core::{Record, RunHandle, Status};
use wakala_db::MoveOptions;
use wakala_playbooks::shard_migration::MoveSite;

use crate::rig::{Rig, Start, until};

fn slow() -> MoveOptions {
    let mut options = MoveOptions::default();
    (options.chunk_bytes, options.streams) = (32 << 10, 1);
    options.copy_bytes_per_second = Some(400_000);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_in_the_copy_between_hand_overs_and_at_the_gate() {
    let rig = Rig::new(2, 1000).await;
    let run = RunHandle::new("crash").by("ana").by_force();
    let process = |options| {
        let host = rig.host("crash", &[1, 2], options);
        rig.process(MoveSite::new(host.clone()), &host)
    };

    let first = process(slow());
    let host = first.host.clone();
    tokio::select! {
        _ = first.drives(Start::Anew(&run), true, async || panic!("it came to the gate")) => panic!("its end"),
        () = until("some chunks", async || host.facts().await.unwrap().chunks > 0) => {}
    }
    let copied = host.facts().await.unwrap();
    assert!(copied.chunks < copied.chunks_total, "{copied:?}");
    drop((first, host));

    // Meanwhile the application goes on.
    rig.app(1).await.batch_execute("UPDATE account SET balance = 9 WHERE tenant_id = 1").await.unwrap();
    let handed =
        |record: &Record| matches!(record, Record::Verified { step } if step.as_str() == "hand-over:1");
    process(MoveOptions::default()).dies_once(Start::Resumed(&run), handed).await;
    assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await], [2, 1]);
    rig.app(2).await.batch_execute("UPDATE account SET balance = 10 WHERE tenant_id = 1").await.unwrap();

    let waits = |record: &Record| matches!(record, Record::Waiting { .. });
    process(MoveOptions::default()).dies_once(Start::Resumed(&run), waits).await;
    assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await], [2, 2]);

    let last = process(MoveOptions::default());
    let report = last
        .drives(Start::Resumed(&run), true, async || {
            // Nobody has called a step in this process, and yet changes flow.
            rig.app(2)
                .await
                .batch_execute("UPDATE account SET balance = 11 WHERE tenant_id = 2")
                .await
                .unwrap();
            let back = "SELECT count(*) FROM account WHERE balance IN (10, 11)";
            until("the way back", async || rig.value(1, back).await == "3000").await;
        })
        .await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(rig.value(2, "SELECT sum(balance) FROM account").await, "32000");
    assert_eq!(rig.value(2, "SELECT count(*) FROM entry").await, "6000");
    assert_eq!(rig.value(1, "SELECT count(*) FROM account").await, "0");
    rig.assert_clean().await;
}
